"""`pair:IMAGE+TEXT`: an image tower of timm and a text encoder of transformers, joined by two trained projections.

After locked-image tuning (Zhai et al. 2022): the towers stay as they are unless `--tune_towers` is given.
IMAGE: a network of timm, with the weights that timm has for it, or NAME@FILE. TEXT: a name on the hub or a folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from modules.backbones.hf_tokenizer import HuggingFaceTokenizer
from modules.backbones.names import SMALL
from modules.backbones.protocol import START_LOGIT_SCALE, Backbone, ImageInput, Needs
from modules.backbones.small import small_towers
from modules.backbones.text_encoder import (
    POOLINGS,
    Pooling,
    TextTower,
    context_length,
    load_encoder,
    make_encoder,
    read_configuration,
    read_pooling,
)
from modules.backbones.timm_tower import (
    Image,
    TimmTower,
    image_input,
    load_image,
    make_trunk,
    shapes_of,
)
from util import InputError

MAX_WIDTH, MAX_LENGTH = 65536, 1 << 20  # channels, tokens: of a recipe that is read from a file


class Design(NamedTuple):
    """All that makes a pair, but for its weights."""

    image: str  # timm's name
    image_input: ImageInput
    text: dict[str, Any]  # the encoder's configuration
    pooling: Pooling
    context_length: int
    embed_dim: int


class Pair(Backbone):
    """Two towers that were never trained together, and what is trained to join them: a linear projection each."""

    visual: TimmTower  # absent without `vision`
    tokenizer: HuggingFaceTokenizer
    frozen_by_default = True
    new_parts = ("image_projection.", "text_projection.", "logit_scale")

    def __init__(
        self, design: Design, tokenizer: HuggingFaceTokenizer, encoder: nn.Module, trunk: nn.Module | None
    ) -> None:
        super().__init__()
        self.design = design
        self.tokenizer = tokenizer
        self.embed_dim, self.context_length = design.embed_dim, design.context_length
        self.image_input = design.image_input
        self.text = TextTower(encoder, design.pooling, tokenizer.pad_id)
        self.patches = 0
        if trunk is not None:
            width, self.patches = shapes_of(design.image, design.image_input.size)
            self.visual = TimmTower(trunk, self.patches > 0)
            self.image_projection = projection(width, design.embed_dim)
        self.text_projection = projection(self.text.width, design.embed_dim, design.pooling.unit)
        self.logit_scale = nn.Parameter(torch.tensor(START_LOGIT_SCALE))
        self.eval()

    def project_text(self, features: torch.Tensor) -> torch.Tensor:
        return self.text_projection(features)

    def project_image(self, features: torch.Tensor) -> torch.Tensor:
        return self.image_projection(features)

    def recipe(self) -> dict[str, Any]:
        design = self.design
        return {
            "source": "pair",
            "image": design.image,
            "image_input": design.image_input._asdict(),
            "text": json.dumps(design.text),
            "pooling": design.pooling._asdict(),
            "tokenizer": self.tokenizer.files(),
            "context_length": design.context_length,
            "embed_dim": design.embed_dim,
        }


def projection(width: int, embed_dim: int, unit: bool = False) -> nn.Linear:
    """A linear layer that starts as a rotation, so that what a tower knows of its inputs' likeness survives the start.

    Cosines are kept exactly where embed_dim is not below the width, and roughly elsewhere (Saxe et al. 2014). `unit`:
    features of length 1 come out sqrt(embed_dim) long, a size of about 1 per channel, which the layers behind expect.
    """
    layer = nn.Linear(width, embed_dim, bias=False)
    nn.init.orthogonal_(layer.weight, gain=embed_dim**0.5 if unit else 1.0)
    return layer


# --- by name -----------------------------------------------------------------------------------------------------


def load(name: str, needs: Needs, notes: list[str]) -> tuple[Pair, str]:
    """The pair called `name` (`IMAGE+TEXT` or `small`) with the weights of both towers: (Pair, where they come from).

    `notes` gets lines to tell the user. InputError where the towers cannot do what is needed, before any weights are
    read; where a package, a file or the network is missing; where weights do not fit.
    """
    image, text = small_towers() if name == SMALL else parse(name, notes)
    what = f"the text encoder {text}"
    values = read_configuration(text)
    pooling, trained_length = read_pooling(text, notes)
    tokenizer = HuggingFaceTokenizer.load(text)
    with torch.device("meta"):
        encoder = make_encoder(values, what)
        check_vocabulary(encoder, tokenizer, what)
        length = context_length(encoder, tokenizer, trained_length)
        design = Design(image.name, image.input, values, pooling, length, needs.embed_dim)
        empty = Pair(design, tokenizer, encoder, make_trunk(image.name) if needs.vision else None)
        empty.check(needs, SMALL if name == SMALL else f"pair:{name}")
    trunk, source = None, text
    if needs.vision:
        trunk = make_trunk(image.name)
        source = f"{load_image(trunk, image, notes)} and {text}"
    return Pair(design, tokenizer, load_encoder(text, values), trunk), f"{source}; the projections start afresh"


def parse(name: str, notes: list[str]) -> tuple[Image, str]:
    """`IMAGE+TEXT` -> (the image tower, the text encoder's name or folder).

    The two are parted at the first +; where a file is named whose own path has one, at the first + that leaves a file.
    """
    places = [place for place, letter in enumerate(name) if letter == "+"]
    if not places:
        raise InputError(
            f"pair:{name} names no two towers: pair:IMAGE+TEXT is expected, IMAGE a network of timm (NAME, or "
            "NAME@FILE for weights in a file), TEXT a text encoder on the hub or a folder"
        )
    place = next((place for place in places if Path(name[:place].partition("@")[2]).is_file()), places[0])
    network, at, file = name[:place].partition("@")
    text = name[place + 1 :]
    if not network or not text or (at and not file):
        raise InputError(f"pair:{name}: a name is missing; pair:IMAGE+TEXT or pair:IMAGE@FILE+TEXT is expected")
    if at and not Path(file).is_file():
        raise InputError(f"{file}: no such file, expected the weights of the image tower {network}")
    return Image(network, Path(file) if at else None, image_input(network, notes)), text


def check_vocabulary(encoder: Any, tokenizer: HuggingFaceTokenizer, what: str) -> None:
    """InputError where the tokenizer has ids that the encoder has no row for."""
    rows = encoder.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise InputError(
            f"{what} has {rows:,} rows for words, and its tokenizer ids up to {tokenizer.vocab_size - 1:,}"
        )


# --- of a checkpoint ---------------------------------------------------------------------------------------------


def restore(recipe: Mapping[str, Any], vision: bool) -> Pair:
    """The pair that `Pair.recipe` described, its weights still to come. InputError where that is damaged."""
    what = "the checkpoint's text encoder"
    try:
        values = json.loads(recipe["text"])
        design = Design(
            _checked(recipe["image"], str),
            ImageInput.of(recipe["image_input"]),
            _checked(values, dict),
            Pooling(**recipe["pooling"]),
            _within(recipe["context_length"], MAX_LENGTH),
            _within(recipe["embed_dim"], MAX_WIDTH),
        )
        if design.pooling.mode not in POOLINGS or type(design.pooling.unit) is not bool:
            raise ValueError(f"a pooling {design.pooling}")
        files = recipe["tokenizer"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the checkpoint's pair of towers is damaged: {str(error)[:200] or 'no value'}") from error
    tokenizer = HuggingFaceTokenizer.of_files(files)
    encoder = make_encoder(values, what)
    check_vocabulary(encoder, tokenizer, what)
    return Pair(design, tokenizer, encoder, make_trunk(design.image) if vision else None)


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _within(value: Any, bound: int) -> int:
    if type(value) is not int or not 0 < value <= bound:
        raise ValueError(f"{str(value)[:50]!r} where a number from 1 to {bound:,} belongs")
    return value
