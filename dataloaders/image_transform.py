"""An image file -> frames of uint8 pixels, resized as an image tower was trained to see them.

On uint8 pixels torch's antialiased filters are Pillow's: they differ by one level of 255 here and there. Plain
bicubic, OpenCV's too, is another filter and differs by dozens. Functions are thread-safe.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from dataloaders.image_file import BadImage, ImageError, ImageFile, read_file

RESIZE_MODES = ("crop", "pad", "squash")
Colour = tuple[int, int, int]
PAD_COLOUR: Colour = (123, 117, 104)  # the mean of CLIP's training images: 0 after its normalisation, or nearly
LONG_SIDES = 8  # an image longer than this is cropped before it is resized


class ImageSettings(TypedDict):
    """What `load_image` is told beside the path."""

    size: int
    resize_mode: str
    max_frames: int
    slice_framepos: int
    interpolation: str
    pad_colour: Colour


def load_image(
    path: str | os.PathLike,
    size: int,
    resize_mode: str = "crop",
    max_frames: int = 1,
    slice_framepos: int = 2,
    interpolation: str = "bicubic",
    pad_colour: Colour = PAD_COLOUR,
) -> torch.Tensor:
    """The frames of an image file: uint8 (F, 3, size, size), contiguous; F = 1 for a still.

    `resize_mode`, `interpolation` and `pad_colour` as in `resize`; `max_frames`, `slice_framepos` and errors as in
    `read_frames`.
    """
    data = read_file(path)
    with naming(path):
        return frames_of(data, size, resize_mode, max_frames, slice_framepos, interpolation, pad_colour)


def frames_of(
    data: bytes,
    size: int,
    resize_mode: str,
    max_frames: int,
    slice_framepos: int,
    interpolation: str,
    pad_colour: Colour,
) -> torch.Tensor:
    """`load_image` of the bytes of a file. Raises BadImage."""
    image = ImageFile(data)
    pictures = image.pictures(choose_frames(image.frames, max_frames, slice_framepos))
    frames = [resize(picture, size, resize_mode, interpolation, pad_colour) for picture in pictures]
    return torch.stack(frames) if len(frames) > 1 else frames[0][None]


def read_frames(path: str | os.PathLike, max_frames: int = 1, slice_framepos: int = 2) -> list[np.ndarray]:
    """The frames of an image file: a list of RGB arrays (H, W, 3), uint8; one for a still.

    Of an animation at most `max_frames` (>= 1): the first ones (`slice_framepos` 0), the last ones (1) or evenly spread
    from the first to the last (2). EXIF rotation is applied, transparency is composed on white. Raises ImageError
    for a file that is missing, empty, not an image, truncated, corrupt or over a bound of `image_file`. What comes
    after the last wanted frame is not decoded.
    """
    return list(each_frame(path, max_frames, slice_framepos))


def each_frame(path: str | os.PathLike, max_frames: int, slice_framepos: int) -> Iterator[np.ndarray]:
    """Yield the frames of `read_frames`, one at a time, so that a long animation takes little memory."""
    data = read_file(path)
    with naming(path):
        image = ImageFile(data)
        yield from image.pictures(choose_frames(image.frames, max_frames, slice_framepos))


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """BadImage becomes ImageError, which names the file."""
    try:
        yield
    except BadImage as error:
        raise ImageError(f"{path}: {error}") from error


def choose_frames(count: int, max_frames: int, slice_framepos: int) -> list[int]:
    """Indices of the frames to keep, ascending, as CLIP4Clip's --slice_framepos chooses them."""
    if count <= max_frames:
        return list(range(count))
    if slice_framepos == 0:
        return list(range(max_frames))
    if slice_framepos == 1:
        return list(range(count - max_frames, count))
    return np.linspace(0, count - 1, num=max_frames, dtype=int).tolist()


