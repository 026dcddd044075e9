"""Evaluation in tiles from stored features, against the plain way: every query with every meme, one at a time."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

import metrics
from dataloaders.data_dataloaders import query_batches
from dataloaders.meme_dataset import MemeDataset, collate
from evaluation import eval_loop
from evaluation.feature_store import FeatureStore
from tests.tiny_community import Place, prepared

CPU = torch.device("cpu")
SETTINGS = {
    "wti": [],
    "patch": ["--visual_tokens", "patch", "--batch_size_val", "3"],
    "dp": ["--interaction", "dp", "--sim_header", "meanP", "--fusion", "query"],
    "stills": ["--interaction", "ti", "--max_frames", "1", "--text_pool_type", "max"],
    "tightTransf": [
        *("--sim_header", "tightTransf", "--cross_num_hidden_layers", "1", "--rerank_top", "6"),
        *("--text_pool_type", "max"),
    ],
    "qc": ["--branches", "qc"],
    "qi": ["--branches", "qi", "--caption_fusion", "none", "--batch_size_val", "100"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("evaluation"), train=1, val=1, test=4)


@pytest.fixture(scope="module")
def ready(place):
    """`ready(name)`: (arguments, the test split's data, model) of a setting."""
    made = {}

    def make(name):
        if name not in made:
            args, data, model = prepared(place.flags("unused", *SETTINGS[name]))
            made[name] = args, data["test"], model.eval()
        return made[name]

    return make


@torch.no_grad()
def plain_scores(model, data):
    """{score: (Q, M)} with every query and every meme encoded and scored alone, as a gallery of one."""
    memes = [model.encode_memes(collate([MemeDataset(data)[i]])) for i in range(len(data.split.memes))]
    queries = [model.encode_queries(batch["query_ids"], batch["query_mask"]) for batch in query_batches(data, 1)]
    rows = [[model.similarities(query, meme) for meme in memes] for query in queries]
    return {name: np.array([[float(cell[name]) for cell in row] for row in rows], np.float32) for name in rows[0][0]}


def matrices(model, data, args):
    """{score: (Q, M)} as the blocks give them."""
    encoded = eval_loop.encode_split(model, data, args, CPU, progress=False)
    blocks = [eval_loop.score_rows(model, encoded, args, rows) for rows in eval_loop.row_blocks(model, encoded)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def both_ranks(scores, relevance):
    """The ranks of a dense matrix in both directions, in the order of the relevance's pairs."""
    back = relevance.transposed()
    by_meme = np.empty(len(back.source), np.int64)
    by_meme[back.source] = metrics.relevant_ranks(np.ascontiguousarray(scores.T), back)
    return metrics.relevant_ranks(scores, relevance), by_meme


@pytest.mark.parametrize("name", ["wti", "patch", "dp", "stills", "qc", "qi"])
@pytest.mark.parametrize("tile", [(512, 8192), (3, 5), (1, 1)])
def test_tiles_hold_what_single_pairs_score(ready, monkeypatch, name, tile):
    args, data, model = ready(name)
    monkeypatch.setattr(eval_loop, "TILE_QUERIES", tile[0])
    monkeypatch.setattr(eval_loop, "TILE_MEMES", tile[1])
    plain, found = plain_scores(model, data), matrices(model, data, args)
    assert found.keys() == plain.keys()
    for score in plain:
        np.testing.assert_allclose(found[score], plain[score], atol=2e-6)
        assert plain[score].std() > 1e-4


@pytest.mark.parametrize("elements", [1, 60, 500])
def test_the_size_of_a_chunk_changes_nothing(ready, monkeypatch, elements):
    args, data, model = ready("patch")
    whole = matrices(model, data, args)
    monkeypatch.setitem(eval_loop.CHUNK_ELEMENTS, "cpu", elements)
    for score, values in matrices(model, data, args).items():
        np.testing.assert_allclose(values, whole[score], atol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("margin", "kept_bytes"), [(1e-5, 2**30), (1e-5, 800), (1e-5, 0), (-1, 2**30)])
def test_ranks_are_those_of_the_dense_matrix_in_both_directions(ready, monkeypatch, name, margin, kept_bytes):
    """Whether what is expected of the relevant pairs is right, cannot be (a margin below 0), or is not known."""
    args, data, model = ready(name)
    monkeypatch.setattr(eval_loop, "TILE_QUERIES", 3)
    monkeypatch.setattr(eval_loop, "TILE_MEMES", 7)
    monkeypatch.setattr(eval_loop, "EXPECTED_QUERIES", 2)
    dense = matrices(model, data, args)
    monkeypatch.setattr(eval_loop, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(metrics, "MARGIN", margin)
    scored = []
    score_rows = eval_loop.score_rows
    monkeypatch.setattr(eval_loop, "score_rows", lambda *a: (scored.append(a[3]), score_rows(*a))[1])
    encoded = eval_loop.encode_split(model, data, args, CPU, progress=False)
    found = eval_loop.rank_split(model, encoded, args, progress=False)
    # tightTransf: blocks of 3, 3 and 2 queries, of 3 matrices of 24 memes, have 864 and 576 bytes
    times = {2**30: 3, 800: 5, 0: 6}[kept_bytes] if name == "tightTransf" else 3 if margin > 0 else 6
    assert len(scored) == times
    assert found.keys() == dense.keys()
    for score, matrix in dense.items():
        for ranks, expected in zip(found[score], both_ranks(matrix, encoded.relevance), strict=True):
            assert ranks.tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["stills", "qc"])
def test_memes_that_nothing_tells_apart_are_ranked_last(ready, name):
    """Their scores are equal, or would be but for rounding: a relevant one must not gain by being scored twice."""
    args, data, model = ready(name)
    encoded = eval_loop.encode_split(model, data, args, CPU, progress=False)
    for array in encoded.memes.arrays.values():
        array[:] = array[:1]
    blocks = [eval_loop.score_rows(model, encoded, args, rows) for rows in eval_loop.row_blocks(model, encoded)]
    ranks = eval_loop.rank_split(model, encoded, args, progress=False)
    for score in blocks[0]:
        matrix = np.concatenate([block[score] for block in blocks])
        assert np.ptp(matrix, axis=1).max() < 1e-6
        for found, expected in zip(ranks[score], both_ranks(matrix, encoded.relevance), strict=True):
            assert found.tolist() == expected.tolist()


@torch.no_grad()
def test_the_cross_encoder_scores_what_dp_ranks_first(ready):
    args, data, model = ready("tightTransf")
    found = matrices(model, data, args)
    memes = [model.encode_memes(collate([MemeDataset(data)[i]])) for i in range(len(data.split.memes))]
    for row, batch in enumerate(query_batches(data, 1)):
        query = model.encode_queries(batch["query_ids"], batch["query_mask"])
        by_dp = np.array([float(query["sentence"] @ meme["pooled"].T) for meme in memes])
        order = np.argsort(-by_dp)
        for place, meme in enumerate(order):
            expected = float(model.similarities(query, memes[meme], ("qi",))["qi"]) if place < 6 else by_dp[meme] - 2
            assert found["qi"][row, meme] == pytest.approx(expected, abs=2e-6)
        assert found["qi"][row, order[:6]].min() > found["qi"][row, order[6:]].max()
    alpha = float(model.fusion.alpha(None))
    np.testing.assert_allclose(found["fused"], alpha * found["qi"] + (1 - alpha) * found["qc"], atol=1e-6)


@pytest.mark.parametrize("name", ["wti", "patch", "dp", "tightTransf"])
def test_features_on_disk_are_the_same_in_half_precision(ready, name):
    args, data, model = ready(name)
    in_memory = matrices(model, data, args)
    args.feature_cache_gb = 0.0
    try:
        encoded = eval_loop.encode_split(model, data, args, CPU, progress=False)
        found = matrices(model, data, args)
    finally:
        args.feature_cache_gb = 4.0
    folder = Path(encoded.memes.folder.name)
    assert list(folder.iterdir())
    for array in encoded.memes.arrays.values():
        assert isinstance(array, np.memmap) and array.dtype == np.float16
    for score, values in found.items():
        if name != "tightTransf":  # where another meme may be the sixth, and jumps
            np.testing.assert_allclose(values, in_memory[score], atol=3e-3)
        assert not np.array_equal(values, in_memory[score])
    del encoded
    gc.collect()
    assert not folder.exists()


def test_a_token_whose_weight_vanishes_is_still_a_token(ready):
    """A weight that underflows to 0 leaves the weighted sum, not the max over the tokens."""
    args, data, model = ready("patch")
    last = model.image_similarity.token_weights.network[-1]
    before = last.weight.detach().clone()
    with torch.no_grad():
        last.weight.mul_(1e5)
    try:
        encoded = eval_loop.encode_split(model, data, args, CPU, progress=False)
        plain, found = plain_scores(model, data), matrices(model, data, args)
    finally:
        with torch.no_grad():
            last.weight.copy_(before)
    assert (encoded.memes.arrays["token_weight"] == 0).any()
    np.testing.assert_allclose(found["qi"], plain["qi"], atol=2e-6)


def test_matrices_are_saved_whole(ready, tmp_path, monkeypatch):
    args, data, model = ready("wti")
    monkeypatch.setattr(eval_loop, "TILE_MEMES", 7)
    encoded = eval_loop.encode_split(model, data, args, CPU, progress=False)
    eval_loop.rank_split(model, encoded, args, save_to=tmp_path, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"qi.npy", "qc.npy", "fused.npy", "relevance.npz"}
    for score, values in matrices(model, data, args).items():
        saved = np.load(tmp_path / f"{score}.npy")
        assert saved.dtype == np.float32
        np.testing.assert_array_equal(saved, values)
    relevance = metrics.Relevance.load(tmp_path / "relevance.npz")
    pairs = set(zip(data.split.record_topic.tolist(), data.split.record_meme.tolist(), strict=True))
    assert set(zip(relevance.query.tolist(), relevance.meme.tolist(), strict=True)) == pairs


def test_nothing_stays_of_a_matrix_that_is_not_finished(ready, tmp_path, monkeypatch):
    args, data, model = ready("wti")
    encoded = eval_loop.encode_split(model, data, args, CPU, progress=False)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(metrics.RankCounter, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        eval_loop.rank_split(model, encoded, args, save_to=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_the_summary_holds_both_directions(ready):
    args, data, model = ready("wti")
    encoded = eval_loop.encode_split(model, data, args, CPU, progress=False)
    summary = eval_loop.summarise(eval_loop.rank_split(model, encoded, args, progress=False), encoded.relevance, seed=3)
    for score, values in matrices(model, data, args).items():
        relevance = encoded.relevance
        for direction, scores, judged in (
            ("query_to_meme", values, relevance),
            ("meme_to_query", np.ascontiguousarray(values.T), relevance.transposed()),
        ):
            expected = metrics.per_query_metrics(metrics.relevant_ranks(scores, judged), judged.query, *judged.shape)
            entry = summary[score][direction]
            assert entry["metrics"] == pytest.approx(metrics.average(*expected))
            for name, interval in metrics.bootstrap_intervals(*expected, seed=3).items():
                assert entry["intervals"][name] == pytest.approx(interval)


def test_each_meme_is_encoded_once_per_evaluation(ready, monkeypatch):
    args, data, model = ready("wti")
    monkeypatch.setattr(eval_loop, "TILE_QUERIES", 2)
    monkeypatch.setattr(eval_loop, "TILE_MEMES", 3)
    monkeypatch.setattr(eval_loop, "KEPT_BYTES", 0)
    encoded_memes = []
    encode = model.encode_memes

    def noted(batch):
        encoded_memes.extend(batch["meme"].tolist())
        return encode(batch)

    monkeypatch.setattr(model, "encode_memes", noted)
    encoded = eval_loop.encode_split(model, data, args, CPU, progress=False)
    eval_loop.rank_split(model, encoded, args, progress=False)
    assert encoded_memes == list(range(len(data.split.memes)))


def test_queries_of_all_batches_are_padded_with_their_first_word(ready):
    """A zero vector would win the max over the words wherever all cosines are negative."""
    args, data, model = ready("patch")
    encoded = eval_loop.encode_split(model, data, args, CPU, progress=False).queries
    lengths = [len(data.queries[topic]) for topic in range(len(data.queries))]
    assert encoded["words"].shape[:2] == encoded["word_weight"].shape == (8, max(lengths))
    assert len(set(lengths)) > 2
    for topic, length in enumerate(lengths):
        [batch] = [batch for batch in query_batches(data, 1) if batch["topic"].item() == topic]
        with torch.no_grad():
            alone = model.encode_queries(batch["query_ids"], batch["query_mask"])
        torch.testing.assert_close(encoded["words"][topic, :length], alone["words"][0])
        torch.testing.assert_close(encoded["word_weight"][topic, :length], alone["word_weight"][0])
        assert (encoded["words"][topic, length:] == encoded["words"][topic, 0]).all()
        assert not encoded["word_weight"][topic, length:].any()


def random_store(limit_gb, lengths=(3, 1, 1, 2, 4, 1, 1, 1), captions=(1, 2, 5, 1, 1, 3, 1, 2), seed=0):
    """A store filled in batches of 3, and what was put in.

    Per meme (tokens (V, 5), weights (V,), pooled (6,), captions (K, 2)).
    """
    generator = torch.Generator().manual_seed(seed)
    memes = []
    for length, count in zip(lengths, captions, strict=True):
        weight = torch.rand(length, generator=generator) + 0.1
        tokens, pooled, own = (torch.randn(size, generator=generator) for size in ((length, 5), (6,), (count, 2)))
        memes.append((tokens, weight / weight.sum(), pooled, own))
    store = FeatureStore(limit_gb)
    for start in range(0, len(memes), 3):
        tokens, weights, pooled, own = zip(*memes[start : start + 3], strict=True)
        most = max(map(len, tokens)) + 1  # a batch may be padded more than it needs
        features = {
            "tokens": torch.stack([with_copies(rows, most) for rows in tokens]),
            "token_weight": torch.stack([torch.nn.functional.pad(w, (0, most - len(w))) for w in weights]),
            "pooled": torch.stack(pooled),
            "caption": torch.stack([with_copies(rows, 7) for rows in own]),
        }
        lengths = {"token": tokens, "caption": own}
        store.append(features, {kind: torch.tensor([len(rows) for rows in of]) for kind, of in lengths.items()})
    store.finish()
    return store, memes


def with_copies(rows, number):
    """Rows (N, d) -> (number, d), filled up with copies of the first one."""
    return torch.cat([rows, rows[:1].expand(number - len(rows), -1)])


# The second limit is reached with the second batch: what came before goes to the files as well.
@pytest.mark.parametrize("limit_gb", [1.0, 500 / 2**30, 0.0])
@pytest.mark.parametrize("wanted", [[0], [1, 2], [7, 0, 4], [3, 3, 5], list(range(8))])
def test_the_store_gives_back_what_was_put_in(limit_gb, wanted):
    store, memes = random_store(limit_gb)
    assert (store.folder is None) == (limit_gb == 1.0)
    read = store.read(np.array(wanted), CPU, torch.float32)
    longest, most = (max(len(memes[i][part]) for i in wanted) for part in (0, 3))
    assert read["tokens"].shape == (len(wanted), longest, 5) and read["caption"].shape == (len(wanted), most, 2)
    assert store.most_rows(np.array(wanted)) == max(longest, most)
    for row, i in enumerate(wanted):
        tokens, weight, pooled, captions = memes[i]
        tolerance = {"rtol": 0, "atol": 0} if store.folder is None else {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(read["tokens"][row, : len(tokens)], tokens, **tolerance)
        torch.testing.assert_close(read["token_weight"][row, : len(tokens)], weight, **tolerance)
        torch.testing.assert_close(read["pooled"][row], pooled, **tolerance)
        assert (read["tokens"][row, len(tokens) :] == read["tokens"][row, 0]).all()  # padding wins no max
        assert not read["token_weight"][row, len(tokens) :].any()
        torch.testing.assert_close(read["caption"][row, : len(captions)], captions, **tolerance)
        assert (read["caption"][row, len(captions) :] == read["caption"][row, 0]).all()


def test_groups_part_stills_from_animations():
    store, memes = random_store(1.0)
    groups = store.groups(np.arange(1, 8))
    assert [group.tolist() for group in groups] == [[1, 2, 5, 6, 7], [3, 4]]
    assert [group.tolist() for group in store.groups(np.array([5, 6]))] == [[5, 6]]
