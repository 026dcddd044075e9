"""The folder that is published: model.safetensors, config.json, what reads texts for the towers, README.md."""

import argparse
import os
import shutil

import torch

from engine import checkpoint
from engine.arguments import NOT_CHECKED_ON_RESUME, default_values
from engine.build_model import starts_from_scratch
from engine.published_model import (
    CONFIG,
    FORMAT,
    MODEL_TYPE,
    PACKAGES,
    PARTS,
    TOKENIZER,
    WEIGHTS,
    read_config,
)
from modules.backbones.names import short, without_folders
from preprocess.building.folder import check_free, take_place
from scripts.publishing.card import card
from scripts.publishing.questions import QUESTIONS, TOWERS
from scripts.reporting.shown_runs import read_run
from util import InputError, first_line, replaced_atomically, sha256_of, write_json, write_text

CARD, BEST = "README.md", "checkpoint_best.pt"
OWN = {CONFIG, WEIGHTS, TOKENIZER, CARD}
PUBLIC = default_values().keys() - NOT_CHECKED_ON_RESUME | {"method"}  # flags: the others are paths, or change no score


def read_trained(folder):
    """(the Run of a finished training run's folder, its best checkpoint). InputError where it is none."""
    run = read_run(folder)
    if not run.trained or not (folder / BEST).is_file():
        raise InputError(f"{folder}: found no {BEST} of a training that has ended, expected a training run's folder")
    state = checkpoint.load(folder / BEST)
    best, found = run.metrics["best_epoch"], {name: state.get(name) for name in ("stage", "epoch", "val")}
    if found != best:
        raise InputError(
            f"{folder / BEST}: found epoch {found['epoch']} of stage {found['stage']}, expected {best['epoch']} of "
            f"{best['stage']} as in metrics.json: the two are not of one run"
        )
    return run, state


def check_place(out):
    """InputError unless the folder `out` can be made, or is an older publication, which the new one replaces."""
    if out.is_file():
        raise InputError(f"--to {out} is a file; expected a folder, or hub:OWNER/NAME")
    if (out / CONFIG).is_file():
        read_config(out)
    check_free(out, overwrite=True, manifest=CONFIG, own=OWN)


def write_folder(out, run, state, answers):
    """Write the folder, which gets its name when it is complete."""
    building = out.with_name(f".{out.name}.partial")
    shutil.rmtree(building, ignore_errors=True)  # of a killed process
    try:
        building.mkdir(parents=True)
        write_files(building, run, state, out.name, "FOLDER", answers)
        take_place(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def write_files(folder, run, state, title, name, answers):
    """Write the files into an empty folder. title, name: of the card."""
    write_weights(folder / WEIGHTS, state["model"])
    config = {part: state[part] for part in PARTS if part in state}
    backbone = dict(config["backbone"])
    if TOKENIZER in backbone:  # bytes by name
        (folder / TOKENIZER).mkdir()
        for file, content in backbone[TOKENIZER].items():
            (folder / TOKENIZER / file).write_bytes(content.numpy().tobytes())
        backbone[TOKENIZER] = sorted(backbone[TOKENIZER])
    files = [WEIGHTS, *(f"{TOKENIZER}/{file}" for file in backbone.get(TOKENIZER, ()))]
    flags = public_flags(state["arguments"])
    value = {
        **{"model_type": MODEL_TYPE, "format": FORMAT, "code": run.start.get("code")},
        **(config | {"arguments": flags, "backbone": backbone}),
        "files": {file: sha256_of(folder / file) for file in files},
    }
    write_json(folder / CONFIG, value)
    run.args |= public_flags(run.args)
    asked = asked_of(flags)
    settings = argparse.Namespace(**(default_values() | flags))
    write_text(folder / CARD, card(run, settings, title, name, asked, answers))


def write_weights(path, tensors):
    """Each tensor as it is, also where two share their numbers. NotWritten where the system refuses."""
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise InputError(f"scripts.publish needs safetensors: {PACKAGES}") from error
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    with replaced_atomically(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": "pt"})
        except Exception as error:  # safetensors' own, which is no kind of another
            raise OSError(first_line(error)) from error
        os.umask(mask := os.umask(0))
        temporary.chmod(0o666 & ~mask)  # safetensors' file is its owner's alone


def public_flags(arguments):
    """The flags of a run that a published model has: no paths of this machine, and of the towers' names no folders."""
    flags = {name: value for name, value in arguments.items() if name in PUBLIC}
    for name, without in (("pretrained_clip_name", without_folders), ("bert_name", short)):
        if name in flags:
            flags[name] = without(flags[name])
    return flags


def asked_of(flags):
    """The keys of the questions that a model with these flags leaves to its owner."""
    scratch = starts_from_scratch(argparse.Namespace(**flags))
    return [key for key in QUESTIONS if not (scratch and key == TOWERS)]
