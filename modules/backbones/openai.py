"""CLIP's two towers (Radford et al. 2021) and the only code that knows CLIP's weights.

Attribute names are those of the published checkpoint, so that its state dict loads strictly.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from modules.backbones.fit import check_fit, load_strictly
from modules.backbones.protocol import MAX_LAYERS, START_LOGIT_SCALE, Backbone, ImageInput
from modules.backbones.published import PUBLISHED, path_of
from modules.backbones.weights_file import WeightsFile, read_weights
from modules.tokenizer import Tokenizer
from modules.transformer import Transformer, heads_for, take_last_word
from util import InputError, sha256_of

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images, RGB in 0..1
STD = (0.26862954, 0.26130258, 0.27577711)
VOCABULARY = 49408  # of CLIP's tokenizer, the one that there is (modules/tokenizer.py)


@dataclasses.dataclass(frozen=True)
class ClipSizes:
    """What makes a CLIP: pixels, layers, widths, and what no tensor tells: activation and heads.

    The defaults of the latter are OpenAI's; None: one head per 64 channels.
    """

    embed_dim: int
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    context_length: int = 77
    vocab_size: int = VOCABULARY
    activation: str = "quick_gelu"
    vision_heads: int | None = None
    text_heads: int | None = None

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def heads(self) -> tuple[int, int]:
        """Attention heads of the image and of the text tower."""
        return self.vision_heads or heads_for(self.vision_width), self.text_heads or heads_for(self.text_width)

    @classmethod
    def of_state_dict(cls, state: Mapping[str, torch.Tensor]) -> ClipSizes:
        """Read the sizes off a CLIP ViT state dict; activation and heads are left at OpenAI's."""
        if "visual.proj" not in state:
            raise InputError(
                "these are not the weights of a CLIP with a vision transformer: no key 'visual.proj' "
                f"among {len(state)} keys such as {sorted(state)[:3]}"
            )
        problems = [f"missing {name}" for name in SIZED if name not in state]
        problems += [
            f"{name}: {tuple(state[name].shape)} in the file, expected {axes} axes"
            for name, axes in SIZED.items()
            if name in state and state[name].ndim != axes
        ]
        problems += [
            f"{name}: {tuple(tensor.shape)} in the file, which is empty"
            for name, tensor in state.items()
            if not tensor.numel()
        ]
        if problems:
            raise InputError("these are not the weights of a CLIP:\n  " + "\n  ".join(problems[:20]))

        def layers(prefix: str) -> int:
            return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})

        vision_width, _, patch_size, _ = state["visual.conv1.weight"].shape
        grid = math.isqrt(state["visual.positional_embedding"].shape[0] - 1)
        deepest = max(layers("visual.transformer.resblocks."), layers("transformer.resblocks."))
        if deepest > MAX_LAYERS or not grid:
            raise InputError(f"these are not the weights of a CLIP: {deepest} layers, {grid} x {grid} patches")
        return cls(
            embed_dim=state["text_projection"].shape[1],
            image_size=grid * patch_size,
            patch_size=patch_size,
            vision_width=vision_width,
            vision_layers=layers("visual.transformer.resblocks."),
            text_width=state["ln_final.weight"].shape[0],
            text_layers=layers("transformer.resblocks."),
            context_length=state["positional_embedding"].shape[0],
            vocab_size=state["token_embedding.weight"].shape[0],
        )


# Trained from scratch in the demo and in tests: 64 pixels, 8 x 8 patches of 8 pixels, 8 million parameters, of which
# the word table is 6.3 million.
TINY = ClipSizes(
    embed_dim=128,
    image_size=64,
    patch_size=8,
    vision_width=128,
    vision_layers=4,
    text_width=128,
    text_layers=3,
)
FROM_SCRATCH = {"ViT-tiny/8": TINY}
clip_tokenizer = functools.cache(Tokenizer)  # one for all: its merge table takes a moment
# The tensors that the sizes are read from, with their numbers of axes.
SIZED = {
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "text_projection": 2,
    "ln_final.weight": 1,
    "positional_embedding": 2,
    "token_embedding.weight": 2,
}


