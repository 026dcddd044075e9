"""An index on disk: the memes' features, texts and thumbnails in files that only grow, and what of them counts.

    index.json     the last whole index: which files, how many bytes of each count, which rows are in the gallery
    progress.json  as far as an unfinished call has come; the next one goes on from there
    data-N/        rows.bin (a ROW of each meme), memes.jsonl, thumbnails.bin, emotions.bin, a file per feature, and
                   caption_counts.bin where each caption has a vector
    data-N/live-K.npy   (rows,) bool: which rows are in the gallery

What a killed process leaves behind the bytes that count is written over by the next one. Rows never change: a meme
that has changed gets a new one, and the old one is in no gallery any more. Where those come to be many, a new data
folder takes the place of the old one, which an open reader keeps until it is closed.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dataloaders.growing_files import append, mapped
from dataloaders.meme_records import Meme
from evaluation.feature_store import FeatureStore, kind_of
from util import InputError, read_json, replaced_atomically, write_json

FORMAT = 1
INDEX, PROGRESS, LOCK = "index.json", "progress.json", ".lock"
ROWS, MEMES, THUMBNAILS, EMOTIONS = "rows.bin", "memes.jsonl", "thumbnails.bin", "emotions.bin"
CAPTION_COUNTS = "caption_counts.bin"
ROW = np.dtype(
    [
        ("key", "V16"),  # of pixels, captions, text and emotions: what the features depend on, beside the model
        ("place", "V16"),  # of id and path
        ("id", "u8"),
        ("pixels", "V16"),
        ("file", "V32"),  # SHA-256 of the file's bytes
        *(("size", "i8"), ("mtime_ns", "i8")),  # of the file
        ("phash", "u8"),
        *(("text_at", "u8"), ("text_bytes", "u4")),  # in memes.jsonl
        *(("thumbnail_at", "u8"), ("thumbnail_bytes", "u4")),
        ("tokens", "u4"),  # visual tokens
        ("persons", "u4"),  # in emotions.bin
    ]
)
KINDS: dict[str, np.dtype[Any]] = {"half": np.dtype(np.float16), "full": np.dtype(np.float32)}
COPIED = 4096  # rows that are copied at once
FEW = 1000  # rows of no gallery that stay where they are


def _are_sizes(value: Any) -> bool:
    return isinstance(value, dict) and all(type(size) is int and size >= 0 for size in value.values())


def _are_widths(value: Any) -> bool:
    if not isinstance(value, dict) or not all(re.fullmatch("[a-z_]+", name) for name in value):
        return False
    widths = value.values()
    return all(isinstance(of, list) and len(of) < 2 and all(type(n) is int and n > 0 for n in of) for of in widths)


PARTS: dict[str, Callable[[Any], bool]] = {  # of index.json and progress.json: (whether a value is what it should be)
    "data": lambda value: isinstance(value, str) and bool(re.fullmatch(r"data-\d{1,9}", value)),
    "live": lambda value: value is None or (isinstance(value, str) and bool(re.fullmatch(r"live-\d{1,9}\.npy", value))),
    "bytes": _are_sizes,
    "features": _are_widths,
    "turn": lambda value: type(value) is int,
    "precision": lambda value: value in list(KINDS),
    "images": lambda value: isinstance(value, str),
    "model": lambda value: isinstance(value, dict) and all(isinstance(value.get(n), str) for n in ("path", "sha256")),
}


class Damaged(InputError):
    """Files of an index that do not belong together."""


def hash_of(*parts: str | bytes, size: int = 16) -> bytes:
    """BLAKE2 of the parts, each with its length: no two lists of parts are taken for one another."""
    digest = hashlib.blake2b(digest_size=size)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def key_of(pixels: bytes, meme: Meme) -> bytes:
    """What a meme's features depend on."""
    return hash_of(pixels, json.dumps([meme.captions, meme.text, meme.emotions]))


def place_of(meme: Meme) -> bytes:
    return hash_of(meme.image_id, meme.image)


def id_number(image_id: str) -> int:
    return int.from_bytes(hash_of(image_id, size=8), "little")


class Row(NamedTuple):
    """A meme that is to be written. features: (d,), of those called token... (V, d) and (V,); caption may be (K, d)."""

    meme: Meme
    pixels: bytes
    file: bytes
    stamp: tuple[int, int]  # size and mtime_ns of the file
    phash: int
    thumbnail: bytes
    emotions: list[int]
    tokens: int
    features: dict[str, np.ndarray]


