"""An image tower of timm: its structure by name, its features, and where a token may join.

N images, v the width of a pooled feature, P places of the last feature map.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from modules.backbones.openai import load_strictly
from modules.backbones.protocol import ImageInput
from modules.backbones.weights_file import check_tensors, load_tensors, unwrapped, what_it_is
from util import InputError, first_line

REQUIREMENTS = "requirements-pair.txt"
NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?", re.ASCII)  # of timm: an architecture, and perhaps a tag of weights
INTERPOLATIONS = ("bicubic", "bilinear")


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
    from modules.torchvision_ops import import_torchvision

    try:
        import_torchvision()  # timm imports it too, and would fail where its library does not load
        import timm
    except ImportError as error:
        raise InputError(f"the image tower of a pair needs timm: pip install -r {REQUIREMENTS}") from error
    return timm


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
    return ImageInput(height, three(found["mean"]), three(found["std"]), interpolation)


def three(values: Iterable[float]) -> tuple[float, float, float]:
    """One number a channel."""
    red, green, blue = map(float, values)
    return red, green, blue


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
            patches = tower(pixels)[1]
        except Exception:  # one place alone is not what its head was made for
            patches = None
    if patches is None or patches.shape[2:] != pooled.shape[1:]:
        return Shapes(pooled.shape[1], 0)
    return Shapes(pooled.shape[1], patches.shape[1])


class TimmTower(nn.Module):
    """Normalised pixels (N, 3, H, W) -> pooled (N, v), patches (N, P, v) or None without `places`.

    Pooled is what timm gives its classifier. A patch is that for an image of which only its place is pooled, so that
    both lie in one space; where the network ends in the mean over places, pooled is the patches' mean.
    """

    trunk: Any  # a module of timm, with methods of its own

    def __init__(self, trunk: nn.Module, places: bool) -> None:
        super().__init__()
        self.trunk = trunk
        self.places = places

    def forward(
        self, pixels: torch.Tensor, extra_token: torch.Tensor | None = None, patches: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """extra_token (N, token_width): joins the sequence behind its positions; dropped before the pooling.

        patches: whether they are asked for.
        """
        with with_token(self.trunk, extra_token):
            features = self.trunk.forward_features(pixels)
        return self.pooled(features), self._patches(features) if self.places and patches else None

    def pooled(self, features: torch.Tensor) -> torch.Tensor:
        return self.trunk.forward_head(features, pre_logits=True)

    def _patches(self, features: torch.Tensor) -> torch.Tensor | None:
        """The features of a network's last layer -> (N, P, v); None where they are no square of places.

        None as well where the pooling itself reads where the places are (AttentionPool2d, RotAttentionPool2d).
        """
        trunk = self.trunk
        if any(type(module).__name__.endswith("AttentionPool2d") for module in trunk.modules()):
            return None
        if features.ndim == 4:
            last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
            places = features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
            alone = places.flatten(0, 1)[:, None, None] if last else places.flatten(0, 1)[:, :, None, None]
            return self.pooled(alone).unflatten(0, places.shape[:2])
        before = getattr(trunk, "num_prefix_tokens", None)
        if before is None:
            if getattr(trunk, "cls_token", None) is not None:
                return None
            before = 0
        places = features[:, before:]
        if math.isqrt(places.shape[1]) ** 2 != places.shape[1]:
            return None
        alone = places.flatten(0, 1)[:, None]
        if before and getattr(trunk, "global_pool", "token") != "token":  # which pools what follows the first tokens
            first = features[:, :before].repeat_interleave(places.shape[1], dim=0)
            alone = torch.cat([first, alone], dim=1)
        return self.pooled(alone).unflatten(0, places.shape[:2])

    @property
    def token_width(self) -> int | None:
        """The width of a plain vision transformer's tokens; None for any other network."""
        from timm.models.vision_transformer import VisionTransformer

        return self.trunk.embed_dim if type(self.trunk) is VisionTransformer else None

    def first_convolution(self) -> nn.Conv2d | None:
        """The convolution over the pixels. One that standardises its weights would blow up those that start at zero."""
        from timm.layers import Conv2dSame

        first = next((module for module in self.trunk.modules() if isinstance(module, nn.Conv2d)), None)
        if first is None or type(first) not in (nn.Conv2d, Conv2dSame):
            return None
        return first if first.in_channels == 3 and first.groups == 1 else None

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


@contextlib.contextmanager
def with_token(trunk: Any, token: torch.Tensor | None) -> Iterator[None]:
    """Within it, a plain vision transformer reads one token more, behind those with positions: (N, its width)."""
    if token is None:
        yield
        return

    def join(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (torch.cat([inputs[0], token[:, None].to(inputs[0].dtype)], dim=1),)

    def drop(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (inputs[0][:, :-1],)

    handles = [trunk.norm_pre.register_forward_pre_hook(join), trunk.norm.register_forward_pre_hook(drop)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- weights -----------------------------------------------------------------------------------------------------


def load_image(trunk: nn.Module, image: Image) -> str:
    """Load an image tower's weights, strictly but for the classifier's; returns where they come from."""
    if image.file is None:
        state, source = published_state(image.name)
    else:
        state, source = read_state(image.file), str(image.file)
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


def read_state(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """A file of safetensors, or of a state dict that torch.save wrote: names to tensors, fp32."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the weights of an image tower")
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            try:
                state = load_file(path)
            except Exception as error:  # safetensors' own kind
                raise InputError(f"cannot be read: {first_line(error)}") from error
        else:
            if what := what_it_is(path):
                raise InputError(what)
            state, _ = unwrapped(load_tensors(path))
            check_tensors(state, os.path.getsize(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as those do: with the length of a JSON header."""
    with open(path, "rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < os.path.getsize(path)
