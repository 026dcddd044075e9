"""QC: query x captions -> (Q, M) scores, the cosine of two sentence features (`--text_pool_type`)."""

import torch
import torch.nn.functional as F
from torch import nn

from modules.transformer import Transformer, attendable, heads_for, masked_mean


class CaptionPooling(nn.Module):
    """The captions' end-of-text features (B, K, d) and mask (B, K) -> one unit vector per meme (B, d).

    A meme without any caption gets the zero vector, whose cosine with all queries is 0.
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
