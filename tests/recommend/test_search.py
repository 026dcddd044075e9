"""What a request may ask for, alone and together, against formulas written out."""

import dataclasses
import hashlib
import json
import math
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recommend import Recommender, Request, scoring
from recommend.recommender import best_rows
from tests.recommend.models import indexed, save_model
from tests.tiny_community import Place, write_csv, write_image
from util import InputError

QUERY = "memes for when life is red"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("search"), train=1, val=1, test=2)


@pytest.fixture(scope="module")
def recommender(place):
    path = save_model(place, "model")[0]
    return indexed(path, place.folder / "index", data_path=place.data)[1]


def scores(recommender, request, **options):
    """{id: score} of all memes."""
    return {meme.id: meme.score for meme in recommender.search(request, **options, top=1000, duplicates=True)}


def joined(first, *others):
    """The sum that docs/USE.md describes, by id. others: ({id: score}, weight)."""
    ids = list(first)
    values = np.array([first[i] for i in ids])
    total = values.copy()
    for other, weight in others:
        own = np.array([other[i] for i in ids])
        total += weight * (own - own.mean()) / own.std() * values.std()
    return dict(zip(ids, total, strict=True))


def equal(one, other, tolerance=1e-5):
    return one.keys() == other.keys() and all(math.isclose(one[i], other[i], abs_tol=tolerance) for i in one)


def test_further_sentences_are_added_and_taken_away(recommender):
    first, more, less = (scores(recommender, text) for text in (QUERY, "a blue picture", "a grey ball"))
    request = Request(QUERY, plus=[("a blue picture", 0.5)], minus=[("a grey ball", 2)])
    assert equal(scores(recommender, request), joined(first, (more, 0.5), (less, -2)))
    assert equal(scores(recommender, Request(plus=[("a blue picture", 3)])), more)
    assert equal(scores(recommender, Request(minus=[("a grey ball", 3)])), {i: -s for i, s in less.items()})
    answer = recommender.search(request)
    alone = {meme.id: meme for meme in recommender.search(QUERY, top=1000, duplicates=True)}
    for meme in answer:  # what is told beside the score is of the sentence
        assert abs(meme.qi - alone[meme.id].qi) + abs(meme.qc - alone[meme.id].qc) < 1e-6
        assert meme.below == np.mean([s < meme.score for s in scores(recommender, request).values()])
    assert answer.words == recommender.search(QUERY).words


def test_an_emotion_prefers_those_who_show_it_or_one_near_to_it(recommender):
    memes = {meme.id: meme for meme in recommender.search(QUERY, top=1000, duplicates=True)}
    vectors = recommender.model.model.emotion_vectors
    table, index = vectors.table().double().numpy(), vectors.index_of
    centred = table - table[[index[word] for word in vectors.words]].mean(axis=0)

    def affinity(word, other):
        one, two = centred[index[word]], centred[index[other]]
        return one @ two / np.linalg.norm(one) / np.linalg.norm(two)

    expected = {
        image_id: max((affinity("happy", word) for word in meme.emotions), default=-1)
        for image_id, meme in memes.items()
    }
    found = recommender.search(Request(emotion=" Happy"), top=1000, duplicates=True)
    assert equal({meme.id: meme.score for meme in found}, expected)
    happy = [i for i, meme in memes.items() if "happy" in meme.emotions]
    assert happy and {meme.id for meme in found[: len(happy)]} == set(happy)
    assert all(meme.qi is None and meme.qc is None and meme.alpha is None for meme in found)
    both = scores(recommender, QUERY, emotion="happy")
    assert equal(both, joined({i: meme.score for i, meme in memes.items()}, (expected, 1)))
    assert recommender.emotions == sorted(vectors.words)
    with pytest.raises(InputError, match="none of the model's emotions, which are angry, happy, sad"):
        recommender.search(Request(emotion="joyful"))


