"""An image tower of timm: its structure by name, its features, and where a token may join.

N images, v the width of a pooled feature, P places of the last feature map.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from modules.backbones.fit import load_strictly
from modules.backbones.protocol import INTERPOLATIONS, ImageInput, with_token
from modules.backbones.weights_file import read_state
from modules.torchvision_ops import import_beside_torchvision
from util import InputError, first_line

REQUIREMENTS = "requirements-pair.txt"
NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?", re.ASCII)  # of timm: an architecture, and perhaps a tag of weights


class Image(NamedTuple):
    """An image tower's name in timm, a file of its weights or None for timm's own, and how it was trained to see."""

    name: str
    file: Path | None
    input: ImageInput
    in_order: bool = False  # whether the file has the tensors under other names, but in timm's order


class Shapes(NamedTuple):
    """What an image tower gives: v, and P, which is 0 where its places have no features of that width."""

    width: int
    patches: int


def import_timm() -> Any:
    """The timm module. InputError where it is missing."""
    return import_beside_torchvision("timm", f"the image tower of a pair needs timm: pip install -r {REQUIREMENTS}")


def make_trunk(name: str, **options: Any) -> Any:
    """The network of timm that is called so, without a classifier and without weights."""
    timm = import_timm()
    if NAME.fullmatch(name) is None or not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3, 0.5)
        like = f"; there are {', '.join(near)}" if near else ""
        raise InputError(f"timm has no image tower {name[:100]!r}{like}")
    try:
        trunk = timm.create_model(name, pretrained=False, **{"num_classes": 0} | options)
    except Exception as error:  # each network of timm has its own reasons
        raise InputError(f"the image tower {name} cannot be made: {first_line(error)}") from error
    return trunk.eval().requires_grad_(True)


def image_input(name: str, notes: list[str]) -> ImageInput:
    """How the network was trained to see, by timm's own configuration of it."""
    with torch.device("meta"):
        trunk = make_trunk(name)
    found = import_timm().data.resolve_model_data_config(trunk)
    channels, height, width = found["input_size"]
    if channels != 3 or height != width:
        raise InputError(f"the image tower {name} reads {channels} x {height} x {width}; square RGB images are given")
    interpolation = found["interpolation"]
    if interpolation not in INTERPOLATIONS:
        notes.append(f"{name} was trained on images resized by {interpolation!r}; bicubic is used")
        interpolation = "bicubic"
    values = {"size": height, "mean": found["mean"], "std": found["std"], "interpolation": interpolation}
    return ImageInput.of(values)


@functools.lru_cache
def shapes_of(name: str, size: int) -> Shapes:
    """What the network gives for images of `size` pixels, found without computing. InputError where it gives none."""
    with torch.device("meta"), torch.no_grad():
        tower = TimmTower(make_trunk(name), True)
        try:
            pixels = torch.zeros(1, 3, size, size)
            pooled = tower.pooled(tower.trunk.forward_features(pixels))
            if pooled.ndim != 2:
                raise ValueError(f"{tuple(pooled.shape)} for one image, which is no single feature")
        except Exception as error:
            raise InputError(f"the image tower {name} cannot be used: {first_line(error)}") from error
        try:
            patches = None if pools_by_place(tower) else tower(pixels)[1]
        except Exception:  # one place alone is not what its head was made for
            patches = None
    if patches is None or patches.shape[2:] != pooled.shape[1:]:
        return Shapes(pooled.shape[1], 0)
    return Shapes(pooled.shape[1], patches.shape[1])


