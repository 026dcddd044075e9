"""What may spoil an evaluation: duplicates, leakage between splits, topics that are too small or nearly the same.

Exact duplicates are memes of different image_ids whose files have the same bytes. Near-duplicates are those of
`near_duplicates`: hash and text agree. Memes whose hashes alone agree are of the same template; that is no error.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from preprocess.building.meme_groups import template_groups
from preprocess.comparing.near_duplicates import (
    TEXT_THRESHOLD,
    bit_count,
    compared_texts,
    groups,
    near_duplicate_pairs,
    normalised_text,
)

BLOCK = 1024


class Pair(NamedTuple):
    """Two memes that are the same: `kind` is "exact" or "near". `across`: they are in different splits."""

    kind: str
    first: object  # a dataloaders.meme_records.Meme
    second: object
    first_splits: tuple
    second_splits: tuple
    hash_distance: int  # bits of 64
    text_distance: float  # edits over the longer one's length

    @property
    def across(self):
        return len({*self.first_splits, *self.second_splits}) > 1


def splits_by_meme(splits):
    """{image_id: (Meme, names of the splits that have it)}, in order of first appearance."""
    found = {}
    for name, split in splits.items():
        for meme in split.memes:
            found[meme.image_id] = (meme, (*found.get(meme.image_id, (meme, ()))[1], name))
    return found


def duplicate_pairs(splits, facts, hash_threshold):
    """([Pair], counts): the exact ones first, then the near ones, each kind with those across splits first.

    facts: the ImageFacts of all memes, in the order of `splits_by_meme`. Of n memes with the same bytes the first one
    is paired with each other one; files with the same bytes and text are compared with others only once.
    """
    memes, names = zip(*splits_by_meme(splits).values(), strict=True)
    texts, source = compared_texts(memes)
    texts = list(map(normalised_text, texts))
    same_bytes, different = defaultdict(list), {}
    for i, sha256 in enumerate(facts.sha256.tolist()):
        if sha256:
            same_bytes[sha256].append(i)
        if facts.kind[i]:
            different.setdefault((sha256, texts[i]), i)
    exact = [(group[0], other) for group in same_bytes.values() for other in group[1:]]
    kept = np.array(list(different.values()), np.int64)
    near = kept[near_duplicate_pairs(facts.phash[kept], [texts[i] for i in kept], hash_threshold)]
    near = [(i, j) for i, j in near.tolist() if facts.sha256[i] != facts.sha256[j]]

    def pair(kind, i, j):
        bits = int(bit_count(facts.phash[i : i + 1] ^ facts.phash[j : j + 1])[0])
        return Pair(kind, memes[i], memes[j], names[i], names[j], bits, text_distance(texts[i], texts[j]))

    pairs = [pair("exact", i, j) for i, j in exact] + [pair("near", i, j) for i, j in near]
    pairs.sort(key=lambda pair: (pair.kind, not pair.across, pair.hash_distance, pair.text_distance))
    readable = facts.kind != ""
    split_numbers = np.array([list(splits).index(each[0]) for each in names])
    counts = {
        "compared": source,
        "hash_threshold": hash_threshold,
        "exact": _counts(len(memes), exact, [pair for pair in pairs if pair.kind == "exact"]),
        "near": _counts(len(memes), near, [pair for pair in pairs if pair.kind == "near"]),
        "same_template": same_template(facts.phash[readable], split_numbers[readable], hash_threshold),
    }
    return pairs, counts


def _counts(n, indices, pairs):
    sizes = np.bincount(groups(n, indices), minlength=1)
    return {
        "pairs": len(pairs),
        "memes": int(sizes[sizes > 1].sum()),
        "groups": int((sizes > 1).sum()),
        "pairs_across_splits": sum(pair.across for pair in pairs),
    }


def text_distance(first, second):
    """Edit distance of two normalised texts over the longer one's length; 0 of two empty ones."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_distance(first, second)


