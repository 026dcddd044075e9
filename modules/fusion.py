"""The weights of QI and QC: s = α QI + (1 - α) QC (`--fusion`)."""

import torch
from torch import nn


class Fusion(nn.Module):
    """`learned`: α = σ(θ), one scalar; `query`: α of a small network on the query; `fixed`: a constant.

    All start at 0.5 (`fixed`: at `weight`). `fitted`: an α that was fitted on other queries than those of the training;
    where it is not None it takes the place of the trained one in evaluation. Training never reads it.
    """

    weight: torch.Tensor
    fitted: float | None

    def __init__(self, kind: str, dim: int, weight: float = 0.5) -> None:
        super().__init__()
        self.kind = kind
        self.fitted = None
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
        if self.fitted is not None and not self.training:
            return torch.tensor(self.fitted, dtype=sentence.dtype, device=sentence.device)
        if self.kind == "learned":
            return torch.sigmoid(self.theta)
        if self.kind == "query":
            return torch.sigmoid(self.network(sentence))
        return self.weight

    @property
    def theta_alpha(self) -> float | None:
        """The trained α of `learned`, whether a fitted one takes its place or not; None of the other kinds."""
        return torch.sigmoid(self.theta).item() if self.kind == "learned" else None

    def forward(self, qi: torch.Tensor, qc: torch.Tensor, sentence: torch.Tensor) -> torch.Tensor:
        """qi, qc (Q, M), sentence (Q, d) -> (Q, M)."""
        alpha = self.alpha(sentence)
        return alpha * qi + (1 - alpha) * qc
