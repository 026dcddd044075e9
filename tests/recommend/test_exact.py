"""A search finds what an evaluation ranks first, with its scores."""

import numpy as np
import pytest
import torch

from evaluation import eval_loop
from recommend import Request
from tests.recommend.models import indexed, only_test_split, save_model
from tests.tiny_community import Place

SETTINGS = {
    "wti": [],
    "patch": ["--visual_tokens", "patch"],
    "dp, weights per query": ["--interaction", "dp", "--sim_header", "meanP", "--fusion", "query"],
    "fixed": ["--fusion", "fixed", "--fusion_weight", "0.3", "--text_pool_type", "max"],
    "ti, stills": [
        *("--interaction", "ti", "--max_frames", "1", "--sim_header", "seqLSTM", "--emotion_fusion", "token"),
        *("--text_pool_type", "max"),
    ],
    "tightTransf": [
        *("--sim_header", "tightTransf", "--cross_num_hidden_layers", "1", "--rerank_top", "6"),
        *("--text_pool_type", "max"),
    ],
    "tightTransf, qi": [
        *("--sim_header", "tightTransf", "--cross_num_hidden_layers", "1", "--branches", "qi"),
        *("--caption_fusion", "none", "--rerank_top", "5"),
    ],
    "qc": ["--branches", "qc"],
    "qi, no captions": ["--branches", "qi", "--caption_fusion", "none", "--cdcr_lambda", "0.1"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("exact"), train=1, val=1, test=4)


@torch.no_grad()
def evaluated(model, data, args):
    """{score: (Q, M)} as an evaluation computes them."""
    encoded = eval_loop.encode_split(model, data, args, torch.device("cpu"), progress=False)
    rows, columns = slice(0, encoded.relevance.shape[0]), np.arange(encoded.relevance.shape[1])
    scores = eval_loop.score_tile(model, encoded, rows, columns, args.rerank_top)
    return scores, eval_loop.alpha_of_queries(model, encoded)


def close(found, expected):
    return abs(found - expected) <= 1e-6


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_and_order_are_the_evaluations(place, tmp_path, monkeypatch, name):
    path, args, data, model = save_model(place, "model", *SETTINGS[name])
    monkeypatch.setattr("recommend.scoring.BLOCK", 7)  # several blocks, with stills and animations in one
    monkeypatch.setattr("recommend.indexing.ROUND", 10)
    monkeypatch.setattr("recommend.indexing.BATCH", 3)
    summary, recommender = indexed(path, tmp_path / "index", data_path=only_test_split(place, tmp_path / "data"))
    assert summary.encoded == len(recommender) == len(data.split.memes)
    scores, alpha = evaluated(model, data, args)
    number = {meme.image_id: place for place, meme in enumerate(data.split.memes)}
    requests = [Request(query, top=1000, duplicates=True) for query in data.split.queries]
    alone = recommender.search(requests[0])
    for query, answer in enumerate(recommender.search_many(requests)):
        assert len(answer) == len(number) == len({meme.id for meme in answer})
        expected = {score: matrix[query] for score, matrix in scores.items()}
        for meme in answer:
            column = number[meme.id]
            assert close(meme.score, expected["fused"][column])
            for part in ("qi", "qc"):
                own = getattr(meme, part)
                assert own is None if part not in expected else close(own, expected[part][column])
            assert meme.alpha is None if not len(alpha) else close(meme.alpha, alpha[query])
            assert close(meme.below, np.mean([other.score < meme.score for other in answer]))
        in_order = expected["fused"][[number[meme.id] for meme in answer]]
        assert (np.diff(in_order) <= 1e-6).all()
        if query == 0:
            assert [meme.id for meme in alone] == [meme.id for meme in answer]


def test_half_precision_finds_nearly_the_same(place, tmp_path):
    path, *_, data, _ = save_model(place, "half")
    folder = only_test_split(place, tmp_path / "data")
    _, full = indexed(path, tmp_path / "full", data_path=folder)
    _, half = indexed(path, tmp_path / "half", data_path=folder, full=False)
    assert half.store.sizes()["features"] == full.store.sizes()["features"] / 2
    for query in data.split.queries:
        one, other = (each.search(query, top=1000, duplicates=True) for each in (full, half))
        scores = {meme.id: meme.score for meme in other}
        assert all(abs(scores[meme.id] - meme.score) < 2e-3 for meme in one)


def test_the_weights_of_the_words_are_the_evaluations(place, tmp_path):
    from engine.test_record import word_weights

    path, args, data, model = save_model(place, "words")
    _, recommender = indexed(path, tmp_path / "index", data_path=only_test_split(place, tmp_path / "data"))
    encoded = eval_loop.encode_split(model, data, args, torch.device("cpu"), progress=False)
    for query, expected in zip(data.split.queries, word_weights(model, encoded, data), strict=True):
        words = recommender.search(query).words
        assert [text for text, _ in words] == [text for text, _ in expected]
        assert np.allclose([weight for _, weight in words], [weight for _, weight in expected], atol=1e-6)
        assert abs(sum(weight for _, weight in words) - 1) < 1e-5
