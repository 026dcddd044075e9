"""SIGTERM, SIGUSR1, SIGUSR2, by which a cluster takes its machine back: the run saves at its next step, and ends.

Where a step is under way or a checkpoint is being written (`waiting`) a signal is only noted; the training loop asks
after each step (`asked`). Elsewhere, in the preparations and in evaluations, it ends the run at once: the last
checkpoint has all that was trained.
"""

import contextlib
import functools
import signal
from collections.abc import Iterator
from types import FrameType

from util import STOP_SIGNALS

_asked = ""  # the first signal's name; those after it change nothing
_waits = False


class Stopped(BaseException):
    """The run was asked to end by a signal; like KeyboardInterrupt no error, so that nothing takes it for one."""


def asked() -> bool:
    """Whether a signal has come to this process."""
    return bool(_asked)


def _note(number: int, _: FrameType | None) -> None:
    global _asked
    first, _asked = not _asked, _asked or signal.Signals(number).name
    if first and not _waits:
        stop()


def stop() -> None:
    """Raises Stopped."""
    raise Stopped(f"by {_asked}" if _asked else "by a signal to another process")


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Around a run: the signals do what this module says. After one has come, further ones are ignored to the end."""
    global _asked
    _asked = ""
    before = {number: signal.signal(number, _note) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if _asked else handler)


@contextlib.contextmanager
def _set_waiting(waits: bool) -> Iterator[None]:
    global _waits
    before, _waits = _waits, waits
    try:
        if _asked and not waits:
            stop()
        yield
    finally:
        _waits = before
    if _asked and not _waits:
        stop()


# Context managers and decorators. Inside the first a signal is noted only, and ends the run where that ends; inside the
# second, which may stand inside the first, it ends the run at once, as does one that has come before.
waiting, at_once = functools.partial(_set_waiting, True), functools.partial(_set_waiting, False)
