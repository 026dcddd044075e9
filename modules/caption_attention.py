"""A meme's visual tokens attend to its captions (after Cap4Video, Wu et al. 2023). Only the visual side is updated."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from modules.row_dropout import RowDropout
from modules.transformer import attendable

HEADS = 8  # or the most that divide both it and the width


class CrossAttention(nn.Module):
    """nn.MultiheadAttention from tokens to captions, with its parameters' names and start, but dropout by row."""

    def __init__(self, dim: int, heads: int, dropout: RowDropout) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        self.dropout = dropout
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, tokens: torch.Tensor, captions: torch.Tensor, mask: torch.Tensor, keys: torch.Tensor | None
    ) -> torch.Tensor:
        """tokens (B, V, d), captions (B, K, d), mask (B, K) with a True in each row, keys (B,) -> (B, V, d)."""
        to_query, to_key, to_value = zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        query, key, value = (
            F.linear(x, *projection).unflatten(-1, (self.heads, -1))
            for x, projection in ((tokens, to_query), (captions, to_key), (captions, to_value))
        )
        scores = torch.einsum("bvhc,bkhc->bvkh", query, key) * query.shape[-1] ** -0.5
        weights = scores.masked_fill(~mask[:, None, :, None], -torch.inf).softmax(dim=2)
        attended = torch.einsum("bvkh,bkhc->bvhc", self.dropout(weights, keys), value)
        return self.out_proj(attended.flatten(2))


class CaptionAttention(nn.Module):
    """One post-norm block: x = norm(x + attention(x, captions)), then x = norm(x + feed_forward(x)).

    Both residual branches start at zero, so that the cosines between loaded CLIP features survive the start.
    """

    def __init__(self, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = CrossAttention(dim, math.gcd(dim, HEADS), RowDropout(dropout, site=0))
        self.dropout_attended = RowDropout(dropout, site=1)
        first, last = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.feed_forward = nn.Sequential(first, nn.GELU(), RowDropout(dropout, site=2), last)
        self.dropout_fed = RowDropout(dropout, site=3)
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        for linear in (self.attention.out_proj, last):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        tokens: torch.Tensor,
        captions: torch.Tensor,
        caption_mask: torch.Tensor,
        row_keys: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """tokens (B, V, d), captions (B, K, d), caption_mask (B, K) -> (B, V, d).

        row_keys (B,) int64, which training needs: what each row's dropout masks follow from. A meme without captions
        passes with a zero attention term.
        """
        attended = self.attention(tokens, captions, attendable(caption_mask), row_keys)
        attended = attended * caption_mask.any(dim=1)[:, None, None].to(attended.dtype)
        x = self.norm_attention(tokens + self.dropout_attended(attended, row_keys))
        first, activation, dropout, last = self.feed_forward
        fed = last(dropout(activation(first(x)), row_keys))
        return self.norm_feed_forward(x + self.dropout_fed(fed, row_keys))


def mask_drawn_caption(caption_mask: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """caption_mask (B, K) without the caption number `drawn` (B,) of each meme; -1: nothing was drawn."""
    slots = torch.arange(caption_mask.shape[1], device=caption_mask.device)
    return caption_mask & (slots != drawn[:, None])
