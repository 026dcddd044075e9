"""Weights fitted on a split: against the plain way on dense matrices, and on scores made so that the best are known."""

import numpy as np
import pytest
import torch

import metrics
from evaluation import eval_loop, fitted_weights
from evaluation.fitted_weights import QueryFit
from tests.evaluation.test_eval_loop import CPU, both_ranks, matrices
from tests.tiny_community import Place, prepared

QUERIES, MEMES, DIM = 120, 60, 16


@pytest.fixture(scope="module", params=["wti", "tightTransf"])
def ready(request, tmp_path_factory):
    """(arguments, the test split's data, model)."""
    place = Place(tmp_path_factory.mktemp("fitted"), train=1, val=1, test=4)
    flags = {"wti": [], "tightTransf": ["--sim_header", "tightTransf", "--cross_num_hidden_layers", "1"]}
    args, data, model = prepared(place.flags("run", *flags[request.param]))
    (place.folder / "run").mkdir()
    return args, data["test"], model.eval()


def test_a_split_is_fitted_and_ranked_as_its_dense_matrices(ready, monkeypatch):
    args, data, model = ready
    dense = matrices(model, data, args)
    monkeypatch.setattr(eval_loop, "TILE_QUERIES", 3)
    monkeypatch.setattr(eval_loop, "TILE_MEMES", 7)
    encoded = eval_loop.encode_split(model, data, args, CPU, progress=False)
    with fitted_weights.part_scores(model, encoded, args) as scores:
        np.testing.assert_allclose(scores, [dense["qi"], dense["qc"]], atol=1e-6)
    alpha, ranks = fitted_weights.fit_and_rank(model, encoded, args)
    a, b = metrics.fit_weights(dense["qi"], dense["qc"], encoded.relevance)
    assert alpha == pytest.approx(a / (a + b), abs=1e-4)
    assert ranks.keys() == {"qi", "qc", "fused"}
    fused = np.float32(alpha) * dense["qi"] + np.float32(1 - alpha) * dense["qc"]
    for name, matrix in {"qi": dense["qi"], "qc": dense["qc"], "fused": fused}.items():
        for found, expected in zip(ranks[name], both_ranks(matrix, encoded.relevance), strict=True):
            assert (found != expected).mean() < 0.05  # other tiles, other last bits


def made_set(knows, seed=0):
    """(sentences (Q, d), scores (2, Q, M), relevance): `knows` (Q,) says whether QI, else QC, knows the right memes."""
    rng = np.random.default_rng(seed)
    dense = rng.random((QUERIES, MEMES)) < 0.05
    dense[np.arange(QUERIES), rng.integers(MEMES, size=QUERIES)] = True
    knowing = 0.5 * dense + 0.2 * rng.standard_normal(dense.shape)
    noise = 0.2 * rng.standard_normal(dense.shape)
    scores = np.stack([np.where(knows[:, None], knowing, noise), np.where(knows[:, None], noise, knowing)])
    sentence = torch.from_numpy(rng.standard_normal((QUERIES, DIM))).float()
    return sentence, scores.astype(np.float32), metrics.Relevance(*np.nonzero(dense), dense.shape)


def test_a_network_wins_where_the_query_tells_which_part_knows():
    first_number = np.random.default_rng(1).choice([-1.0, 1.0], QUERIES)
    sentence, scores, relevance = made_set(first_number > 0)
    sentence[:, 0] = torch.from_numpy(3 * first_number)
    sentence = torch.nn.functional.normalize(sentence, dim=1)
    fit = QueryFit(sentence, scores, relevance, seed=0, rate=1e-2)
    found = fit.compare()
    assert found.network_wins and found.gain == pytest.approx(found.scalar - found.network)
    assert found.gain > 3 * found.error > 0
    alpha = fit.train_on_all().alpha(sentence)[:, 0]
    assert alpha[first_number > 0].mean() > 0.7 > 0.3 > alpha[first_number < 0].mean()


def test_a_network_that_only_learned_its_queries_by_heart_loses():
    """Which part knows does not follow from the query: on its own queries a network is better all the same."""
    sentence, scores, relevance = made_set(np.random.default_rng(2).random(QUERIES) < 0.5)
    sentence = torch.nn.functional.normalize(sentence, dim=1)
    fit = QueryFit(sentence, scores, relevance, seed=0, rate=1e-2)
    network, scale = fit.train(fit.queries, *metrics.fit_weights(*scores, relevance))
    a, b = metrics.fit_weights(*scores, relevance)
    with torch.no_grad():
        alpha = network.alpha(sentence)
        by_heart = fit._losses(fit.queries, scale * alpha, scale * (1 - alpha)).mean()
    assert by_heart < fit._losses(fit.queries, a, b).mean() - 0.05
    assert not fit.compare().network_wins


def test_the_scalar_of_the_folds_is_that_of_the_plain_way():
    sentence, scores, relevance = made_set(np.arange(QUERIES) % 3 > 0)
    order = np.random.default_rng(5).permutation(QUERIES)
    losses = []
    for fold in range(5):
        held_out = order[24 * fold : 24 * (fold + 1)]
        a, b = metrics.fit_weights(*scores, relevance.pairs_of(np.setdiff1d(order, held_out)))
        for query in held_out:
            logits = a * scores[0, query].astype(np.float64) + b * scores[1, query].astype(np.float64)
            right = logits[relevance.meme[relevance.query == query]]
            losses.append(np.log(np.exp(logits).sum()) - right.mean())
    found = QueryFit(sentence, scores, relevance, seed=5, rate=1e-2).compare()
    assert found.scalar == pytest.approx(np.mean(losses), abs=1e-5)


def test_a_seed_gives_the_same_fit_and_leaves_the_generators_alone():
    sentence, scores, relevance = made_set(np.arange(QUERIES) % 2 > 0)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second, other = (QueryFit(sentence, scores, relevance, seed, 1e-2).compare() for seed in (0, 0, 1))
    assert first == second != other
    assert torch.equal(torch.get_rng_state(), before)


def test_too_few_queries_are_not_compared():
    sentence, scores, relevance = made_set(np.ones(QUERIES, bool))
    few = relevance.pairs_of(np.array([4]))
    assert QueryFit(sentence, scores, few, seed=0, rate=1e-2).compare() is None
    assert QueryFit(sentence, scores, relevance.pairs_of(np.array([4, 9])), seed=0, rate=1e-2).compare() is not None


def test_scores_of_a_few_queries_are_read_at_once(monkeypatch):
    sentence, scores, relevance = made_set(np.arange(QUERIES) % 2 > 0)
    monkeypatch.setattr(fitted_weights, "BATCH", 7)
    read, losses = [], QueryFit._losses
    monkeypatch.setattr(
        QueryFit, "_losses", lambda self, queries, *w: read.append(len(queries)) or losses(self, queries, *w)
    )
    assert QueryFit(sentence, scores, relevance, seed=0, rate=1e-2).compare() is not None
    assert max(read) == 7
