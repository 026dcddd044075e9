"""A text encoder of transformers as a tower: its words, and what its authors pool as the sentence.

N texts, L words, w the encoder's width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from modules.backbones.fit import refuse_misfit
from modules.backbones.hf_tokenizer import HuggingFaceTokenizer
from modules.backbones.hub import import_transformers, kept, read_json_of
from modules.backbones.protocol import MAX_LAYERS, layers_of
from modules.transformer import masked_mean, take_last_word
from util import InputError, first_line

DEFAULT_LENGTH = 512  # where neither configuration nor tokenizer names one
# The names in a 1_Pooling/config.json of sentence-transformers before its version 6
OLD_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS = tuple(OLD_POOLING.values())


class Pooling(NamedTuple):
    """How words become a sentence."""

    mode: str = "mean"  # one of POOLINGS
    unit: bool = False  # whether it is brought to length 1


class TextTower(nn.Module):
    """Token ids and mask (N, L) -> words (N, L, w), the last hidden states; sentence (N, w)."""

    encoder: Any  # a model of transformers, with attributes of its own

    def __init__(self, encoder: nn.Module, pooling: Pooling, pad_id: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.pad_id = pad_id

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ids = ids.masked_fill(~mask, self.pad_id)
        words = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        sentence = pool(words, mask, self.pooling.mode)
        return words, F.normalize(sentence, dim=-1) if self.pooling.unit else sentence

    @property
    def width(self) -> int:
        return self.encoder.config.hidden_size

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        return layers_of(self.encoder)


def pool(words: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """words (N, L, w), mask (N, L) with a word in each row -> (N, w), by a mode of sentence-transformers."""
    if mode == "cls":
        return words[:, 0]
    if mode == "lasttoken":
        return take_last_word(words, mask)
    if mode == "max":
        return words.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
    if mode == "weightedmean":  # by the words' places, from 1 on
        weight = mask * torch.arange(1, 1 + mask.shape[1], device=mask.device)
        return torch.einsum("nlw,nl->nw", words, weight.to(words.dtype)) / weight.sum(dim=1, keepdim=True)
    mean = masked_mean(words, mask)
    return mean * mask.sum(dim=1, keepdim=True).sqrt() if mode == "mean_sqrt_len_tokens" else mean


# --- structure and weights ---------------------------------------------------------------------------------------


def read_configuration(name: str) -> dict[str, Any]:
    """The configuration of an encoder on the hub or in a folder, as plain values that make it again."""
    transformers = import_transformers()
    try:
        if read_json_of(name, "config.json") is None:
            raise InputError("no config.json there")
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        return kept(json.loads(config.to_json_string(use_diff=False)))
    except Exception as error:  # the file is a stranger's
        raise InputError(f"the text encoder {name} cannot be read: {first_line(error)}") from error


def make_encoder(values: Mapping[str, Any], what: str) -> Any:
    """The encoder of a configuration, fp32, without weights and without what is behind its last hidden states."""
    config, kind = _kind(values, what)
    try:
        encoder = kind.from_config(config, trust_remote_code=False)
        if not isinstance(encoder.get_input_embeddings(), nn.Embedding):
            raise ValueError("it reads no words")
    except Exception as error:  # the configuration is a stranger's
        raise InputError(f"{what} cannot be made: {first_line(error)}") from error
    return _without_head(encoder)


def load_encoder(name: str, values: Mapping[str, Any]) -> Any:
    """The encoder with its weights, fp32. InputError, which lists the tensors, where they are not exactly its own."""
    config, kind = _kind(values, f"the text encoder {name}")
    try:
        encoder, found = kind.from_pretrained(
            name, config=config, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:  # of the network, the hub, the files
        raise InputError(f"the weights of the text encoder {name} cannot be loaded: {first_line(error)}") from error
    own = {key.partition(".")[0] for key in encoder.state_dict()}
    prefix = f"{encoder.base_model_prefix}."
    parts = {key: key.removeprefix(prefix).partition(".")[0] for key in found["unexpected_keys"]}
    problems = [f"missing {key}" for key in sorted(found["missing_keys"]) if key.partition(".")[0] != "pooler"]
    problems += [
        f"{key}: {tuple(found_shape)} in the file, {tuple(own_shape)} in the model"
        for key, found_shape, own_shape in sorted(found["mismatched_keys"])
    ]
    problems += [  # those of another part are a head's: bert-base-uncased has one that guesses words
        f"unexpected {key}"
        for key, part in sorted(parts.items())
        if part in own - {"pooler"} and not key.endswith("position_ids")
    ]
    encoder = _without_head(encoder)
    if not problems:
        problems = [
            f"{key}: some of its numbers are NaN or infinite"
            for key, tensor in encoder.state_dict().items()
            if not tensor.isfinite().all()
        ]
    refuse_misfit(f"the weights of the text encoder {name} do not fit its configuration", problems)
    return encoder


def _kind(values: Mapping[str, Any], what: str) -> tuple[Any, Any]:
    """(the library's configuration, its class of models that read such a one). InputError where it is no encoder's."""
    transformers = import_transformers()
    values = kept(values)
    model_type = values.pop("model_type", None)
    try:
        config = transformers.AutoConfig.for_model(model_type, **values)
        sizes: list[Any] = [getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers", "vocab_size")]
    except Exception as error:  # the values are a stranger's
        raise InputError(f"{what} has a configuration that cannot be read: {first_line(error)}") from error
    if not all(type(size) is int and size > 0 for size in sizes) or sizes[1] > MAX_LAYERS:
        found = ", ".join(str(size)[:20] for size in sizes)
        raise InputError(
            f"{what} is no text encoder that is read: model type {str(model_type)[:50]}; width, layers, words: {found}"
        )
    auto = transformers.AutoModelForTextEncoding if config.is_encoder_decoder else transformers.AutoModel
    return config, auto


def _without_head(encoder: Any) -> Any:
    """fp32, in eval mode, less what BERT and its like put on the first word, which nothing reads."""
    if isinstance(getattr(encoder, "pooler", None), nn.Module):
        encoder.pooler = None
    return encoder.float().eval().requires_grad_(True)


def context_length(encoder: Any, tokenizer: HuggingFaceTokenizer, trained: int | None) -> int:
    """The most tokens of a text: the least of what training used, the tokenizer says, and there are positions for."""
    limits = [trained, tokenizer.max_length]
    positions = getattr(encoder.config, "max_position_embeddings", None)
    limits.append(positions if type(positions) is int and positions > 0 else None)
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)  # RoBERTa's begin behind that of padding
    return min((limit for limit in limits if limit is not None), default=DEFAULT_LENGTH)


# --- what its authors pool ---------------------------------------------------------------------------------------


def read_pooling(name: str, notes: list[str]) -> tuple[Pooling, int | None]:
    """(how the encoder's authors pool, to how many tokens they cut), by the files of sentence-transformers beside it.

    Where there are none, the mean over the words: `notes` gets that, and whatever of the authors' own way is left out.
    """
    modules = _read(name, "modules.json", list)
    if modules is None:
        notes.append(f"{name} does not say how its words make a sentence (it has no modules.json): by their mean")
        return Pooling(), None
    try:
        kinds = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in modules]
    except (TypeError, KeyError) as error:
        raise InputError(f"the modules.json of {name} is no list of modules with type and path") from error
    if [kind for kind, _ in kinds[:2]] != ["Transformer", "Pooling"] or kinds[0][1]:
        raise InputError(
            f"the modules.json of {name} begins with {kinds[:2]}; a Transformer in the folder itself and a Pooling "
            "behind it are read"
        )
    values = _read(name, f"{kinds[1][1]}/config.json", dict) or {}
    modes = values.get("pooling_mode") or [mode for key, mode in OLD_POOLING.items() if values.get(key)] or "mean"
    mode = modes[0] if isinstance(modes, list) and len(modes) == 1 else modes
    if mode not in POOLINGS:
        raise InputError(f"the text encoder {name} pools by {mode}; one of {', '.join(POOLINGS)} is read")
    rest = [kind for kind, _ in kinds[2:]]
    if others := [kind for kind in rest if kind != "Normalize"]:
        notes.append(f"{name}: what follows its pooling ({', '.join(others)}) gives way to the trained projection")
    settings = _read(name, "sentence_bert_config.json", dict) or {}
    if settings.get("do_lower_case"):
        notes.append(f"{name} was trained on lower-cased texts; texts are read as they are")
    prompts = (_read(name, "config_sentence_transformers.json", dict) or {}).get("prompts") or {}
    if isinstance(prompts, dict) and any(prompts.values()):
        notes.append(f"{name} was trained with words in front of each text ({prompts}); none are put there")
    length = settings.get("max_seq_length")
    return Pooling(mode, rest[:1] == ["Normalize"]), length if type(length) is int and length > 0 else None


def _read(name: str, file: str, kind: type) -> Any:
    """A JSON file beside an encoder, in its folder or on the hub; None where there is none, InputError else."""
    if ".." in file.split("/"):
        raise InputError(f"the modules.json of {name} names a file outside of its folder: {file[:100]!r}")
    return read_json_of(name, file, kind)
