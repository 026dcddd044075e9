"""A folder of memes -> an index: what is new is encoded, what is known is kept, what is gone is dropped."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dataloaders.cells import BadCell
from dataloaders.image_file import BadImage, ImageError, ImageFile, read_file, stamp_of
from dataloaders.image_store import ImageStore
from dataloaders.image_transform import ImageSettings, frames_of
from dataloaders.loader_processes import processes_here
from dataloaders.meme_images import AHEAD, MemeImages, in_order
from dataloaders.meme_records import Meme
from dataloaders.thumbnail import thumbnail
from engine import distributed
from engine.run_record import command_line
from preprocess.comparing.perceptual_hash import ENOUGH, phashes, shrink
from recommend.gallery import Gallery, path_within
from recommend.model import ModelInUse, to_rows
from recommend.store import INDEX, LOCK, PROGRESS, Lookup, Row, Store, Writer, key_of, newest_state
from util import Bar, InputError, NotWritten, progress_bar, take_lock

ROUND = 512  # memes of all processes between two times that the work so far is kept
BATCH = 64  # memes that a process encodes at once, where --batch_size_val allows as many
THUMBNAIL = 256, 65  # pixels of the longer side, WebP quality


@dataclasses.dataclass
class Summary:
    """What a call has done. without_captions: memes whose captions the model would read, and that have none.

    bad: {path: why} of the images that are left out. emotions: words that the model does not know.
    """

    memes: int = 0
    encoded: int = 0
    kept: int = 0
    dropped: int = 0
    without_captions: int = 0
    bad: dict[str, str] = dataclasses.field(default_factory=dict)
    unknown_emotions: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class Prepared:
    """An image file that was read: all of its Row but what the model gives."""

    file: bytes
    stamp: tuple[int, int]
    pixels: bytes
    frames: torch.Tensor
    phash: int
    thumbnail: bytes


class Outcome(NamedTuple):
    """What becomes of a meme: its row, or the reason why there is none; whether the model was asked for it."""

    row: Row | None
    reason: str = ""
    encoded: bool = False


def update(
    folder: str | os.PathLike[str],
    model: ModelInUse,
    gallery: Gallery,
    full: bool = False,
    progress: bool = True,
    image_cache: str | os.PathLike[str] | None = None,
) -> Summary:
    """Bring the index in `folder` to what the gallery is now, or make it. All processes take part.

    full: features in single precision. image_cache: where decoded images are kept, for other models and runs too.
    InputError where the folder holds an index of another model or precision, or another process is at work there; a
    call that was interrupted is gone on with.
    """
    folder = Path(folder)
    held: list[Any] = []
    try:
        distributed.call_in_main(lambda: held.append(_lock(folder, gallery.images)))
        settings = _settings(model, gallery, full)
        _check_same(folder, settings)
        decoded = _decoded(image_cache, model, gallery, progress) if image_cache is not None else None
        return _Update(folder, model, gallery, settings, progress, decoded).run()
    finally:
        for file in held:
            file.close()


def _lock(folder: Path, images: Path) -> Any:
    if folder.resolve().is_relative_to(images.resolve()):
        raise InputError(f"{folder}: lies in the folder of the images: name one outside it (--out)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from error
    begun = re.compile(rf"{re.escape(LOCK)}|data-1")  # what is there before progress.json is
    is_index = any((folder / name).exists() for name in (INDEX, PROGRESS))
    if not is_index and not all(begun.fullmatch(path.name) for path in folder.iterdir()):
        raise InputError(f"{folder}: holds other files and no index: name a new folder (--out)")
    try:
        return take_lock(folder / LOCK, command_line())
    except NotWritten:
        raise
    except InputError as error:
        raise InputError(f"{folder} is being written: {error}") from None


def _settings(model: ModelInUse, gallery: Gallery, full: bool) -> dict[str, Any]:
    return {
        "model": {"path": model.name, "sha256": model.sha256},
        "precision": "full" if full else "half",
        "images": str(gallery.images.resolve()),
    }


def _check_same(folder: Path, settings: dict[str, Any]) -> None:
    """InputError where the folder's index is of another model, or in another precision."""
    state = newest_state(folder)
    if "model" not in state:
        return
    before, now = state["model"], settings["model"]
    if before["sha256"] != now["sha256"]:
        raise InputError(
            f"{folder}: is an index of the model {before['path']} (SHA-256 {before['sha256'][:12]}...), not of "
            f"{now['path']} ({now['sha256'][:12]}...): name another folder (--out)"
        )
    if state["precision"] != settings["precision"]:
        raise InputError(
            f"{folder}: is an index in {state['precision']} precision, not {settings['precision']} (--fp32): name "
            "another folder (--out)"
        )


