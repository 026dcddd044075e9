"""The images of a community: checked before training starts, and kept decoded on disk where that is asked for."""

import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from dataloaders.image_store import Decoded, ImageStore
from dataloaders.image_transform import ImageError, ImageSettings, load_image
from dataloaders.loader_processes import processes_here
from util import Bar, progress_bar

AHEAD = 4  # images for each thread that may be decoded, or be waiting decoded, behind one that takes long
BLOCK = 256  # images between two looks at what other processes have written
WRITTEN_AT_ONCE = 2**25  # bytes of decoded images
Item = TypeVar("Item")
Result = TypeVar("Result")


class MemeImages:
    """`images[path] -> (F, 3, size, size) uint8` for paths relative to `folder`.

    cache: --image_cache, where decoded images are kept; None decodes an image each time that it is asked for.
    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: ImageSettings, cache: str | os.PathLike[str] | None = None
    ) -> None:
        self.folder = Path(folder)
        self.settings = settings
        self.store = ImageStore(cache, folder, settings) if cache is not None else None
        self.rows: dict[str, int] = {}  # path -> row of the store, of the images that were checked
        self.frames: dict[str, int] = {}  # path -> how many frames it has, of the images that were checked

    def __getitem__(self, path: str) -> torch.Tensor:
        if self.store is not None and path in self.rows:
            return self.store.frames(self.rows[path])
        return load_image(self.folder / path, **self.settings)

    def check(
        self, paths: Sequence[str], progress: bool = True, tell: Callable[[str], object] = print
    ) -> dict[str, str]:
        """Decode every image once, but for those that the store has; {path: why not} of those that cannot be.

        The store gets what is decoded: `tell` is told before how much that is, and InputError says where it does not
        fit. Processes that check the same images at once share them out. In memory are at most `AHEAD` images of each
        thread, and what is to be written at once.
        """
        unknown = paths if self.store is None else self._unknown(self.store, paths, tell)
        bad: dict[str, str] = {}
        read: list[Decoded] = []
        held = 0
        threads = max(1, (os.cpu_count() or 1) // processes_here())  # each of these checks
        pool = ThreadPoolExecutor(threads)
        try:
            with progress_bar(
                total=len(unknown), desc="checking images", unit="img", disable=not (progress and unknown)
            ) as bar:
                for path, found in in_order(pool, self._read, self._shared_out(unknown, bar), AHEAD * threads):
                    bar.update()
                    if isinstance(found, str):
                        bad[path] = found
                    elif isinstance(found, int):
                        self.frames[path] = found
                    else:
                        read.append(found)
                        held += 0 if found.frames is None else found.frames.numel()
                    if held >= WRITTEN_AT_ONCE:
                        self._keep(read)
                        read, held = [], 0
                self._keep(read)
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the images that are left
        return {path: bad[path] for path in unknown if path in bad}

    def all_stored(self, paths: Iterable[str]) -> bool:
        """Whether nothing of these is left to decode."""
        return all(path in self.rows for path in paths)

    def frame_counts(self, paths: Iterable[str]) -> np.ndarray:
        """How many frames the images have, (N,) int64; of one that was not checked the most that it may have."""
        return np.array([self.frames.get(path, self.settings["max_frames"]) for path in paths], dtype=np.int64)

    def _unknown(self, store: ImageStore, paths: Iterable[str], tell: Callable[[str], object]) -> list[str]:
        """The images that the store lacks, for which there is room."""
        store.refresh()
        unknown = [path for path in paths if not self._find(store, path)]
        store.announce(unknown, tell)
        return unknown

    def _shared_out(self, paths: Sequence[str], bar: Bar) -> Iterator[str]:
        """Yield the images that no other process has written meanwhile: each process takes blocks in an own order."""
        if self.store is None:
            yield from paths
            return
        blocks = [paths[start : start + BLOCK] for start in range(0, len(paths), BLOCK)]
        random.Random().shuffle(blocks)  # not by the run's random state, which is the same in all processes
        for block in blocks:
            self.store.refresh()
            for path in block:
                if self._find(self.store, path):
                    bar.update()
                else:
                    yield path

    def _find(self, store: ImageStore, path: str) -> bool:
        row = store.find(path)
        if row is None:
            return False
        self.rows[path], self.frames[path] = row, store.count(row)
        return True

    def _keep(self, read: list[Decoded]) -> None:
        if self.store is not None:
            for image, row in zip(read, self.store.add(read), strict=True):
                self.rows[image.name], self.frames[image.name] = row, self.store.count(row)

    def _read(self, path: str) -> tuple[str, Decoded | int | str]:
        """(path, what the store keeps of it, or how many frames it has, or why it cannot be read)."""
        try:
            if self.store is not None:
                return path, self.store.read(path)
            return path, len(load_image(self.folder / path, **self.settings))
        except ImageError as error:
            return path, str(error)


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """`pool.map`, with at most `ahead` items that are begun and not yet taken."""
    begun: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(begun) == ahead:
                yield begun.popleft().result()
            begun.append(pool.submit(function, item))
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def stack_frames(images: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (F_i, 3, H, W) of B memes -> all frames (ΣF, 3, H, W) and frame mask (B, max F)."""
    counts = torch.tensor([len(frames) for frames in images])
    mask = torch.arange(int(counts.max())) < counts[:, None]
    return torch.cat(images), mask
