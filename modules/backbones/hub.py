"""Models of the transformers library, on the hub or in a folder: the package, JSON files, what is kept of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from util import InputError, read_json

REQUIREMENTS = "requirements-hf.txt"
LOOKED_FOR = (
    "It is looked for as a folder with config.json, tokenizer.json and model.safetensors, then in the Hugging Face "
    "cache ($HF_HOME, ~/.cache/huggingface), then on the hub"
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
    transformers.logging.set_verbosity_error()  # what does not fit is an error here, the rest does not concern a run
    transformers.logging.disable_progress_bar()
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

    InputError where it holds no `kind`, OSError or ValueError where it cannot be had.
    """
    path = import_transformers().utils.cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    return None if path is None else read_json(path, kind, f"a JSON {kind.__name__}")
