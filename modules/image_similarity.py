"""QI: query x emotion-embedded image -> (Q, M) scores.

Each side is prepared once per item (`query_side`, `meme_side`); `scores` then joins any queries with any memes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from modules import interaction
from modules.aggregator import TightTransf
from modules.choices import INTERACTIONS
from modules.interaction import TokenInteraction, TokenWeights, token_interaction, uniform_weights, unit_tokens
from modules.transformer import masked_mean

PAIRS_AT_ONCE = 2048  # of the cross encoder: bounds its memory


class PooledSimilarity(nn.Module):
    """`dp`: cosine of the query's end-of-text feature and the masked mean of the visual tokens."""

    def query_side(
        self, words: torch.Tensor | None, mask: torch.Tensor, sentence: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        return {"sentence": F.normalize(sentence, dim=-1)}

    def meme_side(self, tokens: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pooled": F.normalize(masked_mean(tokens, mask), dim=-1)}

    def scores(self, queries: dict[str, torch.Tensor], memes: dict[str, torch.Tensor]) -> torch.Tensor:
        return queries["sentence"] @ memes["pooled"].T


class TokenSimilarity(nn.Module):
    """An interaction of words and visual tokens, whose weights are uniform (`ti`) or learned (`wti`).

    layers: how many linear layers the small networks have that give the weights; 0: uniform ones.
    """

    def __init__(self, dim: int, layers: int = 0, function: TokenInteraction = token_interaction) -> None:
        super().__init__()
        self.interaction = function
        self.word_weights = TokenWeights(dim, layers) if layers else None
        self.token_weights = TokenWeights(dim, layers) if layers else None

    def query_side(
        self, words: torch.Tensor | None, mask: torch.Tensor, sentence: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        assert words is not None
        weight = self.word_weights(words, mask) if self.word_weights else uniform_weights(mask, words.dtype)
        return {"words": unit_tokens(words, mask), "word_weight": weight}

    def meme_side(self, tokens: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        weight = self.token_weights(tokens, mask) if self.token_weights else uniform_weights(mask, tokens.dtype)
        return {"tokens": unit_tokens(tokens, mask), "token_weight": weight}

    def scores(self, queries: dict[str, torch.Tensor], memes: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.interaction(queries["words"], queries["word_weight"], memes["tokens"], memes["token_weight"])


def similarity_of(name: str, dim: int, layers: int) -> PooledSimilarity | TokenSimilarity:
    """What an --interaction compares with; layers: of the networks that weigh tokens, where it has such."""
    chosen = INTERACTIONS[name]
    if chosen.function is None:
        return PooledSimilarity()
    return TokenSimilarity(dim, layers if chosen.weighted else 0, getattr(interaction, chosen.function))


class TightSimilarity(PooledSimilarity):
    """`tightTransf`: a cross encoder scores every pair. In evaluation `dp` chooses the pairs (`rerank`)."""

    def __init__(self, cross_encoder: TightTransf) -> None:
        super().__init__()
        self.cross_encoder = cross_encoder

    def query_side(
        self, words: torch.Tensor | None, mask: torch.Tensor, sentence: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        assert words is not None
        return super().query_side(words, mask, sentence) | {
            "words": words,
            "word_weight": mask.to(words.dtype),
        }

    def meme_side(self, tokens: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().meme_side(tokens, mask) | {"tokens": tokens, "token_weight": mask.to(tokens.dtype)}

    def scores(self, queries: dict[str, torch.Tensor], memes: dict[str, torch.Tensor]) -> torch.Tensor:
        """The cross encoder's score of every pair, in pieces which are computed again in the backward pass."""
        Q, M = len(queries["words"]), len(memes["tokens"])
        pairs = torch.cartesian_prod(torch.arange(Q), torch.arange(M)).to(queries["words"].device)
        return self.pair_scores(queries, memes, pairs[:, 0], pairs[:, 1]).view(Q, M)

    def pair_scores(
        self,
        queries: dict[str, torch.Tensor],
        memes: dict[str, torch.Tensor],
        query_index: torch.Tensor,
        meme_index: torch.Tensor,
    ) -> torch.Tensor:
        """Scores (N,) of the pairs (query_index[n], meme_index[n])."""

        def piece(q: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
            return self.cross_encoder(
                queries["words"][q],
                queries["word_weight"][q] > 0,
                memes["tokens"][m],
                memes["token_weight"][m] > 0,
            )

        chunks = zip(query_index.split(PAIRS_AT_ONCE), meme_index.split(PAIRS_AT_ONCE), strict=True)
        return torch.cat([checkpoint(piece, q, m, use_reentrant=False) for q, m in chunks])

    def rerank(
        self,
        queries: dict[str, torch.Tensor],
        memes: dict[str, torch.Tensor],
        top: int,
        read_tokens: Callable[[torch.Tensor], dict[str, torch.Tensor]] | None = None,
    ) -> torch.Tensor:
        """`dp` ranks all memes; the cross encoder scores each query's `top` ones, which then come first: (Q, M).

        The others keep dp's order below: their score is their cosine minus 2, which is below -1. `read_tokens`: where
        `memes` holds `pooled` alone, gives the features of the memes with the given indices.
        """
        by_dp = super().scores(queries, memes)
        best = by_dp.topk(min(top, by_dp.shape[1]), dim=1).indices
        query_index = torch.arange(len(best), device=best.device).repeat_interleave(best.shape[1])
        meme_index = best.flatten()
        if read_tokens is not None:
            chosen, meme_index = meme_index.unique(return_inverse=True)
            memes = read_tokens(chosen)
        scores = self.pair_scores(queries, memes, query_index, meme_index).view(best.shape)
        return (by_dp - 2).scatter(1, best, scores)
