"""An image file -> frames of uint8 pixels, resized as CLIP was trained to see them.

OpenCV decodes (GIFs from version 4.12 on), torch resizes. On uint8 pixels torch's antialiased bicubic is Pillow's
filter: it differs by one level of 255 here and there. Plain bicubic, OpenCV's too, is another filter and differs by
dozens. Functions are thread-safe. Importing this file silences OpenCV's own log, which would repeat every bad file
on the terminal.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from dataloaders.image_file import CLEAR, RESTORE, BadImage, parse_image
from util import InputError

RESIZE_MODES = ("crop", "pad", "squash")
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images, RGB in 0..1
STD = (0.26862954, 0.26130258, 0.27577711)
PAD_COLOUR = tuple(round(255 * channel) for channel in MEAN)  # 0 after normalisation, or nearly
MAX_PIXELS = 2**27  # 384 MiB in RGB
MAX_SIDE = 2**20  # OpenCV's own limit
MAX_BYTES = 2**29
LONG_SIDES = 8  # an image longer than this is cropped before it is resized

if hasattr(cv2, "setLogLevel"):  # OpenCV 4
    cv2.setLogLevel(0)
else:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class ImageError(InputError):
    """An image that cannot be used; the message names the file and says why."""


def load_image(path, size, resize_mode="crop", max_frames=1, slice_framepos=2):
    """The frames of an image file, ready for `normalise`: uint8 (F, 3, size, size), contiguous; F = 1 for a still.

    `resize_mode` as in `resize`; `max_frames`, `slice_framepos` and errors as in `read_frames`.
    """
    frames = each_frame(path, max_frames, slice_framepos)
    return torch.stack([resize(frame, size, resize_mode) for frame in frames])


def read_frames(path, max_frames=1, slice_framepos=2):
    """The frames of an image file: a list of RGB arrays (H, W, 3), uint8; one for a still.

    Of an animation at most `max_frames` (>= 1): the first ones (`slice_framepos` 0), the last ones (1) or evenly spread
    from the first to the last (2). EXIF rotation is applied, transparency is composed on white. Raises ImageError
    for a file that is missing, empty, not an image, truncated, corrupt or with more pixels than MAX_PIXELS.
    """
    return [frame.copy() for frame in each_frame(path, max_frames, slice_framepos)]


def each_frame(path, max_frames, slice_framepos):
    """Yield the frames of `read_frames`; each is valid until the next, so that a long animation takes little."""
    data = read_file(path)
    try:
        image = parse_image(data)
        check_size(image)
        if image.frames:
            wanted = choose_frames(len(image.frames), max_frames, slice_framepos)
            pictures = play(image, wanted)
        else:
            pictures = [on_white(decode(data, image.kind, image.grey_key))]
        for picture in pictures:
            yield rotate(picture, image.orientation)
    except BadImage as error:
        raise ImageError(f"{path}: {error}") from error


def check_size(image):
    """Raise BadImage if an ImageFile says that it has more pixels than are read."""
    if image.width * image.height > MAX_PIXELS or max(image.width, image.height) > MAX_SIDE:
        raise BadImage(
            f"{image.width} x {image.height} pixels are too many; at most {MAX_PIXELS:,} are read, "
            f"and {MAX_SIDE:,} in a row"
        )


def read_file(path):
    try:
        size = os.stat(path).st_size
        if size == 0:
            raise ImageError(f"{path}: the file is empty")
        if size > MAX_BYTES:
            raise ImageError(f"{path}: {size:,} bytes are too many; at most {MAX_BYTES:,} are read")
        return Path(path).read_bytes()  # not by OpenCV: it knows no Unicode paths on some systems
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error


def choose_frames(count, max_frames, slice_framepos):
    """Indices of the frames to keep, ascending, as CLIP4Clip's --slice_framepos chooses them."""
    if count <= max_frames:
        return list(range(count))
    if slice_framepos == 0:
        return list(range(max_frames))
    if slice_framepos == 1:
        return list(range(count - max_frames, count))
    return np.linspace(0, count - 1, num=max_frames, dtype=int).tolist()


