"""Whether weights are exactly those of a network, before they are loaded."""

import os
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from util import InputError


def check_fit(module: nn.Module, state: Mapping[str, torch.Tensor], what: str | os.PathLike[str]) -> None:
    """InputError, which lists the keys and shapes, where a state dict is not exactly the module's, or not finite."""
    own = module.state_dict()
    problems = [f"missing {name}" for name in sorted(own.keys() - state.keys())]
    problems += [f"unexpected {name}" for name in sorted(state.keys() - own.keys())]
    problems += [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    if not problems:
        numbers = {name: (~tensor.isfinite()).sum().item() for name, tensor in state.items()}
        problems = [f"{name}: {count} of its numbers are NaN or infinite" for name, count in numbers.items() if count]
    refuse_misfit(f"{what} does not fit the model", problems)


def refuse_misfit(message: str, problems: Sequence[str]) -> None:
    """InputError with the message and the first of the problems, where there are any."""
    if problems:
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise InputError(f"{message}:\n  " + "\n  ".join(problems[:20]) + more)


def load_strictly(module: nn.Module, state: Mapping[str, torch.Tensor], what: str | os.PathLike[str]) -> None:
    """`module.load_state_dict`, strict, of a state dict that `check_fit` found right."""
    check_fit(module, state, what)
    module.load_state_dict(state)