def _decoded(
    image_cache: str | os.PathLike[str], model: ModelInUse, gallery: Gallery, progress: bool
) -> ImageStore | None:
    """The store of decoded images, which all of the gallery's are now in that can be decoded."""
    images, tells = MemeImages(gallery.images, model.settings, image_cache), progress and distributed.is_main()
    images.check([meme.image for meme in gallery.memes()], tells, print if tells else lambda line: None)
    return images.store


class _Update:
    """One call. The first process goes through the gallery, writes, and shares out what is to be encoded."""

    def __init__(
        self,
        folder: Path,
        model: ModelInUse,
        gallery: Gallery,
        settings: dict[str, Any],
        progress: bool,
        decoded: ImageStore | None,
    ) -> None:
        self.folder, self.model, self.gallery, self.decoded = folder, model, gallery, decoded
        self.images = gallery.images
        self.progress = progress and distributed.is_main()
        self.summary = Summary()
        self.live = array("l")  # rows of the gallery
        self.has_text = False
        self.before = 0
        distributed.call_in_main(self._begin, settings)
        self.store = Store(folder, newest_state(folder))
        self.known = Lookup(self.store)

    def _begin(self, settings: dict[str, Any]) -> None:
        self.before = len(Store.open(self.folder)) if (self.folder / INDEX).is_file() else 0
        self.writer = Writer(self.folder, settings)
        self.writer.commit()

    def run(self) -> Summary:
        threads = max(1, (os.cpu_count() or 1) // processes_here())
        with (
            ThreadPoolExecutor(threads) as pool,
            progress_bar(desc="memes", unit="meme", leave=False, disable=not self.progress) as bar,
        ):
            todo = self._unknown(bar)
            while some := self._next(todo):
                own = some[distributed.rank() :: distributed.world_size()]
                results = distributed.from_all(list(self._encode(own, pool, threads, bar)))
                distributed.call_in_main(self._keep, some, results)
        distributed.call_in_main(self._finish)
        return distributed.from_main(self.summary)

    def _next(self, todo: Iterator[Meme]) -> list[Meme]:
        """The next memes to be read, in all processes."""
        some: list[Meme] = []
        distributed.call_in_main(lambda: some.extend(islice(todo, ROUND)))
        return distributed.from_main(some)

    def _unknown(self, bar: Bar) -> Iterator[Meme]:
        """Yield the memes that have to be read; notes the rows of the others."""
        for meme in self.gallery.memes():
            row = self._known_row(meme)
            if row is None:
                yield meme
            else:
                bar.update()
                self.summary.kept += 1
                self._count(row[1])
                self.live.append(row[0])

    def _known_row(self, meme: Meme) -> tuple[int, Meme] | None:
        """(row, the meme as it is described) where the index knows a meme by its place, its file's stamp and texts."""
        number = self.known.by_place(meme)
        if number is None:
            return None
        row = self.store.rows[number]
        try:
            stamp = stamp_of(self.images / meme.image)
        except OSError:
            return None
        meme = self.gallery.described(meme, row["file"].tobytes())
        same = stamp == (row["size"], row["mtime_ns"]) and key_of(row["pixels"].tobytes(), meme) == row["key"].tobytes()
        return (number, meme) if same else None

    def _encode(self, memes: list[Meme], pool: ThreadPoolExecutor, threads: int, bar: Bar) -> list[Outcome]:
        """What becomes of each meme, in order. Images are read while the model encodes."""
        at_once = max(1, min(BATCH, self.model.args.batch_size_val // distributed.world_size()))
        outcomes: dict[int, Outcome] = {}
        waiting: list[tuple[int, Meme, Prepared]] = []
        read = in_order(pool, self._prepare, memes, AHEAD * threads)
        for number, (meme, found) in enumerate(zip(memes, read, strict=True)):
            if isinstance(found, str):
                outcomes[number] = Outcome(None, found)
            else:
                described = self.gallery.described(meme, found.file)
                same = self.known.by_key(key_of(found.pixels, described))
                if same is None:
                    waiting.append((number, described, found))
                else:  # it was moved, or its file was written again
                    row = self.store.row(same, described, found.stamp, self.model.emotions_of(described))
                    outcomes[number] = Outcome(row._replace(file=found.file, thumbnail=found.thumbnail))
            if len(waiting) == at_once:
                outcomes |= self._encode_batch(waiting)
                waiting = []
            bar.update(distributed.world_size())
        if waiting:
            outcomes |= self._encode_batch(waiting)
        return [outcomes[number] for number in range(len(memes))]

    def _encode_batch(self, waiting: list[tuple[int, Meme, Prepared]]) -> dict[int, Outcome]:
        features, valid = self.model.encode_memes(
            [meme for _, meme, _ in waiting], [found.frames for _, _, found in waiting]
        )
        encoded = zip(waiting, to_rows(features, valid), valid["token"].tolist(), strict=True)
        return {
            number: Outcome(
                Row(
                    meme=meme,
                    pixels=found.pixels,
                    file=found.file,
                    stamp=found.stamp,
                    phash=found.phash,
                    thumbnail=found.thumbnail,
                    emotions=self.model.emotions_of(meme),
                    tokens=tokens,
                    features=of_meme,
                ),
                encoded=True,
            )
            for (number, meme, found), of_meme, tokens in encoded
        }

    def _prepare(self, meme: Meme) -> Prepared | str:
        try:
            return prepare(path_within(self.images, meme.image), self.model.settings, self.decoded)
        except BadCell as error:
            return f"{self.images / meme.image}: {error}"
        except (ImageError, BadImage) as error:
            path = self.images / meme.image
            return str(error) if isinstance(error, ImageError) else f"{path}: {error}"
        except OSError as error:
            return f"{self.images / meme.image}: cannot be read: {error.strerror}"

    def _keep(self, memes: list[Meme], outcomes: list[list[Outcome]]) -> None:
        """Write what all processes have found, in the order of the memes."""
        rows: list[Row] = []
        for number, meme in enumerate(memes):
            found = outcomes[number % len(outcomes)][number // len(outcomes)]
            if found.row is None:
                self.summary.bad[meme.image] = found.reason
                continue
            rows.append(found.row)
            self.summary.encoded += found.encoded
            self.summary.kept += not found.encoded
            self._count(found.row.meme)
        self.live.extend(self.writer.append(rows))
        self.writer.commit()

    def _count(self, meme: Meme) -> None:
        self.has_text |= bool(meme.text.strip())
        self.summary.memes += 1
        self.summary.without_captions += self.model.reads_captions and not self.model.captions_of(meme)
        if self.model.emotions:
            self.summary.unknown_emotions.update(word for word in meme.emotions if word not in self.model.emotions)

    def _finish(self) -> None:
        if not self.live:
            raise InputError(f"{self.images}: none of its images can be used: {next(iter(self.summary.bad.values()))}")
        self.summary.dropped = self._dropped()
        self.writer.finish(np.array(self.live), {"memes": len(self.live), "has_text": self.has_text})

    def _dropped(self) -> int:
        """How many memes of the last whole index are gone: no meme of the gallery has their id."""
        if not self.before:
            return 0
        old = Store.open(self.folder)
        new = Store(self.folder, {**self.writer.state, "live": None})
        return int((~np.isin(old.rows["id"][old.live], new.rows["id"][np.array(self.live)])).sum())


def prepare(path: Path, settings: ImageSettings, decoded: ImageStore | None = None) -> Prepared:
    """Read an image file. Raises ImageError, BadImage or OSError where that cannot be."""
    stamp = stamp_of(path)
    data = read_file(path)
    return prepared(data, settings, stamp, decoded)


def prepared(
    data: bytes, settings: ImageSettings, stamp: tuple[int, int] = (0, 0), decoded: ImageStore | None = None
) -> Prepared:
    """An image file's bytes: its frames as the model reads them, and what tells it from others. Raises BadImage.

    decoded: where the frames may be, by the same settings.
    """
    file = hashlib.sha256(data).digest()
    frames = decoded.of_content(file) if decoded is not None else None
    if frames is None:
        frames = frames_of(data, **settings)
    image = ImageFile(data)
    grey = shrink(image.first(min(image.width, image.height) / ENOUGH, colour=False))
    return Prepared(
        file=file,
        stamp=stamp,
        pixels=hashlib.blake2b(frames.numpy().tobytes(), digest_size=16).digest(),
        frames=frames,
        phash=int(phashes(grey[None])[0]),
        thumbnail=thumbnail(data, *THUMBNAIL),
    )
