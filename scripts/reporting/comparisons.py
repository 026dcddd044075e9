"""Which queries gain and which lose: from QC, from one run to another."""

from dataclasses import dataclass

import numpy as np

from evaluation.significance import paired_bootstrap
from scripts.reporting.shown_runs import different_flags

LEAST = 1e-9  # of a difference in average precision; less is rounding


@dataclass
class Comparison:
    """title: what the gain comes from; detail: what exactly is compared. before, after: (Q,) average precision in %."""

    title: str
    detail: str
    before: np.ndarray
    after: np.ndarray

    @property
    def gain(self):
        return self.after - self.before

    @property
    def most_gained(self):
        """Indices of the queries that gain, the most first."""
        order = np.argsort(-self.gain, kind="stable")
        return order[self.gain[order] > LEAST]

    @property
    def most_lost(self):
        order = np.argsort(self.gain, kind="stable")
        return order[self.gain[order] < -LEAST]

    def interval(self):
        """(mean gain, its 95 % bootstrap interval over the queries)."""
        mean, low, high, _ = paired_bootstrap(self.after, self.before)
        return mean, (low, high)


def comparisons(runs):
    """Between the first run and each further one, then within each run that has both branches."""
    return [*between(runs), *(comparison for run in runs for comparison in within(run))]


def between(runs):
    """The gain of each further run over the first."""
    for run in runs[1:]:
        yield Comparison(
            title=f"From {runs[0].name} to {run.name}",
            detail="; ".join(difference(runs[0], run)),
            before=runs[0].per_query("mAP"),
            after=run.per_query("mAP"),
        )


def difference(before, after):
    """Sentences on what differs; the methods too where the settings that both runs have do not tell them apart."""
    flags = different_flags(before, after)
    methods = [run.args.get("method") or run.name for run in (before, after)]
    if before.args.get("method") != after.args.get("method") and (not flags or before.args.keys() != after.args.keys()):
        yield f"method: {' → '.join(methods)}"
    yield from flags or ["the settings that both have are the same"]


def within(run):
    """What QC adds to QI."""
    if not run.has_two_branches:
        return
    fused = run.per_query("mAP")
    yield Comparison(f"From QC: {run.name}", "from QI alone to the fused score", run.per_query("mAP", "qi"), fused)
