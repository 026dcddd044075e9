"""The towers asked for a batch piece by piece: texts in groups of like length, the images of a few memes at a time.

A piece is a function without arguments. It gives {name of a feature: (rows, features)}: what a batch that was asked
before holds under that name (`IEF.encode_memes`), of the rows which are this piece's.

N texts, L words, w and v the widths of the towers' features, F frames.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

Rows: TypeAlias = torch.Tensor | slice
Piece: TypeAlias = Callable[[], dict[str, tuple[Rows, torch.Tensor]]]
TextFunction: TypeAlias = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
FrameFunction: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Texts(NamedTuple):
    """Texts of one kind for the text tower. words: whether their words are read, and not the sentences alone."""

    kind: str  # query or caption
    ids: torch.Tensor  # (N, L)
    mask: torch.Tensor  # (N, L), True from each text's first token to its last
    words: bool


def lengths_of(texts: Sequence[Texts]) -> np.ndarray:
    """The tokens of each text, of one kind after the other: (ΣN,)."""
    return torch.cat([kind.mask.sum(dim=1) for kind in texts]).cpu().numpy()


def groups_of_like_length(lengths: np.ndarray, cost: int) -> list[np.ndarray]:
    """Texts of so many tokens (N,) in one, two or three groups that together have the fewest, padding included.

    cost: the tokens that a further group has to save. Each group is an array of the texts' numbers, in their order.
    """
    kinds, counts = np.unique(lengths, return_counts=True)
    longest, ends = np.concatenate([[0], kinds]), np.concatenate([[0], counts.cumsum()])
    place = np.arange(len(ends))
    first, last = place[:, None], place[None, :]
    padded = (ends[last] - ends[first]) * longest[last] + cost * (first < last)  # of a group from the one to the other
    padded = np.where(first <= last, padded, np.iinfo(np.int64).max // 4)
    total = padded[0][:, None] + padded + padded[:, -1][None, :]
    cuts = ends[list(np.unravel_index(total.argmin(), total.shape))]
    by_length = np.split(np.argsort(lengths, kind="stable"), cuts)
    return [np.sort(group) for group in by_length if len(group)]


def text_pieces(
    tower: TextFunction, texts: Sequence[Texts], lengths: np.ndarray, groups: Iterable[np.ndarray]
) -> Iterator[Piece]:
    """Yields a piece for each group of texts, which are numbered as in `lengths`, the texts' own.

    Texts of all kinds go through the tower together, no longer than the longest of their group. `tower`: ids and mask
    (n, L) -> words (n, L, w), sentence (n, w).
    """
    ends = np.cumsum([len(kind.ids) for kind in texts])
    for group in groups:
        longest = int(lengths[group].max())
        of_kind = np.searchsorted(ends, group, side="right")
        parts = []
        for number, kind in enumerate(texts):
            rows = group[of_kind == number] - (ends[number] - len(kind.ids))
            if len(rows):
                parts.append((kind, torch.from_numpy(rows).to(kind.ids.device)))
        yield functools.partial(_ask_for_texts, tower, parts, longest)


def _ask_for_texts(
    tower: TextFunction, parts: Sequence[tuple[Texts, torch.Tensor]], longest: int
) -> dict[str, tuple[Rows, torch.Tensor]]:
    ids, mask = (
        torch.cat([_of_length(tensor[rows], longest) for tensor, rows in chosen])
        for chosen in ([(kind.ids, rows) for kind, rows in parts], [(kind.mask, rows) for kind, rows in parts])
    )
    found: dict[str, tuple[Rows, torch.Tensor]] = {}
    sizes = [len(rows) for _, rows in parts]
    outputs = zip(*(features.split(sizes) for features in tower(ids, mask)), strict=True)
    for (kind, rows), (words, sentence) in zip(parts, outputs, strict=True):
        found[f"{kind.kind}_sentence"] = rows, sentence
        if kind.words:
            found[f"{kind.kind}_words"] = rows, words[:, : kind.ids.shape[1]]
    return found


def _of_length(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """(n, L) -> (n, length), cut or filled up with zeros."""
    return torch.nn.functional.pad(tensor, (0, length - tensor.shape[1]))


def image_pieces(tower: FrameFunction, batch: Mapping[str, torch.Tensor], size: int) -> Iterator[Piece]:
    """Yields a piece for every `size` memes of a batch. `tower`: pixels, frame mask, emotions -> (frames, V / F, v)."""
    frame_mask = batch["frame_mask"]
    ends = frame_mask.sum(dim=1).cumsum(dim=0).tolist()
    for first in range(0, len(ends), size):
        memes = slice(first, min(first + size, len(ends)))
        frames = slice(ends[first - 1] if first else 0, ends[memes.stop - 1])
        inputs = batch["pixels"][frames], frame_mask[memes], batch["emotions"][memes]
        yield functools.partial(_ask_for_frames, tower, frames, inputs)


def _ask_for_frames(
    tower: FrameFunction, frames: slice, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> dict[str, tuple[Rows, torch.Tensor]]:
    return {"frame_features": (frames, tower(*inputs))}


def put_together(pieces: Iterable[Piece], batch_sizes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Ask for all pieces: {name: the whole batch's features}, zero where a text of its group's length is shorter.

    batch_sizes: the first axes of each feature, (N, L) of words, (N,) of sentences, (ΣF,) of frames.
    """
    whole: dict[str, torch.Tensor] = {}
    for piece in pieces:
        for name, (rows, features) in piece().items():
            if name not in whole:
                first = batch_sizes[name]
                whole[name] = features.new_zeros(*first, *features.shape[len(first) :])
            whole[name][rows, : features.shape[1]] = features
    return whole


def sizes_of(texts: Sequence[Texts], batch: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """The first axes of what the towers give for a batch and its texts."""
    sizes: dict[str, tuple[int, ...]] = {"frame_features": (len(batch["pixels"]),)} if "pixels" in batch else {}
    for kind in texts:
        sizes[f"{kind.kind}_sentence"] = (len(kind.ids),)
        sizes[f"{kind.kind}_words"] = tuple(kind.ids.shape)
    return sizes
