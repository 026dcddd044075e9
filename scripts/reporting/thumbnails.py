"""Memes as small WebP pictures, as large and good as a budget of bytes allows."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dataloaders.image_file import BadImage, ImageError, read_file
from dataloaders.thumbnail import thumbnail
from util import progress_bar

SETTINGS = (  # longest side in pixels, WebP quality; the best first
    *((256, 65), (224, 60), (192, 55), (168, 50), (144, 45), (128, 40)),
    *((112, 35), (96, 30), (80, 25), (64, 20), (48, 15)),
)
SAMPLE = 64  # images that are tried in order to choose a setting
MARGIN = 0.95  # of the budget is what the sample may promise to take: all images again would take long


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
    bar = progress_bar(results, total=len(names), desc="shrinking images", unit="img", disable=not progress)
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