def resize(
    rgb: np.ndarray,
    size: int,
    mode: str = "crop",
    interpolation: str = "bicubic",
    pad_colour: Colour = PAD_COLOUR,
) -> torch.Tensor:
    """Pixels (H, W, 3), uint8, to a square: a tensor (3, size, size), uint8, contiguous.

    `crop`, CLIP's way: the shorter side to `size`, then the centre. `pad`: the longer side to `size`, in the middle
    of `pad_colour`. `squash`: both sides to `size`. `interpolation`: bicubic or bilinear, antialiased.
    """
    height, width = rgb.shape[:2]
    pixels = torch.from_numpy(rgb)[None].permute(0, 3, 1, 2)  # so torch sees that the channels lie last
    if mode == "squash":
        return planar(interpolate(pixels, size, size, interpolation))
    if mode == "pad":
        longer = max(height, width)
        new_height, new_width = (max(1, round(size * side / longer)) for side in (height, width))
        square = torch.tensor(pad_colour, dtype=torch.uint8)[:, None, None].repeat(1, size, size)
        top, left = (size - new_height) // 2, (size - new_width) // 2
        resized = interpolate(pixels, new_height, new_width, interpolation)
        square[:, top : top + new_height, left : left + new_width] = planar(resized)
        return square
    if mode != "crop":
        raise ValueError(f"resize mode {mode!r}; expected one of {', '.join(RESIZE_MODES)}")
    # The sizes are rounded as torchvision's Resize and CenterCrop round them.
    shorter, longer = sorted((height, width))
    new_longer = int(size * longer / shorter)
    first = round((new_longer - size) / 2)
    if longer > LONG_SIDES * shorter:
        return planar(crop_then_resize(pixels, size, new_longer, first, interpolation))
    if width < height:
        return planar(interpolate(pixels, new_longer, size, interpolation)[:, :, first : first + size])
    return planar(interpolate(pixels, size, new_longer, interpolation)[..., first : first + size])


def planar(pixels: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W), uint8, whose channels lie last -> (3, H, W), contiguous. OpenCV is eight times as fast as torch."""
    planes = np.empty((3, *pixels.shape[2:]), np.uint8)
    cv2.split(pixels[0].permute(1, 2, 0).numpy(), list(planes))
    return torch.from_numpy(planes)


def interpolate(pixels: torch.Tensor, height: int, width: int, interpolation: str) -> torch.Tensor:
    """(1, 3, H, W), uint8 -> (1, 3, height, width), uint8; channels that lie last stay last.

    Between its two passes Pillow rounds to whole levels, so that their order changes every fifth pixel or so by one
    level. It was always the width first; from Pillow 13 on it is the height where that shrinks by more than twice as
    many pixels.
    """
    old_height, old_width = pixels.shape[2:]
    if old_height - height > 2 * max(0, old_width - width):
        pixels = resample(pixels, height, old_width, interpolation)
    return resample(pixels, height, width, interpolation)


def resample(pixels: torch.Tensor, height: int, width: int, interpolation: str) -> torch.Tensor:
    return F.interpolate(pixels, size=(height, width), mode=interpolation, antialias=True)


def crop_then_resize(pixels: torch.Tensor, size: int, new_longer: int, first: int, interpolation: str) -> torch.Tensor:
    """`crop` for a very long image (1, 3, H, W), whose resized whole would be thousands of times the crop.

    The long side is resampled only from `first` on for `size` places, by the same filter and in the same order of
    passes, so that the pixels are the ones that the whole would give.
    """
    height, width = pixels.shape[2:]
    start, weights = filter_weights(max(height, width), new_longer, first, size, interpolation)
    stop = start + weights.shape[1]
    if width > height:
        pixels = to_uint8(torch.einsum("ow,nchw->ncho", weights, pixels[..., start:stop].float()))
    else:
        pixels = pixels[:, :, start:stop]
        if new_longer > height:
            pixels = resample(pixels, stop - start, size, interpolation)
        pixels = to_uint8(torch.einsum("oh,nchw->ncow", weights, pixels.float()))
    return resample(pixels, size, size, interpolation)


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def filter_weights(source: int, target: int, first: int, count: int, interpolation: str) -> tuple[int, torch.Tensor]:
    """How `count` places from `first` on of a line resized from `source` to `target` pixels are made of its pixels.

    Returns the first pixel that takes part and the weights (count, pixels), float32. The antialiased filters: Keys'
    cubic with a = -0.5, or a triangle, as wide as the pixels of the smaller line.
    """
    scale = source / target
    stretch = max(scale, 1.0)
    reach = stretch * (2 if interpolation == "bicubic" else 1)
    centres = (torch.arange(first, first + count, dtype=torch.float64) + 0.5) * scale
    start = max(0, int(centres[0] - reach))
    stop = min(source, int(centres[-1] + reach) + 1)
    x = ((torch.arange(start, stop) + 0.5 - centres[:, None]) / stretch).abs_()
    if interpolation == "bicubic":
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    else:
        weights = (1 - x).clamp_(min=0)
    return start, (weights / weights.sum(dim=1, keepdim=True)).float()