def test_memes_like_one_of_the_index(recommender):
    everything = recommender.search(QUERY, top=1000, duplicates=True)
    store, features = recommender.store, recommender.store.features
    some = [meme.id for meme in everything if meme.id == by_its_file(recommender, meme.path)][:3]
    for image_id in some:
        row, path = store.row_of(image_id), recommender.image_path(image_id)
        by_id = {meme.id: meme for meme in recommender.search(Request(like=path), top=1000, duplicates=True)}
        assert by_id.keys() == {meme.id for meme in everything} - {image_id}  # who asks by a meme has it
        for other in by_id:
            meme = by_id[other]
            assert math.isclose(meme.qi, symmetric(features, row, store.row_of(other)), abs_tol=1e-5)
            captions = [features.arrays["caption"][r].astype(float) for r in (row, store.row_of(other))]
            assert math.isclose(meme.qc, captions[0] @ captions[1], abs_tol=1e-5)
            assert math.isclose(meme.score, meme.alpha * meme.qi + (1 - meme.alpha) * meme.qc, abs_tol=1e-5)
        by_path = recommender.search(Request(like=path))
        assert by_path == recommender.search(Request(like=path.read_bytes()))
        assert by_path == recommender.search(Request(like=image_id))
    row, first = store.row_of(some[0]), scores(recommender, QUERY)
    picture = scoring.read_rows(store, torch.device("cpu"), np.array([row]))
    own = scoring.picture_scores(recommender.model, store, picture)
    likeness = {image_id: float(own[0, store.row_of(image_id)]) for image_id in first}
    expected = joined(first, (likeness, 1))
    joint = scores(recommender, Request(QUERY, like=recommender.image_path(some[0])))
    assert equal(joint, {image_id: score for image_id, score in expected.items() if image_id != some[0]})


def by_its_file(recommender, path):
    """The id of the meme that a file is taken for: of several with the same bytes the first in the index."""
    store = recommender.store
    return store.meme(store.row_of_file(hashlib.sha256(path.read_bytes()).digest())).image_id


def symmetric(features, one, other):
    """WTI of two memes' visual tokens, written out."""
    ends = features.offsets["token"]
    tokens, weights = (
        [features.arrays[name][ends[row] : ends[row + 1]].astype(float) for row in (one, other)]
        for name in ("tokens", "token_weight")
    )
    cosines = tokens[0] @ tokens[1].T
    return (weights[0] @ cosines.max(axis=1) + weights[1] @ cosines.max(axis=0)) / 2


def test_memes_like_a_picture_that_is_not_in_the_index(recommender, tmp_path):
    write_image(tmp_path / "other.png", [np.full((40, 50, 3), (20, 20, 230), np.uint8)])
    found = recommender.search(Request(like=tmp_path / "other.png"))
    assert len(found) == 10 and all(meme.qc is None and meme.score == meme.qi for meme in found)
    tokens = recommender.encode_images([tmp_path / "other.png"]).arrays["tokens"][0]
    store, row = recommender.store, recommender.store.row_of(found[0].id)
    own = store.features.arrays["tokens"][store.features.offsets["token"][row]]
    if store.features.lengths["token"][row] == 1:
        assert math.isclose(found[0].qi, float(tokens[0] @ own), abs_tol=1e-5)
    for bad, message in (
        ("no such id", "no meme of the index has this id"),
        (b"no image", "the picture: not a JPEG"),
        (tmp_path / "nowhere.png", "nowhere.png: cannot be read"),
        (Path(__file__), "test_search.py: not a JPEG"),
    ):
        with pytest.raises(InputError, match=message):
            recommender.search(Request(like=bad))


def test_what_was_seen_does_not_come_again(recommender):
    everything = [meme.id for meme in recommender.search(QUERY, top=1000, duplicates=True)]
    answer = recommender.search(QUERY, seen=[*everything[:3], "unknown"], top=5, duplicates=True)
    assert [meme.id for meme in answer] == everything[3:8]
    assert [meme.rank for meme in answer] == [1, 2, 3, 4, 5]
    assert answer.notes == ("1 of the seen memes is not in the index",)
    assert not recommender.search(QUERY, seen=everything)
    everything = [meme.id for meme in recommender.search(QUERY, top=1000)]
    assert [meme.id for meme in recommender.search(QUERY, seen=everything[:2], top=4)] == everything[2:6]


