"""Is one run better than another beyond chance? Paired tests over the queries, and Holm's correction. NumPy only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

BLOCK_ELEMENTS = 2**22


def paired_bootstrap(
    values: ArrayLike, baseline: ArrayLike, seed: int = 0, resamples: int = 10_000
) -> tuple[float, float, float, float]:
    """-> (gain, low, high, p): the mean of values - baseline, its 95 % interval, a two-sided p-value.

    values, baseline: (Q,) a metric per query, of the same queries. The queries are drawn with replacement; the
    interval is the percentile one. p is the share of draws whose gain, moved to a mean of zero, is at least as
    far from zero as the gain found (Sakai 2006), with the found one counted among them. ValueError on another
    shape or no query.
    """
    difference = _differences(values, baseline)
    n, gain = len(difference), difference.mean()
    generator = np.random.default_rng(seed)
    drawn = [difference[generator.integers(n, size=(count, n))].mean(axis=1) for count in _block_sizes(resamples, n)]
    gains = np.concatenate(drawn)
    low, high = np.percentile(gains, (2.5, 97.5))
    return float(gain), float(low), float(high), _p_value(gains - gain, gain)


def randomisation_test(values: ArrayLike, baseline: ArrayLike, seed: int = 0, resamples: int = 10_000) -> float:
    """Two-sided p-value of Fisher's paired randomisation test (Smucker et al. 2007) of equal means.

    values, baseline: as in `paired_bootstrap`. If the two runs were alike, each query's pair could as well be the
    other way round: the signs of the differences are drawn, and p is the share of draws whose mean is at least
    as far from zero as the one found, with that one counted among them.
    """
    difference = _differences(values, baseline)
    generator = np.random.default_rng(seed)
    drawn = [
        (2.0 * generator.integers(2, size=(count, len(difference))) - 1) @ difference / len(difference)
        for count in _block_sizes(resamples, len(difference))
    ]
    return _p_value(np.concatenate(drawn), difference.mean())


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The p-values adjusted for their number (Holm 1979), in their order: at most alpha means significant at alpha.

    The smallest of n is multiplied by n, the next one by n - 1, and so on; none is adjusted below a smaller one.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty_like(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1)
    return adjusted


def _differences(values: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    values, baseline = np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if values.ndim != 1 or values.shape != baseline.shape or not len(values):
        raise ValueError(f"expected two lists of the same queries, found shapes {values.shape} and {baseline.shape}")
    return values - baseline


def _block_sizes(resamples: int, n: int) -> list[int]:
    step = max(1, BLOCK_ELEMENTS // n)
    return [min(step, resamples - start) for start in range(0, resamples, step)]


def _p_value(drawn: np.ndarray, found: float) -> float:
    """The share of drawn means that are as far from zero as `found`; sums in another order decide no tie."""
    slack = 1e-9 * max(1.0, abs(found))
    return float((1 + np.count_nonzero(np.abs(drawn) >= abs(found) - slack)) / (1 + len(drawn)))
