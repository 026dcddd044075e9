"""Towers of the transformers library, `hf:NAME_OR_FOLDER`: its models compute, their parts give what IEF asks for.

N items, L words, C the context, P patches, w and v the widths of a tower, d the common one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from modules.backbones.fit import check_fit, refuse_misfit
from modules.backbones.hf_tokenizer import HuggingFaceTokenizer
from modules.backbones.hub import import_transformers, kept, read_json_of
from modules.backbones.openai import MEAN, STD
from modules.backbones.protocol import MAX_LAYERS, Backbone, ImageInput, Needs, layers_of
from util import InputError, first_line

HALVES = (0.5, 0.5, 0.5)


class Family(NamedTuple):
    """Models of one `model_type`, and what no tensor tells of them."""

    model: str  # its class
    config: str  # and the class of its configuration
    sentence: str  # which token is the sentence: its `end`, its `first` one or, padding included, the `last` of all
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD


FAMILIES = {
    "clip": Family("CLIPModel", "CLIPConfig", "end"),
    "metaclip_2": Family("MetaClip2Model", "MetaClip2Config", "end"),
    "chinese_clip": Family("ChineseCLIPModel", "ChineseCLIPConfig", "first"),
    "altclip": Family("AltCLIPModel", "AltCLIPConfig", "first"),
    "siglip": Family("SiglipModel", "SiglipConfig", "last", HALVES, HALVES),
}
REFUSED = {
    "siglip2": "a SigLIP 2 that reads images of any shape (NaFlex); take one of a fixed resolution",
    "xclip": "an X-CLIP, which reads videos and lets them change the text's features",
}
# Constants that some files hold, and poolings of BERT that no feature here goes through.
HARMLESS = re.compile(r".*\.(?:position_ids|token_type_ids)|text_model\.(?:roberta\.)?pooler\.dense\.(?:weight|bias)")
BILINEAR, BICUBIC, LANCZOS = 2, 3, 1  # Pillow's numbers


class TextTower(nn.Module):
    """A text model and the projection of its features into the common space, None where it ends there itself."""

    tower: Any

    def __init__(
        self,
        tower: nn.Module,
        projection: nn.Module | None,
        sentence: str,
        tokenizer: HuggingFaceTokenizer,
        context: int,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.projection = projection
        self.sentence, self.context = sentence, context
        self.pad_id, self.pads_left = tokenizer.pad_id, tokenizer.pads_left

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask (N, L) -> words (N, L, d), sentence (N, d)."""
        if self.projection is None:
            return self._padded(ids, mask)
        if self.sentence == "end":  # attention is causal: what follows a text's end changes nothing before it
            out = self.tower(input_ids=ids.masked_fill(~mask, 0))
            return self.projection(out.last_hidden_state), self.projection(out.pooler_output)
        out = self.tower(input_ids=ids.masked_fill(~mask, self.pad_id), attention_mask=mask.long())
        words = self.projection(out.last_hidden_state)
        return words, words[:, 0]

    def _padded(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A tower that reads its padding, always up to the context, and takes the last place for the sentence."""
        length = ids.shape[1]
        place = torch.arange(self.context, device=ids.device).expand(len(ids), -1)
        start = self.context - mask.sum(dim=1, keepdim=True) if self.pads_left else torch.zeros_like(ids[:, :1])
        source = place - start
        within = (source >= 0) & (source < mask.sum(dim=1, keepdim=True))
        padded = ids.gather(1, source.clamp(0, length - 1)).masked_fill(~within, self.pad_id)
        out = self.tower(input_ids=padded)
        words = self.tower.head(out.last_hidden_state)
        back = (place[:, :length] + start).clamp(max=self.context - 1)
        return words.gather(1, back[..., None].expand(-1, -1, words.shape[-1])), out.pooler_output

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        return layers_of(self.tower)


class ImageTower(nn.Module):
    """An image model, with the projection of its features into the common space or an attention pooling instead."""

    tower: Any

    def __init__(self, tower: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.tower = tower
        self.projection = projection

    def forward(
        self, pixels: torch.Tensor, extra_token: torch.Tensor | None = None, patches: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Normalised pixels (N, 3, H, W), a further token (N, width) or None -> pooled (N, d), patches (N, P, d)."""
        x = self.tower.embeddings(pixels)
        length = x.shape[1]
        if extra_token is not None:
            x = torch.cat([x, extra_token[:, None].to(x.dtype)], dim=1)
        if self.projection is None:
            x = self.tower.encoder(inputs_embeds=x).last_hidden_state[:, :length]
            x = self.tower.post_layernorm(x)
            pooled = self.tower.head(x)
            if not patches:
                return pooled, None
            alone = self.tower.head(x.flatten(0, 1)[:, None])  # as if a patch were all that there is to attend to
            return pooled, alone.unflatten(0, x.shape[:2])
        x = self.tower.encoder(inputs_embeds=self.tower.pre_layrnorm(x)).last_hidden_state[:, :length]
        x = self.projection(self.tower.post_layernorm(x))
        return x[:, 0], x[:, 1:]

    @property
    def token_width(self) -> int:
        return self.tower.config.hidden_size

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        return layers_of(self.tower)


class HuggingFace(Backbone):
    """The towers of one of transformers' models. `vision=False` leaves the image tower out (branch QC alone)."""

    visual: ImageTower  # absent without `vision`
    tokenizer: HuggingFaceTokenizer

    def __init__(
        self,
        model: Any,
        config: Mapping[str, Any],
        tokenizer: HuggingFaceTokenizer,
        image_input: ImageInput,
        vision: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.image_input = image_input
        text, image = config["text_config"], config["vision_config"]
        projection = getattr(model, "text_projection", None)
        self.embed_dim = text["projection_size"] if projection is None else projection.out_features
        self.context_length = context_length(config, tokenizer)
        self.patches = (image["image_size"] // image["patch_size"]) ** 2
        sentence = FAMILIES[config["model_type"]].sentence
        self.text = TextTower(model.text_model, projection, sentence, tokenizer, self.context_length)
        self.reads_padding = projection is None
        if vision:
            self.visual = ImageTower(model.vision_model, getattr(model, "visual_projection", None))
        self.logit_scale = nn.Parameter(model.logit_scale.detach().reshape(()))
        self.eval()

    def freeze_unreached(self, patches: bool) -> None:
        """Nothing: every parameter takes part in the pooled feature and in the patches."""

    def recipe(self) -> dict[str, Any]:
        return {
            "source": "hf",
            "config": json.dumps(self.config),
            "tokenizer": self.tokenizer.files(),
            "image_input": self.image_input._asdict(),
        }


def load(name: str, needs: Needs, notes: list[str]) -> tuple[HuggingFace, str]:
    """The model `name`, of the hub or of a folder: (towers, where the weights come from, for the log).

    `notes` gets lines to tell the user. InputError where it is none of those that fit, or not all of it.
    """
    transformers = import_transformers()
    what = f"--pretrained_clip_name hf:{name}"
    try:
        found = read_json_of(name, "config.json")
        if found is None:
            raise InputError("no config.json there")
        config = _configuration(found)
        tokenizer = HuggingFaceTokenizer.load(name)
        image_input = _image_input(config, _preprocessor(name), notes)
        with torch.device("meta"):
            empty = HuggingFace(_empty_model(config), config, tokenizer, image_input, needs.vision)
        _check_tokenizer(config, tokenizer)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    empty.check(needs, f"hf:{name}")
    model = _with_weights(transformers, name, config, what)
    backbone = HuggingFace(model, config, tokenizer, image_input, needs.vision)
    check_fit(backbone, backbone.state_dict(), what)
    backbone.clamp_logit_scale()
    return backbone, f"{name} ({FAMILIES[config['model_type']].model} of transformers {transformers.__version__})"


def restore(recipe: Mapping[str, Any], vision: bool = True) -> HuggingFace:
    """The towers that `recipe` describes, their weights still to come. InputError where it is a damaged one."""
    try:
        config = _configuration(json.loads(recipe["config"]))
        tokenizer = HuggingFaceTokenizer.of_files(recipe["tokenizer"])
        _check_tokenizer(config, tokenizer)
        image_input, size = ImageInput.of(recipe["image_input"]), config["vision_config"]["image_size"]
        if image_input.size != size:
            raise InputError(f"images of {image_input.size} pixels a side, where their tower reads {size}")
        return HuggingFace(_empty_model(config), config, tokenizer, image_input, vision)
    except InputError as error:
        raise InputError(f"the checkpoint's towers: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"the checkpoint's towers cannot be made again: {first_line(error)}") from error


def context_length(config: Mapping[str, Any], tokenizer: HuggingFaceTokenizer) -> int:
    """The most tokens of a text: the places that the tower has, or fewer where its tokenizer says so."""
    places = config["text_config"]["max_position_embeddings"]
    if config["model_type"] == "altclip":  # RoBERTa's positions begin after the padding's number
        places -= config["text_config"]["pad_token_id"] + 1
    return places if tokenizer.max_length is None else min(places, tokenizer.max_length)


def _configuration(found: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json, of any version of the library -> a complete configuration as plain values, without code or places.

    InputError where it is of no model that fits.
    """
    kind = found.get("model_type")
    if kind not in FAMILIES:
        fit = ", ".join(f"{family.model} ({name})" for name, family in FAMILIES.items())
        raise InputError(f"{REFUSED.get(str(kind), f'a model of type {kind!r}')}. Those that fit: {fit}")
    transformers = import_transformers()
    try:
        config = getattr(transformers, FAMILIES[kind].config).from_dict(kept(found))
        complete: dict[str, Any] = kept(json.loads(json.dumps(config.to_dict())))
        text, image = complete["text_config"], complete["vision_config"]
        numbers = [image["image_size"], image["patch_size"], image["hidden_size"], text["max_position_embeddings"]]
        numbers += [text["vocab_size"], text["num_hidden_layers"], image["num_hidden_layers"]]
        if kind == "altclip":
            numbers.append(1 + text["pad_token_id"])
    except Exception as error:  # the file is a stranger's, and the library raises whatever it leads it to
        raise InputError(f"its configuration is not one of {FAMILIES[kind].model}: {first_line(error)}") from error
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        raise InputError(f"its configuration holds sizes that are no positive numbers: {numbers}")
    if max(text["num_hidden_layers"], image["num_hidden_layers"]) > MAX_LAYERS:
        raise InputError(f"its configuration asks for more than {MAX_LAYERS} layers")
    if image.get("num_channels", 3) != 3:
        raise InputError(f"its images have {image['num_channels']} channels, expected 3")
    if FAMILIES[kind].sentence == "last" and not image.get("vision_use_head", True):
        raise InputError("its image tower has no pooling, so that there is no feature of a whole image")
    return complete


def _empty_model(config: Mapping[str, Any]) -> nn.Module:
    """The model that a configuration describes, its weights random (or none, within `torch.device("meta")`)."""
    transformers, family = import_transformers(), FAMILIES[config["model_type"]]
    try:
        model = getattr(transformers, family.model)(getattr(transformers, family.config).from_dict(kept(config)))
    except Exception as error:  # as in `_configuration`
        raise InputError(f"its configuration makes no {family.model}: {first_line(error)}") from error
    return model.float()


def _with_weights(transformers: Any, name: str, config: Mapping[str, Any], what: str) -> nn.Module:
    """The model with its weights, in fp32. InputError where they are not exactly its own."""
    family = FAMILIES[config["model_type"]]
    try:
        model, info = getattr(transformers, family.model).from_pretrained(
            name,
            config=getattr(transformers, family.config).from_dict(kept(config)),
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are listed, and refused below
        )
    except Exception as error:  # as in `_configuration`
        raise InputError(f"{what}: its weights cannot be read: {first_line(error)}") from error
    problems = [f"missing {key}" for key in sorted(info["missing_keys"])]
    problems += [f"unexpected {key}" for key in sorted(info["unexpected_keys"]) if not HARMLESS.fullmatch(key)]
    problems += [
        f"{key}: {tuple(stored)} in the file, {tuple(own)} in the model"
        for key, stored, own in sorted(info["mismatched_keys"])
    ]
    problems += [str(message) for message in info["error_msgs"]]
    refuse_misfit(f"{what} does not fit {family.model}", problems)
    return model


def _check_tokenizer(config: Mapping[str, Any], tokenizer: HuggingFaceTokenizer) -> None:
    """InputError where the tower cannot read the tokenizer's ids, or would take another token for a text's end."""
    text = config["text_config"]
    if tokenizer.vocab_size > text["vocab_size"] or tokenizer.pad_id >= text["vocab_size"]:
        raise InputError(
            f"its tokenizer has {tokenizer.vocab_size:,} words, of which its text tower reads {text['vocab_size']:,}"
        )
    ids = tokenizer.encode("a")
    if context_length(config, tokenizer) < len(ids):
        raise InputError(f"its text tower reads {context_length(config, tokenizer)} tokens, too few for a word")
    if FAMILIES[config["model_type"]].sentence == "end":
        end = text["eos_token_id"]
        if config["model_type"] == "clip" and end == 2:  # written by an early version: the highest id is meant
            end = max(ids)
        if ids[-1] != end or end in ids[:-1]:
            raise InputError(f"its text tower takes token {end} for a text's end, its tokenizer writes {ids} for 'a'")


def _preprocessor(name: str) -> dict[str, Any] | None:
    """How the model's images are prepared, as its files say it; None where they do not."""
    together = read_json_of(name, "processor_config.json") or {}
    inner = together.get("image_processor")
    return inner if isinstance(inner, dict) else read_json_of(name, "preprocessor_config.json")


def _image_input(config: Mapping[str, Any], found: Mapping[str, Any] | None, notes: list[str]) -> ImageInput:
    """The image tower's input. InputError where the tower could not read what its preprocessor makes."""
    family, size = FAMILIES[config["model_type"]], config["vision_config"]["image_size"]
    if found is None:
        notes.append(
            f"there is no preprocessor_config.json: images are {size} x {size} pixels, their mean and deviation those "
            f"of {family.model}'s authors"
        )
        found = {}
    made = found.get("crop_size") if found.get("do_center_crop", True) and found.get("crop_size") else found.get("size")
    if isinstance(made, Mapping):
        sides = [made.get(side, made.get("shortest_edge")) for side in ("height", "width")]
    else:
        sides = [size if made is None else made]
    if any(side != size for side in sides):
        raise InputError(f"its preprocessor makes images of {made}, its image tower reads {size} x {size} pixels")
    factor = found.get("rescale_factor", 1 / 255)
    if not (
        found.get("do_rescale", True) and isinstance(factor, float) and math.isclose(factor, 1 / 255, rel_tol=1e-3)
    ):
        raise InputError("its preprocessor does not bring the pixels into 0..1, as the mean and deviation here assume")
    normalises = found.get("do_normalize", True)
    mean = found.get("image_mean", family.mean) if normalises else (0.0, 0.0, 0.0)
    std = found.get("image_std", family.std) if normalises else (1.0, 1.0, 1.0)
    resample = found.get("resample", BICUBIC)
    interpolation = "bicubic" if resample in (BICUBIC, LANCZOS) else "bilinear"
    if resample not in (BICUBIC, BILINEAR):
        notes.append(f"its images were resized in another way (Pillow's number {resample}): {interpolation} is used")
    return ImageInput.of({"size": size, "mean": mean, "std": std, "interpolation": interpolation})
