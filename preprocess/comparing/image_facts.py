"""What each image file is: checksum, kind, size, frames and perceptual hash, from one reading of its bytes.

Threads do the work: for about nine tenths of the time they are in OpenCV, NumPy and hashlib, outside Python's lock.
"""

import hashlib
import os
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataloaders.image_file import BadImage, ImageError, ImageFile, read_file
from preprocess.comparing.facts_cache import FACT, read_cache, to_rows
from preprocess.comparing.perceptual_hash import ENOUGH, GREY_SIDE, phashes, shrink
from util import progress_bar

CHUNK = 32  # images that a thread reads before they are noted in the cache


class ImageFacts(NamedTuple):
    """Arrays as long as `paths`; an image that cannot be read has the kind '' and zeros, and is in `errors`."""

    paths: list
    sha256: np.ndarray  # U64: of the file's bytes, hexadecimal; '' if not even they can be read
    phash: np.ndarray  # uint64: of the first frame; `f"{phash:016x}"` is how ImageHash prints it
    width: np.ndarray  # int32: in pixels, as the image is shown (EXIF rotation applied)
    height: np.ndarray  # int32
    frames: np.ndarray  # int32: 1 for a still
    kind: np.ndarray  # U4: of image_file.READERS
    errors: dict  # {path: why it cannot be read}


def image_facts(folder, paths, cache=None, workers=None, progress=True):
    """The ImageFacts of the image files `paths`, relative to `folder`, read by `workers` threads (default: all cores).

    `cache` is a CSV file that grows while the work goes on. What it says of a file counts if the file still has the
    same size and time of change, so that a call after an interruption goes on where that stopped. Images that
    cannot be read are reported, not raised, and tried again by the next call. Raises InputError if `cache` is
    something else.
    """
    folder, paths = Path(folder), list(paths)
    names = list(dict.fromkeys(paths))
    facts, known, errors = np.zeros(len(names), FACT), np.zeros(len(names), bool), {}
    if cache:
        facts, known = read_cache(Path(cache), names, lambda name: stamp_of(folder / name))
    todo, done = np.flatnonzero(~known), int(known.sum())
    chunks = (todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK))
    workers = workers or os.cpu_count()
    pool = ThreadPoolExecutor(workers)
    bar = progress_bar(total=len(names), initial=done, desc="hashing images", unit="img", disable=not progress)
    with bar, open(cache, "ab") if cache else nullcontext() as file:
        try:
            running = {pool.submit(examine, folder, names, chunk) for chunk in islice(chunks, 2 * workers)}
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(examine, folder, names, chunk) for chunk in islice(chunks, len(finished))}
                for chunk, stamps, found, reasons in (future.result() for future in finished):
                    facts[chunk] = found
                    errors |= reasons
                    if file:
                        file.write(to_rows([names[i] for i in chunk], stamps, found))
                        file.flush()
                    bar.update(len(chunk))
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the images that are left
    if len(names) < len(paths):
        place = {name: index for index, name in enumerate(names)}
        facts = facts[[place[path] for path in paths]]
    columns = {name: facts[name].astype(f"U{facts[name].itemsize}") for name in ("sha256", "kind")}
    columns |= {name: facts[name].copy() for name in ("phash", "width", "height", "frames")}
    return ImageFacts(paths, errors={name: errors[name] for name in names if name in errors}, **columns)


def examine(folder, names, chunk):
    """Read the images `names[i]` for the n indices in `chunk`.

    Returns (chunk, [(size, mtime_ns)], facts (n,) of type FACT, {name: why not}).
    """
    facts, greys, stamps, errors = np.zeros(len(chunk), FACT), np.zeros((len(chunk), GREY_SIDE, GREY_SIDE)), [], {}
    for fact, grey, index in zip(facts, greys, chunk, strict=True):
        path = folder / names[index]
        stamps.append(stamp_of(path))
        try:
            data = read_file(path)
            fact["sha256"] = hashlib.sha256(data).hexdigest()
            image = ImageFile(data)
            grey[:] = shrink(image.first(min(image.width, image.height) / ENOUGH, colour=False))
            fact["width"], fact["height"] = image.width, image.height
            fact["kind"], fact["frames"] = image.kind, image.frames
        except ImageError as error:
            errors[names[index]] = str(error)
        except BadImage as error:
            errors[names[index]] = f"{path}: {error}"
        except OSError as error:
            errors[names[index]] = f"{path}: cannot be read: {error.strerror}"
    facts["phash"] = phashes(greys)
    facts["phash"][facts["kind"] == b""] = 0
    return chunk, stamps, facts, errors


def stamp_of(path):
    """(size, mtime_ns), the same as long as the file has not changed; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
