"""Frames -> visual tokens (`--sim_header`; Luo et al. 2022, CLIP4Clip). All but tightTransf see the meme alone."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from modules.backbones.protocol import Backbone
from modules.transformer import Transformer, heads_for


class MeanP(nn.Module):
    """Nothing: the mean is taken by the interaction `dp`."""

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return tokens


class SeqLSTM(nn.Module):
    """tokens + LSTM(tokens), over the tokens in the order of the frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, batch_first=True)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        lengths = mask.sum(dim=1).cpu()
        packed = pack_padded_sequence(tokens, lengths, batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=tokens.shape[1])
        return tokens + out


class FramePositions(nn.Module):
    """tokens (B, V, d) plus the position embedding of each one's frame; V = frames x tokens per frame."""

    def __init__(self, dim: int, max_frames: int, tokens_per_frame: int) -> None:
        super().__init__()
        self.tokens_per_frame = tokens_per_frame
        self.embedding = nn.Parameter(0.01 * torch.randn(max_frames, dim))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        frames = tokens.shape[1] // self.tokens_per_frame
        return tokens + self.embedding[:frames].repeat_interleave(self.tokens_per_frame, dim=0)


class SeqTransf(nn.Module):
    """tokens + transformer(tokens + frame positions)."""

    def __init__(self, dim: int, layers: int, max_frames: int, tokens_per_frame: int) -> None:
        super().__init__()
        self.positions = FramePositions(dim, max_frames, tokens_per_frame)
        self.transformer = Transformer(dim, layers, heads_for(dim))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return tokens + self.transformer(self.positions(tokens), mask)


class TightTransf(nn.Module):
    """A cross encoder over (query, meme) pairs; its tanh score stands in for a cosine."""

    def __init__(self, dim: int, layers: int, max_frames: int) -> None:
        super().__init__()
        self.positions = FramePositions(dim, max_frames, tokens_per_frame=1)
        self.kind = nn.Parameter(0.01 * torch.randn(2, dim))
        self.transformer = Transformer(dim, layers, heads_for(dim))
        self.pooler = nn.Linear(dim, dim)
        self.score = nn.Linear(dim, 1)

    def forward(
        self, words: torch.Tensor, word_mask: torch.Tensor, tokens: torch.Tensor, token_mask: torch.Tensor
    ) -> torch.Tensor:
        """words (N, W, d) and tokens (N, V, d) of N pairs, with masks -> scores (N,) in (-1, 1)."""
        pair = torch.cat([words + self.kind[0], self.positions(tokens) + self.kind[1]], dim=1)
        out = self.transformer(pair, torch.cat([word_mask, token_mask], dim=1))
        return torch.tanh(self.score(torch.tanh(self.pooler(out[:, 0]))))[:, 0]


def start_from_text_tower(transformer: Transformer, positions: FramePositions, backbone: Backbone) -> bool:
    """Copy the backbone's first text layers and positions into a new transformer: whether it has such as fit."""
    start = backbone.text_start(len(transformer.resblocks))
    if start is None:
        return False
    state, known = start
    transformer.load_state_dict(state)
    known = known[: len(positions.embedding)]  # --max_frames may be more than the tower's context
    with torch.no_grad():
        positions.embedding[: len(known)].copy_(known)
    return True