def test_a_score_below_which_nothing_comes(recommender):
    everything = recommender.search(QUERY, top=1000, duplicates=True)
    least = everything[6].score
    found = recommender.search(QUERY, min_score=least, top=1000, duplicates=True)
    assert [meme.id for meme in found] == [meme.id for meme in everything[:7]]
    assert len(recommender.search(QUERY, min_score=least, top=3)) == 3
    assert not recommender.search(QUERY, min_score=99)


def test_near_duplicates_are_shown_once(place, tmp_path):
    """Six memes: two copies of one (by the text a third is another), and two pictures without any text."""
    images = tmp_path / "community" / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    one, other = (cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (60, 60)) for _ in range(2))
    for name, picture in {"a": one, "b": one + (one < 250), "c": one, "d": other, "e": other, "f": one}.items():
        write_image(images / f"{name}.png", [picture])
    texts = {"a": "IT WORKS", "b": "it  works", "c": "NOTHING HELPS", "d": "HELLO", "e": "HELLO", "f": ""}
    row = {"topic_id": "t", "query": "q", "captions": '["a meme"]', "emotions": ""}
    rows = [row | {"image_id": i, "image": f"{i}.png", "text": text} for i, text in texts.items()]
    write_csv(tmp_path / "community" / "test.csv", rows)
    for name in "gh":  # of which nothing is known: one is another's copy
        write_image(images / f"{name}.png", [one + (one < 250) * 3])
    path = save_model(place, "duplicates")[0]
    _, found = indexed(path, tmp_path / "index", data_path=tmp_path / "community")
    everything = [meme.id for meme in found.search(QUERY, duplicates=True)]
    assert sorted(everything) == ["a", "b", "c", "d", "e", "f", "g.png", "h.png"]
    answer = found.search(QUERY)
    groups = [{"a", "b"}, {"c"}, {"d", "e"}, {"f"}, {"g.png", "h.png"}]
    shown = [meme.id for meme in answer]
    assert shown == [i for i in everything if i == next(j for j in everything if {i, j} <= group_of(groups, i))]
    for meme in answer:
        assert {meme.id, *meme.duplicates} == group_of(groups, meme.id)
    seen = found.search(QUERY, seen=["b", "d"])
    assert {meme.id for meme in seen} == {"c", "f", next(i for i in everything if i in ("g.png", "h.png"))}


def group_of(groups, image_id):
    return next(group for group in groups if image_id in group)


def test_many_copies_are_gone_through(place, recommender, monkeypatch):
    """Where most of a gallery is nearly the same, what comes is what a comparison of all pairs leaves."""
    from preprocess.comparing.near_duplicates import near_duplicate_pairs

    monkeypatch.setattr("recommend.near_duplicates.AT_ONCE", 3)
    monkeypatch.setattr("recommend.recommender.LOOKED_AT", 1)
    everything = recommender.search(QUERY, top=1000, duplicates=True)
    rows = [recommender.store.row_of(meme.id) for meme in everything]
    pairs = near_duplicate_pairs(recommender.store.rows["phash"][rows], [meme.text for meme in everything])
    like = {tuple(pair) for pair in pairs.tolist()}
    shown: list[int] = []
    for number in range(len(rows)):
        if not any((better, number) in like for better in shown):
            shown.append(number)
    assert 5 < len(shown) < len(rows)
    for top in (1, 4, len(shown), 1000):
        assert [meme.id for meme in recommender.search(QUERY, top=top)] == [everything[i].id for i in shown[:top]]


def test_several_requests_at_once_are_answered_as_one_by_one(recommender, monkeypatch):
    some = recommender.search(QUERY, top=2)
    requests = [
        Request("life is blue", top=3),
        Request(emotion="sad"),
        Request("life is red", plus=[("angry", 1)], emotion="happy"),
        Request(like=some[0].id, minus=[("a grey ball", 0.3)]),
        Request("life is green", like=some[1].id, seen=[some[0].id]),
    ]
    alone = [recommender.search(request) for request in requests]
    for most in (1, 2 * len(recommender), 2**24):
        monkeypatch.setattr("recommend.recommender.SCORES_AT_ONCE", most)
        together = recommender.search_many(requests)
        for one, other in zip(alone, together, strict=True):
            assert [meme.id for meme in one] == [meme.id for meme in other]
            assert np.allclose([meme.score for meme in one], [meme.score for meme in other], atol=1e-5)


