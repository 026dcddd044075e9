"""Tokens x tokens -> (Q, M) scores: `ti` and `wti` (Wang et al. 2022, DRL). Plain functions of tensors.

Q queries of W words, M memes of V visual tokens, d channels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

# words (Q, W, d), word_weight (Q, W), tokens (M, V, d), token_weight (M, V) -> scores (Q, M): see `token_interaction`
TokenInteraction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class TokenWeights(nn.Module):
    """Softmax over the valid tokens of a small network of `layers` linear layers with ReLU between."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(layers - 1):
            parts += [nn.Linear(dim, dim), nn.ReLU()]
        self.network = nn.Sequential(*parts, nn.Linear(dim, 1))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """tokens (B, N, d), mask (B, N) -> weights (B, N), 0 at padding."""
        scores = self.network(tokens)[..., 0]
        return scores.masked_fill(~mask, -torch.inf).softmax(dim=1)


def uniform_weights(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Equal weights over the True positions of mask (B, N), which has at least one per row: (B, N)."""
    weight = mask.to(dtype)
    return weight / weight.sum(dim=1, keepdim=True)


def unit_tokens(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """tokens (B, N, d) at length 1, with padding replaced by the row's first valid token.

    A copy of a valid token can win a max only where the token itself wins it, so that padding never does and
    the large score tensor needs no mask.
    """
    first = tokens[torch.arange(len(tokens), device=tokens.device), mask.to(torch.uint8).argmax(dim=1)]
    return F.normalize(torch.where(mask[..., None], tokens, first[:, None]), dim=-1)


def token_interaction(
    words: torch.Tensor, word_weight: torch.Tensor, tokens: torch.Tensor, token_weight: torch.Tensor
) -> torch.Tensor:
    """½ (Σ_w a_w max_v S_wv + Σ_v b_v max_w S_wv), S the cosines of words and visual tokens: (Q, M).

    words (Q, W, d) and tokens (M, V, d) from `unit_tokens`; word_weight (Q, W) and token_weight (M, V) sum to 1
    per row and are 0 at padding. Uniform weights give `ti`, learned ones `wti`.
    """
    Q, W, d = words.shape
    M, V, _ = tokens.shape
    # The words' axis comes first: the max over it then runs along rows that are contiguous in memory.
    S = words.transpose(0, 1).reshape(W * Q, d) @ tokens.transpose(0, 1).reshape(V * M, d).T
    S = S.view(W, Q, V, M)
    best_word = S.amax(dim=0)
    if V == 1:  # the max over one token is the token: its weighted sum is a small product, without S
        by_word = torch.einsum("qwd,qw->qd", words, word_weight) @ tokens[:, 0].T
        # its weight is 1; multiplied, so that WTI's network has a gradient (0) here too, which processes wait for
        return (by_word + best_word[:, 0] * token_weight[:, 0]) / 2
    by_word = torch.einsum("wqm,qw->qm", S.amax(dim=2), word_weight)
    by_token = torch.einsum("qvm,mv->qm", best_word, token_weight)
    return (by_word + by_token) / 2