def _kinds(features: Mapping[str, np.ndarray]) -> list[str]:
    """The kinds of which a meme's features have several rows."""
    caption = features.get("caption")
    return ["token"] if caption is None or caption.ndim == 1 else ["token", "caption"]


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """index.json or progress.json; InputError where it is none of this version."""
    state = read_json(folder / name, dict, "an index that `python -m recommend index` made")
    if state.get("format") != FORMAT:
        raise InputError(f"{folder / name}: found format {state.get('format')!r}, expected {FORMAT}: make it anew")
    for part, is_right in PARTS.items():
        if part not in state or not is_right(state[part]):
            raise Damaged(f"{folder / name}: a damaged index: {part!r} is {str(state.get(part))[:50]}: make it anew")
    return state


def newest_state(folder: Path) -> dict[str, Any]:
    """What a writer goes on from: an unfinished call's rows, else those of the index, else none."""
    states = {name: read_state(folder, name) for name in (INDEX, PROGRESS) if (folder / name).is_file()}
    index = states.get(
        INDEX, {"format": FORMAT, "turn": 0, "data": "data-1", "bytes": {}, "features": {}, "live": None}
    )
    progress = states.get(PROGRESS, index)
    return progress if progress["turn"] == index["turn"] else index  # one of an earlier turn was to be removed


