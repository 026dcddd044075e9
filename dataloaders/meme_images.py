"""The images of a community: checked before training starts, and kept decoded where they fit into memory."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import torch
from tqdm import tqdm

from dataloaders.image_transform import ImageError, load_image


class ImageSettings(TypedDict):
    """What `image_transform.load_image` is told beside the path."""

    size: int
    resize_mode: str
    max_frames: int
    slice_framepos: int


class MemeImages:
    """`images[path] -> (F, 3, size, size) uint8` for paths relative to `folder`."""

    def __init__(self, folder: str | os.PathLike[str], settings: ImageSettings) -> None:
        self.folder = Path(folder)
        self.settings = settings
        self.kept: dict[str, torch.Tensor] = {}  # path -> frames

    def __getitem__(self, path: str) -> torch.Tensor:
        frames = self.kept.get(path)
        return load_image(self.folder / path, **self.settings) if frames is None else frames

    def check(self, paths: Sequence[str], keep_bytes: float, progress: bool = True) -> dict[str, str]:
        """Decode every image once; {path: why not} of those that cannot be.

        The decoded images are kept, so that no epoch decodes again, unless they come to more than `keep_bytes`.
        """
        bad: dict[str, str] = {}
        total = 0
        self.kept = {}
        processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's: each of them checks
        pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // processes_here))
        try:
            frames_or_reasons = pool.map(self._load_or_reason, paths)
            bar = tqdm(frames_or_reasons, total=len(paths), desc="checking images", unit="img", disable=not progress)
            for path, frames in zip(paths, bar, strict=True):
                if isinstance(frames, str):
                    bad[path] = frames
                    continue
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
