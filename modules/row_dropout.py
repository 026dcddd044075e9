"""Dropout whose masks follow from a key per row of the batch: whoever holds the row draws the same mask.

Neither a generator's state nor the process, the device, the other rows or the padding matter: element (v, k, i) of a
row is kept or dropped by a hash of the row's key and of v, k and i (Steele et al. 2014, "Fast splittable pseudorandom
number generators": SplitMix64).
"""

import torch
from torch import nn

GOLDEN, FIRST, SECOND = (  # the constants of SplitMix64, as signed integers
    value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
LANE = 16  # bits that decide about one element: a hash decides about four


def splitmix64(states: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The outputs number `numbers` (n,), from 0, of the generators with the states (...): (..., n); all int64."""
    x = states[..., None] + (numbers + 1) * GOLDEN
    for shift, factor in ((30, FIRST), (27, SECOND)):
        x ^= (x >> shift).bitwise_and_(2 ** (64 - shift) - 1)  # the mask makes it a logical shift
        x *= factor
    x ^= (x >> 31).bitwise_and_(2**33 - 1)
    return x


def dropped(keys: torch.Tensor, site: int, shape: torch.Size, p: float) -> torch.Tensor:
    """Which elements fall, a share of p rounded to 1/65536: keys (B,) int64, shape (B, ..., n) -> (B, ..., n) bool.

    Each `site`, a number of the place in the network, has masks of its own.
    """
    states = splitmix64(keys, torch.tensor([site], device=keys.device))[:, 0]
    for size in shape[1:-1]:
        states = splitmix64(states, torch.arange(size, device=keys.device))
    hashes = splitmix64(states, torch.arange(-(-shape[-1] * LANE // 64), device=keys.device))
    lanes = hashes.view(torch.int16)[..., : shape[-1]]  # -32768 … 32767
    return lanes < round(p * 2**LANE) - 2 ** (LANE - 1)


class RowDropout(nn.Module):
    """In training: x (B, ..., n) with a share of p set to zero, by keys (B,), and the rest scaled to keep the mean."""

    def __init__(self, p: float, site: int) -> None:
        super().__init__()
        self.p = round(p * 2**LANE) / 2**LANE
        self.site = site

    def extra_repr(self) -> str:
        return f"p={self.p:.4f}, site={self.site}"

    def forward(self, x: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        if keys is None:
            raise ValueError("dropout in training needs a key for each row: the batch's `row_key`")
        return x.masked_fill(dropped(keys, self.site, x.shape, self.p), 0) * (1 / (1 - self.p))
