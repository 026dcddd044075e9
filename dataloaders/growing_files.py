"""Files that only grow. A record elsewhere says how many bytes of each count; what lies behind these was left by a
process that was killed, and is written over by the next one.
"""

import os
from pathlib import Path
from typing import Literal

import numpy as np

from util import not_written


def append(path: Path, size: int, piece: bytes | memoryview) -> int:
    """Write `piece` behind the first `size` bytes, which count, in place of the rest: how many bytes count then.

    The bytes have reached the disk when this returns. NotWritten where the system refuses it.
    """
    try:
        with open(path, "r+b" if path.exists() else "w+b") as file:
            file.truncate(size)
            file.seek(size)
            file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise not_written(path, error) from error
    return size + len(piece)


def mapped(path: Path, size: int, kind: np.dtype, mode: Literal["c", "r"] = "c") -> np.ndarray:
    """The first `size` bytes of a file, mapped into memory, as an array of `kind`. ValueError where it has fewer.

    mode: "c" lets the array be written to, but not the file; for that the system may ask for as much memory.
    """
    if not size:
        return np.empty(0, kind)
    if path.stat().st_size < size or size % kind.itemsize:
        raise ValueError(f"{path.name} is cut off")
    return np.memmap(path, kind, mode, shape=(size // kind.itemsize,))
