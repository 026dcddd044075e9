"""Checkpoints: one file of tensors and plain values, written whole or not at all, read with `weights_only=True`."""

import argparse
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from engine import distributed
from engine.arguments import BY_THE_TOWER, NOT_CHECKED_ON_RESUME, build_parser
from engine.methods import METHODS
from modules.backbones.openai import ClipSizes
from modules.backbones.weights_file import load_tensors
from modules.ief_model import IEF
from modules.transformer import ACTIVATIONS
from util import InputError, first_line, replaced_atomically

FORMAT = 1
BEFORE_FUSION_DATA = "train"  # what --fusion_data was before there was the flag
MODEL_FLAGS = {  # flags that make the model, whatever it is trained or evaluated on
    "pretrained_clip_name",
    "linear_patch",
    "visual_tokens",
    "emotion_encoder",
    "emotion_fusion",
    "sim_header",
    "cross_num_hidden_layers",
    "interaction",
    "wti_arch",
    "caption_fusion",
    "text_pool_type",
    "max_captions",
    "max_frames",
    "embed_dim",
    "branches",
    "fusion",
}


METHOD_FLAGS = MODEL_FLAGS & {flag.removeprefix("--") for method in METHODS.values() for flag in method.flags}


def model_state(model: IEF, args: argparse.Namespace) -> dict[str, Any]:
    """What makes a model again without any other file."""
    vectors = model.emotion_vectors
    return {
        "format": FORMAT,
        "model": model.state_dict(),
        "fitted_alpha": model.fusion.fitted if model.fusion is not None else None,
        "arguments": dict(vars(args)),
        "backbone": model.backbone.recipe(),
        "emotion_words": vectors.words if vectors is not None else [],
    }


