"""Checkpoints: one file of tensors and plain values, written whole or not at all, read with `weights_only=True`."""

import argparse
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engine import distributed
from engine.arguments import NOT_CHECKED_ON_RESUME
from engine.methods import METHODS
from modules.ief_model import IEF
from util import InputError, first_line, replaced_atomically

FORMAT = 1
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
        "arguments": dict(vars(args)),
        "clip_sizes": dataclasses.asdict(model.clip.sizes),
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
    """Read a checkpoint on the CPU; InputError where it is missing, damaged, or something else."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, by where the file is damaged
        raise InputError(f"{path}: cannot be read as a checkpoint: {first_line(error)}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = f"format {state.get('format')}" if isinstance(state, dict) else type(state).__name__
        raise InputError(f"{path}: not a checkpoint of this program (found {found}, expected format {FORMAT})")
    return state


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


def check_resumable(path: str | os.PathLike[str], state: Mapping[str, Any], args: argparse.Namespace) -> None:
    """InputError where resuming could not give the run that was not interrupted: says which flag, and how."""
    if "optimizer" not in state:
        raise InputError(f"{path}: holds a model only; resume from checkpoint_last.pt, or use --init_model")
    processes = len(state["random_states"])
    if processes != distributed.world_size():
        raise InputError(
            f"{path}: was written by {processes} process(es), this run has {distributed.world_size()}: resuming "
            "takes the same number"
        )
    own = vars(args)
    for name, old in state["arguments"].items():
        if name not in NOT_CHECKED_ON_RESUME and name in own and own[name] != old:
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
    for name, old in state["arguments"].items():
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
