"""test_queries.npz against the dense matrices of the same run, ordered by Python's own sort."""

import hashlib
import os

import numpy as np
import pytest
import torch

import metrics
from evaluation import query_record
from evaluation.eval_loop import rank_blocks
from evaluation.query_record import BestMemes, QueryRecord
from modules.tokenizer import Tokenizer
from tests.model_parts import words_of
from tests.tiny_community import Place, prepared, read_csv, read_json, run
from util import InputError


def strict_order(scores, relevant):
    """Meme indices of one query, best first; in a tie irrelevant memes lead."""
    return sorted(range(len(scores)), key=lambda meme: (-scores[meme], meme in relevant, meme))


def found_by_blocks(matrices, relevance, high, kept=10):
    queries = relevance.shape[0]
    best = BestMemes(relevance, kept)
    ranks = rank_blocks(
        lambda rows: {name: matrix[rows] for name, matrix in matrices.items()},
        [slice(row, min(row + high, queries)) for row in range(0, queries, high)],
        relevance,
        best=best,
        progress=False,
    )
    return best, {name: both[0] for name, both in ranks.items()}


@pytest.mark.parametrize(("high", "keys"), [(100, 2**21), (3, 1), (1, 1), (5, 50)])
@pytest.mark.parametrize(("levels", "kept"), [(3, 10), (1000, 10), (3, 17)])
def test_best_memes_of_any_blocks_are_the_first_of_the_whole_order(high, keys, levels, kept, monkeypatch):
    """With 3 levels nearly all scores are tied, with 1,000 hardly any. Ranks are of the first 10."""
    monkeypatch.setattr(query_record, "KEYS_AT_ONCE", keys)
    rng = np.random.default_rng(levels)
    relevance = metrics.Relevance(np.repeat(np.arange(7), 5), np.tile(np.arange(25), 2)[:35], (7, 25))
    matrices = {name: rng.integers(levels, size=(7, 25)).astype(np.float32) for name in ("qi", "qc", "fused")}
    matrices["fused"] -= levels // 2  # negative ones, zeros
    matrices["fused"][matrices["fused"] == 0] *= -1
    best, ranks = found_by_blocks(matrices, relevance, high, kept)
    best_ranks = best.ranks(ranks)
    assert all(of.shape == (7, 10) for of in best_ranks.values())
    for query in range(7):
        relevant = set(relevance.meme[relevance.query == query].tolist())
        scores = matrices["fused"][query]
        order = strict_order(scores, relevant)[:kept]
        shown = best.meme[query].tolist()
        assert shown == order
        for name, matrix in matrices.items():
            whole = strict_order(matrix[query], relevant)
            for slot, meme in enumerate(shown):
                assert best.scores[name][query, slot] == matrix[query, meme]
                if slot >= 10:
                    continue
                above = sum(matrix[query] > matrix[query, meme])
                rank = whole.index(meme) + 1 if meme in relevant else above + 1
                assert best_ranks[name][query, slot] == rank


def test_a_relevant_meme_a_hair_better_comes_first():
    """Nothing that orders equal scores outweighs the smallest difference of two float32 scores."""
    relevance = metrics.Relevance([0], [3], (1, 4))
    for score in (np.float32(0.3), np.float32(-0.3), np.float32(1e-42), np.float32(0)):
        scores = np.full((1, 4), score, np.float32)
        scores[0, 3] = np.nextafter(score, np.float32(np.inf), dtype=np.float32)
        best, _ = found_by_blocks({"fused": scores}, relevance, 1)
        assert best.meme.tolist() == [[3, 0, 1, 2]]


def test_a_gallery_of_few_memes():
    relevance = metrics.Relevance.diagonal(3)
    best, ranks = found_by_blocks({"fused": np.eye(3, dtype=np.float32)}, relevance, 2)
    assert best.meme[:, 0].tolist() == [0, 1, 2]
    assert best.ranks(ranks)["fused"].tolist() == [[1, 2, 2]] * 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A trained run's folder and its place."""
    place = Place(tmp_path_factory.mktemp("record"), train=2, val=1, test=4)
    flags = ("--fusion", "query", "--fusion_data", "train", "--epochs", "1", "--save_similarity", "--save_run")
    code, printed = run(place.flags("run", *flags))
    assert code == 0, printed
    return place.folder / "run", place