class VisionTransformer(nn.Module):
    """Images (N, 3, H, W), normalised -> (N, 1 + P, embed_dim): the CLS output, then the P patches."""

    def __init__(self, sizes: ClipSizes, linear_patch: str = "2d") -> None:
        super().__init__()
        width, patch = sizes.vision_width, sizes.patch_size
        scale = width**-0.5
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(sizes.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, sizes.vision_layers, sizes.heads[0], activation=sizes.activation)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, sizes.embed_dim))
        self.neighbours = NeighbourFrames(width, patch) if linear_patch == "3d" else None

    def forward(
        self,
        pixels: torch.Tensor,
        patch_bias: torch.Tensor | None = None,
        extra_token: torch.Tensor | None = None,
        meme_of_frame: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encode N frames.

        patch_bias (N, width, grid, grid): added to the patch embeddings. extra_token (N, width): one more token of
        the sequence; its output is dropped. meme_of_frame (N,): which frames are neighbours (`linear_patch` 3d).
        """
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        if self.neighbours is not None:
            x = x + self.neighbours(pixels, meme_of_frame)
        if patch_bias is not None:
            x = x + patch_bias.flatten(2).transpose(1, 2)
        cls = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([cls, x], dim=1) + self.positional_embedding.to(x.dtype)
        if extra_token is not None:
            x = torch.cat([x, extra_token[:, None].to(x.dtype)], dim=1)
        x = self.transformer(self.ln_pre(x))
        x = x[:, : len(self.positional_embedding)]
        return self.ln_post(x) @ self.proj


class NeighbourFrames(nn.Module):
    """The outer two time steps of a 3 x p x p patch embedding (CLIP4Clip's `linear_patch 3d`).

    The middle step is CLIP's own convolution. These start at zero, so that the network starts as CLIP.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.after = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        nn.init.zeros_(self.before.weight)
        nn.init.zeros_(self.after.weight)

    def forward(self, pixels: torch.Tensor, meme_of_frame: torch.Tensor) -> torch.Tensor:
        same = (meme_of_frame[1:] == meme_of_frame[:-1]).to(pixels.dtype)[:, None, None, None]
        before = F.pad(pixels[:-1] * same, (0, 0, 0, 0, 0, 0, 1, 0))
        after = F.pad(pixels[1:] * same, (0, 0, 0, 0, 0, 0, 0, 1))
        return (self.before(before) + self.after(after)).flatten(2).transpose(1, 2)


class CLIP(Backbone):
    """Both towers. `vision=False` leaves the image tower out (branch QC alone)."""

    visual: VisionTransformer  # absent without `vision`
    new_parts = ("visual.neighbours.",)

    def __init__(self, sizes: ClipSizes, linear_patch: str = "2d", vision: bool = True) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed_dim, self.context_length = sizes.embed_dim, sizes.context_length
        self.image_input = ImageInput(sizes.image_size, MEAN, STD)
        self.patches = sizes.grid**2
        self.tokenizer = clip_tokenizer()
        width = sizes.text_width
        if vision:
            self.visual = VisionTransformer(sizes, linear_patch)
        self.transformer = Transformer(width, sizes.text_layers, sizes.heads[1], True, sizes.activation)
        self.token_embedding = nn.Embedding(sizes.vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(sizes.context_length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, sizes.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(START_LOGIT_SCALE))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask (N, L) -> words (N, L, embed_dim), the end token's feature (N, embed_dim).

        Attention is causal: what stands after a text's end token changes nothing before it.
        """
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        words = self.ln_final(self.transformer(x)) @ self.text_projection
        return words, take_last_word(words, mask)

    def image_features(
        self,
        pixels: torch.Tensor,
        patch_bias: torch.Tensor | None = None,
        extra_token: torch.Tensor | None = None,
        meme_of_frame: torch.Tensor | None = None,
        patches: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised pixels (N, 3, H, W) -> CLS output (N, embed_dim), patches (N, P, embed_dim)."""
        out = self.visual(pixels, patch_bias, extra_token, meme_of_frame)
        return out[:, 0], out[:, 1:]

    @property
    def token_width(self) -> int:
        return self.sizes.vision_width

    def layers(self) -> tuple[list[torch.Tensor], list[list[nn.Module]]]:
        embeddings = [self.token_embedding.weight, self.positional_embedding]
        towers = [list(self.transformer.resblocks)]
        if hasattr(self, "visual"):
            visual = self.visual
            embeddings += [visual.class_embedding, visual.positional_embedding]
            embeddings += [*visual.conv1.parameters(), *visual.ln_pre.parameters()]
            towers.append(list(visual.transformer.resblocks))
        return embeddings, towers

    def freeze_unreached(self, patches: bool) -> None:
        """Nothing: every parameter takes part in every feature."""

    def recipe(self) -> dict[str, Any]:
        return {"source": "openai", "sizes": dataclasses.asdict(self.sizes)}

    def text_start(self, layers: int) -> tuple[dict[str, torch.Tensor], torch.Tensor] | None:
        """The first text layers and positions; None where the widths differ or they compute something else.

        That is with fewer layers, another activation or another number of heads than IEF's new transformers have.
        """
        sizes = self.sizes
        if sizes.text_width != sizes.embed_dim or sizes.text_layers < layers:
            return None
        if sizes.activation != "quick_gelu" or sizes.heads[1] != heads_for(sizes.text_width):
            return None
        state = self.transformer.state_dict()
        state = {name: tensor for name, tensor in state.items() if int(name.split(".")[1]) < layers}
        return state, self.positional_embedding.detach()


def published_note(path: str | os.PathLike[str]) -> str:
    """Whether a weights file is one that OpenAI published, by its checksum: a sentence for the log."""
    found = sha256_of(path)
    names = [name for name, published in PUBLISHED.items() if published.sha256 == found]
    note = f"the published file of {names[0]}" if names else "not one of the published files, by its SHA-256"
    return f"{path} ({note})"


def empty_clip(sizes: ClipSizes, vision: bool = True) -> CLIP:
    """A CLIP that has the shapes only: it takes no memory, whatever sizes a file claims."""
    with torch.device("meta"):
        return CLIP(sizes, vision=vision)


def build_clip(
    name: str,
    linear_patch: str = "2d",
    vision: bool = True,
    weights_folder: str | os.PathLike[str] | None = None,
    activation: str | None = None,
    heads: Sequence[int] | None = None,
    notes: list[str] | None = None,
) -> tuple[CLIP, Path | None]:
    """CLIP by `--pretrained_clip_name`: (model, path of its weights or None where it starts from scratch).

    `name`: a published model, `ViT-tiny/8`, or the path of a weights file. `activation`, `heads` (of the image and of
    the text tower): what the tensors of a file do not tell, None where it is not given. `notes`: gets lines to tell
    the user. `weights_folder`: of the published files, None: modules/.
    InputError where the weights are not known to fit.
    """
    if name in FROM_SCRATCH:
        if activation or heads:
            raise InputError(f"--clip_activation and --clip_heads are of a weights file; {name} starts from scratch")
        return CLIP(FROM_SCRATCH[name], linear_patch, vision), None
    path = path_of(name, weights_folder)
    sizes, state, more = read_clip(path, activation, heads)
    if notes is not None:
        notes += more
    clip = CLIP(sizes, linear_patch, vision)
    if not vision:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("visual.")}
    elif linear_patch == "3d":
        state |= {f"visual.{key}": tensor for key, tensor in clip.visual.state_dict().items() if "neighbours" in key}
    load_strictly(clip, state, path)
    clip.clamp_logit_scale()
    return clip, path


def read_clip(
    path: Path, activation: str | None = None, heads: Sequence[int] | None = None
) -> tuple[ClipSizes, dict[str, torch.Tensor], list[str]]:
    """Read and check a CLIP's weights before anything is made of them: (sizes, fp32 state dict, lines to tell)."""
    weights = read_weights(path)
    try:
        sizes = known_sizes(weights, activation, heads)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    check_fit(empty_clip(sizes), weights.state, path)
    return sizes, weights.state, [f"{path}: {note}" for note in weights.notes]


def known_sizes(weights: WeightsFile, activation: str | None, heads: Sequence[int] | None) -> ClipSizes:
    """The sizes of a weights file together with what its tensors do not tell, or InputError where that is not known.

    OpenAI's own archives are known to have QuickGELU and a head per 64 channels. Of any other file both flags say it:
    LAION's and DataComp's state dicts have the same names and shapes, and other activations, or heads, or both.
    """
    sizes = ClipSizes.of_state_dict(weights.state)
    if sizes.vocab_size != VOCABULARY:
        raise InputError(
            f"a CLIP with a vocabulary of {sizes.vocab_size:,} words; the tokenizer here is that of OpenAI's CLIP, "
            f"with {VOCABULARY:,}: its ids would be other words to this model"
        )
    if weights.entries is not None:
        found = {
            "input_resolution": sizes.image_size,
            "context_length": sizes.context_length,
            "vocab_size": sizes.vocab_size,
        }
        if found != weights.entries:
            raise InputError(f"its entries say {weights.entries}, its tensors {found}")
        check_given(sizes, activation, heads, "an archive in OpenAI's layout")
        return sizes
    if activation is None or heads is None:
        raise InputError(
            "the tensors of a state dict do not tell which activation and how many attention heads its network was "
            "trained with, and with others its features are wrong (OpenAI's CLIPs have QuickGELU, LAION's and "
            "DataComp's mostly GELU). Where you know them, give --clip_activation quick_gelu or gelu, and --clip_heads "
            f"IMAGE TEXT (one head per 64 channels would be --clip_heads {sizes.heads[0]} {sizes.heads[1]}); or "
            "take OpenAI's own file, which needs neither"
        )
    for flag_heads, width, tower in zip(heads, (sizes.vision_width, sizes.text_width), ("image", "text"), strict=True):
        if width % flag_heads:
            raise InputError(f"--clip_heads: {flag_heads} heads do not divide the {tower} tower's width of {width}")
    return dataclasses.replace(sizes, activation=activation, vision_heads=heads[0], text_heads=heads[1])


def check_given(sizes: ClipSizes, activation: str | None, heads: Sequence[int] | None, what: str) -> None:
    """InputError where the flags say something else than what is known of a CLIP."""
    if activation not in (None, sizes.activation):
        raise InputError(f"--clip_activation {activation}, but {what} has {sizes.activation}")
    if heads is not None and tuple(heads) != sizes.heads:
        raise InputError(f"--clip_heads {' '.join(map(str, heads))}, but {what} has {' '.join(map(str, sizes.heads))}")
