"""Several processes that take the step of one. Only this file imports torch.distributed.

At one process (started without torchrun) every function is the identity.
"""

import contextlib
import datetime
import gc
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from util import STOPPED, InputError, first_line

JOIN = 600  # seconds that the processes have to find each other
BEAT = 5  # seconds between two signs of life of a process
SILENCE = 120  # seconds without one, after which the others end
GONE = 2**40  # beyond all beats
# Nothing that the processes wait for has a time: the first one alone may score for hours. Signs of life bound it.
UNBOUNDED = datetime.timedelta(days=365)
GO_ON = "a training goes on by --resume_model with its checkpoint_last.pt"
Value = TypeVar("Value")
Module = TypeVar("Module", bound=nn.Module)


def setup(device_type: str) -> torch.device:
    """Join the processes that torchrun started, if it did; returns this process's device.

    InputError where the environment does not hold what several processes need, or where they do not meet in time.
    From here on a process whose launcher or whose fellows are gone ends by itself (`_Watch`).
    """
    global _watch
    place = _place()
    local_rank = place["LOCAL_RANK"]
    device = torch.device("cuda", local_rank) if device_type == "cuda" else torch.device(device_type)
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {local_rank} of this machine has no GPU: torch sees {torch.cuda.device_count()}; start as "
                "many processes (GPUS=n), or use --device cpu"
            )
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # --precision fp32 is fp32, in convolutions as in matrix products
    if place["WORLD_SIZE"] == 1:
        return device
    me = f"process {place['RANK']} of {place['WORLD_SIZE']}"
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    told = f"{me} waits for the others at {where} (MASTER_ADDR, MASTER_PORT), at most {JOIN / 60:g} minutes"
    say = threading.Timer(10, print, [told], {"file": sys.stderr, "flush": True})
    say.daemon = True
    say.start()
    try:
        limit = datetime.timedelta(seconds=JOIN)
        store, *_ = next(dist.rendezvous("env://", place["RANK"], place["WORLD_SIZE"], timeout=limit))
        _watch = _Watch(place["RANK"], place["WORLD_SIZE"])
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=store, rank=place["RANK"], world_size=place["WORLD_SIZE"], timeout=UNBOUNDED
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{me} did not meet the others at {where} (MASTER_ADDR, MASTER_PORT) within {JOIN / 60:g} minutes: start "
            f"them all, or `unset WORLD_SIZE` for a run of one process ({first_line(error)})"
        ) from error
    finally:
        say.cancel()
    return device