class TimmTower(nn.Module):
    """Normalised pixels (N, 3, H, W) -> pooled (N, v), patches (N, P, v) or None without `places`.

    Pooled is what timm gives its classifier. Both lie in one space (`patches_of`); where the network ends in the mean
    over places, pooled is the patches' mean.
    """

    trunk: Any  # a module of timm, with methods of its own

    def __init__(self, trunk: nn.Module, places: bool) -> None:
        super().__init__()
        # convolutions are faster so on CPUs, and on GPUs in half precision (python -m benchmarks.host_memory)
        self.trunk = trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.places = places
        self.token_width = token_width(trunk)

    def forward(
        self, pixels: torch.Tensor, extra_token: torch.Tensor | None = None, patches: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """extra_token (N, token_width): see `last_features`. patches: whether they are asked for."""
        features = last_features(self.trunk, pixels, extra_token)
        return self.pooled(features), patches_of(self.trunk, features, self.pooled) if self.places and patches else None

    def pooled(self, features: torch.Tensor) -> torch.Tensor:
        return self.trunk.forward_head(features, pre_logits=True)

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        """(the stem's parameters, the blocks in order, each as a list of parameters).

        timm counts what follows the last block to it.
        """
        from timm.models import group_parameters

        if not hasattr(self.trunk, "group_matcher"):
            raise InputError(f"--freeze_layer_num: timm does not tell the blocks of {type(self.trunk).__name__} apart")
        groups = group_parameters(self.trunk, self.trunk.group_matcher(coarse=False))
        stem, *blocks = ([self.trunk.get_parameter(name) for name in groups[number]] for number in sorted(groups))
        return stem, [nn.ParameterList(block) for block in blocks]


# --- what every trunk of timm is asked for, in a pair and in open_clip's towers alike ------------------------------


def token_width(trunk: Any) -> int | None:
    """The width of a plain vision transformer's tokens; None for others, which turn them by their places."""
    from timm.models.vision_transformer import VisionTransformer

    return trunk.embed_dim if type(trunk) is VisionTransformer else None


def last_features(trunk: Any, pixels: torch.Tensor, extra_token: torch.Tensor | None) -> torch.Tensor:
    """What the trunk pools. extra_token (N, token_width): one more of the sequence, without a position, not pooled."""
    with with_token(extra_token, getattr(trunk, "norm_pre", None), getattr(trunk, "blocks", None)):
        return trunk.forward_features(pixels)


def pools_by_place(tower: nn.Module) -> bool:
    """Whether a pooling in it reads where the places are, so that none can be pooled alone."""
    return any(
        type(module).__name__.endswith("AttentionPool2d")  # AttentionPool2d, RotAttentionPool2d
        or (type(module).__name__ == "AttentionPoolLatent" and module.pos_embed is not None)
        for module in tower.modules()
    )


def patches_of(
    trunk: Any, features: torch.Tensor, pooled: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor | None:
    """The trunk's last features -> (N, P, v): what `pooled` gives for an image of which only that place is pooled.

    None where they are no square of places.
    """
    if features.ndim == 4:
        last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
        places = features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
        alone = places.flatten(0, 1)[:, None, None] if last else places.flatten(0, 1)[:, :, None, None]
        return pooled(alone).unflatten(0, places.shape[:2])
    before = getattr(trunk, "num_prefix_tokens", None)
    if before is None:
        if getattr(trunk, "cls_token", None) is not None:
            return None
        before = 0
    places = features[:, before:]
    if math.isqrt(places.shape[1]) ** 2 != places.shape[1]:
        return None
    alone = places.flatten(0, 1)[:, None]
    if _passes_over_first(trunk):
        alone = torch.cat([alone.new_zeros(len(alone), before, alone.shape[2]), alone], dim=1)
    return pooled(alone).unflatten(0, places.shape[:2])


def _passes_over_first(trunk: Any) -> bool:
    """Whether the pooling itself leaves out the tokens that stand before the places."""
    attention = getattr(trunk, "attn_pool", None) is not None
    pools_places = attention or getattr(trunk, "global_pool", "token") != "token"
    return pools_places and not getattr(trunk, "pool_include_prefix", attention)


# --- weights -----------------------------------------------------------------------------------------------------


def load_image(trunk: nn.Module, image: Image, notes: list[str]) -> str:
    """Load an image tower's weights, strictly but for the classifier's; returns where they come from."""
    if image.file is None:
        state, source = published_state(image.name)
    else:
        state, source = read_state(image.file, notes), str(image.file)
    with torch.device("meta"):
        whole = make_trunk(image.name, num_classes=classes(image.name)).state_dict()
    if image.in_order:
        if [tensor.shape for tensor in state.values()] != [tensor.shape for tensor in whole.values()]:
            raise InputError(f"{source}: these are not the weights of {image.name}, by their shapes")
        state = dict(zip(whole, state.values(), strict=True))
    classifier = whole.keys() - trunk.state_dict().keys()
    load_strictly(trunk, {key: tensor for key, tensor in state.items() if key not in classifier}, source)
    return source


def published_state(name: str) -> tuple[dict[str, torch.Tensor], str]:
    """(the weights that timm fetches from the hub or finds in its cache, where they come from)."""
    timm = import_timm()
    try:
        published = timm.create_model(name, pretrained=True)
    except Exception as error:  # of the network, the hub, the file
        raise InputError(
            f"the weights of the image tower {name} cannot be fetched: {first_line(error)}. Where there is no network, "
            f"fetch model.safetensors of https://huggingface.co/{hub_name(name)} elsewhere and name the file: "
            f"{name}@/path/to/model.safetensors"
        ) from error
    return published.state_dict(), f"timm's {hub_name(name)}"


def hub_name(name: str) -> str:
    configuration = import_timm().get_pretrained_cfg(name)
    return getattr(configuration, "hf_hub_id", None) or f"timm/{name}"


def classes(name: str) -> int:
    """How many classes a network was published with, or 1000 where with none."""
    return getattr(import_timm().get_pretrained_cfg(name), "num_classes", 0) or 1000
