"""Emotion words -> vectors, and how they enter the image.

A frozen encoder runs once per word of the vocabulary, when the model is built; the vectors are part of the model.
"""

import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from modules.backbones.protocol import Backbone
from modules.torchvision_ops import import_beside_torchvision
from util import InputError

NONE, UNKNOWN = "none", "unknown"  # the two reserved entries, at index 0 and 1


class EmotionVectors(nn.Module):
    """The vocabulary's vectors: `forward(ids (B, E), padded with -1) -> (B, d)`, the mean over a meme's persons.

    The rows are `none`, then the words in the order of `words`; `unknown` is the mean of the words' rows.
    `vectors` (1 + n, d): frozen rows of an encoder, or None for a table that is trained (`learned`, width `dim`).
    """

    rows: torch.Tensor

    def __init__(self, words: Iterable[str], vectors: torch.Tensor | None = None, dim: int | None = None) -> None:
        super().__init__()
        self.words = list(words)
        if vectors is None:
            assert dim is not None, "a table that is trained has no vectors to take its width from"
            self.rows = nn.Parameter(torch.randn(1 + len(self.words), dim))
        else:
            self.register_buffer("rows", vectors.detach().clone())

    @property
    def dim(self) -> int:
        return self.rows.shape[1]

    @property
    def index_of(self) -> dict[str, int]:
        """word -> index, the reserved entries included."""
        return {word: index for index, word in enumerate([NONE, UNKNOWN, *self.words])}

    def table(self) -> torch.Tensor:
        """All vectors (2 + n, d), in the order of `index_of`."""
        words = self.rows[1:] if self.words else self.rows
        return torch.cat([self.rows[:1], words.mean(dim=0, keepdim=True), self.rows[1:]])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        present = (ids >= 0).to(self.rows.dtype)
        vectors = self.table()[ids.clamp(min=0)]
        return torch.einsum("bed,be->bd", vectors, present) / present.sum(dim=1, keepdim=True)


class EmotionChannel(nn.Module):
    """The published design: A = reshape(W u + b), a fourth channel of the image tower's first convolution.

    conv_e, made like that convolution, starts at zero: the network starts exactly as it was. W does not, else neither
    would ever move. `side`: A has side x side values, each as large as its share of the image (default: one a pixel).
    """

    def __init__(self, dim: int, image_size: int, first: nn.Conv2d, side: int | None = None) -> None:
        super().__init__()
        self.image_size = image_size
        self.side = side or image_size
        self.to_plane = nn.Linear(dim, self.side**2)
        of_first: dict[str, Any] = {name: getattr(first, name) for name in ("stride", "padding", "dilation")}
        self.conv_e = type(first)(1, first.out_channels, first.kernel_size, **of_first, bias=False)  # type: ignore[arg-type]
        nn.init.zeros_(self.conv_e.weight)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """u (B, d) -> what is added to the first convolution's output: (B, C, h, w)."""
        plane = self.to_plane(u).view(-1, 1, self.side, self.side)
        if self.side != self.image_size:
            plane = F.interpolate(plane, size=self.image_size, mode="nearest")
        return self.conv_e(plane)


class EmotionToken(nn.Linear):
    """u (B, d) -> one further token of the image tower's sequence: (B, width)."""


@torch.no_grad()
def clip_vectors(words: Iterable[str], backbone: Backbone, name: object = None) -> torch.Tensor:
    """Sentence features of `none` and the words, from the text tower as it is now: (1 + n, its width)."""
    ids = [backbone.tokenizer.tokenize(word, backbone.context_length)[0] for word in [NONE, *words]]
    padded = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
    for row, tokens in zip(padded, ids, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    mask = torch.tensor([[i < len(tokens) for i in range(padded.shape[1])] for tokens in ids])
    return backbone.text_features(padded, mask)[1]


@torch.no_grad()
def bert_vectors(words: Iterable[str], backbone: object, name: str | os.PathLike[str]) -> torch.Tensor:
    """[CLS] of a Hugging Face BERT (name or folder) for `none` and the words: (1 + n, hidden size).

    Raises InputError where `transformers` or the weights are missing.
    """
    transformers = import_beside_torchvision(
        "transformers",
        "--emotion_encoder bert needs transformers: pip install -r requirements-hf.txt (or use --emotion_encoder clip)",
    )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        bert = transformers.AutoModel.from_pretrained(name).float().eval()  # some are stored in half precision
    except (OSError, ValueError) as error:
        raise InputError(
            f"--bert_name {name}: no BERT there. It is looked for as a folder with config.json, vocab.txt and "
            "model.safetensors, then in the Hugging Face cache ($HF_HOME, ~/.cache/huggingface), then on the hub"
        ) from error
    batch = tokenizer([NONE, *words], return_tensors="pt", padding=True)
    return bert(**batch).last_hidden_state[:, 0]