def test_of_several_requests_each_gets_its_answer_or_its_own_error(recommender, monkeypatch):
    right = [Request("life is blue", top=3), Request("life is red", emotion="happy"), Request(emotion="sad")]
    wrong = [Request("a", emotion="joyful"), Request(), Request("a", top=0), Request(like=b"no image")]
    requests = [*wrong[:2], right[0], wrong[2], right[1], wrong[3], right[2]]
    told = ("none of the model's", "nothing to search for", "top is 0", "not a JPEG")
    for most in (1, 2**24):
        monkeypatch.setattr("recommend.recommender.SCORES_AT_ONCE", most)
        found = list(recommender.search_each(requests))
        answers = [answer for answer in found if not isinstance(answer, Exception)]
        assert [isinstance(answer, InputError) for answer in found] == [request in wrong for request in requests]
        for request, answer in zip(right, answers, strict=True):
            alone = recommender.search(request)
            assert [meme.id for meme in answer] == [meme.id for meme in alone]
            assert np.allclose([meme.score for meme in answer], [meme.score for meme in alone], atol=1e-6)
        errors = [str(answer) for answer in found if isinstance(answer, InputError)]
        assert all(sentence in error for sentence, error in zip(told, errors, strict=True))
        with pytest.raises(InputError, match="none of the model's"):
            recommender.search_many([right[0], wrong[0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to search for"),
        ({"text": " \n"}, "nothing to search for"),
        ({"text": "a", "top": 0}, "top is 0: 1 to 1,000"),
        ({"text": "a", "top": 1001}, "top is 1001"),
        ({"text": "a" * 10_001}, "10,001 characters"),
        ({"plus": [("", 1)]}, "empty"),
        ({"plus": [("a", 0)]}, "the weight 0 of 'a'"),
        ({"minus": [("a", math.nan)]}, "the weight nan"),
        ({"plus": [("a", 1)] * 17}, "17 further sentences"),
        ({"text": "a", "min_score": math.nan}, "min_score is nan"),
    ],
)
def test_requests_that_cannot_be_answered(recommender, options, message):
    with pytest.raises(InputError, match=message):
        recommender.search(Request(**options))


def test_a_text_that_is_cut_off_is_told(recommender):
    answer = recommender.search("life is red " * 20)
    assert len(answer) == 10
    assert "the end of a text is not read" in answer.notes[0]


def test_chinese_and_emoji_are_texts_like_others(recommender):
    assert len(recommender.search("明天就是截止日期 😭", top=4)) == 4


def test_embeddings_come_with_their_ids(recommender):
    texts = ["life is red", "nothing helps at all"]
    found = recommender.encode_texts(texts)
    assert found.ids == tuple(texts)
    assert np.allclose(np.linalg.norm(found.arrays["sentence"], axis=1), 1, atol=1e-5)
    assert found.arrays["words"].shape[:2] == found.arrays["word_weight"].shape
    paths = [recommender.image_path(meme.id) for meme in recommender.search(QUERY, top=1000)]
    animated = [path for path in paths if path.suffix == ".gif"][:1]
    found = recommender.encode_images([paths[0], *animated])
    assert found.ids == (str(paths[0]), str(animated[0]))
    assert found.arrays["tokens"].shape[1] > 1
    assert np.allclose(found.arrays["token_weight"].sum(axis=1), 1, atol=1e-5)
    with pytest.raises(InputError, match="no text"):
        recommender.encode_texts([])
    with pytest.raises(InputError, match="not a JPEG"):
        recommender.encode_images([__file__])


def test_an_index_is_exported_with_its_ids(recommender, tmp_path, monkeypatch):
    from recommend import export

    monkeypatch.setattr(export, "AT_ONCE", 3)
    names = export.export(recommender.store, tmp_path / "features.npz")
    with np.load(tmp_path / "features.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert list(arrays) == names == ["ids", "paths", "tokens_per_meme", "caption", "tokens", "token_weight"]
    ends = arrays["tokens_per_meme"].cumsum()
    store = recommender.store
    for number, image_id in enumerate(arrays["ids"]):
        row = store.row_of(str(image_id))
        features = store.features.read(
            np.array([row]), recommender.model.device, recommender.model.model.backbone.logit_scale.dtype
        )
        tokens = slice(ends[number] - arrays["tokens_per_meme"][number], ends[number])
        assert np.array_equal(arrays["tokens"][tokens], features["tokens"][0].numpy())
        assert np.array_equal(arrays["caption"][number], features["caption"][0].numpy())
        assert str(arrays["paths"][number]) == store.meme(row).image


def test_several_threads_score_as_one_and_leave_torch_as_it_was(recommender, monkeypatch):
    expected = recommender.search(QUERY, top=1000, duplicates=True)
    monkeypatch.setattr(scoring, "BLOCK", 4)
    before = torch.get_num_threads()
    scoring._threads.cache_clear()
    torch.set_num_threads(3)
    try:
        found = recommender.search(QUERY, top=1000, duplicates=True)
        in_another = []
        thread = threading.Thread(target=lambda: in_another.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert torch.get_num_threads() == in_another[0] == 3
        assert scoring._threads()._max_workers == 3
    finally:
        torch.set_num_threads(before)
        scoring._threads.cache_clear()
    assert [meme.id for meme in found] == [meme.id for meme in expected]
    assert np.allclose([meme.score for meme in found], [meme.score for meme in expected], atol=1e-6)


def test_best_rows_are_those_of_a_sort():
    rng = np.random.default_rng(0)
    for size, count in ((1, 1), (50, 7), (50, 50), (50, 60)):
        values = rng.integers(0, 9, size).astype(np.float32)  # with ties
        expected = sorted(range(size), key=lambda row: (-values[row], row))[:count]
        assert best_rows(values, count) == expected


def test_from_images_needs_a_folder_alone(place):
    path = save_model(place, "from_images")[0]
    found = Recommender.from_images(path, place.data / "images", device="cpu")
    meme = found.search("life is red", top=1)[0]
    assert meme.path.is_file() and meme.captions == () and meme.caption == ""
    assert json.dumps(dataclasses.asdict(meme) | {"path": ""})


def test_a_model_without_images_or_emotions_says_what_it_cannot(place, tmp_path):
    path = save_model(place, "captions", "--branches", "qc")[0]
    _, found = indexed(path, tmp_path / "index", data_path=place.data)
    assert found.emotions == []
    with pytest.raises(InputError, match="knows no emotions"):
        found.search("red", emotion="happy")
    write_image(tmp_path / "other.png", [np.zeros((40, 50, 3), np.uint8)])
    with pytest.raises(InputError, match="compares captions alone"):
        found.search(Request(like=tmp_path / "other.png"))
    first = found.search("red", top=1)[0]
    assert first.qi is None and first.qc == pytest.approx(first.score)
    assert likeness_to_itself(found, first) == pytest.approx(1, abs=1e-5)


def likeness_to_itself(recommender, meme):
    row = recommender.store.row_of(meme.id)
    features = scoring.read_rows(recommender.store, torch.device("cpu"), np.array([row]))
    return scoring.picture_scores(recommender.model, recommender.store, features)[0, row]


@pytest.mark.parametrize(
    "flags", [("--sim_header", "tightTransf", "--cross_num_hidden_layers", "1"), ("--interaction", "dp")]
)
def test_other_models_find_what_is_like_a_meme(place, tmp_path, flags):
    path = save_model(place, "other", *flags)[0]
    _, found = indexed(path, tmp_path / "index", data_path=place.data)
    first = found.search("red", top=1)[0]
    assert likeness_to_itself(found, first) == pytest.approx(1, abs=1e-5)
    others = {meme.id for meme in found.search(Request(like=first.path), top=1000, duplicates=True)}
    assert len(others) == len(found) - 1 and by_its_file(found, first.path) not in others
