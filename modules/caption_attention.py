"""A meme's visual tokens attend to its captions (after Cap4Video, Wu et al. 2023). Only the visual side is updated."""

import torch
from torch import nn

from modules.transformer import attendable


class CaptionAttention(nn.Module):
    """One post-norm block: x = norm(x + attention(x, captions)), then x = norm(x + feed_forward(x)).

    Both residual branches start at zero, so that the cosines between loaded CLIP features survive the start.
    """

    def __init__(self, dim: int, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        first, last = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.feed_forward = nn.Sequential(first, nn.GELU(), nn.Dropout(dropout), last)
        self.dropout = nn.Dropout(dropout)
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        for linear in (self.attention.out_proj, last):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: torch.Tensor, captions: torch.Tensor, caption_mask: torch.Tensor) -> torch.Tensor:
        """tokens (B, V, d), captions (B, K, d), caption_mask (B, K) -> (B, V, d).

        A meme without captions passes with a zero attention term.
        """
        absent = ~attendable(caption_mask)
        attended, _ = self.attention(tokens, captions, captions, key_padding_mask=absent, need_weights=False)
        attended = attended * caption_mask.any(dim=1)[:, None, None].to(attended.dtype)
        x = self.norm_attention(tokens + self.dropout(attended))
        return self.norm_feed_forward(x + self.dropout(self.feed_forward(x)))


def mask_drawn_caption(caption_mask: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """caption_mask (B, K) without the caption number `drawn` (B,) of each meme; -1: nothing was drawn."""
    slots = torch.arange(caption_mask.shape[1], device=caption_mask.device)
    return caption_mask & (slots != drawn[:, None])