class Store:
    """The rows of an index, mapped into memory. In memory are a few bytes for each: see `offsets`.

    stamp: of index.json, before it was read; `stamp_now` gives another one where it has been written since.
    """

    def __init__(self, folder: Path, state: Mapping[str, Any], stamp: tuple[int, ...] | None = None) -> None:
        self.folder, self.state, self.stamp = folder, state, stamp
        self.data = folder / state["data"]
        try:
            self.rows = self._map(ROWS, ROW)
            self.memes = self._map(MEMES, np.dtype(np.uint8))
            self.thumbnails = self._map(THUMBNAILS, np.dtype(np.uint8))
            self.emotions = self._map(EMOTIONS, np.dtype(np.int32))
            live = state.get("live")
            self.live = np.load(self.data / live, allow_pickle=False) if live else np.zeros(len(self.rows), bool)
            self.features = FeatureStore(0)
            lengths = {"token": np.ascontiguousarray(self.rows["tokens"]).astype(np.int32)}
            if CAPTION_COUNTS in state["bytes"]:
                lengths["caption"] = np.array(self._map(CAPTION_COUNTS, np.dtype(np.int32)))
            self.features.set_lengths(lengths)
            self.features.arrays = {
                name: self._map(f"{name}.bin", KINDS[state["precision"]]).reshape(-1, *width)
                for name, width in state["features"].items()
            }
        except PermissionError as error:
            raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{folder}: a damaged index ({error}): make it anew in another folder") from error
        if any(len(of_kind) != len(self.rows) for of_kind in lengths.values()):
            raise Damaged(f"{folder}: a damaged index ({CAPTION_COUNTS} is not of its rows): make it anew")
        for name, array in self.features.arrays.items():
            kind = kind_of(name, lengths)
            if len(array) != (len(self.rows) if kind is None else self.features.offsets[kind][-1]):
                raise Damaged(f"{folder}: a damaged index ({name}.bin has {len(array)} rows): make it anew")
        if self.live.shape != (len(self.rows),) or self.live.dtype != bool:
            raise Damaged(f"{folder}: a damaged index ({live} is not of its rows): make it anew")

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Store:
        """The last whole index in a folder. InputError where there is none, or it is damaged."""
        folder = Path(folder)
        if not (folder / INDEX).is_file():
            begun = " is not finished: give the command that makes it again" if (folder / PROGRESS).exists() else ""
            raise InputError(f"{folder}:{begun or ' holds no index (python -m recommend index makes one)'}")
        for last in (False, True):
            stamp = _stamp(folder)
            state = read_state(folder, INDEX)
            try:
                return cls(folder, state, stamp)
            except Damaged:  # it may have been replaced in between
                if last or read_state(folder, INDEX) == state:
                    raise
        raise AssertionError

    def stamp_now(self) -> tuple[int, ...] | None:
        return _stamp(self.folder)

    def _map(self, name: str, kind: np.dtype) -> np.ndarray:
        return mapped(self.data / name, self.state["bytes"].get(name, 0), kind)

    def __len__(self) -> int:
        """Memes in the gallery."""
        return int(np.count_nonzero(self.live))

    def meme(self, row: int) -> Meme:
        """What is known of the meme in a row."""
        at, size = int(self.rows[row]["text_at"]), int(self.rows[row]["text_bytes"])
        try:
            known = json.loads(bytes(self.memes[at : at + size]))
            captions, emotions = tuple(known["captions"]), tuple(known["emotions"])
            return Meme(known["id"], known["path"], captions, emotions, known["text"])
        except (ValueError, LookupError, TypeError) as error:
            raise Damaged(f"{self.data / MEMES}: a damaged index: the meme in row {row} cannot be read") from error

    def thumbnail(self, row: int) -> bytes:
        """WebP."""
        at, size = int(self.rows[row]["thumbnail_at"]), int(self.rows[row]["thumbnail_bytes"])
        return bytes(self.thumbnails[at : at + size])

    def row_of(self, image_id: str) -> int | None:
        """The row of the meme of the gallery with this id; None where there is none."""
        for row in _found(self.ids, id_number(image_id)):
            if self.live[row] and self.meme(row).image_id == image_id:
                return row
        return None

    @functools.cached_property
    def ids(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids' numbers, sorted, and the row of each: 12 bytes a row."""
        return _sorted(np.ascontiguousarray(self.rows["id"]))

    def row_of_file(self, sha256: bytes) -> int | None:
        """The row of a meme of the gallery whose file has this SHA-256."""
        return next(iter(np.flatnonzero((self.rows["file"].view("S32") == sha256) & self.live).tolist()), None)

    def row(self, number: int, meme: Meme, stamp: tuple[int, int], emotions: list[int]) -> Row:
        """The row with this number as that of a meme at another place, or of a file with another stamp."""
        known, features = self.rows[number], self.features
        places = {kind: slice(offsets[number], offsets[number + 1]) for kind, offsets in features.offsets.items()}
        return Row(
            meme=meme,
            pixels=known["pixels"].tobytes(),
            file=known["file"].tobytes(),
            stamp=stamp,
            phash=int(known["phash"]),
            thumbnail=self.thumbnail(number),
            emotions=emotions,
            tokens=int(known["tokens"]),
            features={
                name: np.asarray(array[number if (kind := kind_of(name, places)) is None else places[kind]])
                for name, array in features.arrays.items()
            },
        )

    def sizes(self) -> dict[str, float]:
        """Bytes per meme on disk, of features and of all else."""
        sizes, rows = self.state["bytes"], max(1, len(self.rows))
        of_features = sum(size for name, size in sizes.items() if name.removesuffix(".bin") in self.state["features"])
        return {"features": of_features / rows, "rest": (sum(sizes.values()) - of_features) / rows}


def _stamp(folder: Path) -> tuple[int, ...] | None:
    """What changes when another index.json takes the place of this one; None where there is none."""
    try:
        status = os.stat(folder / INDEX)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class Lookup:
    """Which rows of a Store are of an id, and of a key: 24 bytes in memory for each row."""

    def __init__(self, store: Store) -> None:
        self.store = store
        keys = np.ascontiguousarray(store.rows["key"]).view(np.uint64)
        self.keys = _sorted(keys.reshape(-1, 2)[:, 0])

    def by_place(self, meme: Meme) -> int | None:
        """The last row of a meme with this id and path."""
        rows, place = _found(self.store.ids, id_number(meme.image_id)), place_of(meme)
        return max((row for row in rows if self.store.rows[row]["place"].tobytes() == place), default=None)

    def by_key(self, key: bytes) -> int | None:
        rows = _found(self.keys, int.from_bytes(key[:8], "little"))
        return max((row for row in rows if self.store.rows[row]["key"].tobytes() == key), default=None)


def _sorted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(values, kind="stable").astype(np.int32)
    return values[order], order


def _found(table: tuple[np.ndarray, np.ndarray], value: int) -> list[int]:
    values, order = table
    wanted = np.uint64(value)
    return order[np.searchsorted(values, wanted) : np.searchsorted(values, wanted, side="right")].tolist()


class Writer:
    """Rows appended to a data folder by the one process that holds the index's lock."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """settings: what index.json says beside files and sizes. An unfinished call's rows are gone on with."""
        self.folder = folder
        self.settings = dict(settings)
        self.state = {**newest_state(folder), **self.settings, "live": None}
        self._clear_up()
        self.store = Store(folder, copy.deepcopy(self.state))

    def _clear_up(self) -> None:
        """Remove what a killed process has left."""
        for path in self.folder.glob("data-*"):  # the index is in the same one: a turn changes it at its end
            if path.name != self.state["data"]:
                shutil.rmtree(path)
        for path in self.folder.glob(".*.partial"):
            path.unlink()
        (self.folder / self.state["data"]).mkdir(exist_ok=True)

    def append(self, rows: Sequence[Row]) -> list[int]:
        """Write rows: their numbers. They count once `commit` is called."""
        if not rows:
            return []
        kind = KINDS[self.state["precision"]]
        kinds = _kinds(rows[0].features)
        widths = {
            name: list(array.shape[0 if kind_of(name, kinds) is None else 1 :])
            for name, array in rows[0].features.items()
        }
        if self.state["features"] not in ({}, widths):
            raise Damaged(f"{self.folder}: holds features {self.state['features']}, not {widths}: make it anew")
        self.state["features"] = widths
        sizes = self.state["bytes"]
        table = np.zeros(len(rows), ROW)
        lines, text_at, thumbnail_at = [], sizes.get(MEMES, 0), sizes.get(THUMBNAILS, 0)
        for entry, row in zip(table, rows, strict=True):
            meme = row.meme
            known: dict[str, Any] = {"id": meme.image_id, "path": meme.image, "text": meme.text}
            known |= {"captions": meme.captions, "emotions": meme.emotions}
            line = (json.dumps(known, ensure_ascii=False) + "\n").encode(errors="surrogatepass")
            lines.append(line)
            entry["key"], entry["place"] = np.void(key_of(row.pixels, meme)), np.void(place_of(meme))
            entry["pixels"], entry["file"] = np.void(row.pixels), np.void(row.file)
            entry["id"], entry["phash"] = id_number(meme.image_id), row.phash
            entry["size"], entry["mtime_ns"] = row.stamp
            entry["text_at"], entry["text_bytes"] = text_at, len(line)
            entry["thumbnail_at"], entry["thumbnail_bytes"] = thumbnail_at, len(row.thumbnail)
            entry["tokens"], entry["persons"] = row.tokens, len(row.emotions)
            text_at, thumbnail_at = text_at + len(line), thumbnail_at + len(row.thumbnail)
        pieces = {ROWS: table.tobytes(), MEMES: b"".join(lines), THUMBNAILS: b"".join(row.thumbnail for row in rows)}
        pieces[EMOTIONS] = np.array([word for row in rows for word in row.emotions], np.int32).tobytes()
        if "caption" in kinds:
            pieces[CAPTION_COUNTS] = np.array([len(row.features["caption"]) for row in rows], np.int32).tobytes()
        for name in widths:
            whole = np.stack if kind_of(name, kinds) is None else np.concatenate
            pieces[f"{name}.bin"] = whole([row.features[name] for row in rows]).astype(kind).tobytes()
        first = sizes.get(ROWS, 0) // ROW.itemsize
        for name, piece in pieces.items():
            sizes[name] = append(self.folder / self.state["data"] / name, sizes.get(name, 0), piece)
        return list(range(first, first + len(rows)))

    def commit(self) -> None:
        """The rows that were appended count for the next call, also where this one comes no further."""
        write_json(self.folder / PROGRESS, self.state)

    def finish(self, rows: np.ndarray, facts: Mapping[str, Any]) -> None:
        """Make of the given rows the index that readers see. facts: what index.json says of it besides."""
        live = np.zeros(self.state["bytes"].get(ROWS, 0) // ROW.itemsize, bool)
        live[rows] = True
        if len(live) - len(rows) > max(FEW, len(rows) // 4):
            self._compact(np.flatnonzero(live))
            live = np.ones(len(rows), bool)
        data = self.folder / self.state["data"]
        number = 1 + max((int(path.stem[5:]) for path in data.glob("live-*.npy")), default=0)
        name = f"live-{number}.npy"
        with replaced_atomically(data / name) as temporary, open(temporary, "wb") as file:
            np.save(file, live)
        self.state |= {"live": name, "turn": self.state["turn"] + 1, **facts}
        write_json(self.folder / INDEX, self.state)
        with contextlib.suppress(OSError):  # what is left goes with the next call
            (self.folder / PROGRESS).unlink(missing_ok=True)
            for path in data.glob("live-*.npy"):
                if path.name != name:
                    path.unlink()
            for path in self.folder.glob("data-*"):
                if path != data:
                    shutil.rmtree(path)

    def _compact(self, rows: np.ndarray) -> None:
        """Copy the given rows into a new data folder."""
        old = Store(self.folder, {**self.state, "live": None})
        number = 1 + int(self.state["data"].removeprefix("data-"))
        self.state |= {"data": f"data-{number}", "bytes": {}}
        data = self.folder / self.state["data"]
        if data.exists():
            shutil.rmtree(data)
        data.mkdir()
        person = np.concatenate([[0], old.rows["persons"].cumsum(dtype=np.int64)])
        for start in range(0, len(rows), COPIED):
            some = rows[start : start + COPIED].tolist()
            copied = []
            for row in some:
                entry = old.rows[row]
                stamp, emotions = (
                    (int(entry["size"]), int(entry["mtime_ns"])),
                    old.emotions[person[row] : person[row + 1]],
                )
                copied.append(old.row(row, old.meme(row), stamp, emotions.tolist()))
            self.append(copied)
