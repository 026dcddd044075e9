"""The perceptual hash (pHash) of an image's first frame, as the ImageHash package defines it.

32 x 32 grey levels, their cosine transform, and for each of its 8 x 8 lowest frequencies whether it is above the
median. Pictures that look alike have hashes that differ in few of the 64 bits. Functions are thread-safe.
"""

from functools import lru_cache

import cv2
import numpy as np

GREY_SIDE = 32
HASH_SIDE = 8
ENOUGH = 96  # pixels to the shorter side of an image that is decoded smaller than it is
LARGE = 1024  # a longer side is first averaged down to this


def shrink(grey):
    """Grey levels (H, W), uint8 -> (32, 32) whole levels, float32, by Pillow's Lanczos filter."""
    height, width = (min(side, LARGE) for side in grey.shape)
    if (height, width) != grey.shape:
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    # Not the @ operator: the threads of a BLAS library and of the caller would wait for each other.
    narrow = np.einsum("hw,ow->oh", grey.astype(np.float32), lanczos(width)).round().clip(0, 255)
    return np.einsum("wh,oh->ow", narrow, lanczos(height)).round().clip(0, 255)


@lru_cache(maxsize=256)  # 128 KiB each at most
def lanczos(length):
    """How 32 pixels are made of `length` ones: weights (32, length), float32. Three new pixels wide to each side."""
    scale = length / GREY_SIDE
    centres = (np.arange(GREY_SIDE)[:, None] + 0.5) * scale
    x = (np.arange(length) + 0.5 - centres) / max(scale, 1.0)
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def phashes(greys):
    """Grey levels (N, 32, 32) -> hashes (N,) uint64; `f"{phash:016x}"` is how ImageHash prints one."""
    angles = np.outer(np.arange(HASH_SIDE), np.arange(GREY_SIDE) + 0.5) * (np.pi / GREY_SIDE)
    cosines = np.cos(angles)
    lowest = (cosines @ greys.astype(np.float64) @ cosines.T).reshape(len(greys), HASH_SIDE**2)
    bits = lowest > np.median(lowest, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
