"""Memes as small WebP pictures, as large and good as a budget of bytes allows."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dataloaders.image_file import BadImage, parse_image

SETTINGS = (  # longest side in pixels, WebP quality; the best first
    *((256, 65), (224, 60), (192, 55), (168, 50), (144, 45), (128, 40)),
    *((112, 35), (96, 30), (80, 25), (64, 20), (48, 15)),
)
SAMPLE = 64  # images that are tried in order to choose a setting
MARGIN = 0.95  # of the budget is what the sample may promise to take: all images again would take long
LONGEST_SHAPE = 3  # of an image which is longer than so many times its width, or wider, the beginning is shown
MAX_PIXELS = 2**27  # as in training
REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


def thumbnails(folder, names, budget, progress=True):
    """({name: WebP bytes}, {name: why there is none}) of image files in `folder`; the bytes come to at most `budget`.

    names: distinct, the most important ones first: where even the smallest pictures of all are too many, the last
    ones are left out.
    """
    folder, names = Path(folder), list(names)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sample = [names[index] for index in np.linspace(0, len(names) - 1, min(SAMPLE, len(names))).astype(int)]
        for setting in SETTINGS[_first_setting(pool, folder, sample, budget / max(len(names), 1)) :]:
            made, bad = _make_all(pool, folder, names, setting, progress)
            if sum(map(len, made.values())) <= budget:
                break
    used = 0
    for name, picture in list(made.items()):
        used += len(picture)
        if used > budget:
            del made[name]
            bad[name] = "left out: the page would become too large"
    return made, bad


def _first_setting(pool, folder, sample, bytes_each):
    """The place in SETTINGS of the best one by which the sample's pictures are not larger than this on average."""
    for place, setting in enumerate(SETTINGS[:-1]):
        made, _ = _make_all(pool, folder, sample, setting, progress=False)
        if sum(map(len, made.values())) <= MARGIN * bytes_each * len(made):
            return place
    return len(SETTINGS) - 1


def _make_all(pool, folder, names, setting, progress):
    made, bad = {}, {}
    results = pool.map(lambda name: _thumbnail_or_reason(folder / name, *setting), names)
    bar = tqdm(results, total=len(names), desc="shrinking images", unit="img", disable=not progress)
    for name, result in zip(names, bar, strict=True):
        (bad if isinstance(result, str) else made)[name] = result
    return made, bad


def _thumbnail_or_reason(path, side, quality):
    try:
        return thumbnail(path.read_bytes(), side, quality)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (BadImage, cv2.error) as error:
        return str(error)


def thumbnail(data, side, quality):
    """The WebP bytes of an image file's bytes, `side` pixels long at most. Raises BadImage."""
    picture = first_picture(data, side)
    height, width = picture.shape[:2]
    picture = picture[: LONGEST_SHAPE * width, : LONGEST_SHAPE * height]
    height, width = picture.shape[:2]
    scale = min(1, side / max(height, width))
    small = cv2.resize(
        picture, (max(1, round(scale * width)), max(1, round(scale * height))), interpolation=cv2.INTER_AREA
    )
    return cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def first_picture(data, side):
    """BGR pixels (H, W, 3), uint8: of an animation the first image; transparency on white, EXIF rotation applied.

    A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, if that leaves it longer than `side`.
    """
    image = parse_image(data)
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{image.width} x {image.height} pixels are too many")
    flags = cv2.IMREAD_UNCHANGED  # keeps transparency
    if image.kind in ("JPEG", "BMP"):
        longest = min(max(image.width, image.height), LONGEST_SHAPE * min(image.width, image.height))
        flags = next((flag for factor, flag in REDUCED.items() if longest >= factor * side), cv2.IMREAD_COLOR)
    pixels = cv2.imdecode(np.frombuffer(image.frames[0].data if image.frames else data, np.uint8), flags)
    if pixels is None:
        raise BadImage(f"corrupt: {image.kind} data that OpenCV {cv2.__version__} cannot decode")
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)
    return pixels
