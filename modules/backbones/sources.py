"""`--pretrained_clip_name` -> towers. A source is imported when a name asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from modules.backbones.names import source_of
from modules.backbones.protocol import Backbone, Needs
from util import InputError


def load_backbone(
    name: str,
    needs: Needs,
    notes: list[str],
    linear_patch: str = "2d",
    activation: str | None = None,
    heads: Sequence[int] | None = None,
    embed_dim: int = 512,
) -> tuple[Backbone, str]:
    """The towers called `name`, with their weights: (Backbone, where the weights come from, for the log).

    `notes` gets lines to tell the user. `linear_patch`, `activation`, `heads`: of OpenAI's layout; `embed_dim`: of a
    pair. InputError where the towers cannot do what the setting needs (before any weights are read), where a package
    is missing, or where the weights are not known to fit.
    """
    source = source_of(name)
    if source == "hf":
        from modules.backbones import hf

        return hf.load(name.removeprefix("hf:"), needs, notes)
    if source == "open_clip":
        from modules.backbones import open_clip

        return open_clip.load(name.removeprefix("open_clip:"), needs, notes)
    if source == "pair":
        from modules.backbones import pair

        return pair.load(name.removeprefix("pair:"), needs, notes, embed_dim)
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
    one (an OpenAI's sizes were checked as the checkpoint was read).
    """
    source = recipe.get("source")
    if source == "openai":
        from modules.backbones.openai import CLIP, ClipSizes, check_given

        sizes = ClipSizes(**recipe["sizes"])
        check_given(sizes, activation, heads, "the checkpoint's CLIP")
        return CLIP(sizes, linear_patch, vision)
    if source == "hf":
        from modules.backbones import hf

        return hf.restore(recipe, vision)
    if source == "open_clip":
        from modules.backbones import open_clip

        return open_clip.restore(recipe, vision)
    if source == "pair":
        from modules.backbones import pair

        return pair.restore(recipe, vision)
    raise InputError(f"the checkpoint's towers are of a source {str(source)[:50]!r}, which this program does not have")


def empty_backbone(recipe: Mapping[str, Any], vision: bool = True, linear_patch: str = "2d") -> Backbone:
    """`restore_backbone` with the shapes only: it takes no memory, whatever sizes a file claims."""
    with torch.device("meta"):
        return restore_backbone(recipe, vision, linear_patch)
