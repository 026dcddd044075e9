"""A community's submissions in the order of a metric, each tested against the one above it."""

import dataclasses
from itertools import pairwise

import numpy as np

from evaluation.run_tables import ScoredRun, score_ranks
from evaluation.significance import holm, paired_bootstrap, randomisation_test
from metrics import METRICS
from scripts.submissions.submission import Submission

SEED = 0  # of the intervals and the tests
SORTABLE = tuple(name for name, metric in METRICS.items() if not metric.is_rank)  # all of which more is better


@dataclasses.dataclass(frozen=True)
class Step:
    """A row minus the one above it, in the metric that orders them: the mean over the queries, its 95 % interval, and
    the larger of the two tests' p-values, each corrected for all steps of the community (Holm).
    """

    gain: float
    low: float
    high: float
    p: float


@dataclasses.dataclass(frozen=True)
class Row:
    """rank: equal means share one; step: None in the first row; missed: for how many queries nothing was found."""

    rank: int
    submission: Submission
    scored: ScoredRun
    step: Step | None
    missed: int


def ranking(submissions, community, metric):
    """The Rows of those submissions that have a run of the community, the best first."""
    scored = [
        (submission, score_ranks(submission.ranked[community], SEED))
        for submission in submissions
        if community in submission.ranked
    ]
    scored.sort(key=lambda entry: (-entry[1].means[metric], entry[0].folder.name))
    means = [run.means[metric] for _, run in scored]
    ranks = [1 + means.index(mean) for mean in means]
    steps = [None, *tested([run.values[:, run.names.index(metric)] for _, run in scored])][: len(scored)]
    missed = [int(np.isinf(submission.ranked[community].best).sum()) for submission, _ in scored]
    return [Row(rank, *entry, step, n) for rank, entry, step, n in zip(ranks, scored, steps, missed, strict=False)]


def tested(values):
    """The Steps from each of some runs' values, (Q,), to the next."""
    pairs = [(below, above) for above, below in pairwise(values)]
    found = [paired_bootstrap(*pair, seed=SEED) for pair in pairs]
    by_bootstrap = holm([p for *_, p in found])
    by_randomisation = holm([randomisation_test(*pair, seed=SEED) for pair in pairs])
    larger = np.maximum(by_bootstrap, by_randomisation).tolist()
    return [Step(*gain, p) for (*gain, _), p in zip(found, larger, strict=True)]
