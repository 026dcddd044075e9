"""What IEF asks of a pair of towers.

The files of names.py and openai.py, beside this one, are sources of them; nothing else knows which is in use.

N items, L words, P patches, d the common width of images and texts.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from util import InputError, first_line

MAX_LOGIT_SCALE = math.log(100)
START_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LAYERS, MAX_PIXELS = 128, 4096  # of a tower that is read from a file; those that are known have up to 48 layers
INTERPOLATIONS = ("bicubic", "bilinear")
PLAIN_CONVOLUTIONS = ("Conv2d", "Conv2dSame")  # the latter is timm's, which pads as TensorFlow does
CHANNELS = ("channel", "coarse_channel")  # of --emotion_fusion: those that join the first convolution


class TextTokenizer(Protocol):
    """Texts to token ids, as the text tower was trained to read them."""

    def tokenize(self, text: str, max_tokens: int) -> tuple[list[int], int]:
        """(ids, cut): the ids with what starts and ends a text, at most `max_tokens`; how many were lost to that.

        A longer text keeps its end.
        """
        ...

    def pieces(self, ids: Iterable[int]) -> list[tuple[str, int]]:
        """Token ids -> [(text, number of tokens)], a text per token or per group of tokens that share a character."""
        ...

    def unreadable(self, ids: Sequence[int]) -> int:
        """How many of the ids are no word or part of one to the tower: unknown, or bytes of a character."""
        ...


class ImageInput(NamedTuple):
    """How an image tower was trained to see: RGB in 0..1, resized to a square, less the mean, by the deviation."""

    size: int  # pixels a side
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"  # one of INTERPOLATIONS

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ImageInput:
        """Of plain values, which may be a stranger's. InputError where they can be those of no image tower."""
        try:
            found = cls(**values)
            mean, std = ((float(red), float(green), float(blue)) for red, green, blue in (found.mean, found.std))
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"the size, mean and deviation of images cannot be read: {first_line(error)}") from error
        if type(found.size) is not int or not 0 < found.size <= MAX_PIXELS:
            raise InputError(f"images of {str(found.size)[:50]} pixels a side")
        if found.interpolation not in INTERPOLATIONS:
            raise InputError(f"images resized by {str(found.interpolation)[:50]!r}")
        if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            raise InputError(f"a mean and a deviation of pixels that cannot be: {mean}, {std}")
        return cls(found.size, mean, std, found.interpolation)

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The colour that is 0 to the tower, or nearly: 0..255."""
        red, green, blue = (round(255 * channel) for channel in self.mean)
        return red, green, blue


class Needs(NamedTuple):
    """What a setting asks of towers beyond their pooled features."""

    vision: bool = True  # an image tower at all
    emotion: str = "none"  # a value of --emotion_fusion
    patches: bool = False
    embed_dim: int = 512  # of a pair, whose towers have no common width of their own


class Backbone(nn.Module):
    """A text tower and, as `visual`, an image tower, which give features of one width.

    A source sets the attributes and writes `recipe`. What the other methods ask of a tower, they ask of two modules:
    `text` (ids, mask) and `visual` (pixels, extra_token, patches) give the features, each has `layers` (its embeddings'
    parameters, its blocks in order), `visual` also `token_width`. A source whose towers are other modules writes
    `text_features`, `image_features`, `token_width` and `layers` itself.

    The towers run without their own dropout, drop path and batch statistics, in training too: `train` has no effect on
    them.
    """

    text: Any
    visual: Any  # absent where a setting needs no images
    logit_scale: nn.Parameter
    tokenizer: TextTokenizer
    embed_dim: int  # d
    context_length: int  # the most tokens of a text, start and end included
    image_input: ImageInput
    patches: int  # P
    reads_padding: bool = False  # whether the text tower brings each text to its context, and reads what fills it up
    frozen_by_default: bool = False  # whether only `--tune_towers` trains the towers
    new_parts: tuple[str, ...] = ()  # prefixes of the parameters that no published weights belong to

    def train(self, mode: bool = True) -> Backbone:
        return super().train(False)

    # --- what the towers compute

    def text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask (N, L) -> words (N, L, w), sentence (N, w), as the text tower gives them.

        `sentence` is what the tower's authors pool. What `words` holds where the mask is False means nothing.
        """
        return self.text(ids, mask)

    def image_features(
        self,
        pixels: torch.Tensor,
        patch_bias: torch.Tensor | None = None,
        extra_token: torch.Tensor | None = None,
        meme_of_frame: torch.Tensor | None = None,
        patches: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Normalised pixels (N, 3, H, W) -> pooled (N, v), patches (N, P, v) or None, as the image tower gives them.

        patch_bias (N, C, h, w): added to what the first convolution gives. extra_token (N, token_width): one more
        token of the sequence, whose own output is dropped. meme_of_frame (N,): the number of each frame's meme, which
        `--linear_patch 3d` reads. patches: whether they are asked for.
        """
        with added(self.first_convolution(), patch_bias):
            return self.visual(pixels, extra_token, patches)

    def project_text(self, features: torch.Tensor) -> torch.Tensor:
        """Features of the text tower (..., w) -> (..., d); the towers of most sources end in the common space."""
        return features

    def project_image(self, features: torch.Tensor) -> torch.Tensor:
        """Features of the image tower (..., v) -> (..., d)."""
        return features

    def encode_text(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask (N, L) -> words (N, L, d), sentence (N, d)."""
        words, sentence = self.text_features(ids, mask)
        return self.project_text(words), self.project_text(sentence)

    def encode_image(
        self,
        pixels: torch.Tensor,
        patch_bias: torch.Tensor | None = None,
        extra_token: torch.Tensor | None = None,
        meme_of_frame: torch.Tensor | None = None,
        patches: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Normalised pixels (N, 3, H, W) -> pooled (N, d), patches (N, P, d) or None; see `image_features`."""
        pooled, of_patches = self.image_features(pixels, patch_bias, extra_token, meme_of_frame, patches)
        return self.project_image(pooled), None if of_patches is None else self.project_image(of_patches)

    def normalise(self, pixels: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """uint8 pixels (..., 3, H, W) on any device -> what the image tower reads, in `dtype`."""
        if pixels.dtype != torch.uint8:
            raise TypeError(f"normalise takes uint8 pixels, not {pixels.dtype}")
        exact = torch.promote_types(dtype, torch.float32)
        of_images = (self.image_input.mean, self.image_input.std)
        mean, std = (torch.tensor(value, dtype=exact, device=pixels.device)[:, None, None] for value in of_images)
        return pixels.to(exact).div_(255).sub_(mean).div_(std).to(dtype)

    # --- how emotions enter

    def first_convolution(self) -> nn.Conv2d | None:
        """The convolution over the pixels, which an emotion channel joins (see `check`); None where there is none."""
        convolutions = (module for module in self.visual.modules() if isinstance(module, nn.Conv2d))
        first = next(convolutions, None)
        return first if first is not None and (first.in_channels, first.groups) == (3, 1) else None

    @property
    def token_width(self) -> int | None:
        """The width of the image tower's tokens, which an emotion may join as one more; None where it takes no more."""
        return self.visual.token_width

    def emotion_way(self, asked: str) -> str:
        """How emotions get into the image with these towers, of what --emotion_fusion asks for."""
        if asked != "token_or_channel":
            return asked
        return "channel" if self.token_width is None else "token"

    def check(self, needs: Needs, name: str) -> None:
        """InputError where the towers called `name` cannot do what a setting needs; they may lie on `meta`."""
        if not needs.vision:
            return
        emotion = self.emotion_way(needs.emotion)
        if emotion == "token" and self.token_width is None:
            raise InputError(
                f"--emotion_fusion token: the image tower of {name} takes no further token (it is no plain sequence); "
                "take channel or none"
            )
        if emotion in CHANNELS and (why := self._why_no_channel()):
            raise InputError(
                f"--emotion_fusion {needs.emotion}: the image tower of {name} {why}; "
                f"take {'token or none' if self.token_width else 'none'}"
            )
        if emotion == "coarse_channel" and not self.patches:
            raise InputError(
                f"--emotion_fusion coarse_channel: the image tower of {name} has no patches, one for "
                "each of the channel's values; take channel or none"
            )
        if needs.patches and not self.patches:
            raise InputError(f"--visual_tokens patch: the image tower of {name} gives no features of patches; take cls")

    def _why_no_channel(self) -> str | None:
        first = self.first_convolution()
        if first is None:
            return "has no convolution over the pixels"
        if (kind := type(first).__name__) not in PLAIN_CONVOLUTIONS:  # timm's others are all of one sort
            return f"standardises the weights of its first convolution over all channels ({kind}): none can join"
        return None

    # --- what is trained

    def layers(self) -> tuple[Sequence[torch.Tensor], Sequence[Sequence[nn.Module]]]:
        """(the embeddings' parameters, the blocks of each tower in order), for `--freeze_layer_num`."""
        towers = [self.text, self.visual] if hasattr(self, "visual") else [self.text]
        embeddings, blocks = zip(*(tower.layers() for tower in towers), strict=True)
        return list(itertools.chain(*embeddings)), blocks

    def freeze_layers(self, number: int) -> None:
        """Freeze the embeddings and the first `number` blocks of both towers; -1 freezes nothing."""
        if number < 0:
            return
        embeddings, towers = self.layers()
        blocks = [block for tower in towers for block in tower[:number]]
        for parameter in [*embeddings, *(parameter for block in blocks for parameter in block.parameters())]:
            parameter.requires_grad_(False)

    def freeze_unreached(self, patches: bool) -> None:
        """Freeze the parameters that no feature in use depends on, such as a pooling that `patches` does without.

        The features of one word and one black image are asked for their gradients.
        """
        ids, mask = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
        words, sentence = self.encode_text(ids, mask)
        used = words.sum() + sentence.sum()
        if hasattr(self, "visual"):
            pixels = torch.zeros(1, 3, self.image_input.size, self.image_input.size)
            pooled, of_patches = self.encode_image(pixels, patches=patches)
            used = used + (of_patches if patches and of_patches is not None else pooled).sum()
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if used.requires_grad:
            gradients: Sequence[torch.Tensor | None] = torch.autograd.grad(used, trained, allow_unused=True)
            for parameter, gradient in zip(trained, gradients, strict=True):
                if gradient is None and parameter is not self.logit_scale:
                    parameter.requires_grad_(False)

    def is_new(self, name: str) -> bool:
        """Whether no published weights have the parameter of this name: it trains at the rate of IEF's new parts."""
        return name.startswith(self.new_parts)

    def tower_parameters(self, tower: str) -> Iterator[nn.Parameter]:
        """Yields those of the `image` or the `text` tower; not the new parts, such as what projects its features."""
        for name, parameter in self.named_parameters():
            own = name != "logit_scale" and not self.is_new(name)
            if own and name.startswith("visual.") == (tower == "image"):
                yield parameter

    def freeze_towers(self) -> None:
        """Leave only the new parts and the logit scale to be trained."""
        for parameter in [*self.tower_parameters("image"), *self.tower_parameters("text")]:
            parameter.requires_grad_(False)

    def is_frozen(self, tower: str) -> bool:
        """Whether nothing of the `image` or of the `text` tower is trained."""
        return not any(parameter.requires_grad for parameter in self.tower_parameters(tower))

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the temperature within CLIP's bound: logits are at most 100 times a cosine."""
        self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    # --- what is kept

    def recipe(self) -> dict[str, Any]:
        """What makes these towers again, but for their weights: plain values and tensors, `source` among them."""
        raise NotImplementedError

    def text_start(self, layers: int) -> tuple[dict[str, torch.Tensor], torch.Tensor] | None:
        """The first text layers and positions, for an aggregator (modules/aggregator.py) of so many to start from.

        None where they are none of IEF's own kind of layer.
        """
        return None


@contextlib.contextmanager
def added(module: nn.Module | None, bias: torch.Tensor | None) -> Iterator[None]:
    """Within it, `bias` is added to what `module` gives."""
    if module is None or bias is None:
        yield
        return
    handle = module.register_forward_hook(lambda module, inputs, output: output + bias.to(output.dtype))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def with_token(token: torch.Tensor | None, into: nn.Module | None, within: nn.Module | None) -> Iterator[None]:
    """Within it, the sequence that `into` reads has `token` (N, width) behind it; what `within` gives is without it."""
    if token is None or into is None or within is None:
        yield
        return
    handles = [
        into.register_forward_pre_hook(lambda _, inputs: torch.cat([inputs[0], token[:, None].to(inputs[0].dtype)], 1)),
        within.register_forward_hook(lambda _, inputs, output: output[:, :-1]),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def before(module: nn.Module, blocks: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The parameters of a module that come before those of its blocks."""
    first = next(blocks[0].parameters())
    return list(itertools.takewhile(lambda parameter: parameter is not first, module.parameters()))


def layers_of(transformer: nn.Module) -> tuple[list[nn.Parameter], list[nn.Module]]:
    """(the parameters before the blocks, the blocks) of a model of transformers: its first list of modules."""
    blocks = list(next(module for module in transformer.modules() if isinstance(module, nn.ModuleList)))
    return before(transformer, blocks), blocks