def test_the_record_of_a_run_agrees_with_its_matrices_and_metrics(finished):
    folder, place = finished
    record, saved = QueryRecord.load(folder), read_json(folder / "metrics.json")
    rows = read_csv(place.data / "test.csv")
    assert record.topic_ids.tolist() == list(dict.fromkeys(row["topic_id"] for row in rows))
    assert record.image_ids.tolist() == list(dict.fromkeys(row["image_id"] for row in rows))
    topics, memes = record.topic_ids[record.relevance.query], record.image_ids[record.relevance.meme]
    pairs = set(zip(topics.tolist(), memes.tolist(), strict=True))
    assert pairs == {(row["topic_id"], row["image_id"]) for row in rows}
    for score in ("qi", "qc", "fused"):
        matrix = np.load(folder / f"{score}.npy")
        np.testing.assert_array_equal(record.ranks[score], metrics.relevant_ranks(matrix, record.relevance))
        np.testing.assert_array_equal(record.best_scores[score], np.take_along_axis(matrix, record.best_meme, axis=1))
    assert set(record.ranks) == {"qi", "qc", "fused"}
    for score in record.ranks:
        expected = saved["test"]["scores"][score]["query_to_meme"]["metrics"]
        assert metrics.average(*record.values(score)) == pytest.approx(expected)
    qi, qc = (np.load(folder / f"{score}.npy").astype(np.float64) for score in ("qi", "qc"))
    alpha = record.alpha[:, None]
    np.testing.assert_allclose(np.load(folder / "fused.npy"), alpha * qi + (1 - alpha) * qc, atol=1e-6)
    assert (record.alpha.min(), record.alpha.max()) == pytest.approx((saved["alpha"]["min"], saved["alpha"]["max"]))


def test_the_trec_run_of_a_run_has_its_order_and_its_scores(finished):
    folder, place = finished
    record, matrix = QueryRecord.load(folder), np.load(folder / "fused.npy")
    with open(folder / "test.trec", encoding="utf-8") as file:
        lines = [line.split() for line in file]
    assert {(line[1], line[5]) for line in lines} == {("Q0", "IEF")}
    expected = []
    for query, topic in enumerate(record.topic_ids.tolist()):
        relevant = set(record.relevance.meme[record.relevance.query == query].tolist())
        order = strict_order(matrix[query], relevant)
        expected += [[topic, str(record.image_ids[meme]), str(rank)] for rank, meme in enumerate(order, 1)]
        own = [line for line in lines if line[0] == topic]
        assert [np.float32(line[4]) for line in own] == [matrix[query, meme] for meme in order]
    assert [[line[0], line[2], line[3]] for line in lines] == expected


def test_beside_the_trec_run_stands_how_it_was_made(finished):
    folder, place = finished
    beside, origin = read_json(folder / "test.trec.json"), read_json(folder / "run.json")
    source = beside["implementation"]["source"]
    assert beside["implementation"]["executable"] == {"cmd": origin["command"]}
    assert (source["version"], source["commit"]) == (origin["code"]["version"], origin["code"]["commit"])
    collection, training = beside["data"]["test collection"], beside["data"]["training data"]
    assert collection["sha256"] == hashlib.sha256((place.data / "test.csv").read_bytes()).hexdigest()
    assert [part["source"] for part in training] == [str(place.data / name) for name in ("train.csv", "val.csv")]
    assert beside["platform"]["hardware"]["cpu"]["number of cores"] == os.cpu_count()
    assert f"torch=={torch.__version__}" in beside["platform"]["software"]["libraries"]["python"]
    *parts, fused = beside["method"]["retrieval"]
    assert [part["method"] for part in parts] == ["wti", "transf_avg"] and fused["interpolates"] == ["QI", "QC"]
    assert fused["weight"] == pytest.approx(read_json(folder / "metrics.json")["alpha"]["mean"], abs=1e-6)


