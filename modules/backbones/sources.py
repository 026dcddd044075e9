"""`--pretrained_clip_name` -> towers. A source is imported when a name asks for it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch

from modules.backbones.names import SOURCES, source_of
from modules.backbones.protocol import Backbone, Needs
from util import InputError, first_line


def load_backbone(
    name: str,
    needs: Needs,
    notes: list[str],
    linear_patch: str = "2d",
    activation: str | None = None,
    heads: Sequence[int] | None = None,
) -> tuple[Backbone, str]:
    """The towers called `name`, with their weights: (Backbone, where the weights come from, for the log).

    `notes` gets lines to tell the user. `linear_patch`, `activation`, `heads`: of OpenAI's layout. InputError where the
    towers cannot do what the setting needs (before any weights are read), where a package is missing, or where the
    weights are not known to fit.
    """
    source = source_of(name)
    if source in SOURCES:
        return _file_of(source).load(name.removeprefix(f"{source}:"), needs, notes)
    from modules.backbones.openai import build_clip, published_note

    clip, path = build_clip(name, linear_patch, needs.vision, activation=activation, heads=heads, notes=notes)
    return clip, "from scratch" if path is None else published_note(path)


def restore_backbone(
    recipe: Mapping[str, Any],
    vision: bool = True,
    linear_patch: str = "2d",
    activation: str | None = None,
    heads: Sequence[int] | None = None,
) -> Backbone:
    """The towers of a checkpoint, by what `Backbone.recipe` gave; their weights are still to come.

    Neither network nor the files that they came from are needed. `linear_patch`, `activation`, `heads`: of OpenAI's
    layout; the latter two are only held against the recipe. InputError where they differ, or the recipe is a damaged
    one (an OpenAI's sizes were checked as the checkpoint was read), whose towers cannot be made or do not run.
    """
    source = recipe.get("source")
    if source == "openai":
        from modules.backbones.openai import CLIP, ClipSizes, check_given

        sizes = ClipSizes(**recipe["sizes"])
        check_given(sizes, activation, heads, "the checkpoint's CLIP")
        return CLIP(sizes, linear_patch, vision)
    if source not in SOURCES:
        raise InputError(
            f"the checkpoint's towers are of a source {str(source)[:50]!r}, which this program does not have"
        )
    backbone: Backbone = _file_of(source).restore(recipe, vision)
    _try_out(backbone)
    return backbone


def _file_of(source: str) -> ModuleType:
    return importlib.import_module(f"modules.backbones.{source}")


@torch.no_grad()
def _try_out(backbone: Backbone) -> None:
    """InputError where the features of one word, or on `meta`, where that takes no time, of one image cannot be had.

    Text towers look at the values of what they read, which `meta` has none of.
    """
    try:
        if not backbone.logit_scale.is_meta:
            backbone.encode_text(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool))
        elif hasattr(backbone, "visual"):
            size = backbone.image_input.size
            backbone.encode_image(torch.zeros(1, 3, size, size, device="meta"))
    except Exception as error:  # a library raises whatever a stranger's settings lead it to
        raise InputError(f"the checkpoint's towers do not run: {first_line(error)}") from error


def empty_backbone(recipe: Mapping[str, Any], vision: bool = True, linear_patch: str = "2d") -> Backbone:
    """`restore_backbone` with the shapes only: it takes no memory, whatever sizes a file claims."""
    with torch.device("meta"):
        return restore_backbone(recipe, vision, linear_patch)
