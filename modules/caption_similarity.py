"""QC: query x captions -> (Q, M) scores, the cosine of two sentence features (`--text_pool_type`)."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from modules.interaction import unit_tokens
from modules.transformer import Transformer, attendable, heads_for, masked_mean


class CaptionPooling(nn.Module):
    """The captions' end-of-text features (B, K, d) and mask (B, K) -> one unit vector per meme (B, d).

    With `max` one unit vector per caption (B, K, d), where an absent one is a copy of a present one, which wins no
    maximum. A meme without any caption gets zero vectors, whose cosine with all queries is 0.
    """

    def __init__(self, kind: str, dim: int, max_captions: int, layers: int = 2) -> None:
        super().__init__()
        self.kind = kind
        if kind == "transf_avg":
            self.positions = nn.Parameter(0.01 * torch.randn(max_captions, dim))
            self.transformer = Transformer(dim, layers, heads_for(dim))
        elif kind == "weight_l":
            self.logits = nn.Parameter(torch.zeros(max_captions))

    def forward(self, captions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        K = captions.shape[1]
        if self.kind == "max":
            return unit_tokens(captions, mask) * mask.any(dim=1)[:, None, None].to(captions.dtype)
        if self.kind == "clip_top1":
            pooled = captions[:, 0] * mask[:, :1].to(captions.dtype)
        elif self.kind == "weight_l":
            logits = self.logits[:K].expand(len(mask), K).masked_fill(~attendable(mask), -torch.inf)
            weight = logits.softmax(dim=1) * mask.to(captions.dtype)
            pooled = torch.einsum("bkd,bk->bd", captions, weight)
        else:
            if self.kind == "transf_avg":
                captions = self.transformer(captions + self.positions[:K], attendable(mask))
            pooled = masked_mean(captions, mask)
        return F.normalize(pooled, dim=-1)


def caption_scores(sentences: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """QC of sentences (Q, d) and the memes' captions from CaptionPooling, (M, d) or (M, K, d): (Q, M).

    Of a meme's K captions the greatest counts. They are compared one after the other: no (Q, M, K) is made.
    """
    if captions.ndim == 2:
        return sentences @ captions.T
    return functools.reduce(torch.maximum, (sentences @ one.T for one in captions.unbind(dim=1)))
