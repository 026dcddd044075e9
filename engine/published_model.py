"""A trained model as others get it: a folder that scripts.publish wrote, or the same on the Hugging Face Hub.

config.json has all that makes the model again but its weights, and the checksums of the other files; the weights are in
model.safetensors, and in tokenizer/ is what the towers need to read texts. `hub:OWNER/NAME` is such a folder on the
hub, `hub:OWNER/NAME@REVISION` an earlier state of it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine import checkpoint
from util import InputError, first_line, read_json, sha256_of

HUB = "hub:"
MODEL_TYPE, FORMAT = "ief", 1
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer"
READ = [CONFIG, WEIGHTS, f"{TOKENIZER}/*"]  # of a repository
PARTS = ("arguments", "backbone", "emotion_words", "fitted_alpha", "better_part")  # of a checkpoint, beside its weights
NAME = re.compile(r"hub:(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)
FILE = re.compile(rf"{re.escape(WEIGHTS)}|{TOKENIZER}/\w[\w.-]*", re.ASCII)
PACKAGES = "pip install -r requirements-hub.txt"


def find(name: str | os.PathLike[str]) -> tuple[str, Path]:
    """What --init_model or --model names: (the same for good, the file or folder on this machine).

    A model on the hub is fetched unless it is in the cache, and its name gets the commit: `hub:OWNER/NAME@COMMIT`.
    InputError where the hub has none such, or cannot be asked. Any other name is a path, which may lead nowhere.
    """
    name = os.fspath(name)
    if not name.startswith(HUB):
        return name, Path(name)
    repository, revision = parts_of(name)
    hub = import_hub()
    with hub_asked(name):
        commit = Path(hub.hf_hub_download(repository, CONFIG, revision=revision)).parent
        read_config(commit)  # before the weights are fetched, which may be a stranger's
        folder = Path(hub.snapshot_download(repository, revision=commit.name, allow_patterns=READ))
    return f"{HUB}{repository}@{commit.name}", folder


def load(path: Path) -> dict[str, Any]:
    """What `checkpoint.load` gives, of a published folder too. InputError where it is none, or was changed since."""
    if not path.is_dir():
        return checkpoint.load(path)
    config = read_config(path)
    files = config.get("files")
    if not isinstance(files, dict) or WEIGHTS not in files or not all(map(FILE.fullmatch, files)):
        raise InputError(f"{path / CONFIG}: found no checksums of {WEIGHTS} and {TOKENIZER}/, expected them in 'files'")
    for name, expected in files.items():
        if not (path / name).is_file():
            raise InputError(f"{path / name}: found no such file, expected the one that {CONFIG} names")
        if (found := sha256_of(path / name)) != expected:
            raise InputError(
                f"{path / name}: found the SHA-256 {found}, expected {expected} as in {CONFIG}: the file is damaged or "
                "of another model"
            )
    state = {part: config[part] for part in PARTS if part in config}
    backbone = state.get("backbone")
    if isinstance(backbone, dict) and TOKENIZER in backbone:
        texts = [name.partition("/")[2] for name in files if name != WEIGHTS]
        of_towers = {name: torch.from_numpy(np.fromfile(path / TOKENIZER / name, np.uint8)) for name in texts}
        state["backbone"] = backbone | {TOKENIZER: of_towers}
    return checkpoint.checked(path, state | {"model": _weights(path / WEIGHTS), "format": checkpoint.FORMAT})


def fingerprint(path: Path) -> str:
    """The SHA-256 that tells a model from others: a checkpoint's, or a config.json's, which has the other files'."""
    return sha256_of(path / CONFIG if path.is_dir() else path)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a published folder. InputError where it is none, or of a version that is not known here."""
    path = folder / CONFIG
    if not path.is_file():
        run = f": this is a run, give its {best}" if (best := folder / "checkpoint_best.pt").is_file() else ""
        raise InputError(f"{folder}: found no {CONFIG}, expected a folder that scripts.publish wrote{run}")
    config = read_json(path)
    kind, version = config.get("model_type"), config.get("format")
    if kind != MODEL_TYPE:
        raise InputError(
            f"{path}: found a model of type {str(kind)[:50]!r}, expected {MODEL_TYPE!r}, as scripts.publish writes it. "
            "Towers of transformers are given by --pretrained_clip_name hf:NAME_OR_FOLDER"
        )
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        way_on = ": a newer version of this program wrote it, take that one" if newer else ""
        raise InputError(f"{path}: found format {str(version)[:50]}, expected {FORMAT}{way_on}")
    return config


def parts_of(name: str) -> tuple[str, str | None]:
    """`hub:OWNER/NAME[@REVISION]` -> (OWNER/NAME, the revision or None). InputError where it is none."""
    found = NAME.fullmatch(name)
    if found is None:
        raise InputError(f"{name}: expected hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    return found["repository"], found["revision"]


def import_hub() -> Any:
    """The huggingface_hub module. InputError where it is missing."""
    try:
        import huggingface_hub
        from huggingface_hub import utils
    except ImportError as error:
        raise InputError(f"a model on the hub needs huggingface_hub: {PACKAGES}") from error
    utils.logging.set_verbosity_error()  # nor does each try to reach the hub concern a run
    return huggingface_hub


@contextlib.contextmanager
def hub_asked(name: str) -> Iterator[None]:
    """Within it, whatever the hub, the network or their library raises becomes an InputError that says what to do."""
    from huggingface_hub import constants, utils

    try:
        yield
    except InputError:
        raise
    except utils.LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise InputError(
            f"{name} is not in the Hugging Face cache ($HF_HOME, ~/.cache/huggingface), and {why}. Where there is no "
            f"network, fetch {', '.join(READ)} elsewhere and give their folder"
        ) from error
    except utils.EntryNotFoundError as error:
        raise InputError(f"{name}: found no {CONFIG} there, expected a model that scripts.publish wrote") from error
    except utils.RevisionNotFoundError as error:
        raise InputError(f"{name}: the hub has the model, but no such revision") from error
    except utils.RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: the hub has no such model, or does not show it to you: a private one needs a token, by `hf auth "
            "login` or in HF_TOKEN"
        ) from error
    except Exception as error:  # of the hub, of the network, of the disk
        raise InputError(f"{name}: the hub or the way to it fails: {first_line(error)}") from error


def _weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(f"{path}: needs safetensors: {PACKAGES}") from error
    try:
        return load_file(path)
    except Exception as error:  # safetensors' own, which is no kind of another
        raise InputError(f"{path}: cannot be read as safetensors: {first_line(error)}") from error
