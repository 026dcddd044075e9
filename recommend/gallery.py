"""What is to be indexed: the images of a folder, and what is known of each: captions, text, emotions."""

from __future__ import annotations

import dataclasses
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataloaders.cells import ImageFolder
from dataloaders.communities import SPLITS
from dataloaders.meme_records import Meme, read_splits
from preprocess.annotation.annotation_file import Annotation, is_torn, parse_row
from preprocess.annotation.emotion_words import map_emotions, read_emotion_table
from preprocess.annotation.pictures import find_images
from util import InputError


class Gallery:
    """The memes of a folder. `described` tells what the annotations know of one, by its file's SHA-256.

    notes: sentences for the user.
    """

    def __init__(
        self,
        images: str | os.PathLike[str] | None,
        annotations: str | os.PathLike[str] | None = None,
        data_path: str | os.PathLike[str] | None = None,
    ) -> None:
        """images: the folder; None: that of the community in `data_path`. InputError where something is missing."""
        if annotations is not None and data_path is not None:
            raise InputError("--annotations and --data_path exclude each other: both say what is known of the memes")
        if images is None and data_path is None:
            raise InputError("give --images, the folder of the images, or --data_path, a community's")
        self.images = Path(images if images is not None else Path(data_path or "") / "images")
        if not self.images.is_dir():
            raise InputError(f"{self.images}: found no such folder, expected that of the images (--images)")
        self.notes: list[str] = []
        self.annotations = AnnotationTable(annotations) if annotations is not None else None
        self.community = self._read_community(Path(data_path)) if data_path is not None else []

    def _read_community(self, folder: Path) -> list[Meme]:
        """The memes of a community's CSVs, each once."""
        paths = {name: folder / f"{name}.csv" for name in SPLITS if (folder / f"{name}.csv").is_file()}
        if not paths:
            names = ", ".join(f"{name}.csv" for name in SPLITS)
            raise InputError(f"{folder}: found none of {names}, expected a community's folder (--data_path)")
        splits, self.notes = read_splits(paths, self.images, read_captions=False)
        return list({meme.image_id: meme for split in splits.values() for meme in split.memes}.values())

    def memes(self) -> Iterator[Meme]:
        """Yield the community's memes, then the other images of the folder, whose id is their path."""
        yield from self.community
        paths, outside = find_images(self.images)
        if outside:
            note = f"{len(outside):,} links lead out of {self.images} and are left out: {outside[0]}, ..."
            self.notes += [note] if note not in self.notes else []
        named = {meme.image for meme in self.community}
        ids = {meme.image_id for meme in self.community}
        for path in paths:
            if path not in named:
                yield Meme(f"./{path}" if path in ids else path, path, (), (), "")

    def described(self, meme: Meme, sha256: bytes) -> Meme:
        """The meme with what the annotations say of it."""
        return self.annotations.described(meme, sha256) if self.annotations is not None else meme


class AnnotationTable:
    """annotations.jsonl, looked up by a file's SHA-256: 16 bytes in memory for each row."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """InputError, with the line, for a file that is not what `preprocess.annotate` writes."""
        self.path = Path(path)
        self.emotions = read_emotion_table()
        prefixes, places = array("Q"), array("Q")
        try:
            with open(self.path, "rb") as file:
                size, place = os.fstat(file.fileno()).st_size, 0
                for number, line in enumerate(file, start=1):
                    if (row := self._parsed(line, number, place + len(line) >= size)) is not None:
                        prefixes.append(int(row.sha256[:16], 16))
                        places.append(place)
                    place += len(line)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from error
        if not prefixes:
            raise InputError(f"{self.path}: found no row, expected what preprocess.annotate writes")
        found = np.array(prefixes, np.uint64)
        order = np.argsort(found, kind="stable")  # of several rows of an image the last one counts
        self.prefixes, self.places = found[order], np.array(places, np.uint64)[order]

    def _parsed(self, line: bytes, number: int, is_last: bool) -> Annotation | None:
        """The row in a line; None of a blank one, and of a torn last one."""
        try:
            return parse_row(line) if line.strip() else None
        except ValueError as error:
            if is_last and is_torn(line, error):
                return None
            raise InputError(f"{self.path}, line {number}: {error}") from None

    def described(self, meme: Meme, sha256: bytes) -> Meme:
        """The meme with its captions, text and emotions, where it has an answer."""
        wanted = np.uint64(int.from_bytes(sha256[:8], "big"))
        first, last = (int(np.searchsorted(self.prefixes, wanted, side)) for side in ("left", "right"))
        with open(self.path, "rb") as file:
            for place in self.places[first:last][::-1].tolist():
                file.seek(place)
                row = parse_row(file.readline())
                if row.sha256 != sha256.hex():
                    continue
                if row.status != "ok":
                    return meme
                words, _ = map_emotions(row.emotions, self.emotions)
                return dataclasses.replace(meme, captions=row.captions, text=row.text, emotions=words)
        return meme


def path_within(folder: str | os.PathLike[str], path: str) -> Path:
    """Where an image of a folder is; BadCell where the path leaves the folder, by links too."""
    return Path(folder) / ImageFolder(folder).parse_path(path)
