"""What every part shares: the error that users see, atomic files, checksums, locks, seeds, the run's logger."""

import argparse
import contextlib
import errno
import functools
import hashlib
import io
import json
import logging
import operator
import os
import random
import select
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, ParamSpec, TypeVar, overload

JsonKind = TypeVar("JsonKind")  # list, dict, ...
Arguments = ParamSpec("Arguments")  # of a program's main
Code = TypeVar("Code")
NOBODY_READS = 141  # exit code: what a shell reports of a program that SIGPIPE ended
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
STOPPED = 75  # exit code of a run that a signal asked to end: EX_TEMPFAIL, as the same command goes on
FIRST_LINE, EACH_LINE = 10, 30  # seconds until a log gets a line of a bar, and from one line to the next
LOCK_VARIABLE = "IEF_LOCK"  # the environment's: the descriptor of the lock that a parent process holds for this one


class InputError(ValueError):
    """Something the user has to put right; programs print its message without a traceback."""


def _say_what_to_run(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In place of a traceback: a line, where a package is missing because this is not the project's Python."""
    root = Path(__file__).resolve().parent
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or (root / name).is_dir() or (root / f"{name}.py").is_file():
        _usual_excepthook(kind, error, trace)
        return
    print(
        f"error: {sys.executable} has no package {name}. `sh scripts/set_up.sh` in {root} makes the environment "
        "(or completes one that is active) and says which Python to call: .venv/bin/python, unless one was active",
        file=sys.stderr,
    )


# At import, since programs import packages before their main is called: preprocess, scripts, benchmarks import this
# file first of all.
_usual_excepthook, sys.excepthook = sys.excepthook, _say_what_to_run


class NotWritten(InputError):
    """A file that the system does not let be written: a full disk, a quota, a read-only folder, no permission."""


class NotFinite(InputError):
    """A score is NaN or infinite."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Parser(argparse.ArgumentParser):
    """A program's flags. An error is one line that points to --help, without the usage of them all."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def program(main: Callable[Arguments, Code]) -> Callable[Arguments, Code]:
    """Decorates a program's main, so that what it prints survives any terminal.

    A character that the terminal's encoding lacks is printed as "?". Where nobody reads on, as after `| head`, the
    program ends at once and without a word, with the exit code 141.
    """

    @functools.wraps(main)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Code:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        try:
            return main(*args, **kwargs)
        except BaseException as error:
            reason = error if isinstance(error, BrokenPipeError) else error.__context__
            if isinstance(reason, BrokenPipeError) and _nobody_reads():  # and not a pipe of another kind
                raise SystemExit(NOBODY_READS) from None
            raise
        finally:
            _flush()

    return wrapped


def _nobody_reads() -> bool:
    """Whether stdout or stderr is a pipe whose other end is closed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # none, no file, closed; Windows has no poll
            poll = select.poll()
            poll.register(stream, 0)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                return True
    return False


def _flush() -> None:
    """Flush stdout and stderr. What cannot be written is dropped, so that Python does not try again as it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            if not isinstance(error, BrokenPipeError):  # such as a full disk
                sys.exit(f"error: the output cannot be written: {error.strerror}")


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
    overwritten by the next one. A link stays, and the file that it leads to is replaced. To a device or a pipe (also
    /dev/stdout) the whole new file is written at the end. NotWritten where the system refuses any of it.
    """
    path = Path(path)
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
            sys.stdout.flush()  # in case it leads to the same place
            with open(Path(folder) / path.name, "rb") as file, open(path, "ab") as stream:
                shutil.copyfileobj(file, stream)
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # to be written: Windows syncs no other
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise not_written(path, error, temporary) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _is_stream(path: Path) -> bool:
    """Whether a path leads to a device or a pipe, or to an open file by its descriptor, as /dev/stdout does."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    while os.path.realpath(path.parent).split(os.sep)[1:2] != ["proc"]:
        if not path.is_symlink():
            return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
        path = path.parent / os.readlink(path)
    return True


def not_written(path: str | os.PathLike[str], error: OSError, temporary: Path | None = None) -> OSError | NotWritten:
    """The error of writing `path`, by way of `temporary`, as a sentence; an error of another file as it is."""
    other = error.filename is not None and Path(os.fsdecode(error.filename)) not in (Path(path), temporary)
    if other or isinstance(error, BrokenPipeError):
        return error
    before = "the earlier one is whole" if Path(path).is_file() else "nothing of it is left"
    return NotWritten(f"{path}: cannot be written ({error.strerror or error}); {before}")


def reserve(file: IO[Any], size: int, start: int = 0) -> None:
    """Make an open file `size` bytes long, and take that room on the disk; OSError where there is none.

    What it holds before `start` stays. A file that is mapped into memory without it ends the process (SIGBUS) where
    the disk fills up.
    """
    try:
        os.posix_fallocate(file.fileno(), start, size - start)
        return
    except AttributeError:  # Windows, macOS
        pass
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    file.seek(start)
    while (rest := size - file.tell()) > 0:
        file.write(bytes(min(rest, 2**22)))
    file.flush()


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


_locks: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def _leave_locks() -> None:
    """In a process that was forked, as loader processes are: the lock is its parent's, and ends with that one."""
    for file in _locks:
        file.close()
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks)