def same_template(phashes, split_numbers, threshold):
    """How many pairs of memes have hashes within `threshold` bits, and how many of them are across splits.

    phashes: (N,) uint64; split_numbers: (N,), from 0. Counted in blocks; the pairs are never listed.
    """
    hashes, which = np.unique(phashes, return_inverse=True)
    memes = np.zeros((len(hashes), split_numbers.max(initial=0) + 1), np.int64)  # with that hash, by split
    np.add.at(memes, (which, split_numbers), 1)
    pairs = np.diag((memes * (memes - 1) // 2).sum(axis=0))  # of two splits; here both have one and the same hash
    for s, t in np.argwhere(np.triu(np.ones_like(pairs), 1)):
        pairs[s, t] = memes[:, s] @ memes[:, t]
    for start in range(0, len(hashes), BLOCK):
        for other in range(start, len(hashes), 2 * BLOCK):
            distance = bit_count(hashes[start : start + BLOCK, None] ^ hashes[None, other : other + 2 * BLOCK])
            first, second = np.nonzero(distance <= threshold)
            first, second = first + start, second + other
            once = second > first
            pairs += memes[first[once]].T @ memes[second[once]]
    found, inside = int(pairs.sum()), int(np.trace(pairs))
    return {"pairs": found, "pairs_across_splits": found - inside, "share": (found - inside) / found if found else 0.0}


def leakage(splits, pairs, facts, hash_threshold, split_by):
    """{what: [found ones]} of what two splits share: memes, exact and near pairs; and by what they were split.

    split_by: "topic": topics and queries too; "template": templates. Memes are image_ids, topics are topic_ids, queries
    are normalised, templates are the image_id of their first meme. facts: as of `duplicate_pairs`.
    """
    found = {
        "memes": [image_id for image_id, (_, names) in splits_by_meme(splits).items() if len(names) > 1],
        "exact": [pair for pair in pairs if pair.kind == "exact" and pair.across],
        "near": [pair for pair in pairs if pair.kind == "near" and pair.across],
    }
    if split_by == "topic":
        found["topics"] = _in_two([split.topic_ids for split in splits.values()])
        found["queries"] = _in_two([map(normalised_text, split.queries) for split in splits.values()])
    if split_by == "template":
        found["templates"] = _templates_in_two(splits_by_meme(splits), facts, hash_threshold)
    return found


def _templates_in_two(memes, facts, hash_threshold):
    readable = np.flatnonzero(facts.kind != "")
    where, image_ids = defaultdict(set), list(memes)
    first = {}
    for i, label in zip(
        readable.tolist(), template_groups(facts.phash[readable], hash_threshold).tolist(), strict=True
    ):
        where[label].update(memes[image_ids[i]][1])
        first.setdefault(label, image_ids[i])
    return [first[label] for label, names in where.items() if len(names) > 1]


def _in_two(lists):
    seen = defaultdict(set)
    for number, values in enumerate(lists):
        for value in values:
            seen[value].add(number)
    return [value for value, numbers in seen.items() if len(numbers) > 1]


def small_topics(split, min_memes):
    """The topic_ids with fewer than `min_memes` memes in the split."""
    memes = np.bincount(split.record_topic, minlength=len(split.topic_ids))
    return [split.topic_ids[topic] for topic in np.flatnonzero(memes < min_memes)]


def near_identical_queries(split):
    """Groups of topics whose queries are nearly the same: lists of (topic_id, query), the largest group first.

    Two queries are so if their normalised edit distance is at most 0.1; a group is connected by such pairs.
    """
    queries = list(map(normalised_text, split.queries))
    distinct = list(dict.fromkeys(queries))
    labels = dict(zip(distinct, groups(len(distinct), _similar(distinct)).tolist(), strict=True))
    members = defaultdict(list)
    for topic, query, key in zip(split.topic_ids, split.queries, queries, strict=True):
        members[labels[key]].append((topic, query))
    return sorted((group for group in members.values() if len(group) > 1), key=len, reverse=True)


def _similar(texts):
    """(M, 2) pairs of indices of texts within the threshold; only those of nearly the same length are compared."""
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    order = np.array(sorted(range(len(texts)), key=lambda i: len(texts[i])), np.int64)
    lengths = np.array([len(texts[i]) for i in order], np.int64)
    texts = [texts[i] for i in order]
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        stop = np.searchsorted(lengths, len(block[-1]) / (1 - TEXT_THRESHOLD) + 1e-9, side="right")
        for other in range(start, stop, 2 * BLOCK):
            distances = cdist(
                block,
                texts[other : min(stop, other + 2 * BLOCK)],
                scorer=Levenshtein.normalized_distance,
                score_cutoff=TEXT_THRESHOLD,
                dtype=np.float64,
                workers=-1,
            )
            pairs = np.argwhere(distances <= TEXT_THRESHOLD) + (start, other)
            found.append(order[pairs[pairs[:, 1] > pairs[:, 0]]])
    return np.concatenate(found)
