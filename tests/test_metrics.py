"""metrics.py against trec_eval, CLIP4Clip's formula, scipy, enumeration, slow loops and hand counts."""

import itertools
import json
import math
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import metrics
from metrics import RankCounter, Relevance, ranks_from_rows, relevant_ranks, retrieval_metrics
from tests.conftest import names_with_spaces
from util import InputError, NotFinite

NAMES = ["R@1", "R@5", "R@10", "R@20", "R@50", "R@100", "recall@1", "recall@5", "recall@10", "recall@20", "recall@50"]
NAMES += ["P@10", "P@20", "P@50", "MdR", "MnR", "mAP", "nDCG@10", "MRR", "MAP@R"]


def random_relevance(rng, n_queries, n_memes, share):
    return Relevance(*np.nonzero(rng.random((n_queries, n_memes)) < share), (n_queries, n_memes))


def slow_ranks(scores, relevance):
    """The definition: sort each query's memes by (score descending, irrelevant first), then by number."""
    relevant = set(zip(relevance.query.tolist(), relevance.meme.tolist(), strict=True))
    rank = {}
    for q in range(len(scores)):
        order = sorted(range(scores.shape[1]), key=lambda m, q=q: (-float(scores[q, m]), (q, m) in relevant, m))
        rank.update({(q, m): i + 1 for i, m in enumerate(order)})
    return [rank[pair] for pair in zip(relevance.query.tolist(), relevance.meme.tolist(), strict=True)]


def of_dense(scores, relevance):
    return retrieval_metrics(relevant_ranks(scores, relevance), relevance.query, *relevance.shape)


def test_equal_to_trec_eval_with_several_relevant_memes():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(0)
    relevance = random_relevance(rng, 40, 120, 0.15)
    scores = np.stack([rng.permutation(120) for _ in range(40)])  # trec_eval orders ties by name: have none
    truth = {f"q{q}": {} for q in range(40)}
    for q, m in zip(relevance.query, relevance.meme, strict=True):
        truth[f"q{q}"][f"m{m}"] = 1
    run = {f"q{q}": {f"m{m}": float(scores[q, m]) for m in range(120)} for q in range(40)}
    measures = {"map", "ndcg_cut.10", "recall.1,5,10,20,50", "P.10,20,50", "recip_rank", "success.1,5,10,20,50,100"}
    theirs = pytrec_eval.RelevanceEvaluator(truth, measures).evaluate(run)
    pairs = {"mAP": "map", "nDCG@10": "ndcg_cut_10", "MRR": "recip_rank"}
    pairs |= {f"R@{k}": f"success_{k}" for k in (1, 5, 10, 20, 50, 100)}
    pairs |= {f"recall@{k}": f"recall_{k}" for k in (1, 5, 10, 20, 50)} | {f"P@{k}": f"P_{k}" for k in (10, 20, 50)}
    names, values = metrics.per_query_metrics(relevant_ranks(scores, relevance), relevance.query, 40, 120)
    for ours, name in pairs.items():
        expected = [100 * theirs[f"q{q}"][name] for q in range(40)]
        np.testing.assert_allclose(values[:, names.index(ours)], expected, atol=1e-9, err_msg=ours)


def test_equal_to_the_clip4clip_formula_with_one_relevant_meme_and_no_ties():
    scores = np.random.default_rng(1).permutation(90 * 90).reshape(90, 90) / 7 + 400 * np.eye(90)
    ours = of_dense(scores, Relevance.diagonal(90))
    place = np.array([np.where(np.argsort(-row) == i)[0][0] for i, row in enumerate(scores)])
    for k in (1, 5, 10, 20, 50):
        assert ours[f"R@{k}"] == pytest.approx(100 * np.sum(place < k) / 90)
    assert ours["MdR"] == np.median(place) + 1 > 1
    assert ours["MnR"] == pytest.approx(np.mean(place) + 1)


def test_names_and_a_ranking_counted_by_hand():
    # Query 0: memes 2, 0, 3, 1 with 0 and 1 relevant (ranks 2, 4). Query 1: all memes are relevant.
    scores = np.array([[3.0, 1, 4, 2], [0, 0, 5, 1]])
    relevance = Relevance([0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 2, 3], (2, 4))
    ranks = relevant_ranks(scores, relevance)
    assert ranks[:2].tolist() == [2, 4] and sorted(ranks[2:]) == [1, 2, 3, 4]
    found = of_dense(scores, relevance)
    assert list(found) == list(metrics.METRICS) == NAMES
    assert found["MRR"] == 75 and found["MAP@R"] == 100 * (1 / 4 + 1) / 2  # (0 + 1/2) / 2 of query 0: 4 is over 2
    dcg, ideal = 1 / np.log2(3) + 1 / np.log2(5), 1 + 1 / np.log2(3)
    expected = {"R@1": 50, "R@5": 100, "recall@1": 12.5, "recall@5": 100, "P@10": 30, "P@50": 6, "MdR": 1.5}
    expected |= {"MnR": 1.5, "mAP": 100 * (0.5 + 1) / 2, "nDCG@10": 100 * (dcg / ideal + 1) / 2}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_map_at_r_is_the_mean_precision_at_the_first_r_places():
    rng = np.random.default_rng(12)
    relevance = random_relevance(rng, 30, 40, 0.3)
    scores = rng.random((30, 40))
    names, values = metrics.per_query_metrics(relevant_ranks(scores, relevance), relevance.query, 30, 40)
    for row, query in zip(values[:, names.index("MAP@R")], np.unique(relevance.query), strict=True):
        relevant = relevance.meme[relevance.query == query]
        right = np.isin(np.argsort(-scores[query])[: len(relevant)], relevant)
        precision = [np.mean(right[: place + 1]) for place in np.flatnonzero(right)]
        assert row == pytest.approx(100 * sum(precision) / len(relevant))


