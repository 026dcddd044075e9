"""The images of a community: checked before training starts, and kept decoded where they fit into memory."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from tqdm import tqdm

from dataloaders.image_transform import ImageError, load_image
from dataloaders.loader_processes import processes_here

AHEAD = 4  # images for each thread that may be decoded, or be waiting decoded, behind one that takes long


class ImageSettings(TypedDict):
    """What `image_transform.load_image` is told beside the path."""

    size: int
    resize_mode: str
    max_frames: int
    slice_framepos: int
    interpolation: str
    pad_colour: tuple[int, int, int]


class MemeImages:
    """`images[path] -> (F, 3, size, size) uint8` for paths relative to `folder`."""

    def __init__(self, folder: str | os.PathLike[str], settings: ImageSettings) -> None:
        self.folder = Path(folder)
        self.settings = settings
        self.kept: dict[str, torch.Tensor] = {}  # path -> frames
        self.frames: dict[str, int] = {}  # path -> how many frames it has, of the images that were checked

    def __getitem__(self, path: str) -> torch.Tensor:
        frames = self.kept.get(path)
        return load_image(self.folder / path, **self.settings) if frames is None else frames

    def check(self, paths: Sequence[str], keep_bytes: float, progress: bool = True) -> dict[str, str]:
        """Decode every image once; {path: why not} of those that cannot be.

        The decoded images are kept, so that no epoch decodes again, unless they come to more than `keep_bytes`.
        Beside these at most `AHEAD` of each thread are in memory.
        """
        bad: dict[str, str] = {}
        total = 0
        self.kept = {}
        threads = max(1, (os.cpu_count() or 1) // processes_here())  # each of these checks
        pool = ThreadPoolExecutor(threads)
        try:
            frames_or_reasons = self._in_order(pool, paths, AHEAD * threads)
            bar = tqdm(frames_or_reasons, total=len(paths), desc="checking images", unit="img", disable=not progress)
            for path, frames in zip(paths, bar, strict=True):
                if isinstance(frames, str):
                    bad[path] = frames
                    continue
                self.frames[path] = len(frames)
                total += frames.numel()
                if total <= keep_bytes:
                    self.kept[path] = frames
                else:
                    self.kept.clear()
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the images that are left
        return bad

    def all_kept(self, paths: Iterable[str]) -> bool:
        return all(path in self.kept for path in paths)

    def frame_counts(self, paths: Iterable[str]) -> np.ndarray:
        """How many frames the images have, (N,) int64; of one that was not checked the most that it may have."""
        return np.array([self.frames.get(path, self.settings["max_frames"]) for path in paths], dtype=np.int64)

    def _in_order(self, pool: ThreadPoolExecutor, paths: Iterable[str], ahead: int) -> Iterator[torch.Tensor | str]:
        """`pool.map` of `_load_or_reason`, with at most `ahead` images that are begun and not yet taken."""
        begun: deque[Future[torch.Tensor | str]] = deque()
        for path in paths:
            if len(begun) == ahead:
                yield begun.popleft().result()
            begun.append(pool.submit(self._load_or_reason, path))
        while begun:
            yield begun.popleft().result()

    def _load_or_reason(self, path: str) -> torch.Tensor | str:
        try:
            return load_image(self.folder / path, **self.settings)
        except ImageError as error:
            return str(error)


def stack_frames(images: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (F_i, 3, H, W) of B memes -> all frames (ΣF, 3, H, W) and frame mask (B, max F)."""
    counts = torch.tensor([len(frames) for frames in images])
    mask = torch.arange(int(counts.max())) < counts[:, None]
    return torch.cat(images), mask
