"""Losses over score matrices: InfoNCE with several positives, and DRL's channel decorrelation (CDCR)."""

import torch


def info_nce(logits: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Per row, minus the mean log-probability of its positives: (R,).

    logits (R, C), already scaled; positives (R, C) bool. With one positive in a row this is cross-entropy
    (van den Oord et al. 2018). A row without any positive gives 0. A logit of -infinity leaves a column out.
    """
    log_prob = logits.log_softmax(dim=1)
    total = log_prob.masked_fill(~positives, 0).sum(dim=1)
    return -total / positives.sum(dim=1).clamp(min=1)


def topic_positives(
    topic_Q: torch.Tensor, meme_M: torch.Tensor, record_keys: torch.Tensor, number_of_memes: int
) -> torch.Tensor:
    """Which meme answers which query: True where the training split has the record (topic, meme): (Q, M).

    topic_Q (Q,) and meme_M (M,): indices; record_keys: the sorted topic * number_of_memes + meme of all records.
    """
    keys = topic_Q[:, None] * number_of_memes + meme_M[None, :]
    place = torch.searchsorted(record_keys, keys).clamp(max=len(record_keys) - 1)
    return record_keys[place] == keys


def channel_decorrelation(queries: torch.Tensor, memes: torch.Tensor, off_diagonal: float = 0.06) -> torch.Tensor:
    """CDCR (Wang et al. 2022, DRL): Σ_i (1 - C_ii)² + 0.06 Σ_{i≠j} C_ij², C the correlation of the channels.

    queries, memes (B, d): the two sides of the batch's records, row by row; each channel is standardised over the
    batch.
    """

    def standardised(x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(dim=0)
        return x / x.std(dim=0).clamp(min=1e-6)

    C = standardised(queries).T @ standardised(memes) / len(queries)
    own = torch.diagonal(C)
    return ((1 - own) ** 2).sum() + off_diagonal * ((C**2).sum() - (own**2).sum())