def test_a_perfect_ranking_scores_100_with_two_relevant_memes_per_query():
    relevance = Relevance([0, 0, 1, 1], [0, 1, 2, 3], (2, 4))
    found = of_dense(np.array([[9, 8, 1, 2], [1, 2, 8, 9]]), relevance)
    assert found["R@1"] == found["R@10"] == found["mAP"] == found["MAP@R"] == found["recall@5"] == 100
    assert found["recall@1"] == 50


def test_a_constant_matrix_earns_nothing():
    by_query, by_meme = ranks_from_rows(lambda rows: np.ones((4, 4)), Relevance.diagonal(4))
    assert by_query.tolist() == by_meme.tolist() == [4, 4, 4, 4]
    scores = np.array([[5, 5, 5, 1, 5, 9]])  # three relevant among five: one irrelevant of the same score leads
    assert relevant_ranks(scores, Relevance([0, 0, 0], [0, 2, 4], (1, 6))).tolist() == [3, 4, 5]
    assert relevant_ranks(np.array([[0.0, -0.0]]), Relevance([0], [0], (1, 2))).tolist() == [2]
    # No tie in float64, one in float32: scores are ranked in the precision they come in.
    assert relevant_ranks(np.array([[1 + 1e-12, 1]]), Relevance([0], [0], (1, 2))).tolist() == [1]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "u8", "?"])
def test_dense_ranks_equal_the_definition_with_many_ties(dtype):
    rng = np.random.default_rng(2)
    for n_queries, n_memes, share in ((13, 37, 0.3), (1, 1, 1.1), (5, 64, 1.1), (30, 8, 0.05)):
        relevance = random_relevance(rng, n_queries, n_memes, share)
        scores = rng.integers(0, 6, (n_queries, n_memes)).astype(dtype)
        assert relevant_ranks(scores, relevance).tolist() == slow_ranks(scores, relevance)


def both_slow_ranks(scores, relevance):
    transposed = relevance.transposed()
    by_meme = np.empty(len(relevance.query), int)
    by_meme[transposed.source] = slow_ranks(scores.T, transposed)
    return slow_ranks(scores, relevance), by_meme.tolist()


def both_lists(ranks):
    assert all(each.dtype == np.int64 for each in ranks)
    return tuple(each.tolist() for each in ranks)


@pytest.mark.parametrize("rows", [1, 3, 8, 17, 1000])
def test_blocks_of_any_height_give_both_directions_of_the_definition(rows):
    rng = np.random.default_rng(3)
    relevance = random_relevance(rng, 17, 31, 0.2)
    scores = rng.integers(-4, 5, (17, 31)).astype(np.float32)
    found = ranks_from_rows(lambda block: scores[block], relevance, rows)
    assert both_lists(found) == both_slow_ranks(scores, relevance)


def counted(relevance, scores, expected, margin, heights=5, order=None, processes=1):
    """A RankCounter that was given the rows in blocks, in an order, by one or by several counters that are merged."""
    starts = np.arange(0, relevance.shape[0], heights)
    shares = np.array_split(starts if order is None else order.permutation(starts), processes)
    counters = [RankCounter(relevance, expected, margin) for _ in shares]
    for counter, share in zip(counters, shares, strict=True):
        for start in share:
            counter.add(slice(start, start + heights), scores[start : start + heights])
    for other in counters[1:]:
        counters[0].merge(other)
    return counters[0]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("levels", [2, 40, 2000])
def test_scores_that_are_expected_within_rounding_give_the_ranks_of_the_whole_matrix(levels, processes, monkeypatch):
    """Steps of half a margin: most scores lie so near to others that the expected one does not tell which is higher."""
    monkeypatch.setattr(metrics, "TILE_ELEMENTS", 60)  # columns are counted a few at a time, too
    rng = np.random.default_rng(levels)
    relevance = random_relevance(rng, 23, 31, 0.2)
    scores = (rng.integers(levels, size=(23, 31)) * np.float32(5e-6)).astype(np.float32)
    expected = scores[relevance.query, relevance.meme] + rng.uniform(-9e-6, 9e-6, len(relevance.query))
    for _ in range(3):
        counter = counted(relevance, scores, expected, 1e-5, 5, rng, processes)
        assert counter.settled
        assert both_lists(counter.ranks()) == both_slow_ranks(scores, relevance)


