"""Loader processes: as many as shared memory has room for, and a sentence when one is lost.

They hand their batches over in shared memory. On Linux these are files in /dev/shm, of which a container gets 64 MiB
from Docker: less than two processes have in flight with 128 images of 224 pixels.
"""

import contextlib
import multiprocessing.queues
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator

import torch
from torch.utils.data import get_worker_info

from util import STOP_SIGNALS, InputError, first_line

SHARED_MEMORY = "/dev/shm"
AHEAD = 2  # batches on which a loader process works, or which it has ready
IN_USE = 2  # further ones: the batch which is computed on, and the next, which is just being taken
USABLE = 0.5  # of what is free: evaluation starts processes of its own, and others use it too
OWN = 2**18  # bytes for Python's own semaphores, a page of 4 KiB for each
MIB = 2**20
LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (is killed by signal: [\w ]+\w|exited unexpectedly)")
NO_DESCRIPTORS = re.compile("Too many open files|received 0 items of ancdata")


class LostWorker(InputError):
    """A loader process was killed, or cannot hand its batches over; the message says what may help."""


def start_method() -> str | None:
    """How loader processes start: on Linux as copies of this one, which share its data; elsewhere as the system's do.

    Named, as Python 3.14 changed its own choice for Linux to one that would send all data to each of them.
    """
    return "fork" if sys.platform == "linux" and hasattr(os, "fork") else None


def free_shared_memory() -> int | None:
    """Bytes free for batches in flight; None where no limit is known, as batches are not handed over in files."""
    if sys.platform != "linux":
        return None
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:  # there is none: nothing can be handed over
        return 0
    return status.f_bavail * status.f_frsize


def processes_here() -> int:
    """How many processes torchrun started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def free_for_this_process() -> int | None:
    """`free_shared_memory`, shared out to the processes of this machine."""
    free = free_shared_memory()
    return None if free is None else free // processes_here()


def fitting(wanted: int, batch_bytes: int, free: int | None) -> tuple[int, int]:
    """(loader processes, batches that each works ahead): as much of what is wanted as fits; (0, 0) for none.

    batch_bytes: what a batch takes. free: bytes of shared memory for this process, None for any number.
    """
    if free is None:
        return wanted, AHEAD
    room = (int(free * USABLE) - OWN) // max(batch_bytes, 1) - IN_USE
    processes = max(0, min(wanted, room))
    return processes, min(AHEAD, room // processes) if processes else 0


def reduced_note(wanted: int, batch_bytes: int, free: int | None) -> str | None:
    """A line for the log where less than what is wanted fits into shared memory, else None."""
    processes, ahead = fitting(wanted, batch_bytes, free)
    if free is None or not wanted or (processes, ahead) == (wanted, AHEAD):
        return None
    in_flight = (wanted * AHEAD + IN_USE) * batch_bytes
    instead = f"{processes} of them, {ahead} ahead" if processes else "none: images are loaded between the steps"
    return (
        f"{SHARED_MEMORY}: {free / MIB:.0f} MiB free for this process, of which {USABLE:.0%} are used; {wanted} loader "
        f"process(es) would have {in_flight / MIB:.0f} MiB in flight ({batch_bytes / MIB:.1f} MiB a batch), so there "
        f"are {instead} (docker run --shm-size={_rounded_up((in_flight + OWN) / USABLE)}, or --image_cache)"
    )


def _rounded_up(needed: float) -> str:
    """Bytes for --shm-size: a power of two, of MiB or GiB."""
    mib = 1
    while mib * MIB < needed:
        mib *= 2
    return f"{mib}m" if mib < 1024 else f"{mib // 1024}g"


def enter(worker: int) -> None:
    """In a loader process, at its start: a batch which cannot be sent ends it, for else it is waited for for ever.

    A signal by which a system ends all of a run's processes does not: the run takes its step, saves and ends them.
    """
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_leave)  # type: ignore[attr-defined]
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        threading.Thread(target=_end_with_the_run, daemon=True).start()


def _end_with_the_run() -> None:
    """End this process at a SIGTERM of its own parent, and at no other's."""
    while signal.sigwaitinfo(STOP_SIGNALS).si_pid != os.getppid():
        pass
    os._exit(0)


def _leave(error: BaseException, _: object) -> None:
    print(f"a loader process cannot hand its batch over: {first_line(error)}", file=sys.stderr, flush=True)
    os._exit(1)


def shared(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch that is ready to be handed over: in a loader process in shared memory, for which there has to be room."""
    if get_worker_info() is not None:
        try:
            for tensor in batch.values():
                tensor.share_memory_()
        except (RuntimeError, OSError) as error:
            raise LostWorker(f"a loader process cannot share its batch ({first_line(error)}); {_advice()}") from error
    return batch


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """Around all that reads batches: a lost loader process raises LostWorker, wherever in it torch tells of the loss.

    What a loader process raises keeps its message alone, without the traceback that torch puts before it.
    """
    try:
        yield
    except InputError as error:
        kind = type(error)
        before, sign, own = str(error).rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")
        if sign and before.startswith("Caught "):
            raise kind(own.strip()) from None
        raise
    except (RuntimeError, OSError) as error:
        # the signal handler names the signal; torch wraps that once more where it was raised in waiting for a batch
        if lost := LOST.search(f"{error.__cause__}\n{error}"):
            raise LostWorker(f"a loader process (pid {lost[1]}) {lost[2]}; {_advice()}") from None
        if NO_DESCRIPTORS.search(str(error)):
            raise LostWorker(
                f"loader processes need more open files than are allowed ({first_line(error)}): raise `ulimit -n`, or "
                "lower --num_thread_reader"
            ) from None
        raise


def _advice() -> str:
    free = free_shared_memory()
    where = f"{SHARED_MEMORY} ({free / MIB:.0f} MiB free now; docker run --shm-size)" if free is not None else "it"
    return (
        f"the system ends one where memory runs out, or {where}: lower --num_thread_reader (0 loads in the process "
        "itself) or --batch_size"
    )