def test_words_and_their_weights_are_those_of_the_query(finished):
    folder, place = finished
    record = QueryRecord.load(folder)
    queries = {row["topic_id"]: row["query"] for row in read_csv(place.data / "test.csv")}
    for topic, words in zip(record.topic_ids, record.words, strict=True):
        assert words[0][0] == "<start>" and words[-1][0] == "<end>"
        assert "".join(text for text, _ in words[1:-1]).strip() == queries[topic]
        assert sum(weight for _, weight in words) == pytest.approx(1, abs=1e-5)
        assert min(weight for _, weight in words) > 0


def test_a_weight_is_the_network_s_softmax(finished):
    """Recomputed from the checkpoint for one query: two linear layers over the words, softmax."""
    folder, place = finished
    _, data, model = prepared(place.flags("unused", "--fusion", "query"))
    model.load_state_dict(torch.load(folder / "checkpoint_best.pt", weights_only=True)["model"])
    model.eval()
    with torch.no_grad():
        ids = torch.from_numpy(data["test"].queries[0].astype(np.int64))[None]
        words = words_of(model.backbone, ids)[0]
        hidden, out = [m for m in model.image_similarity.word_weights.modules() if isinstance(m, torch.nn.Linear)]
        logits = torch.relu(words @ hidden.weight.T + hidden.bias) @ out.weight.T + out.bias
    weights = [weight for _, weight in QueryRecord.load(folder).words[0]]
    np.testing.assert_allclose(weights, torch.softmax(logits[:, 0], 0), atol=1e-5)


@pytest.mark.parametrize(
    "text", ["memes for when it's over!!", "我今天很高兴, 😀 ok", "Straße naïve 123", "x" * 60, "", "👨‍👩‍👧 done"]
)
def test_the_pieces_of_a_text_are_the_text(text):
    tokenizer = Tokenizer()
    ids = tokenizer.encode(text)
    pieces = tokenizer.pieces([tokenizer.start_id, *ids, tokenizer.end_id])
    assert sum(tokens for _, tokens in pieces) == len(ids) + 2
    assert "".join(t for t, _ in pieces[1:-1]).replace(" ", "") == text.lower().replace(" ", "")
    cut = tokenizer.pieces(ids[:1])
    assert sum(tokens for _, tokens in cut) == min(1, len(ids))


def test_pieces_of_a_cut_character():
    tokenizer = Tokenizer()
    assert tokenizer.pieces([*tokenizer.encode("我")[:1], tokenizer.end_id]) == [("\ufffd", 1), ("<end>", 1)]


@pytest.mark.parametrize("content", [None, b"", b"not a zip", "cut"])
def test_a_record_that_cannot_be_read_is_named(finished, tmp_path, content):
    folder, _ = finished
    path = tmp_path / "test_queries.npz"
    if content == "cut":
        path.write_bytes((folder / path.name).read_bytes()[:-40])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="test_queries.npz"):
        QueryRecord.load(tmp_path)


def test_a_record_with_a_flipped_bit_is_named_or_still_whole(finished, tmp_path):
    """Wherever the bit is: in a header, in compressed data, in a name. What zip's checksum lets pass is unchanged."""
    folder, _ = finished
    content, whole = (folder / "test_queries.npz").read_bytes(), QueryRecord.load(folder)
    refused = 0
    for place in range(0, len(content), max(1, len(content) // 300)):
        flipped = bytearray(content)
        flipped[place] ^= 0x41
        (tmp_path / "test_queries.npz").write_bytes(flipped)
        try:
            read = QueryRecord.load(tmp_path)
        except InputError:
            refused += 1
        else:
            assert read.words == whole.words and (read.best_meme == whole.best_meme).all()
    assert refused > 200
