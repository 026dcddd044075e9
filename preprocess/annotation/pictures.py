"""The images of a folder: found, told apart by their bytes, and made into the pictures that are sent."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from dataloaders.image_file import READERS
from preprocess.annotation.answer import Failure
from util import InputError, progress_bar, sha256_of

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".bmp", ".avif")
OTHER_SUFFIXES = (".tif", ".tiff", ".heic", ".heif", ".jxl")  # not read; they get a row that says so
NO_IMAGES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}  # what systems leave in folders and archives
JPEG_QUALITY = 90
JPEG_SIDE = 65500  # pixels, which libjpeg writes at most


def find_images(folder):
    """(paths, outside): the image files in a folder and its subfolders, and the links that leave it.

    Paths are relative, with /, sorted. A file counts as an image by its suffix or by how it begins. Hidden files and
    folders are passed over, as is what systems leave beside images; linked folders are not entered, and a linked file
    counts if it lies in the folder too.
    Raises InputError if there is no such folder, no image in it, or a name that is not UTF-8.
    """
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: found no such folder, expected the folder of the images")
    root = os.path.join(os.path.realpath(folder), "")
    paths, outside = [], []
    for here, folders, names in os.walk(folder, onerror=stop):
        folders[:] = filter(may_hold_images, folders)
        for name in filter(may_hold_images, names):
            path = os.path.join(here, name)
            if not os.path.isfile(path):
                continue
            relative = Path(path).relative_to(folder).as_posix()
            if os.path.islink(path) and not os.path.realpath(path).startswith(root):
                outside.append(relative)
            elif name.lower().endswith(SUFFIXES + OTHER_SUFFIXES) or begins_as_an_image(path):
                paths.append(relative)
    for path in paths:
        if any("\ud800" <= character <= "\udfff" for character in path):
            raise InputError(f"{folder}: the file name {os.fsencode(path)} is not UTF-8; rename the file")
    if not paths:
        raise InputError(f"{folder}: found no image, expected some (in subfolders too)")
    return sorted(paths), sorted(outside)


def may_hold_images(name):
    return not name.startswith(".") and name.lower() not in NO_IMAGES


def stop(error):
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error


def begins_as_an_image(path):
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:
        return False
    # Two letters are too little to take a file without a suffix for a BMP.
    return any(re.match(signature, start, re.DOTALL) for signature, _ in READERS.values() if signature != rb"BM")


def by_content(folder, paths, progress=True):
    """{sha256: path}: each different content once, with the first of its paths. InputError for an unreadable file."""
    distinct = {}
    with ThreadPoolExecutor() as pool:
        try:
            sums = pool.map(lambda path: sha256_of(Path(folder) / path), paths)
            bar = progress_bar(sums, total=len(paths), desc="reading the images", unit="img", disable=not progress)
            for path, sha256 in zip(paths, bar, strict=True):
                distinct.setdefault(sha256, path)
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return distinct


def pictures_of(path, max_frames, max_side):
    """The pictures of an image file as JPEG bytes: one of a still, up to `max_frames` of an animation.

    An animation's are evenly spread from the first frame to the last. The longer side of each has at most `max_side`
    pixels. Raises Failure("unreadable_image") for a file that cannot be decoded.
    """
    from dataloaders.image_transform import ImageError, each_frame

    pictures = []
    try:
        for frame in each_frame(path, max_frames, slice_framepos=2):
            height, width = frame.shape[:2]
            scale = min(max_side, JPEG_SIDE) / max(height, width)
            if scale < 1:
                size = max(1, round(width * scale)), max(1, round(height * scale))
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            blue_first = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
            pictures.append(cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
    except ImageError as error:
        raise Failure("unreadable_image", str(error).removeprefix(f"{path}: ")) from error
    return pictures
