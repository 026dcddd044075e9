"""The weights of QI and QC fitted on a split's queries: one α for all of them, or a network that gives one per query.

Q queries, M memes, d embedding width.
"""

import argparse
import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import metrics
from engine import distributed
from evaluation.eval_loop import EncodedSplit, rank_blocks, row_blocks, score_rows
from modules.fusion import Fusion
from modules.ief_model import IEF
from modules.loss import info_nce
from util import not_written, reserve

FOLDS = 5
EPOCHS, BATCH = 30, 64  # of a network's training, over the queries; scores of so many are read at once


@contextlib.contextmanager
def part_scores(model: IEF, encoded: EncodedSplit, args: argparse.Namespace) -> Iterator[np.ndarray | None]:
    """QI and QC of a split, computed by all processes: (2, Q, M) float32 in the first one, None in the others.

    They are in a temporary file, not in memory, whatever the split's size.
    """
    with _scores_file(encoded, args) if distributed.is_main() else contextlib.nullcontext() as scores:
        for rows in distributed.dealt(row_blocks(model, encoded)):
            block = {} if rows is None else score_rows(model, encoded, args, rows)
            for place, parts in distributed.to_main((rows, [block[name] for name in ("qi", "qc") if block])):
                if scores is not None and place is not None:
                    scores[0, place], scores[1, place] = parts
        yield scores


@contextlib.contextmanager
def _scores_file(encoded: EncodedSplit, args: argparse.Namespace) -> Iterator[np.ndarray]:
    shape = 2, *encoded.relevance.shape
    with tempfile.TemporaryFile(dir=args.output_dir) as file:
        try:
            reserve(file, math.prod(shape) * np.dtype(np.float32).itemsize)
        except OSError as error:
            raise not_written(Path(args.output_dir) / "the scores on val", error) from error
        yield np.memmap(file, np.float32, "w+", shape=shape)


def fit_alpha(scores: np.ndarray, relevance: metrics.Relevance) -> float:
    """The α of QI and QC (2, Q, M) that metrics.fit_weights finds."""
    return metrics.share_of_first(*metrics.fit_weights(scores[0], scores[1], relevance))


def fit_and_rank(
    model: IEF, encoded: EncodedSplit, args: argparse.Namespace
) -> tuple[float, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """-> (the fitted α, rank_split's ranks by QI, QC, and by the two fused with this α).

    All processes score. The first one fits and ranks; in the others the result is (nan, {}).
    """
    with part_scores(model, encoded, args) as scores:
        if scores is None:
            return math.nan, {}
        alpha = fit_alpha(scores, encoded.relevance)

        def score(rows: slice) -> dict[str, np.ndarray]:
            qi, qc = scores[:, rows]
            return {"qi": qi, "qc": qc, "fused": metrics.weighted_sum((qi, qc), (alpha, 1 - alpha))}

        return alpha, rank_blocks(score, row_blocks(model, encoded), encoded.relevance)


@dataclasses.dataclass(frozen=True)
class FoldsResult:
    """InfoNCE on held-out queries, of one α and of a network that were fitted on the same other queries.

    gain: by how much the network's is lower, the mean over the queries; error: that mean's standard error.
    """

    scalar: float
    network: float
    gain: float
    error: float

    @property
    def network_wins(self) -> bool:
        return self.gain > self.error


class QueryFit:
    """Fits Fusion("query") networks on some queries of a split.

    sentence (Q, d): the queries' end-of-text features; scores (2, Q, M): QI and QC. The loss is that of
    metrics.fit_weights for s (α QI + (1 - α) QC), with an α per query and one s for all. rate: Adam's.
    """

    def __init__(
        self, sentence: torch.Tensor, scores: np.ndarray, relevance: metrics.Relevance, seed: int, rate: float
    ) -> None:
        self.sentence, self.scores, self.relevance = sentence.float(), scores, relevance
        self.seed, self.rate = seed, rate
        self.queries = np.flatnonzero(relevance.counts)

    def compare(self) -> FoldsResult | None:
        """Network against scalar in FOLDS folds, drawn by the seed; None where there are too few queries for two."""
        if len(self.queries) < 2:
            return None
        shuffled = np.random.default_rng(self.seed).permutation(self.queries)
        by_scalar, by_network = [], []
        for held_out in np.array_split(shuffled, min(FOLDS, len(shuffled))):
            rest = np.setdiff1d(self.queries, held_out)
            a, b = self._scalar(self.relevance.pairs_of(rest))
            network, scale = self.train(rest, a, b)
            for some in np.array_split(held_out, math.ceil(len(held_out) / BATCH)):
                by_scalar.append(self._losses(some, a, b))
                with torch.no_grad():
                    alpha = network.alpha(self.sentence[some])
                    by_network.append(self._losses(some, scale * alpha, scale * (1 - alpha)))
        scalar, of_network = (torch.cat(parts).cpu().double().numpy() for parts in (by_scalar, by_network))
        gain = scalar - of_network
        error = gain.std(ddof=1) / len(gain) ** 0.5
        return FoldsResult(float(scalar.mean()), float(of_network.mean()), float(gain.mean()), float(error))

    def train_on_all(self) -> Fusion:
        """The network fitted on all queries."""
        return self.train(self.queries, *self._scalar(self.relevance))[0]

    def train(self, queries: np.ndarray, a: float, b: float) -> tuple[Fusion, float]:
        """-> (a network fitted on the queries, its s). It starts at the scalar fit, a * QI + b * QC."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = Fusion("query", self.sentence.shape[1])
        with torch.no_grad():
            start = min(max(metrics.share_of_first(a, b), 0.05), 0.95)  # where the sigmoid still moves
            last = network.network[-1]
            assert isinstance(last, torch.nn.Linear)
            last.bias.fill_(math.log(start / (1 - start)))
        network.to(self.sentence.device)
        log_scale = torch.tensor(math.log(max(a + b, 1.0)), device=self.sentence.device, requires_grad=True)
        optimizer = torch.optim.Adam([*network.parameters(), log_scale], lr=self.rate)
        generator = np.random.default_rng(self.seed)
        for _ in range(EPOCHS):
            order = generator.permutation(queries)
            for start_of_batch in range(0, len(order), BATCH):
                some = order[start_of_batch : start_of_batch + BATCH]
                alpha, scale = network.alpha(self.sentence[some]), log_scale.exp()
                optimizer.zero_grad()
                self._losses(some, scale * alpha, scale * (1 - alpha)).mean().backward()
                optimizer.step()
                with torch.no_grad():
                    log_scale.clamp_(max=math.log(metrics.LARGEST_SUM))
        return network, log_scale.exp().item()

    def _scalar(self, relevance: metrics.Relevance) -> tuple[float, float]:
        return metrics.fit_weights(self.scores[0], self.scores[1], relevance)

    def _losses(self, queries: np.ndarray, a: torch.Tensor | float, b: torch.Tensor | float) -> torch.Tensor:
        """InfoNCE of a * QI + b * QC of each of n queries: (n,). a, b: numbers, or one per query (n, 1)."""
        qi, qc = (torch.from_numpy(part[queries]).to(self.sentence.device) for part in self.scores)
        positives = np.zeros(qi.shape, bool)
        for row, query in enumerate(queries):
            first, last = np.searchsorted(self.relevance.query, (query, query + 1))
            positives[row, self.relevance.meme[first:last]] = True
        return info_nce(a * qi + b * qc, torch.from_numpy(positives).to(qi.device))
