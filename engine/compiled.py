"""`--compile`: the blocks of the towers through torch.compile, tried before training begins."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from modules.ief_model import IEF
from util import first_line


def compile_towers(model: IEF, device: torch.device, backend: str | Callable[..., Any] = "inductor") -> str:
    """Compile the towers' blocks, for any number of items and words: a line for the log.

    One forward and backward pass is tried; where it fails, for whatever reason, the blocks stay as they were. All of a
    tower's are the same code, which is compiled once; the model's parts and their names do not change.
    """
    blocks = [block for tower in model.backbone.layers()[1] for block in tower if _has_forward(block)]
    if not blocks:
        return "--compile: these towers have no blocks that could be compiled; they run as they are"
    started = time.monotonic()
    for block in blocks:
        setattr(block, "forward", torch.compile(block.forward, dynamic=True, backend=backend))  # noqa: B010
    try:
        _try(model, device)
    except Exception as error:  # of a C++ compiler, of Triton, of the driver, of torch itself
        for block in blocks:
            del block.forward
        why = first_line(getattr(error, "inner_exception", error))  # torch's own says which compiler raised it
        return f"--compile: torch cannot compile the towers here ({why}); they run as they are"
    return f"--compile: the towers' {len(blocks)} blocks were compiled in {time.monotonic() - started:.0f} s"


def _has_forward(block: nn.Module) -> bool:
    """Whether it is a part of a tower that computes, and no mere list of parameters."""
    return type(block).forward is not nn.Module.forward


def _try(model: IEF, device: torch.device) -> None:
    """Two texts of three tokens and two black images, forwards and backwards."""
    ids = torch.zeros(2, 3, dtype=torch.long, device=device)
    features = [*model.text_features(ids, ids == 0)]
    if model.wiring.has_image:
        size = model.backbone.image_input.size
        pixels = torch.zeros(2, 3, size, size, dtype=torch.uint8, device=device)
        features.append(model.frame_features(pixels, ids[:, :1] == 0, ids[:, :1]))
    whole = torch.stack([tensor.sum() for tensor in features]).sum()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if whole.requires_grad:
        torch.autograd.grad(whole, trained, allow_unused=True)
