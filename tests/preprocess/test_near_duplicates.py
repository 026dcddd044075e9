"""Pairs against a slow formula, texts by hand, groups against SciPy's connected components."""

import random
import sys
import tracemalloc
import unicodedata

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from dataloaders.meme_records import Meme
from preprocess.comparing import near_duplicates
from preprocess.comparing.near_duplicates import (
    DEFAULT_HASH_THRESHOLD,
    bit_count,
    groups,
    near_duplicate_pairs,
    normalised_text,
)
from util import InputError


def edit_distance(a, b):
    """Levenshtein's, by its definition."""
    line = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, line[0] = line[0], i
        for j, y in enumerate(b, 1):
            previous, line[j] = line[j], min(line[j] + 1, line[j - 1] + 1, previous + (x != y))
    return line[-1]


def slow_pairs(hashes, texts, hash_threshold, text_threshold):
    found = []
    for i in range(len(hashes)):
        for j in range(i + 1, len(hashes)):
            if bin(int(hashes[i]) ^ int(hashes[j])).count("1") > hash_threshold:
                continue
            if texts is not None:
                a, b = (" ".join(unicodedata.normalize("NFKC", texts[k]).casefold().split()) for k in (i, j))
                if bool(a) != bool(b) or (a and edit_distance(a, b) > text_threshold * max(len(a), len(b)) + 1e-9):
                    continue
            found.append([i, j])
    return found


def memes_of_few_templates(count, seed):
    """Hashes a few bits from their template's, texts a few edits from one of a few texts; some are empty."""
    rng = random.Random(seed)
    templates = [rng.getrandbits(64) for _ in range(4)]
    originals = ["".join(rng.choice("abcde 我") for _ in range(rng.choice((3, 10, 20, 21)))) for _ in range(6)] + [
        "",
        " ",
    ]
    hashes, texts = [], []
    for _ in range(count):
        value, text = rng.choice(templates), list(rng.choice(originals))
        for _ in range(rng.randrange(9)):
            value ^= 1 << rng.randrange(64)
        for _ in range(rng.randrange(4) if text else 0):
            place = rng.randrange(len(text))
            text[place : place + rng.randrange(2)] = rng.choice(("", "x", "Y"))
            text = text or ["z"]
        hashes.append(value)
        texts.append("".join(text))
    return np.array(hashes, np.uint64), texts


@pytest.mark.parametrize("hash_threshold", [0, 5, 10, 64])
@pytest.mark.parametrize("text_threshold", [0, 0.1, 0.25, 1])
def test_pairs_are_those_of_the_slow_formula(hash_threshold, text_threshold, monkeypatch):
    hashes, texts = memes_of_few_templates(90, seed=hash_threshold)
    expected = slow_pairs(hashes, texts, hash_threshold, text_threshold)
    assert expected
    for rows, columns in ((32, 2**16), (1, 1), (7, 5), (5, 64)):
        monkeypatch.setattr(near_duplicates, "ROWS", rows)
        monkeypatch.setattr(near_duplicates, "COLUMNS", columns)
        assert near_duplicate_pairs(hashes, texts, hash_threshold, text_threshold).tolist() == expected


def test_without_texts_the_hashes_decide():
    hashes, _ = memes_of_few_templates(90, seed=1)
    expected = slow_pairs(hashes, None, 7, None)
    assert 90 < len(expected) < 90 * 89 / 2
    assert near_duplicate_pairs(hashes, hash_threshold=7).tolist() == expected


def test_the_threshold_itself_agrees():
    hashes = [0, 2**DEFAULT_HASH_THRESHOLD - 1, 2 ** (DEFAULT_HASH_THRESHOLD + 1) - 1]
    assert near_duplicate_pairs(hashes, ["a"] * 3).tolist() == [[0, 1], [1, 2]]
    all_bits = [0, 2**64 - 1]
    assert near_duplicate_pairs(all_bits, ["a"] * 2, 63).tolist() == []
    assert near_duplicate_pairs(all_bits, ["a"] * 2, 64).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("first", "second", "agree"),
    [
        ("abcdefghij", "abcdefghix", True),  # 1 of 10
        ("abcdefghi", "abcdefghx", False),  # 1 of 9
        ("abcdefghi", "abcdefghij", True),  # 1 of 10, one longer
        ("abcdefgh", "abcdefghi", False),
        ("a" * 27, "a" * 30, True),  # 3 of 30
        ("a" * 26, "a" * 29, False),
        ("a" * 900, "a" * 1000, True),
        ("a" * 899, "a" * 1000, False),
        ("", "", True),
        ("", " \n\t", True),
        ("", "a", False),
        ("", "a" * 50, False),
        ("我今天真的很不想去上班", "我今天真的很不想去上学", True),  # 1 of 11
        ("我很累", "我很饿", False),
        ("Straße AM  Meer\n", "STRASSE am meer", True),
        ("ＭＥＭＥ　１２", "meme 12", True),  # full width
        ("one more hour", "one\nmore\r\n hour ", True),
        ("I am tired of this", "I am not tired of all this", False),
    ],
)
def test_when_texts_agree(first, second, agree):
    assert near_duplicate_pairs([5, 5], [first, second]).tolist() == [[0, 1]] * agree
    assert near_duplicate_pairs([5, 5], [second, first]).tolist() == [[0, 1]] * agree


