"""A picture of duplicate pairs: both memes, their ids and splits below, and how far they are apart."""

from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from dataloaders.image_transform import ImageError, read_frames
from preprocess.measuring.plots import label, style
from util import replaced_atomically

MOST_PAIRS = 20
SIDE = 240  # pixels of a meme
PAIRS_PER_ROW = 2
ID_SHOWN = 40  # characters


def write_sheet(path, name, pairs, image_folder):
    """Draw the first 20 of the `quality.Pair`s of community `name` into the PNG `path`.

    Without a pair the file is removed, so that none of an earlier call is left.
    """
    path = Path(path)
    if not pairs:
        path.unlink(missing_ok=True)
        return
    shown = pairs[:MOST_PAIRS]
    rows = -(-len(shown) // PAIRS_PER_ROW)
    figure = Figure(figsize=(12, 3.3 * rows + 0.5), layout="constrained")
    with style(), replaced_atomically(path) as temporary:
        figure.suptitle(label(f"{name}: {len(shown)} of {len(pairs):,} duplicate pairs"), fontsize=12)
        axes = figure.subplots(rows, 2 * PAIRS_PER_ROW, squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[], frame_on=False)
        for number, pair in enumerate(shown):
            row, column = divmod(number, PAIRS_PER_ROW)
            sides = ((pair.first, pair.first_splits), (pair.second, pair.second_splits))
            for axis, (meme, splits) in zip(axes[row, 2 * column :], sides, strict=False):
                axis.imshow(_picture(Path(image_folder, meme.image)))
                axis.set_xlabel(_caption(meme, splits), fontsize=8)
            said = f"{pair.kind}: hash differs in {pair.hash_distance} of 64 bits, text in {pair.text_distance:.0%}"
            axes[row, 2 * column].set_title(f"{said}{', ACROSS SPLITS' * pair.across}", fontsize=9, loc="left")
        figure.savefig(temporary, format="png", dpi=100)


def _picture(path):
    """The meme's first frame within a grey square: (SIDE, SIDE, 3) uint8."""
    square = np.full((SIDE, SIDE, 3), 235, np.uint8)
    try:
        pixels = read_frames(path)[0]
    except ImageError:  # of the same bytes, and none of them readable
        return square
    scale = SIDE / max(pixels.shape[:2])
    height, width = (max(1, round(scale * side)) for side in pixels.shape[:2])
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    square[top : top + height, left : left + width] = small
    return square


def _caption(meme, splits):
    name = label(meme.image_id)
    return f"{name if len(name) <= ID_SHOWN else name[:ID_SHOWN] + '…'}\n{', '.join(splits)}"