def play(image, wanted):
    """Yield the canvas (H, W, 3) of an animation at each wanted frame. It begins white, and "cleared" is white."""
    canvas = np.full((image.height, image.width, 3), 255, np.uint8)
    for index, frame in enumerate(image.frames[: wanted[-1] + 1]):
        picture = decode(frame.data, image.kind, image.grey_key)
        if picture.shape[:2] != (frame.height, frame.width):
            raise BadImage(f"corrupt: frame {index + 1} has not the size that the file says")
        area = canvas[frame.y : frame.y + frame.height, frame.x : frame.x + frame.width]
        before = area.copy() if frame.dispose == RESTORE else 255
        area[:] = over(picture, area) if frame.blend else on_white(picture)
        if index in wanted:
            yield canvas
        if frame.dispose in (CLEAR, RESTORE):
            area[:] = before


def decode(data, kind, grey_key):
    """The pixels of a still image: RGB or RGBA, uint8, (H, W, 3 or 4), not rotated."""
    flags = cv2.IMREAD_UNCHANGED  # with transparency, which only this flag keeps
    if kind in ("JPEG", "BMP"):
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImage(f"corrupt: {kind} data that OpenCV {cv2.__version__} cannot decode") from error
    if pixels is None:
        raise BadImage(f"corrupt: {kind} data that OpenCV {cv2.__version__} cannot decode")
    if flags != cv2.IMREAD_UNCHANGED:
        return pixels
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    alpha = None if grey_key is None else np.where(grey == grey_key, 0, 255).astype(np.uint8)
    if pixels.dtype == np.uint16:
        pixels = np.right_shift(pixels, 8, out=np.empty(pixels.shape, np.uint8), casting="unsafe")
    to_rgb = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
    pixels = cv2.cvtColor(pixels, to_rgb[pixels.shape[2] if pixels.ndim == 3 else 1])
    return pixels if alpha is None else np.dstack([pixels[..., :3], alpha])


def over(picture, below):
    """RGB or RGBA pixels (H, W, 3 or 4) painted over RGB ones or over one grey level: (H, W, 3), uint8."""
    if picture.shape[2] == 3:
        return picture
    below = np.broadcast_to(np.asarray(below, np.uint8), (*picture.shape[:2], 3))
    painted = np.empty(below.shape, np.uint8)
    for row in range(0, len(picture), 64):  # in bands, as the products take twice the memory
        band = slice(row, row + 64)
        alpha = picture[band, :, 3:].astype(np.uint16)
        painted[band] = (picture[band, :, :3] * alpha + below[band] * (255 - alpha) + 127) // 255
    return painted


def on_white(picture):
    return over(picture, 255)


def rotate(rgb, orientation):
    """Turn and mirror the pixels (H, W, 3) as an EXIF orientation (1 to 8) asks."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(rgb[rows, columns])


def resize(rgb, size, mode="crop"):
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


def interpolate(pixels, height, width):
    """(3, H, W), uint8 -> (3, height, width), uint8.

    Between its two passes Pillow rounds to whole levels, so that their order changes every fifth pixel or so by one
    level. It was always the width first; from Pillow 13 on it is the height where that shrinks by more than twice as
    many pixels.
    """
    old_height, old_width = pixels.shape[1:]
    if old_height - height > 2 * max(0, old_width - width):
        pixels = bicubic(pixels, height, old_width)
    return bicubic(pixels, height, width)


def bicubic(pixels, height, width):
    return F.interpolate(pixels[None], size=(height, width), mode="bicubic", antialias=True)[0]


def crop_then_resize(pixels, size, new_longer, first):
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


def to_uint8(pixels):
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def bicubic_weights(source, target, first, count):
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


def normalise(pixels, dtype=torch.float32):
    """uint8 pixels (..., 3, H, W) on any device -> CLIP's inputs in `dtype`: (pixels / 255 - mean) / std."""
    if pixels.dtype != torch.uint8:
        raise TypeError(f"normalise takes uint8 pixels, not {pixels.dtype}")
    exact = torch.promote_types(dtype, torch.float32)
    mean, std = (torch.tensor(value, dtype=exact, device=pixels.device)[:, None, None] for value in (MEAN, STD))
    return pixels.to(exact).div_(255).sub_(mean).div_(std).to(dtype)