def test_normalised_text():
    assert normalised_text(" ＷＨＥＮ\n  the Straße … ") == "when the strasse ..."


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_pair(count):
    pairs = near_duplicate_pairs(np.zeros(count, np.uint64), ["a"] * count)
    assert pairs.shape == (0, 2)
    assert pairs.dtype == np.int64
    assert groups(count, pairs).tolist() == [0] * count


def test_bits_are_counted_without_numpy_2(monkeypatch):
    words = np.random.default_rng(0).integers(2**64, size=(6, 50), dtype=np.uint64)
    words[0, :2] = 0, 2**64 - 1
    expected = [[bin(word).count("1") for word in row] for row in words.tolist()]
    assert bit_count(words).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert bit_count(words).tolist() == expected
    assert bit_count(words[:, ::3]).tolist() == [row[::3] for row in expected]


def test_missing_rapidfuzz_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidfuzz.process", None)
    with pytest.raises(InputError, match="rapidfuzz.*pip install -r requirements-data.txt"):
        near_duplicate_pairs([1, 1], ["a", "a"])
    assert near_duplicate_pairs([1, 1]).tolist() == [[0, 1]]


def test_memory_holds_a_block_not_all_pairs():
    count = 20_000
    hashes = np.random.default_rng(0).integers(2**64, size=count, dtype=np.uint64)
    hashes[count // 2] = hashes[3]
    tracemalloc.start()
    try:
        pairs = near_duplicate_pairs(hashes, ["same"] * count, hash_threshold=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pairs.tolist() == [[3, count // 2]]
    assert peak < count**2 / 10  # bytes: far less than one for each pair


# --- groups -----------------------------------------------------------------------------------------------------


def by_scipy(count, pairs):
    pairs = np.reshape(pairs, (-1, 2)).astype(int)
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(count, count))
    labels = connected_components(graph, directed=False)[1].tolist()
    names = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return [names[label] for label in labels]


@pytest.mark.parametrize("edges", [0, 20, 60, 100, 150, 400])
def test_groups_are_connected_components(edges):
    rng = np.random.default_rng(edges)
    pairs = rng.integers(120, size=(edges, 2))  # with loops and repetitions, in any order
    assert groups(120, pairs).tolist() == by_scipy(120, pairs)


def test_groups_of_chains_and_stars():
    n = 1000
    chain = np.stack([np.arange(n - 1), np.arange(1, n)], axis=1)
    shuffled = np.random.default_rng(0).permutation(n)
    star = [[n - 1, i] for i in range(n - 1)]
    zigzag = [[i, n - 1 - i] for i in range(n // 2)] + [[n - 1 - i, i + 1] for i in range(n // 2 - 1)]
    for pairs in (chain, chain[::-1], shuffled[chain], star, zigzag):
        assert groups(n, pairs).tolist() == [0] * n
    assert groups(5, [[4, 1], [1, 2]]).tolist() == [0, 1, 1, 2, 1]


def test_near_duplicates_of_near_duplicates_are_one_group():
    hashes = [0, 2**10 - 1, 2**20 - 1, 2**40 - 1]
    pairs = near_duplicate_pairs(hashes, ["a"] * 4, hash_threshold=10)
    assert pairs.tolist() == [[0, 1], [1, 2]]
    assert groups(4, pairs).tolist() == [0, 0, 0, 1]


def test_memes_of_a_template_are_told_apart_by_what_their_captions_quote():
    scene = "A man in a suit points at a whiteboard full of arrows while his colleagues look at him in silence."
    memes = [
        Meme(str(i), f"{i}.jpg", (f'{scene} The text reads: "{quoted}"',), (), "")
        for i, quoted in enumerate(["buy high", "sell low", "Buy  high"])
    ]
    texts, compared = near_duplicates.compared_texts(memes)
    assert compared == "captions"
    assert near_duplicate_pairs(np.zeros(3, np.uint64), texts).tolist() == [[0, 2]]
    whole = ["\n".join(meme.captions) for meme in memes]
    assert len(near_duplicate_pairs(np.zeros(3, np.uint64), whole)) == 3, "whole captions would not tell them apart"
