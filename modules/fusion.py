"""The weights of QI and QC: s = α QI + (1 - α) QC (`--fusion`)."""

import torch
from torch import nn


class Fusion(nn.Module):
    """`learned`: α = σ(θ), one scalar; `query`: α of a small network on the query; `fixed`: a constant.

    All start at 0.5 (`fixed`: at `weight`).
    """

    def __init__(self, kind, dim, weight=0.5):
        super().__init__()
        self.kind = kind
        if kind == "learned":
            self.theta = nn.Parameter(torch.zeros(()))
        elif kind == "query":
            self.network = nn.Sequential(nn.Linear(dim, dim // 4), nn.ReLU(), nn.Linear(dim // 4, 1))
            nn.init.zeros_(self.network[-1].weight)
            nn.init.zeros_(self.network[-1].bias)
        else:
            self.register_buffer("weight", torch.tensor(float(weight)))

    def alpha(self, sentence):
        """α for queries with end-of-text features `sentence` (Q, d), of length 1: a scalar, or (Q, 1) for `query`."""
        if self.kind == "learned":
            return torch.sigmoid(self.theta)
        if self.kind == "query":
            return torch.sigmoid(self.network(sentence))
        return self.weight

    @torch.no_grad()
    def choose(self, alpha):
        """Set the scalar α (staged training, step 3). σ(±infinity) is exactly 1 or 0."""
        if self.kind == "learned":
            self.theta.copy_(torch.logit(torch.tensor(float(alpha), dtype=self.theta.dtype)))
        else:
            self.weight.fill_(alpha)

    def forward(self, qi, qc, sentence):
        """qi, qc (Q, M), sentence (Q, d) -> (Q, M)."""
        alpha = self.alpha(sentence)
        return alpha * qi + (1 - alpha) * qc
