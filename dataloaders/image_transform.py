"""An image file -> frames of uint8 pixels, resized as CLIP was trained to see them.

On uint8 pixels torch's antialiased bicubic is Pillow's filter: it differs by one level of 255 here and there. Plain
bicubic, OpenCV's too, is another filter and differs by dozens. Functions are thread-safe.
"""

import os
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from dataloaders.image_file import BadImage, ImageError, ImageFile, read_file

RESIZE_MODES = ("crop", "pad", "squash")
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images, RGB in 0..1
STD = (0.26862954, 0.26130258, 0.27577711)
PAD_COLOUR = tuple(round(255 * channel) for channel in MEAN)  # 0 after normalisation, or nearly
LONG_SIDES = 8  # an image longer than this is cropped before it is resized


def load_image(
    path: str | os.PathLike, size: int, resize_mode: str = "crop", max_frames: int = 1, slice_framepos: int = 2
) -> torch.Tensor:
    """The frames of an image file, ready for `normalise`: uint8 (F, 3, size, size), contiguous; F = 1 for a still.

    `resize_mode` as in `resize`; `max_frames`, `slice_framepos` and errors as in `read_frames`.
    """
    frames = each_frame(path, max_frames, slice_framepos)
    return torch.stack([resize(frame, size, resize_mode) for frame in frames])


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
    try:
        image = ImageFile(data)
        yield from image.pictures(choose_frames(image.frames, max_frames, slice_framepos))
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


def resize(rgb: np.ndarray, size: int, mode: str = "crop") -> torch.Tensor:
    """Pixels (H, W, 3), uint8, to a square: a tensor (3, size, size), uint8, contiguous. Antialiased bicubic.

    `crop`, CLIP's way: the shorter side to `size`, then the centre. `pad`: the longer side to `size`, in the middle
    of PAD_COLOUR. `squash`: both sides to `size`.
    """
    height, width = rgb.shape[:2]
    pixels = torch.from_numpy(rgb).permute(2, 0, 1)
    if mode == "squash":
        return interpolate(pixels, size, size).contiguous()
    if mode == "pad":
        longer = max(height, width)
        new_height, new_width = (max(1, round(size * side / longer)) for side in (height, width))
        square = torch.tensor(PAD_COLOUR, dtype=torch.uint8)[:, None, None].repeat(1, size, size)
        top, left = (size - new_height) // 2, (size - new_width) // 2
        square[:, top : top + new_height, left : left + new_width] = interpolate(pixels, new_height, new_width)
        return square
    if mode != "crop":
        raise ValueError(f"resize mode {mode!r}; expected one of {', '.join(RESIZE_MODES)}")
    # The sizes are rounded as torchvision's Resize and CenterCrop round them.
    shorter, longer = sorted((height, width))
    new_longer = int(size * longer / shorter)
    first = round((new_longer - size) / 2)
    if longer > LONG_SIDES * shorter:
        return crop_then_resize(pixels, size, new_longer, first)
    if width < height:
        return interpolate(pixels, new_longer, size)[:, first : first + size].contiguous()
    return interpolate(pixels, size, new_longer)[:, :, first : first + size].contiguous()


def interpolate(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(3, H, W), uint8 -> (3, height, width), uint8.

    Between its two passes Pillow rounds to whole levels, so that their order changes every fifth pixel or so by one
    level. It was always the width first; from Pillow 13 on it is the height where that shrinks by more than twice as
    many pixels.
    """
    old_height, old_width = pixels.shape[1:]
    if old_height - height > 2 * max(0, old_width - width):
        pixels = bicubic(pixels, height, old_width)
    return bicubic(pixels, height, width)


def bicubic(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(pixels[None], size=(height, width), mode="bicubic", antialias=True)[0]


def crop_then_resize(pixels: torch.Tensor, size: int, new_longer: int, first: int) -> torch.Tensor:
    """`crop` for a very long image (3, H, W), whose resized whole would be thousands of times the crop.

    The long side is resampled only from `first` on for `size` places, by the same filter and in the same order of
    passes, so that the pixels are the ones that the whole would give.
    """
    height, width = pixels.shape[1:]
    start, weights = bicubic_weights(max(height, width), new_longer, first, size)
    stop = start + weights.shape[1]
    if width > height:
        pixels = to_uint8(torch.einsum("ow,chw->cho", weights, pixels[:, :, start:stop].float()))
    else:
        pixels = pixels[:, start:stop]
        if new_longer > height:
            pixels = bicubic(pixels, stop - start, size)
        pixels = to_uint8(torch.einsum("oh,chw->cow", weights, pixels.float()))
    return bicubic(pixels, size, size).contiguous()


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def bicubic_weights(source: int, target: int, first: int, count: int) -> tuple[int, torch.Tensor]:
    """How `count` places from `first` on of a line resized from `source` to `target` pixels are made of its pixels.

    Returns the first pixel that takes part and the weights (count, pixels), float32. The antialiased filter: Keys'
    cubic with a = -0.5, as wide as the pixels of the smaller line.
    """
    scale = source / target
    stretch = max(scale, 1.0)
    centres = (torch.arange(first, first + count, dtype=torch.float64) + 0.5) * scale
    start = max(0, int(centres[0] - 2 * stretch))
    stop = min(source, int(centres[-1] + 2 * stretch) + 1)
    x = ((torch.arange(start, stop) + 0.5 - centres[:, None]) / stretch).abs_()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return start, (weights / weights.sum(dim=1, keepdim=True)).float()


def normalise(pixels: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 pixels (..., 3, H, W) on any device -> CLIP's inputs in `dtype`: (pixels / 255 - mean) / std."""
    if pixels.dtype != torch.uint8:
        raise TypeError(f"normalise takes uint8 pixels, not {pixels.dtype}")
    exact = torch.promote_types(dtype, torch.float32)
    mean, std = (torch.tensor(value, dtype=exact, device=pixels.device)[:, None, None] for value in (MEAN, STD))
    return pixels.to(exact).div_(255).sub_(mean).div_(std).to(dtype)
