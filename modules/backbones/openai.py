"""CLIP's two towers (Radford et al. 2021) and the only code that knows CLIP's weights.

Attribute names are those of the published checkpoint, so that its state dict loads strictly.
"""

from __future__ import annotations

import dataclasses
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from modules.transformer import Transformer, heads_for
from util import InputError, first_line, sha256_of

MAX_LOGIT_SCALE = math.log(100)
ARCHIVE_ENTRIES = ("input_resolution", "context_length", "vocab_size")
PUBLISHED_FILES = {"ViT-B/32": "ViT-B-32.pt", "ViT-B/16": "ViT-B-16.pt", "ViT-L/14": "ViT-L-14.pt"}
PUBLISHED_SHA256 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"  # of ViT-B-32.pt
WEIGHTS_FOLDER = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class ClipSizes:
    """The sizes that make a CLIP: pixels, layers and widths."""

    embed_dim: int
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    context_length: int = 77
    vocab_size: int = 49408

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @classmethod
    def of_state_dict(cls, state: Mapping[str, torch.Tensor]) -> ClipSizes:
        """Read the sizes off a CLIP ViT state dict."""
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
        if problems:
            raise InputError("these are not the weights of a CLIP:\n  " + "\n  ".join(problems))

        def layers(prefix: str) -> int:
            return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})

        vision_width, _, patch_size, _ = state["visual.conv1.weight"].shape
        grid = math.isqrt(state["visual.positional_embedding"].shape[0] - 1)
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
        self.transformer = Transformer(width, sizes.vision_layers, heads_for(width))
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

        patch_bias (N, P, width): added to the patch embeddings. extra_token (N, width): one more token of the
        sequence; its output is dropped. meme_of_frame (N,): which frames are neighbours (`linear_patch` 3d).
        """
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        if self.neighbours is not None:
            x = x + self.neighbours(pixels, meme_of_frame)
        if patch_bias is not None:
            x = x + patch_bias
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


class CLIP(nn.Module):
    """Both towers. `vision=False` leaves the image tower out (branch QC alone)."""

    visual: VisionTransformer  # absent without `vision`

    def __init__(self, sizes: ClipSizes, linear_patch: str = "2d", vision: bool = True) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.text_width
        if vision:
            self.visual = VisionTransformer(sizes, linear_patch)
        self.transformer = Transformer(width, sizes.text_layers, heads_for(width), causal=True)
        self.token_embedding = nn.Embedding(sizes.vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(sizes.context_length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, sizes.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (N, L) -> word features (N, L, embed_dim).

        Attention is causal: what stands after a text's end token changes nothing before it.
        """
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        return self.ln_final(self.transformer(x)) @ self.text_projection

    def freeze_layers(self, number: int) -> None:
        """Freeze the embeddings and the first `number` blocks of both towers; -1 freezes nothing."""
        if number < 0:
            return
        frozen = [self.token_embedding.weight, self.positional_embedding]
        frozen += self.transformer.resblocks[:number].parameters()
        if hasattr(self, "visual"):
            visual = self.visual
            frozen += [visual.class_embedding, visual.positional_embedding, *visual.conv1.parameters()]
            frozen += [*visual.ln_pre.parameters(), *visual.transformer.resblocks[:number].parameters()]
        for parameter in frozen:
            parameter.requires_grad_(False)

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the temperature within CLIP's bound: logits are at most 100 times a cosine."""
        self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Tensors of a weights file, fp32: OpenAI's TorchScript archive or a plain state dict.

    Nothing but the tensors of an archive is used; all other files are opened with `weights_only=True`.
    Raises InputError where the file is missing, is no such file, or holds anything else than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no CLIP weights here. Fetch them with `python -m preprocess.download clip` or put the file "
            "there by hand (README, 'Weights')"
        )
    try:
        if is_torchscript(path):
            state = torch.jit.load(path, map_location="cpu").state_dict()
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ... by what it met
        raise InputError(
            f"{path}: cannot be read as a TorchScript archive or a state dict of tensors: {first_line(error)}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: expected a state dict (names to tensors), found {type(state).__name__}")
    state = {name: tensor for name, tensor in state.items() if name not in ARCHIVE_ENTRIES}
    return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


def published_note(path: str | os.PathLike[str]) -> str:
    """Whether a weights file is the published ViT-B/32, by its checksum: a sentence for the log."""
    same = sha256_of(path) == PUBLISHED_SHA256
    return f"{path} ({'the published file' if same else 'not the published ViT-B-32.pt, by its SHA-256'})"


def is_torchscript(path: str | os.PathLike[str]) -> bool:
    """True where `path` is a zip archive with TorchScript's `constants.pkl`."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def load_strictly(module: nn.Module, state: Mapping[str, torch.Tensor], what: str | os.PathLike[str]) -> None:
    """`module.load_state_dict`, strict, with an InputError that lists the keys and shapes that do not fit."""
    own = module.state_dict()
    problems = [f"missing {name}" for name in sorted(own.keys() - state.keys())]
    problems += [f"unexpected {name}" for name in sorted(state.keys() - own.keys())]
    problems += [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    if problems:
        shown = "\n  ".join(problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise InputError(f"{what} does not fit the model:\n  {shown}{more}")
    module.load_state_dict(state)


def build_clip(
    name: str, linear_patch: str = "2d", vision: bool = True, weights_folder: str | os.PathLike[str] = WEIGHTS_FOLDER
) -> tuple[CLIP, Path | None]:
    """CLIP by `--pretrained_clip_name`: (model, path of its weights or None where it starts from scratch).

    `name`: a published model, `ViT-tiny/8`, or the path of a weights file.
    """
    if name in FROM_SCRATCH:
        return CLIP(FROM_SCRATCH[name], linear_patch, vision), None
    path = Path(weights_folder) / PUBLISHED_FILES[name] if name in PUBLISHED_FILES else Path(name)
    state = read_state_dict(path)
    try:
        clip = CLIP(ClipSizes.of_state_dict(state), linear_patch, vision)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not vision:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("visual.")}
    elif linear_patch == "3d":
        state |= {f"visual.{key}": tensor for key, tensor in clip.visual.state_dict().items() if "neighbours" in key}
    load_strictly(clip, state, path)
    clip.clamp_logit_scale()
    return clip, path
