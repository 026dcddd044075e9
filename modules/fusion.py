"""The weights of QI and QC: s = α QI + (1 - α) QC (`--fusion`)."""

import torch
from torch import nn


class Fusion(nn.Module):
    """`learned`: α = σ(θ), one scalar; `query`: α of a small network on the query; `fixed`: a constant.

    All start at 0.5 (`fixed`: at `weight`).
    """

    weight: torch.Tensor

    def __init__(self, kind: str, dim: int, weight: float = 0.5) -> None:
        super().__init__()
        self.kind = kind
        if kind == "learned":
            self.theta = nn.Parameter(torch.zeros(()))
        elif kind == "query":
            first, last = nn.Linear(dim, dim // 4), nn.Linear(dim // 4, 1)
            self.network = nn.Sequential(first, nn.ReLU(), last)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        else:
            self.register_buffer("weight", torch.tensor(float(weight)))

    def alpha(self, sentence: torch.Tensor) -> torch.Tensor:
        """α for queries with end-of-text features `sentence` (Q, d), of length 1: a scalar, or (Q, 1) for `query`."""
        if self.kind == "learned":
            return torch.sigmoid(self.theta)
        if self.kind == "query":
            return torch.sigmoid(self.network(sentence))
        return self.weight

    @torch.no_grad()
    def choose(self, alpha: float) -> None:
        """Set the scalar α (staged training, step 3). σ(±infinity) is exactly 1 or 0."""
        if self.kind == "learned":
            self.theta.copy_(torch.logit(torch.tensor(float(alpha), dtype=self.theta.dtype)))
        else:
            self.weight.fill_(alpha)

    def forward(self, qi: torch.Tensor, qc: torch.Tensor, sentence: torch.Tensor) -> torch.Tensor:
        """qi, qc (Q, M), sentence (Q, d) -> (Q, M)."""
        alpha = self.alpha(sentence)
        return alpha * qi + (1 - alpha) * qc
