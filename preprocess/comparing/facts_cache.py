"""The cache of image facts: a CSV file that only grows, a row per image file with its size and time of change."""

import csv
import io

import numpy as np

from util import InputError

FACT = np.dtype(
    [("sha256", "S64"), ("phash", "u8"), ("width", "i4"), ("height", "i4"), ("kind", "S4"), ("frames", "i4")]
)
COLUMNS = ["image", "size", "mtime_ns", *FACT.names]
HEADER = (",".join(COLUMNS) + "\r\n").encode()


def read_cache(path, names, stamp_of):
    """What the cache file says of the images `names`: (facts of type FACT, whether it knows the image), both (N,).

    A row counts if its size and time of change are `stamp_of(name)`; of several rows the last. The file is made
    ready for more rows: begun if it is not there, and a last row that was only half written is cut off (a broken
    one in the middle, with all after it). Raises InputError for a file that is no such cache.
    """
    facts, stamps = np.zeros(len(names), FACT), np.full((len(names), 2), -1, np.int64)
    place = {name: index for index, name in enumerate(names)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        file.seek(0)
        begin = file.read(len(HEADER))
        if not HEADER.startswith(begin):
            raise InputError(
                f"{path}, line 1: found {begin!r}, expected {','.join(COLUMNS)}: it is no cache of image facts"
            )
        if begin != HEADER:
            file.seek(0)
            file.truncate()
            file.write(HEADER)
        whole = file.tell()
        for name, stamp, fact, end in parsed_rows(file):
            whole = end
            if (index := place.get(name)) is not None:
                stamps[index], facts[index] = stamp, fact
        file.truncate(whole)
    noted = stamps[:, 0] >= 0
    known = np.array([noted[i] and stamp_of(name) == tuple(stamps[i]) for i, name in enumerate(names)], bool)
    facts[~known] = np.zeros((), FACT)
    return facts, known


def parsed_rows(file):
    """Yield (name, [size, mtime_ns], fact, position after it) of the rows in a binary file, up to a broken one."""
    line = b""

    def lines():
        nonlocal line
        while line := file.readline():
            yield line.decode("utf-8", "surrogateescape")

    try:
        for row in csv.reader(lines()):
            if len(row) != len(COLUMNS) or not line.endswith(b"\n"):
                return
            name, size, mtime, sha256, phash, width, height, kind, frames = row
            stamp = np.array([int(size), int(mtime)], np.int64)
            fact = np.array((sha256, int(phash, 16), int(width), int(height), kind, int(frames)), FACT)
            yield name, stamp, fact, file.tell()
    except (csv.Error, ValueError, OverflowError):
        return


def to_rows(names, stamps, facts):
    """The bytes that note images: names, [(size, mtime_ns)], facts of type FACT. What could not be read is left out."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    for name, stamp, fact in zip(names, stamps, facts, strict=True):
        if stamp and fact["kind"]:
            sha256, phash, width, height, kind, frames = fact.item()
            writer.writerow((name, *stamp, sha256.decode(), f"{phash:016x}", width, height, kind.decode(), frames))
    return text.getvalue().encode("utf-8", "surrogateescape")
