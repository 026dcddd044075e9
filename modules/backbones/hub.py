"""Models of the transformers library, on the hub or in a folder: the package, JSON files, what is kept of them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from util import InputError, first_line, read_json

REQUIREMENTS = "requirements-hf.txt"
LOOKED_FOR = (
    "It is looked for as a folder with config.json, tokenizer.json and model.safetensors, then in the Hugging Face "
    "cache ($HF_HOME, ~/.cache/huggingface), then on the hub"
)
WITHOUT_NETWORK = (
    "Where there is no network, put the files of its page on the hub into a folder (config.json, model.safetensors, "
    "tokenizer.json and tokenizer_config.json or the tokenizer's other files, and what there is of "
    "preprocessor_config.json, modules.json, 1_Pooling/config.json, sentence_bert_config.json, "
    "config_sentence_transformers.json) and give that folder in the name's place: hf:FOLDER, pair:IMAGE+FOLDER"
)
# What a configuration may name that is code, a place or a number format (none of it is followed), or is of no account.
NOT_KEPT = re.compile(
    r"_.*|auto_map|.*_implementation.*|.*quantization.*|(?:torch_)?dtype|name_or_path|use_kernels|kernel_config"
    r"|architectures|transformers_version"
)


def import_transformers() -> Any:
    """The transformers module. InputError where it is missing."""
    from modules.torchvision_ops import import_torchvision

    with contextlib.suppress(ImportError):  # it does without
        import_torchvision()  # transformers imports it too, and would fail where its library does not load
    try:
        import transformers
    except ImportError as error:
        raise InputError(f"these towers need transformers: pip install -r {REQUIREMENTS}") from error
    from huggingface_hub.utils import logging

    transformers.logging.set_verbosity_error()  # what does not fit is an error here, the rest does not concern a run
    logging.set_verbosity_error()  # nor does each try to reach the hub
    transformers.logging.disable_progress_bar()
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # else it asks the hub to convert what it has read
    return transformers


def kept(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, and those within it, without the keys that are not followed."""
    return {
        key: kept(value) if isinstance(value, Mapping) else value
        for key, value in configuration.items()
        if not NOT_KEPT.fullmatch(key)
    }


def read_json_of(name: str, file: str, kind: type = dict) -> Any:
    """A JSON file of a model, in its folder or on the hub; None where there is none.

    InputError where it holds no `kind`, and where it cannot be had: that nobody could be asked is no "there is none".
    """
    import_transformers()
    path = Path(name, file) if os.path.isdir(name) else _of_the_hub(name, file)
    return read_json(path, kind, f"a JSON {kind.__name__}") if path is not None and path.is_file() else None


def _of_the_hub(name: str, file: str) -> Path | None:
    """The file in the cache, fetched where it is not there yet; None where the hub says, or said, that it has none."""
    from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file))
    except LocalEntryNotFoundError as error:  # a kind of the next
        if try_to_load_from_cache(name, file) is _CACHED_NO_EXIST:
            return None
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise InputError(
            f"{file} of {name} is not in the Hugging Face cache, and {why}, so that it is not known whether there is "
            f"one. {WITHOUT_NETWORK}"
        ) from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # of the hub, of the network, of a name that is none
        raise InputError(
            f"{file} of {name} cannot be read: {first_line(error)}. {LOOKED_FOR}. {WITHOUT_NETWORK}"
        ) from error