def take_lock(path: str | os.PathLike[str], command: str, patience: float = 0) -> IO[bytes]:
    """Lock a file, made where there is none, and write into it who holds it: the file, to be closed at the end.

    InputError, with the holder as text, where another process has the lock, for `patience` seconds on end. Where the
    parent process has it and passes it on (LOCK_VARIABLE), it is this one's too.
    """
    file = None
    with contextlib.suppress(OSError, ValueError):
        number = int(os.environ.get(LOCK_VARIABLE, ""))
        if os.path.samestat(os.fstat(number), os.stat(path)):
            file = open(number, "a+b", buffering=0)  # noqa: SIM115 (the caller closes it)
    try:
        file = file or open(path, "a+b", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise not_written(path, error) from error
    deadline = time.monotonic() + patience
    while not (taken := locked(file)) and time.monotonic() < deadline:
        time.sleep(0.02)
    if not taken:
        holder = ""
        for _ in range(20):  # one that has just taken it is about to write
            file.seek(0)
            holder = holder or file.read(2000).decode("utf-8", "replace").strip()
            if not holder:
                time.sleep(0.05)
        file.close()
        raise InputError(holder or "another process is at work there")
    _locks.add(file)
    with contextlib.suppress(OSError):  # on a full disk it is locked all the same
        file.truncate(0)
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {began}: {command}\n".encode())
    return file


class Bar:
    """A bar in a log, which has no place to go back to: a line after FIRST_LINE seconds, further ones EACH_LINE apart,
    and one at the end. What takes less time prints nothing.
    """

    def __init__(
        self, items: Iterable[Any] | None, total: int | None, initial: int, desc: str = "", **units: Any
    ) -> None:
        self.items, self.total, self.initial, self.desc, self.units = items, total, initial, desc, units
        self.n, self.told, self.postfix = initial, -1, ""
        self.began = time.monotonic()
        self.next_line = self.began + FIRST_LINE

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in () if self.items is None else self.items:
                yield item
                self.update()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if time.monotonic() >= self.began + FIRST_LINE and self.told != self.n:
            self._tell()

    def update(self, count: int = 1) -> None:
        self.n += count
        if time.monotonic() >= self.next_line:
            self._tell()

    def set_postfix(self, values: Mapping[str, object] | None = None, refresh: bool = True, **more: object) -> None:
        """What stands at the end of the next line."""
        self.postfix = ", ".join(f"{name}={value}" for name, value in {**(values or {}), **more}.items())

    def _tell(self) -> None:
        from tqdm import tqdm

        now, known = time.monotonic(), self.total is not None
        form = "{l_bar} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]" if known else None
        more = {"prefix": self.desc, "initial": self.initial, "postfix": self.postfix, "bar_format": form}
        line = tqdm.format_meter(self.n, self.total, now - self.began, **self.units, **more)
        print(line, file=sys.stderr, flush=True)
        self.told, self.next_line = self.n, now + EACH_LINE


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    initial: int = 0,
    disable: bool = False,
    leave: bool = True,
    **look: Any,
) -> Bar:
    """tqdm's bar, with its arguments; where stderr is no terminal, the lines of a Bar."""
    from tqdm import tqdm

    if total is None and (length := operator.length_hint(items, -1)) >= 0:
        total = length
    if disable or sys.stderr.isatty():
        return tqdm(items, total=total, initial=initial, disable=disable, leave=leave, **look)
    return Bar(items, total, initial, **look)


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (all devices)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_logger(log_file: str | os.PathLike[str] | None = None, quiet: bool = False) -> logging.Logger:
    """A logger which writes plain lines to stdout and, with times, to `log_file` (appended, UTF-8). Pass it on.

    `quiet` (every process but the first) drops all below a warning. A run goes on where nobody reads its stdout.
    """
    logger = logging.Logger("ief", logging.WARNING if quiet else logging.INFO)
    logger.addHandler(_Console(sys.stdout))
    if log_file is not None:
        add_log_file(logger, log_file)
    return logger


class _Console(logging.StreamHandler):
    """stdout, which may be closed at its other end: the log file has it all."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def add_log_file(logger: logging.Logger, log_file: str | os.PathLike[str]) -> logging.Handler:
    """Have a logger write, with times, to `log_file` too (appended); returns the handler."""
    handler = _LogFile(log_file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    return handler


class _LogFile(logging.FileHandler):
    """A log that cannot be written ends no run: it is said once."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.told:
            self.told = True
            print(f"{self.baseFilename}: cannot be written ({error.strerror}); the run goes on", file=sys.stderr)
