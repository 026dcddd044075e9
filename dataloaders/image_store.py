"""Decoded frames of a folder's images on disk, for all processes and runs that read the folder in the same way.

    store.json    what the store is of, and how many bytes of the two files count
    frames.bin    (F, 3, S, S) uint8 of each image, one after the other
    entries.bin   an ENTRY for each file that was read: what it was, and where its frames are

Frames belong to the SHA-256 of a file's bytes. So that nobody has to read all files for it, a file of the same name,
size and time of change (in ns) as one that was read counts as that one. A split plays no part. A folder, another way to
read it and another version of what reads it have a store each: a subfolder of --image_cache, which may be removed.

One process writes at a time, for a moment. A killed one leaves bytes that do not count. What is there never changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL
import torch

from dataloaders.growing_files import append, mapped
from dataloaders.image_file import ImageError, may_move, read_file, stamp_of
from dataloaders.image_transform import ImageSettings, frames_of, naming
from util import InputError, NotWritten, not_written, read_json, take_lock, write_json

RECORD, FRAMES, ENTRIES, LOCK = "store.json", "frames.bin", "entries.bin", ".lock"
ENTRY = np.dtype(
    [
        ("name", "V16"),  # BLAKE2 of the path in the folder
        *(("size", "<i8"), ("mtime_ns", "<i8")),  # of the file
        ("content", "V32"),  # SHA-256 of its bytes
        *(("at", "<u8"), ("frames", "<u4")),  # in frames.bin
    ]
)
PACKED = "<32s32sQI"  # the same, name and file together
FILE, CONTENT = slice(0, 32), slice(32, 64)  # bytes of an ENTRY: which file, as it was; what is in it
READERS = ("image_bytes.py", "image_file.py", "image_transform.py")  # what the frames depend on, beside packages
PATIENCE = 120  # seconds to wait for the process that writes
MB, GB = 10**6, 10**9

warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # frames are only read


class Decoded(NamedTuple):
    """An image file that was read. frames: (F, 3, S, S) uint8; None where the store has those of the same content."""

    name: str
    stamp: tuple[int, int]  # size and mtime_ns
    content: bytes
    frames: torch.Tensor | None


class ImageStore:
    """The frames of a folder's images. `find` gives the row of a file, `frames` the frames of a row."""

    def __init__(self, cache: str | os.PathLike[str], images: str | os.PathLike[str], settings: ImageSettings) -> None:
        """cache: --image_cache. images: the folder, which settings say how to read. Nothing is written yet."""
        self.cache, self.images, self.settings = cache, Path(images), settings
        self.shape = (3, settings["size"], settings["size"])
        folder = os.path.realpath(images)
        shown = folder.encode("utf-8", "backslashreplace").decode()
        self.facts = {"images": shown, "settings": settings, "made_by": versions()}
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()
        self.folder = Path(cache) / f"{Path(folder).name}-{digest[:16]}"
        self.sizes = {FRAMES: 0, ENTRIES: 0}
        self.entries = np.empty(0, ENTRY)
        self.pixels = torch.empty(0, dtype=torch.uint8)
        self.row_of_file: dict[bytes, int] = {}
        self.row_of_content: dict[bytes, int] = {}
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        """A process that is spawned opens the files itself; rows stay what they are."""
        return ImageStore, (self.cache, self.images, self.settings)

    def refresh(self) -> None:
        """Take in what was written since. InputError where the store is damaged, or was removed meanwhile."""
        sizes = self._read_sizes()
        if sizes == self.sizes:
            return
        if any(sizes[name] < self.sizes[name] for name in sizes):
            raise InputError(f"{self.folder}: was removed while it was in use; the same command makes it anew")
        try:
            entries = mapped(self.folder / ENTRIES, sizes[ENTRIES], ENTRY, "r")
            pixels = mapped(self.folder / FRAMES, sizes[FRAMES], np.dtype(np.uint8), "r")
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error
        known, entries = len(self.entries), np.asarray(entries)
        new = entries[known:]
        if (new["at"] + new["frames"].astype(np.uint64) * self._bytes(1) > sizes[FRAMES]).any():
            raise self._damaged("frames are missing")
        raw, width = new.tobytes(), ENTRY.itemsize
        for row, start in enumerate(range(0, len(raw), width), start=known):
            entry = raw[start : start + width]
            self.row_of_file[entry[FILE]] = row
            self.row_of_content.setdefault(entry[CONTENT], row)
        self.sizes, self.entries, self.pixels = sizes, entries, torch.from_numpy(np.asarray(pixels))

    def _read_sizes(self) -> dict[str, int]:
        if not (self.folder / RECORD).is_file():
            return {FRAMES: 0, ENTRIES: 0}
        sizes = read_json(self.folder / RECORD).get("bytes")
        if not isinstance(sizes, dict) or sizes.keys() != self.sizes.keys():
            raise self._damaged(f"{RECORD} does not say how many bytes count")
        if not all(type(size) is int and size >= 0 for size in sizes.values()):
            raise self._damaged(f"found {sizes} bytes")
        return sizes

    def _damaged(self, reason: object) -> InputError:
        return InputError(f"{self.folder}: a damaged store of decoded images ({reason}): remove this folder")

    def _bytes(self, frames: int) -> int:
        return frames * int(np.prod(self.shape))

    def find(self, name: str) -> int | None:
        """The row of a file of the folder, as it is now; None where it has to be read."""
        try:
            return self.row_of_file.get(_file_key(name, stamp_of(self.images / name)))
        except OSError:
            return None

    def count(self, row: int) -> int:
        """How many frames an image has."""
        return int(self.entries["frames"][row])

    def frames(self, row: int) -> torch.Tensor:
        """(F, 3, S, S), uint8, mapped into memory."""
        start, count = int(self.entries["at"][row]), self.count(row)
        return self.pixels[start : start + self._bytes(count)].view(count, *self.shape)

    def of_content(self, content: bytes) -> torch.Tensor | None:
        """The frames of a file's bytes, by their SHA-256; None where the store has none."""
        row = self.row_of_content.get(content)
        return None if row is None else self.frames(row)

    def read(self, name: str) -> Decoded:
        """Read a file of the folder, and decode it unless its content is known. Raises ImageError."""
        path = self.images / name
        try:
            stamp = stamp_of(path)
        except OSError as error:
            raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
        data = read_file(path)
        content = hashlib.sha256(data).digest()
        if content in self.row_of_content:
            return Decoded(name, stamp, content, None)
        with naming(path):
            return Decoded(name, stamp, content, frames_of(data, **self.settings))

    def add(self, images: Sequence[Decoded]) -> list[int]:
        """Write what was read, but for what another process has written meanwhile: the images' rows.

        NotWritten where the system refuses it.
        """
        if not images:
            return []
        self._make_folder()
        try:
            lock = take_lock(self.folder / LOCK, "writes decoded images", PATIENCE)
        except NotWritten:
            raise
        except InputError as error:
            raise InputError(f"{self.folder}: cannot be written, for {PATIENCE} seconds so far: {error}") from None
        with lock:
            self.refresh()
            pieces, entries = self._new(images)
            if entries:
                sizes = {
                    FRAMES: append(self.folder / FRAMES, self.sizes[FRAMES], b"".join(pieces)),
                    ENTRIES: append(self.folder / ENTRIES, self.sizes[ENTRIES], b"".join(entries)),
                }
                write_json(self.folder / RECORD, self.facts | {"bytes": sizes})
                self.refresh()
        return [self.row_of_file[_file_key(image.name, image.stamp)] for image in images]

    def _new(self, images: Sequence[Decoded]) -> tuple[list[memoryview], list[bytes]]:
        """What of the images is to be written to frames.bin and to entries.bin."""
        pieces: list[memoryview] = []
        entries: list[bytes] = []
        at = self.sizes[FRAMES]
        places: dict[bytes, tuple[int, int]] = {}  # of the contents that are new
        for name, stamp, content, frames in images:
            key = _file_key(name, stamp)
            if key in self.row_of_file:
                continue
            if (row := self.row_of_content.get(content)) is not None:
                place = int(self.entries["at"][row]), self.count(row)
            elif content in places:
                place = places[content]
            else:
                assert frames is not None
                place = places[content] = at, len(frames)
                pieces.append(frames.numpy().data)
                at += frames.numel()
            entries.append(struct.pack(PACKED, key, content, *place))
        return pieces, entries

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(self.folder, error) from error

    def announce(self, names: Collection[str], tell: Callable[[str], object]) -> None:
        """Say how much these files' frames take, and how much is free. InputError where they do not fit."""
        if not names:
            return
        self._make_folder()
        may = sum(may_move(self.images / name) for name in names)  # how many frames is known when they are read
        least, most = (self._bytes(len(names) + further * may) for further in (0, self.settings["max_frames"] - 1))
        free = shutil.disk_usage(self.folder).free
        size = _shown(least) if least == most else f"{_shown(least)} to {_shown(most)}"
        line = (
            f"--image_cache: {len(names):,} images are not in {self.folder} yet: {size} are to be written, "
            f"{_shown(free)} are free"
        )
        if least > free:
            raise InputError(f"{line}: name a folder with more room, or leave --image_cache out")
        tell(line)


def versions() -> dict[str, str]:
    """What decides about the last bit of a frame: packages, and the code here."""
    digest = hashlib.sha256()
    for name in READERS:
        digest.update(Path(__file__).with_name(name).read_bytes().replace(b"\r\n", b"\n"))
    packages = {"opencv": cv2.__version__, "pillow": PIL.__version__, "torch": torch.__version__.partition("+")[0]}
    return packages | {"readers": digest.hexdigest()}


def _file_key(name: str, stamp: tuple[int, int]) -> bytes:
    place = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return place + struct.pack("<qq", *stamp)


def _shown(size: int) -> str:
    return f"{size / GB:.1f} GB" if size >= GB else f"{size / MB:.1f} MB"
