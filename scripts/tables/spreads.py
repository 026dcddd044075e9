"""Means and spreads over seeds, and the significance of differences over queries."""

import dataclasses

import numpy as np

from evaluation.significance import holm, paired_bootstrap, randomisation_test
from metrics import METRICS

LEVEL = 0.05
LEAST_RESAMPLES = 10_000
RESAMPLES_PER_COMPARISON = 100  # so that Holm's smallest p-value, comparisons / resamples, is at most 0.01


@dataclasses.dataclass(frozen=True)
class Spread:
    """A mean over runs. sd: the sample standard deviation (n - 1), None of one run."""

    mean: float
    sd: float | None
    count: int


def spread(values):
    """Spread of the numbers that are not None; None where there is none."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values))


def metric_spread(entry, metric):
    """Spread of a metric over a MethodRuns' runs."""
    return spread([run.metrics[metric] for run in entry.runs])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A method against the baseline in one metric, over queries. The fields are the columns of significance.csv.

    gain: the method's mean minus the baseline's; low, high: its 95 % bootstrap interval. p_...: two-sided p-values;
    holm_...: these, corrected for the number of comparisons of the table.
    """

    table: str
    community: str
    method: str
    metric: str
    baseline: str
    queries: int
    gain: float
    low: float
    high: float
    p_bootstrap: float
    p_randomisation: float
    holm_bootstrap: float
    holm_randomisation: float
    comparisons: int
    resamples: int

    @property
    def verdict(self):
        """better, worse, or empty where one of the two corrected p-values is not below 0.05."""
        if max(self.holm_bootstrap, self.holm_randomisation) >= LEVEL:
            return ""
        return "better" if (self.gain > 0) != METRICS[self.metric].lower_is_better else "worse"


def compare(table, pairs, tested):
    """{(community, method, metric): Comparison} of all pairs and metrics, one family for Holm's correction.

    pairs: [(community slug, MethodRuns, MethodRuns of the baseline)], all with runs of the community's test split.
    Each query's value is the mean over the method's runs.
    """
    family = [(slug, entry, baseline, metric) for slug, entry, baseline in pairs for metric in tested]
    resamples = max(LEAST_RESAMPLES, RESAMPLES_PER_COMPARISON * len(family))
    raw = []
    for _, entry, baseline, metric in family:
        both = [query_means([run.values for run in each.runs], metric) for each in (entry, baseline)]
        gain, low, high, p_bootstrap = paired_bootstrap(*both, resamples=resamples)
        raw.append((len(both[0]), gain, low, high, p_bootstrap, randomisation_test(*both, resamples=resamples)))
    corrected = zip(holm([row[-2] for row in raw]), holm([row[-1] for row in raw]), strict=True)
    return {
        (slug, entry.method.name, metric): Comparison(
            table,
            slug,
            entry.method.name,
            metric,
            baseline.method.name,
            *row,
            *map(float, both),
            len(family),
            resamples,
        )
        for (slug, entry, baseline, metric), row, both in zip(family, raw, corrected, strict=True)
    }


def query_means(values, metric):
    """(Q',) a metric of each query, the mean over the runs; values: (Q', metrics) of each run."""
    return np.mean([of_run[:, list(METRICS).index(metric)] for of_run in values], axis=0)