def save(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all; NotWritten where the system refuses."""
    with replaced_atomically(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's writer does not say why
            raise _reason(temporary) or OSError(first_line(error)) from error


def _reason(path: Path) -> OSError | None:
    """Why no more can be written to a file, by trying it; None where it can."""
    try:
        with open(path, "ab") as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint on the CPU; InputError where it is missing, damaged, or something else.

    What is in it has the right types: the parts that make the model here, those of a resumed run in `check_resumable`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        state = load_tensors(path)
    except InputError as error:
        raise InputError(f"{path}: not a checkpoint of this program, or a damaged one: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = f"format {state.get('format')}" if isinstance(state, dict) else type(state).__name__
        raise InputError(
            f"{path}: not a checkpoint of this program (found {found}, expected format {FORMAT}); towers that another "
            "program trained are given with --pretrained_clip_name (docs/COMING_FROM.md)"
        )
    return checked(path, _renamed(state))


def checked(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The state that was read from `path`; InputError where what makes the model in it is not of the right types."""
    weights = {"fitted_alpha": None, "better_part": None} | state
    wrong = [*_wrong_parts(state, MODEL_PARTS), *_wrong_parts(weights, WEIGHTS_PARTS)]
    wrong += _wrong_arguments(state.get("arguments"))
    if wrong:
        raise InputError(f"{path}: a damaged or altered checkpoint: {'; '.join(wrong[:5])}")
    return state


def _renamed(state: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint, also where it is from when there was one source of towers, called clip."""
    if "clip_sizes" not in state or not _is_dict(torch.Tensor, state.get("model")):
        return state
    model = {re.sub(r"^clip\.", "backbone.", name): tensor for name, tensor in state["model"].items()}
    return state | {"model": model, "backbone": {"source": "openai", "sizes": state["clip_sizes"]}}


def _is_dict(of: type, value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, of) for k, v in value.items())


def _are_sizes(value: object) -> bool:
    """Whether it is what `ClipSizes` is made from; a checkpoint from before there were flags for them has no heads."""
    if not _is_dict(object, value):
        return False
    assert isinstance(value, dict)
    fields = {field.name: field for field in dataclasses.fields(ClipSizes)}
    if value.get("activation", "quick_gelu") not in list(ACTIVATIONS):
        return False
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    heads = [value.get(f"{tower}_heads") for tower in ("vision", "text")]
    numbers = [value[name] for name in value if name != "activation" and not name.endswith("_heads")]
    numbers += [number for number in heads if number is not None]
    if not needed <= value.keys() <= fields.keys() or not all(type(n) is int and 0 < n < 2**24 for n in numbers):
        return False
    widths = value["vision_width"], value["text_width"]
    return all(number is None or width % number == 0 for number, width in zip(heads, widths, strict=True))


def _is_recipe(value: object) -> bool:
    """Whether it names its source; what else a source needs is checked where it is restored, OpenAI's sizes here."""
    if not _is_dict(object, value):
        return False
    assert isinstance(value, dict)
    return isinstance(value.get("source"), str) and (value["source"] != "openai" or _are_sizes(value.get("sizes")))


# What a checkpoint holds: (whether a value is that, what is expected).
MODEL_PARTS = {
    "model": (lambda value: _is_dict(torch.Tensor, value) and value, "names to tensors"),
    "arguments": (lambda value: _is_dict(object, value), "flags by name"),
    "backbone": (_is_recipe, "what makes a pair of towers"),
    "emotion_words": (
        lambda value: isinstance(value, list) and all(isinstance(word, str) for word in value),
        "a list of words",
    ),
}
WEIGHTS_PARTS = {  # of a checkpoint from before --fusion_data: absent
    "fitted_alpha": (
        lambda value: value is None or (isinstance(value, float) and 0 <= value <= 1),
        "a number between 0 and 1",
    ),
    "better_part": (lambda value: value in (None, "qi", "qc"), "qi or qc"),
}
RESUMED_PARTS = {
    "optimizer": (lambda value: _is_dict(object, value), "an optimiser's state"),
    "scaler": (lambda value: _is_dict(object, value), "a loss scaler's state"),
    "progress": (lambda value: _is_dict(object, value), "where the run stands"),
    "records": (lambda value: isinstance(value, str), "the train split's checksum"),
    "random_states": (
        lambda value: isinstance(value, list) and all(_is_dict(torch.Tensor, states) for states in value) and value,
        "each process's random states",
    ),
}


def _wrong_parts(state: Mapping[str, Any], parts: Mapping[str, tuple[Callable[[Any], object], str]]) -> Iterator[str]:
    for name, (is_right, expected) in parts.items():
        if name not in state:
            yield f"it has no {name!r}"
        elif not is_right(state[name]):
            yield f"{name!r} is not {expected}"


def _wrong_arguments(arguments: object) -> Iterator[str]:
    """Yields what no command line could have given; flags that this version does not have are not looked at."""
    if not _is_dict(object, arguments):
        return
    assert isinstance(arguments, dict)
    for action in build_parser()._actions:
        if action.dest not in arguments:
            continue
        value = arguments[action.dest]
        values = value if isinstance(value, list) and action.nargs else [value]
        if value is None and action.default is None:
            continue
        if isinstance(action.nargs, int) and action.nargs and len(values) != action.nargs:
            right = False
        elif action.nargs == 0:
            right = isinstance(value, bool)
        elif action.choices is not None:
            right = any(type(value) is type(choice) and value == choice for choice in action.choices)
        else:
            right = all(_could_give(action.type, each) for each in values)
        if not right:
            yield f"--{action.dest} is {str(value)[:50]!r}"


def _could_give(kind: Any, value: object) -> bool:
    """Whether a flag's `type` takes the value as it is written."""
    if kind is None:
        return isinstance(value, str)
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return False
    try:
        return kind(str(value)) == value
    except (ValueError, argparse.ArgumentTypeError):
        return False


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """This process's generators, as tensors."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def take_over(
    path: str | os.PathLike[str],
    state: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> None:
    """Set the optimiser, the loss scaler and this process's generators as they were; InputError where they cannot."""
    try:
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        set_random_states(state["random_states"][distributed.rank()], device)
        for group in optimizer.param_groups:
            numbers = [*(group[name] for name in ("lr", "eps", "weight_decay", "peak_lr")), *group["betas"]]
            if len(group["betas"]) != 2 or not all(isinstance(number, int | float) for number in numbers):
                raise TypeError("the optimiser's settings are no numbers")
        for parameter, values in optimizer.state.items():
            shapes = [value.shape if name != "step" else parameter.shape for name, value in values.items()]
            if values.keys() != {"step", "exp_avg", "exp_avg_sq"} or any(s != parameter.shape for s in shapes):
                raise ValueError("the optimiser's averages are those of another parameter")
            float(values["step"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: a damaged or altered checkpoint: {first_line(error)}") from error


def check_resumable(
    path: str | os.PathLike[str], state: Mapping[str, Any], args: argparse.Namespace, given: set[str]
) -> None:
    """InputError where resuming could not give the run that was not interrupted: says which flag, and how.

    Where --fusion_data is not `given` the run keeps its own: one from before there was the flag, its trained weights.
    """
    if "optimizer" not in state:
        raise InputError(f"{path}: holds a model only; resume from checkpoint_last.pt, or use --init_model")
    if wrong := list(_wrong_parts(state, RESUMED_PARTS)):
        raise InputError(f"{path}: a damaged or altered checkpoint: {'; '.join(wrong)}")
    processes = len(state["random_states"])
    if processes != distributed.world_size():
        raise InputError(
            f"{path}: was written by {processes} process(es), this run has {distributed.world_size()}: resuming "
            "takes the same number"
        )
    before = {"fusion_data": BEFORE_FUSION_DATA} | state["arguments"]
    if "fusion_data" not in given:
        args.fusion_data = before["fusion_data"]
    own = vars(args)
    unchecked = NOT_CHECKED_ON_RESUME | (BY_THE_TOWER - given)
    for name, old in before.items():
        if name not in unchecked and name in own and own[name] != old:
            raise InputError(f"{path}: was written with --{name} {old}, this run has {own[name]}")
    best = Path(args.output_dir) / "checkpoint_best.pt"
    if state["progress"]["best_epoch"] >= 0 and not best.is_file():
        raise InputError(
            f"{best}: no such file, but the run has a best epoch already ({state['progress']['best_epoch']}): go on "
            "in the run's own --output_dir, or copy the file there"
        )


def adopt_arguments(
    args: argparse.Namespace, given: set[str], state: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    """Take over the checkpoint's flags, so that the model is built as it was trained.

    Flags that were `given` on the command line stay, but those that make the model have to agree (InputError), and
    with --method the others too: else the run would not be the method that its record names.
    In training (--init_model) only the flags that make the model, and its fixed weight, are taken over.
    """
    for name, old in ({"fusion_data": BEFORE_FUSION_DATA} | state["arguments"]).items():
        if name in NOT_CHECKED_ON_RESUME | {"do_train", "datatype"} or not hasattr(args, name):
            continue
        own = getattr(args, name)
        if name in given or (args.method is not None and name in METHOD_FLAGS and own is not None):
            if name in MODEL_FLAGS and own != old:
                raise InputError(f"{path}: the model was made with --{name} {old}, not {own}")
        elif args.do_eval or name in MODEL_FLAGS | {"fusion_weight"}:
            setattr(args, name, old)
    if args.do_eval:
        args.method = state["arguments"].get("method")
