"""Texts tokenised once: a list of texts -> one flat array, padded only when a batch is made."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch


class TextTokenizer(Protocol):
    """What is asked of a tokenizer; modules/tokenizer.py has CLIP's."""

    def tokenize(self, text: str, max_tokens: int) -> tuple[list[int], int]:
        """(ids with start and end, at most `max_tokens`; how many were lost to the limit)."""
        ...

    def unreadable(self, ids: Sequence[int]) -> int:
        """How many of the ids are no words to the text tower, nor parts of one."""
        ...


class TokenTable:
    """Token ids of n texts. `cut[i]`: how many tokens text i lost to the limit."""

    def __init__(self, texts: Sequence[str], tokenizer: TextTokenizer, max_tokens: int) -> None:
        tokenised = [tokenizer.tokenize(text, max_tokens) for text in texts]
        lengths = np.array([len(ids) for ids, _ in tokenised], dtype=np.int64)
        self.offsets = np.concatenate([[0], lengths.cumsum()])
        self.ids = np.fromiter((i for ids, _ in tokenised for i in ids), np.int32, count=self.offsets[-1])
        self.cut = np.array([cut for _, cut in tokenised], dtype=np.int64)
        self.max_tokens = max_tokens

    def __len__(self) -> int:
        return len(self.cut)

    def __getitem__(self, index: int) -> np.ndarray:
        """Text `index`'s token ids (L,), start and end tokens included."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def counts(self) -> dict[str, int]:
        """How many texts were cut, and by how much, for the log and the run's record."""
        cut = self.cut[self.cut > 0]
        return {
            "texts": len(self),
            "cut": len(cut),
            "limit": self.max_tokens,
            "tokens_lost": int(cut.sum()),
            "most_lost_by_one": int(cut.max(initial=0)),
        }


def pad(rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Arrays of ids -> ids (N, L) int64 and mask (N, L) bool, L the longest."""
    length = max(map(len, rows))
    ids = np.zeros((len(rows), length), dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return torch.from_numpy(ids), torch.from_numpy(mask)


def pad_groups(groups: Sequence[Sequence[np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups of arrays of ids (a meme's captions) -> ids (B, K, L), mask (B, K, L); absent ones are all False."""
    most = max(1, max(map(len, groups)))
    length = max((len(row) for group in groups for row in group), default=1)
    ids = np.zeros((len(groups), most, length), dtype=np.int64)
    mask = np.zeros((len(groups), most, length), dtype=bool)
    for i, group in enumerate(groups):
        for k, row in enumerate(group):
            ids[i, k, : len(row)] = row
            mask[i, k, : len(row)] = True
    return torch.from_numpy(ids), torch.from_numpy(mask)