def _place() -> dict[str, int]:
    """{"WORLD_SIZE", "RANK", "LOCAL_RANK"}, as torchrun sets them; of a single process whatever else is set."""
    found = {name: os.environ.get(name, "").strip() for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    if found["WORLD_SIZE"] in ("", "1"):
        if hint := slurm_hint():
            print(f"note: {hint}", file=sys.stderr)
        return {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0}
    texts = found | {name: os.environ.get(name, "").strip() for name in ("MASTER_ADDR", "MASTER_PORT")}
    numbers = {name: int(text) for name, text in texts.items() if text.isdecimal()}
    lacking = [name for name, text in texts.items() if not text]
    wrong = [name for name in (*found, "MASTER_PORT") if texts[name] and name not in numbers]
    if not lacking and not wrong:
        wrong = [name for name in ("RANK", "LOCAL_RANK") if numbers[name] >= numbers["WORLD_SIZE"]]
    if lacking or wrong:
        holds = ", ".join(f"{name}={text}" for name, text in texts.items() if text)
        problem = f"lacks {', '.join(lacking)}" if lacking else f"{', '.join(wrong)} cannot be"
        raise InputError(
            f"the environment holds {holds}, so that this is one of several processes, but {problem}: start them by "
            "torchrun, which sets all of it, or `unset WORLD_SIZE` for a run of one process"
        )
    return {name: numbers[name] for name in found}


def slurm_hint() -> str:
    """What to say where SLURM may have started the program once in each of several tasks; else empty."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    if os.environ.get("WORLD_SIZE") or not tasks.isdecimal() or int(tasks) < 2:
        return ""
    return f"SLURM_NTASKS={tasks}, but no torchrun: each task that srun starts makes a run of its own (docs/TRAIN.md)"


class _Watch:
    """Signs of life: each process counts, in the store that joins them, and looks at the others' counters.

    A thread does it, so that a process which scores alone for hours is seen to be alive. Another one, which waits for
    nothing, ends the process with a sentence when one of the others or torchrun is gone: after SILENCE at most, and
    most often within a few BEATs.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        # a connection of its own: nothing that waits in the other one keeps the signs back
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.store = dist.TCPStore(*place, None, False, datetime.timedelta(seconds=SILENCE), wait_for_workers=False)
        self.launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self.seen = {other: (0, 0) for other in range(size) if other != rank}  # (counter, looks at which it was that)
        self.unanswered = 0  # beats since the store last gave an answer
        self.reason = ""  # why this process has to end
        self.code = 2  # and how: the exit code
        self.left = threading.Event()
        self.store.add(self._name(rank), 1)
        for target in (self._give_signs, self._judge):
            threading.Thread(target=target, daemon=True).start()

    def leave(self, code: int) -> None:
        """This process ends, by its own will. Unless `code` is 0 the others, who do not end too, are told."""
        self.left.set()
        if code and not self.reason:
            with contextlib.suppress(RuntimeError):
                if code == STOPPED:
                    self.store.add(self._stopped(self.rank), 1)
                self.store.add(self._name(self.rank), -GONE)

    @staticmethod
    def _name(rank: int) -> str:
        return f"alive/{rank}"

    @staticmethod
    def _stopped(rank: int) -> str:
        return f"stopped/{rank}"

    def _give_signs(self) -> None:
        while not self.left.wait(BEAT) and not self.reason:
            try:
                self.reason = self._look()
            except RuntimeError:
                self.reason = "the process that joins all of them (the first one, or torchrun) is gone"
            self.unanswered = 0

    def _look(self) -> str:
        """Give a sign, and look for the others'."""
        self.store.add(self._name(self.rank), 1)
        for other, (before, looks) in self.seen.items():
            count = self.store.add(self._name(other), 0)
            if count < 0 and self.store.add(self._stopped(other), 0):
                self.code = STOPPED
                return f"process {other} was stopped by a signal"
            if count < 0:
                return f"process {other} has ended"
            self.seen[other] = (count, looks + 1 if count == before else 0)
            if self.seen[other][1] * BEAT > SILENCE:
                return f"process {other} has given no sign of life for {SILENCE} seconds"
        return ""

    def _judge(self) -> None:
        while not self.left.wait(BEAT):
            self.unanswered += 1  # beats, not seconds: it may itself have been stopped for a while
            reason = self.reason
            if self.launcher is not None and os.getppid() != self.launcher:
                reason = "torchrun, which started it, is gone"
            elif self.unanswered * BEAT > SILENCE:
                reason = f"the process that joins all of them has given no sign of life for {SILENCE} seconds"
            # at the end of a run all leave, one after the other
            if reason and not self.left.wait(BEAT):
                with contextlib.suppress(OSError, ValueError):
                    text = f"error in process {self.rank}: {reason}, so that this one ends too; {GO_ON}"
                    print(text, file=sys.stderr, flush=True)
                os._exit(self.code)


_watch: _Watch | None = None


def lost_another(error: BaseException) -> bool:
    """Whether an error says that another process cannot be reached any more."""
    gone = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
    return dist.is_initialized() and (
        isinstance(error, dist.DistError) or any(word in str(error).lower() for word in gone)
    )


def tear_down(code: int = 0) -> None:
    """Leave the group of processes, while the interpreter is whole: gloo's threads may abort one that is ending.

    code: the exit code. Unless it is 0 the others may still be at work.
    """
    global _watch
    if _watch is not None:
        _watch.leave(code)
        _watch = None
    if dist.is_initialized():
        gc.collect()  # what reference cycles keep of the group, data_parallel's reducer above all
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def is_first_here() -> bool:
    """True in one process of each machine, and in each that has not joined the others."""
    return not dist.is_initialized() or _place()["LOCAL_RANK"] == 0


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def from_main(value: Value) -> Value:
    """The first process's picklable `value`, in all processes."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def call_in_main(function: Callable[..., object], *arguments: object) -> None:
    """Call a function in the first process, while the others wait. Its InputError or OSError is raised in all."""
    problem: InputError | OSError | None = None
    if is_main():
        try:
            function(*arguments)
        except (InputError, OSError) as error:
            problem = error
    problem = from_main(problem)
    if problem is not None:
        raise problem


@torch.no_grad()
def copy_from_main(module: nn.Module) -> None:
    """Give a module, in every process, the tensors that it has in the first one."""
    if dist.is_initialized():
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def from_all(value: Value) -> list[Value]:
    """Every process's picklable `value`, as a list in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def to_main(value: Value) -> Iterator[Value]:
    """Every process's picklable `value`, in the order of ranks, in the first process; nothing in the others.

    They come one after the other, so that the first process holds only one of them at a time.
    """
    if is_main():
        yield value
    for source in range(1, world_size()):
        box: list[Any] = [value]
        if rank() == source:
            dist.send_object_list(box, dst=0)
        elif is_main():
            dist.recv_object_list(box, src=source)
            yield box[0]


def dealt(items: Sequence[Value]) -> list[Value | None]:
    """This process's share of the items, dealt out in turn; as long in every process, filled up with None."""
    rounds = -(-len(items) // world_size())
    own = list(items[rank() :: world_size()])
    return [*own, *[None] * (rounds - len(own))]


def shares(number: int, at_once: int) -> list[tuple[list[int], int]]:
    """Items 0 .. number - 1 in rounds of at most `at_once`: of each (this process's items, how many it has in all).

    Every process takes part in every round: the last one is filled up with copies of the last item, which stand at the
    end of what `gather` puts together.
    """
    own = max(1, min(at_once, number) // world_size())
    step = own * world_size()
    return [
        (
            [min(item, number - 1) for item in range(start + rank() * own, start + (rank() + 1) * own)],
            min(step, number - start),
        )
        for start in range(0, number, step)
    ]


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over the processes (no gradient)."""
    if dist.is_initialized():
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


class AnyProcess:
    """Asked again and again by all processes: whether it is so in any of them, which all of them hear alike.

    On a GPU what they hear was so at the call before: so nobody waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.before = device, torch.zeros(1)

    def __call__(self, own: bool) -> bool:
        if not dist.is_initialized():
            return own
        now = torch.full((1,), float(own), device=self.device)
        dist.all_reduce(now, op=dist.ReduceOp.MAX)
        heard, self.before = self.before if self.device.type == "cuda" else now, now
        return bool(heard)


class _Gather(torch.autograd.Function):
    """Rows of all processes. The backward sums what every process asks of the rows and keeps the own ones."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        dist.all_gather(parts, tensor)
        ctx.rows = slice(rank() * len(tensor), (rank() + 1) * len(tensor))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.rows]


def gather(features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A dict of tensors (b, ...) of this process -> the same of all processes (n·b, ...), with the true gradient.

    The second axis (words, visual tokens, captions) may differ between processes: it is padded to the longest, vectors
    (b, N, d) with copies of their first one, which is valid and so wins no max that it did not win before,
    weights and masks (b, N) with zeros.
    """
    if not dist.is_initialized():
        return features
    names = sorted(features)
    lengths = torch.tensor([features[name].shape[1] if features[name].ndim > 1 else 0 for name in names])
    lengths = lengths.to(features[names[0]].device)
    dist.all_reduce(lengths, op=dist.ReduceOp.MAX)
    gathered = {}
    for name, length in zip(names, lengths.tolist(), strict=True):
        tensor = features[name]
        lacking = length - tensor.shape[1] if tensor.ndim > 1 else 0
        if lacking and tensor.ndim == 3:
            tensor = torch.cat([tensor, tensor[:, :1].expand(-1, lacking, -1)], dim=1)
        elif lacking:
            tensor = F.pad(tensor, (0, lacking))
        if torch.is_grad_enabled() and tensor.is_floating_point() and not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()  # all processes take part in the backward, or none does
        if tensor.dtype == torch.bool:
            gathered[name] = _Gather.apply(tensor.to(torch.uint8)).bool()
        else:
            gathered[name] = _Gather.apply(tensor)
    return gathered


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average each parameter's gradient over the processes, as `data_parallel` does in a backward pass."""
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
        work.wait()
    torch._foreach_div_(gradients, world_size())


def data_parallel(module: Module, device: torch.device) -> Module | DistributedDataParallel:
    """Wrap a module so that gradients are averaged over the processes."""
    if not dist.is_initialized():
        return module
    devices = [device.index] if device.type == "cuda" else None
    known = inspect.signature(DistributedDataParallel).parameters
    # newer versions of torch call it by the first name, and warn of the second
    keyword = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in known)
    options: dict[str, Any] = {keyword: False}
    return DistributedDataParallel(module, device_ids=devices, **options)
