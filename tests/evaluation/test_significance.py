"""Paired tests against SciPy, against the sign flips counted one by one, and on data where nothing is to be found."""

import itertools

import numpy as np
import pytest
import scipy.stats

from evaluation.significance import holm, paired_bootstrap, randomisation_test


@pytest.fixture
def runs():
    rng = np.random.default_rng(5)
    baseline = 100 * rng.random(40)
    return np.clip(baseline + rng.normal(4, 12, 40), 0, 100), baseline


def test_randomisation_is_all_sign_flips_counted():
    values, baseline = np.array([9.0, 4, 7, 8, 3, 6, 9, 5]), np.array([5.0, 5, 4, 8, 1, 2, 7, 6])
    difference = values - baseline
    means = [np.mean(signs * difference) for signs in itertools.product((1, -1), repeat=len(difference))]
    exact = np.mean(np.abs(means) >= abs(difference.mean()) - 1e-12)
    assert randomisation_test(values, baseline, resamples=200_000) == pytest.approx(exact, abs=0.005)


def test_randomisation_equals_scipy(runs):
    expected = scipy.stats.permutation_test(
        runs, lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=50_000, rng=1
    ).pvalue
    assert randomisation_test(*runs, resamples=50_000) == pytest.approx(expected, abs=0.006)


def test_bootstrap_interval_equals_scipy(runs):
    gain, low, high, p = paired_bootstrap(*runs, resamples=50_000)
    expected = scipy.stats.bootstrap(
        (runs[0] - runs[1],), np.mean, method="percentile", n_resamples=50_000, rng=1
    ).confidence_interval
    assert gain == pytest.approx(np.mean(runs[0] - runs[1]), rel=1e-12)
    assert (low, high) == pytest.approx(tuple(expected), abs=0.1)
    # About normal: the p-value is near that of the z-test with the same, population, standard error.
    error = np.std(runs[0] - runs[1]) / np.sqrt(40)
    assert p == pytest.approx(2 * scipy.stats.norm.sf(gain / error), abs=0.01)


@pytest.mark.parametrize("test", [randomisation_test, lambda *runs, seed: paired_bootstrap(*runs, seed=seed)[3]])
def test_no_difference_is_found_as_often_as_the_level_says(test):
    rng = np.random.default_rng(0)
    found = [test(rng.normal(size=30), rng.normal(size=30), seed=seed) < 0.05 for seed in range(200)]
    assert 0.01 < np.mean(found) < 0.12  # 5 %, with the noise of 200 trials


def test_equal_runs_and_one_query():
    same = np.array([1.0, 2, 3])
    assert paired_bootstrap(same, same) == (0, 0, 0, 1)
    assert randomisation_test(same, same) == 1
    assert randomisation_test([3.0], [1.0]) == 1  # one query can tell nothing


def test_the_sign_is_of_the_first_minus_the_second_and_both_are_two_sided(runs):
    gain, low, high, p = paired_bootstrap(*runs, seed=3)
    back, back_low, back_high, back_p = paired_bootstrap(*runs[::-1], seed=3)
    assert gain > 0 and (back, back_low, back_high) == pytest.approx((-gain, -high, -low))
    assert back_p == pytest.approx(p, abs=1e-12)
    assert randomisation_test(*runs, seed=3) == randomisation_test(*runs[::-1], seed=3)


def test_a_block_more_changes_nothing_but_the_draws(runs, monkeypatch):
    whole = paired_bootstrap(*runs, resamples=500)
    monkeypatch.setattr("evaluation.significance.BLOCK_ELEMENTS", 40 * 50)
    assert paired_bootstrap(*runs, resamples=500) == pytest.approx(whole)


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and the last is lifted to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1, 1])
    assert holm([0.03]) == pytest.approx([0.03])
    assert len(holm([])) == 0


@pytest.mark.parametrize("runs", [([1.0, 2], [1.0]), ([], []), ([[1.0]], [[1.0]])])
def test_what_is_no_pair_of_runs_is_refused(runs):
    for test in (paired_bootstrap, randomisation_test):
        with pytest.raises(ValueError, match="same queries"):
            test(*runs)
