"""The pre-norm transformer of CLIP (Radford et al. 2021), shared by its towers and by IEF's new layers.

Parameter names are those of the published checkpoint (`attn.in_proj_weight`, `mlp.c_fc`, ...).
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation that CLIP was trained with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(1.702 * x) / 1.702  # the same function; silu is one kernel forwards and one backwards


ACTIVATIONS = {"quick_gelu": QuickGELU, "gelu": nn.GELU}


class SelfAttention(nn.Module):
    """Multi-head self-attention over (B, L, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, x: torch.Tensor, attention_mask: torch.Tensor | None = None, causal: bool = False
    ) -> torch.Tensor:
        B, L, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        query, key, value = (part.view(B, L, self.heads, width // self.heads).transpose(1, 2) for part in qkv)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, is_causal=causal)
        return self.out_proj(out.transpose(1, 2).reshape(B, L, width))


class FeedForward(nn.Sequential):
    """Two linear layers, by the names that they have in the checkpoint."""

    c_fc: nn.Linear
    c_proj: nn.Linear


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, activation: str = "quick_gelu") -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        gelu = ACTIVATIONS[activation]()
        self.mlp = FeedForward(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=gelu, c_proj=nn.Linear(4 * width, width))
        )
        self.ln_2 = nn.LayerNorm(width)

    def forward(
        self, x: torch.Tensor, attention_mask: torch.Tensor | None = None, causal: bool = False
    ) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), attention_mask, causal)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks over (B, L, width).

    `mask` (B, L), optional: True on the positions that may be attended to, at least one per row; the output at
    the other positions is meaningless and must not be read.
    """

    def __init__(
        self, width: int, layers: int, heads: int, causal: bool = False, activation: str = "quick_gelu"
    ) -> None:
        super().__init__()
        self.causal = causal
        self.resblocks = nn.ModuleList([Block(width, heads, activation) for _ in range(layers)])
        self.initialise()

    def initialise(self) -> None:
        """CLIP's initialisation: residual branches shrink with the depth of the stack."""
        for block in self.resblocks:
            assert isinstance(block, Block)
            width = block.ln_1.normalized_shape[0]
            branch_std = width**-0.5 * (2 * len(self.resblocks)) ** -0.5
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=branch_std)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=branch_std)
            for linear in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(linear.bias)

    def start_as_identity(self) -> None:
        """Close the residual branches: until it is trained, the stack gives what it gets."""
        for block in self.resblocks:
            assert isinstance(block, Block)
            nn.init.zeros_(block.attn.out_proj.weight)
            nn.init.zeros_(block.mlp.c_proj.weight)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        attention_mask = None if mask is None else mask[:, None, None, :]
        for block in self.resblocks:
            x = block(x, attention_mask, self.causal)
        return x


def heads_for(width: int) -> int:
    """CLIP's number of heads: one per 64 channels, or the next smaller number that divides the width."""
    return next(heads for heads in range(max(1, width // 64), 0, -1) if width % heads == 0)


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of x (B, N, d) over the True positions of mask (B, N): (B, d); zero where there is none."""
    weight = mask.to(x.dtype)
    total = torch.einsum("bnd,bn->bd", x, weight)
    return total / weight.sum(dim=1, keepdim=True).clamp(min=1)


def take_last_word(words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The end-of-text word's feature of words (B, L, d), the last True position of mask (B, L): (B, d)."""
    last = mask.sum(dim=1).clamp(min=1) - 1
    return words[torch.arange(len(words), device=words.device), last]


def attendable(mask: torch.Tensor) -> torch.Tensor:
    """mask (B, N) with the rows that hold no True opened wholly, since a softmax over nothing is NaN.

    The caller must drop what comes out of such rows.
    """
    return mask | ~mask.any(dim=1, keepdim=True)
