"""Several processes that take the step of one. Only this file imports torch.distributed.

At one process (started without torchrun) every function is the identity.
"""

import datetime
import gc
import inspect
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from util import InputError

Value = TypeVar("Value")
Module = TypeVar("Module", bound=nn.Module)


def setup(device_type: str) -> torch.device:
    """Join the processes that torchrun started, if it did; returns this process's device."""
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if device_type == "cuda" else torch.device(device_type)
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {local_rank} of this machine has no GPU: torch sees {torch.cuda.device_count()}; start as "
                "many processes (GPUS=n), or use --device cpu"
            )
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # --precision fp32 is fp32, in convolutions as in matrix products
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        # the first process scores alone at the end of an evaluation: the others wait for it
        dist.init_process_group(backend, timeout=datetime.timedelta(hours=3))
    return device


def tear_down() -> None:
    """Leave the group of processes, while the interpreter is whole: gloo's threads may abort one that is ending."""
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
    """True in one process of each machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


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


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over the processes (no gradient)."""
    if dist.is_initialized():
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


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

    The second axis (words, visual tokens) may differ between processes: it is padded to the longest, vectors
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
