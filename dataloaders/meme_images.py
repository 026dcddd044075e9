"""The images of a community: checked before training starts, and kept decoded where they fit into memory."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from dataloaders.image_transform import ImageError, load_image


class MemeImages:
    """`images[path] -> (F, 3, size, size) uint8` for paths relative to `folder`.

    `settings`: size, resize_mode, max_frames, slice_framepos of `image_transform.load_image`.
    """

    def __init__(self, folder, settings):
        self.folder = Path(folder)
        self.settings = settings
        self.kept = {}  # path -> frames

    def __getitem__(self, path):
        frames = self.kept.get(path)
        return load_image(self.folder / path, **self.settings) if frames is None else frames

    def check(self, paths, keep_bytes, progress=True):
        """Decode every image once; {path: why not} of those that cannot be.

        The decoded images are kept, so that no epoch decodes again, unless they come to more than `keep_bytes`.
        """
        bad, total = {}, 0
        self.kept = {}
        processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's: each of them checks
        pool = ThreadPoolExecutor(max(1, os.cpu_count() // processes_here))
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

    def all_kept(self, paths):
        return all(path in self.kept for path in paths)

    def _load_or_reason(self, path):
        try:
            return load_image(self.folder / path, **self.settings)
        except ImageError as error:
            return str(error)


def stack_frames(images):
    """Frames (F_i, 3, H, W) of B memes -> all frames (ΣF, 3, H, W) and frame mask (B, max F)."""
    counts = torch.tensor([len(frames) for frames in images])
    mask = torch.arange(int(counts.max())) < counts[:, None]
    return torch.cat(images), mask
