"""Memes as small WebP pictures, as large and good as a budget of bytes allows."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dataloaders.image_file import BadImage, ImageError, ImageFile, read_file

SETTINGS = (  # longest side in pixels, WebP quality; the best first
    *((256, 65), (224, 60), (192, 55), (168, 50), (144, 45), (128, 40)),
    *((112, 35), (96, 30), (80, 25), (64, 20), (48, 15)),
)
SAMPLE = 64  # images that are tried in order to choose a setting
MARGIN = 0.95  # of the budget is what the sample may promise to take: all images again would take long
LONGEST_SHAPE = 3  # of an image which is longer than so many times its width, or wider, the beginning is shown


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
        return thumbnail(read_file(path), side, quality)
    except ImageError as error:
        return str(error).removeprefix(f"{path}: ")
    except BadImage as error:
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
    """BGR pixels (H, W, 3), uint8, of what is seen first; a JPEG may be made smaller, but not than `side`."""
    image = ImageFile(data)
    longest = min(max(image.width, image.height), LONGEST_SHAPE * min(image.width, image.height))
    return image.first(longest / side, colour=True)
