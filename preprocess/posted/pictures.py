"""The pictures of a community: copied, or converted where training could not read them."""

import cv2
import numpy as np

from dataloaders.image_file import BadImage, ImageError, ImageFile, read_file
from preprocess.building.inputs import Unusable
from util import progress_bar, replaced_atomically, sha256_of


def checksums(folder, paths):
    """[(path, SHA-256 of its bytes)] of files in `folder`."""
    return [(path, sha256_of(folder / path)) for path in progress_bar(paths, desc="reading the images", unit="img")]


def place_pictures(folder, target, paths):
    """Put the pictures `paths`, relative to `folder`, into the folder `target`; what is there is kept.

    Returns ({path: its path in target}, {path: Unusable}, how many were written now). A picture that training cannot
    read, and OpenCV can (TIFF, for example), becomes a PNG.
    """
    placed, unusable, written = {}, {}, 0
    for path in progress_bar(paths, desc="copying the images", unit="img"):
        try:
            name, data = as_readable(folder / path, path)
        except ImageError as error:
            unusable[path] = Unusable("picture unreadable", str(error))
            continue
        placed[path] = name
        if not (target / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with replaced_atomically(target / name) as temporary:
                temporary.write_bytes(data)
            written += 1
    return placed, unusable, written


def as_readable(file, path):
    """(path, bytes) of a picture that training can read; ImageError if that cannot be had of the file."""
    data = read_file(file)
    try:
        ImageFile(data)
        return path, data
    except BadImage as error:
        reason = error
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageError(f"{file}: {reason}")
    return f"{path}.png", cv2.imencode(".png", pixels)[1].tobytes()