@pytest.mark.parametrize("processes", [1, 2])
def test_what_was_not_expected_is_noticed_and_settled_by_a_second_counter(monkeypatch, processes):
    rng = np.random.default_rng(1)
    relevance = random_relevance(rng, 20, 30, 0.2)
    scores = rng.random((20, 30), dtype=np.float32)
    own = scores[relevance.query, relevance.meme].astype(np.float64)
    wrong = own.copy()
    wrong[7] += 1.1e-5
    unknown = own.copy()
    unknown[7] = np.nan
    counters = [counted(relevance, scores, expected, 1e-5, 3, rng, processes) for expected in (wrong, unknown)]
    monkeypatch.setattr(metrics, "NEAR_KEPT", 50)
    constant = np.full_like(scores, 0.5)
    for first, matrix in [*((each, scores) for each in counters), (None, constant)]:
        first = first or counted(relevance, matrix, matrix[relevance.query, relevance.meme], 1e-5, 3, rng, processes)
        assert not first.settled
        with pytest.raises(ValueError, match="not settled"):
            first.ranks()
        second = counted(relevance, matrix, first.scores, 0.0, 3, rng, processes)
        assert second.settled
        assert both_lists(second.ranks()) == both_slow_ranks(matrix, relevance)


def test_memory_is_that_of_the_pairs_and_a_few_blocks():
    rng = np.random.default_rng(4)
    relevance = Relevance(np.sort(rng.integers(2048, size=20_000)), np.arange(20_000), (2048, 20_000))
    block = rng.random((50, 20_000), dtype=np.float32)  # 4 MB; the matrix would have 164 MB
    tracemalloc.start()
    ranks_from_rows(lambda rows: block[: rows.stop - rows.start], relevance, 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6


def test_blocks_that_do_not_cover_the_matrix_once_are_an_error():
    scores, halves = np.arange(16.0).reshape(4, 4), [slice(0, 2), slice(2, 9)]
    for blocks, times in ((halves[:1], 0), ([*halves, halves[0]], 2)):
        counter = RankCounter(Relevance.diagonal(4), scores.diagonal())
        for rows in blocks:
            counter.add(rows, scores[rows])
        with pytest.raises(
            ValueError, match=f"do not cover the matrix once: the row of query . was added {times} times"
        ):
            counter.ranks()


def test_rows_that_are_not_the_same_when_read_again_are_an_error():
    matrices = iter(np.random.default_rng(0).random((2, 4, 4)))
    with pytest.raises(ValueError, match="not settled: 4 pairs"):
        ranks_from_rows(lambda rows: next(matrices), Relevance.diagonal(4))


@pytest.mark.parametrize("rows", [slice(0, 3), slice(0, 4, 2), slice(2, 9)])
def test_a_block_that_does_not_fit_its_place_is_an_error(rows):
    with pytest.raises(ValueError, match="block of shape"):
        RankCounter(Relevance.diagonal(4), np.zeros(4)).add(rows, np.zeros((2, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_errors_that_say_where(value):
    scores = np.zeros((6, 9), np.float32)
    scores[4, 7] = value
    with pytest.raises(InputError, match=f"query 4, meme 7 is {value}"):
        relevant_ranks(scores, Relevance([0], [0], (6, 9)))
    with pytest.raises(NotFinite, match=f"query 4, meme 7 is {value}"):
        ranks_from_rows(lambda rows: scores[rows], Relevance([0], [0], (6, 9)), 3)
    with pytest.raises(InputError, match="complex"):
        relevant_ranks(np.zeros((6, 9), complex), Relevance([0], [0], (6, 9)))


def test_lines_without_a_relevant_item_are_left_out_and_counted():
    scores = np.array([[1.0, 2, 3], [3, 2, 1], [1, 2, 3]])
    relevance = Relevance([0, 2], [2, 0], (3, 3))
    names, values = metrics.per_query_metrics(relevant_ranks(scores, relevance), relevance.query, 3, 3)
    assert values[:, names.index("MnR")].tolist() == [1, 3]
    assert relevance.skipped == 1 and relevance.counts.tolist() == [1, 0, 1]
    nothing = Relevance([], [], (3, 3))
    assert relevant_ranks(scores, nothing).tolist() == [] and nothing.skipped == 3
    with pytest.raises(InputError, match="nothing to average"):
        of_dense(scores, nothing)
    with pytest.raises(InputError, match="nothing to average"):
        metrics.random_expectation(nothing)


@pytest.mark.parametrize("ranks, match", [([0, 1], "outside 1"), ([2, 2], "same rank"), ([1, 4], "outside 1")])
def test_ranks_that_cannot_be_ranks_are_an_error(ranks, match):
    with pytest.raises(ValueError, match=match):
        retrieval_metrics(ranks, [0, 0], 1, 3)


def test_bootstrap_equals_a_plain_loop_in_any_chunks(monkeypatch):
    rng = np.random.default_rng(5)
    names, values = ("mAP", "MdR", "R@1"), rng.integers(0, 30, (24, 3)).astype(float)
    draws = np.random.default_rng(7).integers(24, size=(150, 24))
    samples = [[values[d, 0].mean(), np.median(values[d, 1]), values[d, 2].mean()] for d in draws]
    expected = np.percentile(samples, [2.5, 97.5], axis=0).T
    for elements in (2**23, 24 * 2 * 7, 1):
        monkeypatch.setattr(metrics, "TILE_ELEMENTS", elements)
        found = metrics.bootstrap_intervals(names, values, seed=7, resamples=150)
        assert list(found) == list(names)
        np.testing.assert_allclose(list(found.values()), expected, rtol=1e-12)
    assert found != metrics.bootstrap_intervals(names, values, seed=8, resamples=150)


def test_bootstrap_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(6).gamma(2, 20, (300, 2))
    found = metrics.bootstrap_intervals(("MnR", "MdR"), values, resamples=4000)
    for column, (name, statistic) in enumerate((("MnR", np.mean), ("MdR", np.median))):
        theirs = stats.bootstrap(
            (values[:, column],),
            statistic,
            method="percentile",
            n_resamples=4000,
            rng=np.random.default_rng(1),
        ).confidence_interval
        width = theirs.high - theirs.low
        np.testing.assert_allclose(found[name], theirs, atol=0.08 * width)


@pytest.mark.parametrize(
    "shape, pairs",
    [
        ((3, 6), [(0, 1), (0, 2), (1, 5), (2, 0), (2, 1), (2, 3), (2, 4)]),
        ((1, 6), [(0, 3)]),  # the median falls between two ranks
        ((2, 4), [(0, 0), (0, 1), (0, 2), (0, 3)]),  # one query has all memes, one has none
        ((1, 1), [(0, 0)]),
    ],
)
def test_random_expectation_equals_the_mean_over_all_orders(shape, pairs):
    relevance = Relevance(*np.transpose(pairs), shape)
    per_order = []
    for order in itertools.permutations(range(shape[1])):
        ranks = relevant_ranks(np.tile(order, (shape[0], 1)), relevance)
        names, values = metrics.per_query_metrics(ranks, relevance.query, *shape)
        per_order.append(values)
    expected = metrics.average(names, np.concatenate(per_order))
    assert metrics.random_expectation(relevance) == pytest.approx(expected, abs=1e-9)


def test_random_expectation_agrees_with_simulation_at_all_cutoffs():
    rng = np.random.default_rng(8)
    relevance = random_relevance(rng, 60, 150, 0.04)
    values = [
        metrics.per_query_metrics(relevant_ranks(rng.random((60, 150)), relevance), relevance.query, 60, 150)[1]
        for _ in range(300)
    ]
    simulated = metrics.average(metrics.METRICS, np.concatenate(values))
    error = np.concatenate(values).std(axis=0) / np.sqrt(300 * len(values[0]))
    expected = metrics.random_expectation(relevance)
    for name, one_error in zip(metrics.METRICS, error, strict=True):
        assert simulated[name] == pytest.approx(expected[name], abs=4 * one_error + 0.5 * (name == "MdR")), name


def test_random_expectation_at_the_benchmarks_size():
    rng = np.random.default_rng(9)
    relevance = Relevance(rng.integers(3630, size=148_886), np.arange(148_886), (3630, 148_886))
    found = metrics.random_expectation(relevance)
    mean_share = 148_886 / 3630 / 148_886
    assert found["R@1"] == pytest.approx(100 * mean_share, rel=1e-5)
    assert found["P@10"] == pytest.approx(100 * mean_share)
    in_mean = metrics.random_expectation(relevance.transposed())
    assert in_mean["MdR"] == 1815.5 and in_mean["MnR"] == pytest.approx(1815.5)


def noisy_scores(seed, strengths, noise=(1.0, 1.0), shape=(20, 40), share=0.1):
    """(QI, QC, relevance): relevant memes score `strengths` higher, of noise; the last query has nothing relevant."""
    rng = np.random.default_rng(seed)
    dense = rng.random(shape) < share
    dense[0, 0], dense[-1] = True, False
    scores = (
        (of * dense + scale * rng.standard_normal(shape)).astype(np.float32)
        for of, scale in zip(strengths, noise, strict=True)
    )
    return *scores, Relevance(*np.nonzero(dense), shape)


def slow_info_nce(weights, qi, qc, relevance):
    """The loss of `fit_weights` as docs/METRICS.md defines it, a query and a relevant meme at a time."""
    losses = []
    for query in np.flatnonzero(relevance.counts):
        logits = weights[0] * qi[query].astype(np.float64) + weights[1] * qc[query].astype(np.float64)
        log_sum = logits.max() + np.log(np.exp(logits - logits.max()).sum())
        losses.append(np.mean([log_sum - logits[meme] for meme in relevance.meme[relevance.query == query]]))
    return np.mean(losses)


@pytest.mark.parametrize(
    ("strengths", "noise"),
    [((0.8, 2.0), (1, 1)), ((0.3, 0.2), (0.2, 0.1)), ((-1.0, 1.0), (1, 1)), ((-1.0, -2.0), (1, 1)), ((0, 3), (1, 9))],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_fitted_weights_are_those_of_a_general_optimiser(strengths, noise, seed):
    scipy_optimize = pytest.importorskip("scipy.optimize")
    scores = noisy_scores(seed, strengths, noise)
    found = scipy_optimize.minimize(
        slow_info_nce, (1.0, 1.0), scores, "SLSQP", bounds=[(0, 100)] * 2, options={"ftol": 1e-14, "maxiter": 300}
    )
    ours = metrics.fit_weights(*scores)
    assert ours == pytest.approx(found.x, abs=2e-3)
    assert slow_info_nce(ours, *scores) <= found.fun + 1e-9
    assert min(ours) >= 0 and (max(strengths) > 0 or ours == (0, 0))


def test_fitted_weights_end_where_more_would_always_be_better():
    relevance = Relevance.diagonal(4)
    close, closer = 0.001 * np.eye(4), 0.002 * np.eye(4)  # at 100 the wrong memes still have nearly all of the chance
    assert metrics.fit_weights(close, close, relevance) == pytest.approx((50, 50), abs=0.1)
    assert metrics.fit_weights(close, closer, relevance) == (0, 100)
    assert metrics.fit_weights(closer, -closer, relevance) == (100, 0)


def test_a_part_that_says_nothing_gets_no_weight():
    relevance = Relevance.diagonal(6)
    good, constant = np.eye(6), np.full((6, 6), 0.3)
    a, b = metrics.fit_weights(good, constant, relevance)
    assert a > 0 and b == 0 and metrics.share_of_first(a, b) == 1
    assert metrics.share_of_first(*metrics.fit_weights(constant, good, relevance)) == 0
    assert metrics.share_of_first(*metrics.fit_weights(good, -good, relevance)) == 1
    assert metrics.fit_weights(constant, -good, relevance) == (0, 0)
    rounding = constant + 1e-8 * np.random.default_rng(0).choice([-3, 0, 3], constant.shape)
    assert metrics.fit_weights(rounding, -good, relevance) == (0, 0)
    assert metrics.share_of_first(*metrics.fit_weights(0.01 * good, rounding, relevance)) == 1
    assert metrics.share_of_first(0, 0) == 0.5
    equal = metrics.fit_weights(good, good, relevance)
    assert metrics.share_of_first(*equal) == pytest.approx(0.5)


def test_a_part_of_tiny_numbers_gets_the_weight_that_it_deserves():
    """QI of 1e4 says nothing; QC of 1e-3 is right: at the bound it gains most."""
    relevance = Relevance.diagonal(8)
    rng = np.random.default_rng(4)
    loud, faint = 1e4 * rng.standard_normal((8, 8)), 1e-3 * np.eye(8)
    loud[np.arange(8), np.arange(8)] = loud.min() - 1
    assert metrics.fit_weights(loud, faint, relevance) == pytest.approx((0, 100), abs=1e-3)
    assert metrics.fit_weights(faint, loud, relevance) == pytest.approx((100, 0), abs=1e-3)


def test_by_hand_with_two_memes():
    """One query in four is wrong by the same margin d: σ(a d) = 3/4 at the minimum, so a = ln 3 / d."""
    qi = np.array([[0.5, 0.1], [0.1, 0.5], [0.5, 0.1], [0.5, 0.1]])
    relevance = Relevance([0, 1, 2, 3], [0, 1, 0, 1], (4, 2))
    a, b = metrics.fit_weights(qi, np.zeros((4, 2)), relevance)
    assert (a, b) == pytest.approx((math.log(3) / 0.4, 0), abs=1e-4)


def test_fitted_weights_read_blocks_and_only_judged_queries(monkeypatch, tmp_path):
    qi, qc, relevance = noisy_scores(3, (0.8, 2.0))
    whole = metrics.fit_weights(qi, qc, relevance)
    np.save(tmp_path / "qi.npy", qi)
    mapped = np.load(tmp_path / "qi.npy", mmap_mode="r")
    assert metrics.fit_weights(mapped, qc, relevance) == whole
    monkeypatch.setattr(metrics, "TILE_ELEMENTS", 8 * 130)
    assert metrics.fit_weights(mapped, qc, relevance) == pytest.approx(whole, rel=1e-9)
    some = np.array([0, 4, 7, 11])
    part = metrics.fit_weights(qi[some], qc[some], Relevance(*np.nonzero(dense_of(relevance)[some]), (4, 40)))
    assert metrics.fit_weights(qi, qc, relevance.pairs_of(some)) == pytest.approx(part, rel=1e-9)
    assert part != pytest.approx(whole, rel=1e-2)


def dense_of(relevance):
    dense = np.zeros(relevance.shape, bool)
    dense[relevance.query, relevance.meme] = True
    return dense


def test_weights_are_fitted_in_bounded_memory(monkeypatch):
    relevance = Relevance(np.arange(200), np.arange(200), (200, 5000))
    qi = np.random.default_rng(0).standard_normal((200, 5000)).astype(np.float32)
    monkeypatch.setattr(metrics, "TILE_ELEMENTS", 8 * 20_000)  # 20,000 float64 are 160 kB
    tracemalloc.start()
    metrics.fit_weights(qi, qi[:, ::-1], relevance)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6 < qi.nbytes


def test_weights_that_cannot_be_fitted_at_all():
    qi, qc, relevance = noisy_scores(4, (1.0, 1.0))
    with pytest.raises(ValueError, match="QC is"):
        metrics.fit_weights(qi, qc.T, relevance)
    with pytest.raises(InputError, match="nothing to fit"):
        metrics.fit_weights(qi, qc, relevance.pairs_of(np.array([], int)))
    qc[3, 5] = np.nan
    with pytest.raises(InputError, match="query 3, meme 5 is nan"):
        metrics.fit_weights(qi, qc, relevance.pairs_of(np.array([3])))


@pytest.mark.parametrize(
    "query, meme, shape, match",
    [
        ([0, 3], [0, 0], (3, 3), "pair 1: query 3, meme 0 is outside 3 queries x 3 memes"),
        ([0], [-1], (3, 3), "meme -1 is outside"),
        ([1, 0, 1], [2, 0, 2], (3, 3), "query 1, meme 2 occurs more than once"),
        ([0, 1], [0], (3, 3), "one entry of each per relevant pair"),
        ([0], [0], (3, 0), "one entry of each"),
        ([0], [0], (3,), "one entry of each"),
        ([0.5], [0], (3, 3), "'query' must be a list of integers"),
        ([0], [[0]], (3, 3), "'meme' must be"),
    ],
)
def test_relevance_is_checked(query, meme, shape, match):
    with pytest.raises(InputError, match=match):
        Relevance(query, meme, shape)


@pytest.mark.parametrize("elements", [2**23, 4])  # 4: a dense file is read in blocks of one query
def test_relevance_sorts_saves_loads_and_transposes(elements, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "TILE_ELEMENTS", elements)
    relevance = Relevance([2, 0, 0], [1, 3, 0], (3, 4))
    assert (relevance.query.tolist(), relevance.meme.tolist()) == ([0, 0, 2], [0, 3, 1])
    assert relevance.source.tolist() == [2, 1, 0] and relevance.query.dtype == np.int64
    relevance.save(tmp_path / "relevance.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["relevance.npz"]
    np.save(tmp_path / "dense.npy", np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], np.uint8))
    for name in ("relevance.npz", "dense.npy"):
        loaded = Relevance.load(tmp_path / name)
        assert loaded.shape == (3, 4)
        assert (loaded.query.tolist(), loaded.meme.tolist()) == ([0, 0, 2], [0, 3, 1])
    transposed = relevance.transposed()
    assert transposed.shape == (4, 3) and transposed.query.tolist() == [0, 1, 3]
    assert relevance.meme[transposed.source].tolist() == transposed.query.tolist()
    assert relevance.query[transposed.source].tolist() == transposed.meme.tolist()
    part = relevance.queries(1, 3)
    assert (part.query.tolist(), part.meme.tolist(), part.shape) == ([1], [1], (2, 4))


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("exploited",)


def test_a_bad_entry_of_a_later_block_is_named_with_its_query(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "TILE_ELEMENTS", 4)
    np.save(tmp_path / "dense.npy", np.array([[0, 1, 0], [0, 0, 0.5]]))
    with pytest.raises(InputError, match="query 1, meme 2 has 0.5"):
        Relevance.load(tmp_path / "dense.npy")


def write_bad_relevance(path):
    if path.name == "pickle.npy":
        path.write_bytes(pickle.dumps(Exploit()))
    elif path.name == "object.npy":
        np.save(path, np.array([[Exploit()]]), allow_pickle=True)
    elif path.name == "object.npz":
        np.savez(path, query=np.array([Exploit()]), meme=[0], shape=[1, 1])
    elif path.name == "keys.npz":
        np.savez(path, query=[0], meme=[0])
    elif path.name == "graded.npy":
        np.save(path, np.array([[0, 1], [2, 0]]))
    elif path.name == "nan.npy":
        np.save(path, np.array([[0, np.nan]]))
    elif path.name == "flat.npy":
        np.save(path, np.array([0, 1]))
    elif path.name in ("no_query.npy", "no_meme.npy"):
        np.save(path, np.zeros((0, 3) if path.name == "no_query.npy" else (3, 0)))
    elif path.name == "empty.npy":
        path.write_bytes(b"")
    elif path.name == "cut.npz":
        np.savez(path, query=[0], meme=[0], shape=[1, 1])
        path.write_bytes(path.read_bytes()[:200])


BAD_RELEVANCE = {
    "pickle.npy": "pickle",
    "object.npy": "pickle|object",
    "object.npz": "allow_pickle",
    "keys.npz": r"no array \['shape'\]; the file holds \['meme', 'query'\]",
    "graded.npy": "query 1, meme 0 has 2",
    "nan.npy": "query 0, meme 1 has nan",
    "flat.npy": r"shape \(2,\)",
    "no_query.npy": r"expected a matrix of 0 and 1, found float64 of shape \(0, 3\)",
    "no_meme.npy": r"expected a matrix of 0 and 1, found float64 of shape \(3, 0\)",
    "empty.npy": "without pickle",
    "cut.npz": "without pickle",
    "absent.npz": "No such file",
}


@pytest.mark.parametrize("name", BAD_RELEVANCE)
def test_bad_relevance_files_are_named_and_no_pickle_is_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bad_relevance(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: .*({BAD_RELEVANCE[name]})"):
        Relevance.load(tmp_path / name)
    assert not Path("exploited").exists()


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A folder with qi, qc, square.npy, relevance.npz, dense.npy; the test runs in it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(11)
    relevance = random_relevance(rng, 30, 70, 0.08)
    dense = np.zeros(relevance.shape, np.uint8)
    dense[relevance.query, relevance.meme] = 1
    for name in ("qi", "qc"):
        np.save(f"{name}.npy", (dense + rng.normal(size=dense.shape)).astype(np.float32))
    np.save("square.npy", rng.normal(size=(8, 8)))
    np.save("dense.npy", dense)
    relevance.save("relevance.npz")
    return relevance


def test_command_line_prints_and_stores_the_functions_numbers(saved, capsys):
    args = ["qi.npy", "qc.npy", "--weights", "0.73", "0.27", "--seed", "3"]
    assert metrics.main([*args, "--relevance", "relevance.npz", "--json", "all.json"]) == 0
    printed = capsys.readouterr().out
    assert metrics.main([*args, "--relevance", "dense.npy"]) == 0
    assert capsys.readouterr().out == printed
    stored = json.loads(Path("all.json").read_text())
    qi, qc = np.load("qi.npy"), np.load("qc.npy")
    matrices = {"qi": qi, "qc": qc, "fused": 0.73 * qi + 0.27 * qc}
    judged = {"query_to_meme": saved, "meme_to_query": saved.transposed()}
    for direction, relevance in judged.items():
        rows = {row["name"]: row for row in stored[direction]["rows"]}
        assert list(rows) == ["random", *matrices] and rows["random"]["intervals"] is None
        assert rows["random"]["metrics"] == metrics.random_expectation(relevance)
        assert stored[direction]["skipped"] == relevance.skipped
        for name, scores in matrices.items():
            scores = scores if direction == "query_to_meme" else scores.T
            ranks = relevant_ranks(scores, relevance)
            names, values = metrics.per_query_metrics(ranks, relevance.query, *relevance.shape)
            assert rows[name]["metrics"] == pytest.approx(metrics.average(names, values))
            low, high = metrics.bootstrap_intervals(names, values, seed=3)["mAP"]
            assert rows[name]["intervals"]["mAP"] == pytest.approx([low, high])
            assert f"[{low:.2f},{high:.2f}]" in printed
            assert f"  {rows[name]['metrics']['mAP']:.2f}  " in printed
    assert "fused = 0.73 * qi + 0.27 * qc" in printed
    assert f"query to meme: {30 - saved.skipped} queries" in printed and "70 memes" in printed


def test_command_line_of_a_square_matrix_runs_alone_from_anywhere(saved):
    program = Path(metrics.__file__)
    command = [sys.executable, str(program), "square.npy"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = of_dense(np.load("square.npy"), Relevance.diagonal(8))
    row = next(line for line in result.stdout.splitlines() if line.startswith("square "))
    assert row.split()[1:] == [
        f"{expected[name]:.{1 if name in ('MdR', 'MnR') else 2}f}" for name in metrics.shown_metrics(wide=False)
    ]
    assert "fused" not in result.stdout


def test_the_documents_examples_print_what_the_document_says(tmp_path, monkeypatch, capsys):
    document = (Path(metrics.__file__).parent / "docs/METRICS.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(import numpy.*?)```", document, re.DOTALL)[1], {})
    examples = re.findall(r"`python metrics.py ([^`]*?)` prints\n\n```\n(.*?)```", document, re.DOTALL)
    assert len(examples) == 2
    for command, output in examples:
        assert metrics.main(command.split()) == 0
        number = r"\d+\.\d+"
        printed = capsys.readouterr().out
        assert re.sub(number, "", printed).split() == re.sub(number, "", output).split()
        found, written = ([float(x) for x in re.findall(number, text)] for text in (printed, output))
        assert found == pytest.approx(written, abs=0.011)  # the last digit may be rounded otherwise elsewhere


@pytest.mark.parametrize(
    "command, message",
    [
        ("qi.npy", "qi.npy: 30 queries x 70 memes: not square, so that --relevance is needed"),
        (
            "qi.npy square.npy --relevance relevance.npz",
            "square: 8 queries x 8 memes; relevance.npz: 30 queries",
        ),
        ("square.npy qi.npy", "qi: 30 queries x 70 memes; square: 8 queries x 8 memes"),
        ("square.npy --relevance dense.npy", "square: 8 queries x 8 memes; dense.npy: 30 queries x 70 memes"),
        ("square.npy --weights 0.5 0.5", "--weights: expected 1 finite numbers, one per matrix"),
        ("square.npy --weights nan", "--weights: expected 1 finite"),
        ("square.npy --seed -1", "--seed: expected 0 or more, found -1"),
        ("square.npy square.npy", "a file is given twice"),
        ("absent.npy", "absent.npy: cannot be read"),
        ("relevance.npz", "relevance.npz: expected one matrix, queries x memes, found an archive"),
        ("cube.npy", "cube.npy: expected one matrix, queries x memes, found shape (2, 2, 2)"),
        ("pickle.npy", "pickle.npy: cannot be read as a NumPy file without pickle"),
        ("nan.npy", "nan: the score of query 1, meme 0 is nan"),
        ("square.npy --relevance none.npy", "nothing to average"),
        ("square.npy --json absent/all.json", "--json: absent is not a folder"),
    ],
)
def test_command_line_errors_are_one_line_and_exit_code_2(saved, command, message, capsys):
    np.save("cube.npy", np.zeros((2, 2, 2)))
    np.save("nan.npy", np.array([[0, 1], [np.nan, 1]]))
    np.save("none.npy", np.zeros((8, 8)))
    Path("pickle.npy").write_bytes(pickle.dumps(Exploit()))
    assert metrics.main(command.split()) == 2
    output = capsys.readouterr()
    assert output.err.startswith("metrics.py: error: ") and message in output.err and output.out == ""
    assert len(output.err.splitlines()) == 1 and not Path("exploited").exists()


def test_table_without_intervals_and_with_chosen_columns():
    table = metrics.format_table([("QI", {"R@1": 12.345, "MdR": 7.0}, None)], columns=("R@1", "MdR"))
    assert [line.split() for line in table.splitlines()] == [["R@1", "MdR"], ["QI", "12.35", "7.0"]]
    table = metrics.format_table([("QI", {"R@1": 12.0}, {"R@1": (1, 20.5)})], columns=("R@1",))
    assert table.splitlines()[2].strip() == "[1.00,20.50]"


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """Two noisy matrices in files, their relevance, and what --fit_weights stores."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(11)
    dense = rng.random((90, 120)) < 0.03
    dense[7] = dense[40] = False  # queries without anything relevant
    scores = {name: dense + noise * rng.standard_normal(dense.shape) for name, noise in (("qi", 0.5), ("qc", 0.6))}
    for name, matrix in scores.items():
        np.save(f"{name}.npy", matrix.astype(np.float32))
    np.save("dense.npy", dense)
    flags = ["--fit_weights", "--val_fraction", "0.4", "--seed", "3"]
    assert metrics.main(["qi.npy", "qc.npy", "--relevance", "dense.npy", *flags, "--json", "fitted.json"]) == 0
    matrices = {name: np.load(f"{name}.npy") for name in scores}
    return matrices, dense, json.loads(Path("fitted.json").read_text())


def mean_average_precision(scores, dense):
    return 100 * np.mean([
        np.mean([dense[q][order[: rank + 1]].mean() for rank in np.flatnonzero(dense[q][order])])
        for q, order in enumerate(np.argsort(-scores, axis=1))
    ])  # fmt: skip


def test_weights_are_fitted_on_one_part_and_reported_on_the_other(fitted, capsys):
    scipy_optimize = pytest.importorskip("scipy.optimize")
    matrices, dense, stored = fitted
    judged = np.flatnonzero(dense.any(axis=1))
    shuffled = np.random.default_rng(3).permutation(judged)
    val, rest = shuffled[: round(0.4 * len(judged))], shuffled[round(0.4 * len(judged)) :]

    def best(queries):
        part = [matrices[name][queries] for name in ("qi", "qc")]
        relevance = Relevance(*np.nonzero(dense[queries]), dense[queries].shape)
        a, b = scipy_optimize.minimize(slow_info_nce, (1.0, 1.0), (*part, relevance), bounds=[(0, 100)] * 2).x
        return a / (a + b)

    def quality(alpha, queries):
        return mean_average_precision((alpha * matrices["qi"] + (1 - alpha) * matrices["qc"])[queries], dense[queries])

    alpha, oracle = stored["fitted"]["weights"][0], stored["oracle"]["weights"][0]
    assert (alpha, oracle) == pytest.approx((best(val), best(rest)), abs=1e-3)
    assert abs(alpha - oracle) > 0.01, "the test is to tell the two apart"
    assert not names_with_spaces(stored)
    assert stored["fitted"]["val_queries"] == len(val) and stored["query_to_meme"]["queries"] == len(rest)
    assert stored["fitted"]["val_mAP"] == pytest.approx(quality(alpha, val), abs=1e-4)
    rows = {row["name"]: row["metrics"]["mAP"] for row in stored["query_to_meme"]["rows"]}
    expected = {"qi": 1, "qc": 0, "fused": alpha, "oracle": oracle}
    assert {name: rows[name] for name in expected} == pytest.approx(
        {name: quality(weight, rest) for name, weight in expected.items()}, abs=1e-4
    )


def test_the_gain_is_over_the_better_one_of_the_fitted_part(fitted):
    matrices, dense, stored = fitted
    rows = {row["name"]: row["metrics"]["mAP"] for row in stored["query_to_meme"]["rows"]}
    gain = stored["gain"]
    assert gain["over"] == "qi"  # less noise
    assert gain["mAP"] == pytest.approx(rows["fused"] - rows["qi"])
    assert gain["interval"][0] < gain["mAP"] < gain["interval"][1]
    assert gain["p_bootstrap"] < 0.01 and gain["p_randomisation"] < 0.01  # two independent views: a clear gain


def test_a_matrix_of_noise_gains_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("good.npy", np.eye(60) + 0.1 * rng.standard_normal((60, 60)))
    np.save("noise.npy", rng.standard_normal((60, 60)))
    assert metrics.main(["good.npy", "noise.npy", "--fit_weights", "--json", "out.json"]) == 0
    gain = json.loads(Path("out.json").read_text())["gain"]
    assert gain["mAP"] <= 0 and gain["p_randomisation"] > 0.05
    printed = capsys.readouterr().out
    assert "gain of fused over good" in printed and "the other 30 queries" in printed and "oracle" in printed


@pytest.mark.parametrize(
    "flags, message",
    [
        (["qi.npy", "--fit_weights"], "expected two matrices"),
        (["qi.npy", "qc.npy", "--fit_weights", "--weights", "0.5", "0.5"], "no --weights"),
        (["qi.npy", "qc.npy", "--fit_weights", "--val_fraction", "1"], "between 0 and 1"),
        (["qi.npy", "qc.npy", "--fit_weights", "--val_fraction", "0.001"], "leaves a part empty"),
    ],
)
def test_weights_that_cannot_be_fitted(fitted, flags, message, capsys):
    assert metrics.main([*flags, "--relevance", "dense.npy"]) == 2
    assert message in capsys.readouterr().err


def test_the_document_defines_every_metric():
    document = (Path(metrics.__file__).parent / "docs/METRICS.md").read_text(encoding="utf-8")
    found = []
    for heading in ("## Definitions", "## The random row"):
        section = document.partition(heading)[2].partition("\n## ")[0]
        named = set()
        for cell in re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)[1:]:
            names, _, cutoffs = cell.partition(", K = ")
            cutoffs = cutoffs.split(", ") if cutoffs else ["K"]
            named |= {name.replace("@K", f"@{k}") for name in names.split(", ") for k in cutoffs}
        found.append(named)
    assert found[0] == set(metrics.METRICS)
    assert found[1] == {re.sub(r"^(R|recall|P)@\d+", r"\1@K", name) for name in metrics.METRICS}
