"""What every part shares: the error that users see, atomic files, checksums, locks, seeds, the run's logger."""

import contextlib
import hashlib
import json
import logging
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeVar, overload

JsonKind = TypeVar("JsonKind")  # list, dict, ...


class InputError(ValueError):
    """Something the user has to put right; programs print its message without a traceback."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def ending_clearly(stopped: str) -> Iterator[None]:
    """Around a program: it ends with one line for what the user has to put right, and with `stopped` after Ctrl-C."""
    try:
        yield
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def replaced_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on an error it is removed.

    A reader sees the old file or the whole new one, also when the process is killed: the data reach the disk
    before the name does. The temporary name is always the same, so that a leftover of a killed process is
    overwritten by the next one.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replaced_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@overload
def read_json(path: str | os.PathLike[str]) -> dict[str, Any]: ...
@overload
def read_json(path: str | os.PathLike[str], kind: type[JsonKind], expected: str) -> JsonKind: ...
def read_json(path: str | os.PathLike[str], kind: type = dict, expected: str = "a JSON object") -> Any:
    """The JSON file's value, a `kind`; else InputError, which says what was expected."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: found no such file, expected {expected}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: found no valid JSON ({error}), expected {expected}") from None
    if not isinstance(value, kind):
        raise InputError(f"{path}: found a JSON {type(value).__name__}, expected {expected}")
    return value


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def locked(file: IO[Any]) -> bool:
    """Lock an open file; False where another process has the lock. True where there are no locks to be had."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (all devices)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_logger(log_file: str | os.PathLike[str] | None = None, quiet: bool = False) -> logging.Logger:
    """A logger which writes plain lines to stdout and, with times, to `log_file` (appended). Pass it on.

    `quiet` (every process but the first) drops all below a warning.
    """
    logger = logging.Logger("ief", logging.WARNING if quiet else logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    if log_file is not None:
        handler = logging.FileHandler(log_file, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
    return logger
