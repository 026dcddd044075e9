"""Which split a record goes to: by record (every topic is in all splits), by topic or by template (one is in one).

A group is a set of memes that never fall into different splits. Splits are numbered in the order of their shares.
Nothing here draws random numbers: an order "by lot" is the order of a hash of the seed and a name, so that it is the
same on every machine and does not change when other records come or go.
"""

import hashlib

import numpy as np

from preprocess.building.inputs import Unusable
from preprocess.comparing.near_duplicates import normalised_text


def by_lot(seed, names):
    """For each name (any distinct texts) its place in a random order that depends on the seed: int64 array."""
    keys = [hashlib.sha256(f"{seed}\n{name}".encode()).digest() for name in names]
    places = np.empty(len(keys), dtype=np.int64)
    places[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return places


def split_by_record(topics, groups, shares, topic_lot, group_lot):
    """Divide each topic's records over the splits; the records of one group stay together.

    topics, groups: (N,) int64, of each record, numbered from 0. shares: (S,), positive, with the sum 1. topic_lot,
    group_lot: the order among equals, one place per topic and per group. Returns the split of each record (N,) int64.

    The groups come one after the other, those of most records first. Each goes to the split which is furthest below
    its share of the topics that the group touches, among the splits with room for at least half of the group.
    """
    sizes = np.bincount(groups)
    missing = quotas(np.bincount(topics), shares, topic_lot)  # (topics, splits): records still wanted
    missing_overall = missing.sum(axis=0)
    splits = np.empty(len(groups), dtype=np.int64)
    order = np.lexsort((group_lot, -sizes))
    records_of = np.split(np.argsort(groups, kind="stable"), np.cumsum(sizes)[:-1])
    empty = set(range(len(shares)))
    for place, group in enumerate(order):
        records = records_of[group]
        touched, counts = np.unique(topics[records], return_counts=True)
        wanted = counts @ missing[touched]
        with_room = missing_overall * 2 >= sizes[group]
        candidates = np.flatnonzero(with_room) if with_room.any() else [int(np.argmax(missing_overall))]
        if len(order) - place <= len(empty):
            candidates = sorted(empty)  # as many groups are left as splits without any
        split = max(candidates, key=wanted.__getitem__)
        splits[records] = split
        missing[touched, split] -= counts
        missing_overall[split] -= sizes[group]
        empty.discard(split)
    return splits


def quotas(sizes, shares, lot):
    """How many of each topic's records each split should get: (topics, splits) int64, the rows sum to `sizes`.

    What rounding takes from a split in one topic it gets back in the next ones (in the order of `lot`), so that many
    topics of one record are divided by the shares as well.
    """
    exact = np.outer(sizes, shares)
    counts = np.floor(exact + 1e-9).astype(np.int64)
    owed = np.zeros(len(shares))
    for topic in np.argsort(lot):
        owed += exact[topic] - counts[topic]
        for _ in range(sizes[topic] - counts[topic].sum()):
            split = int(np.argmax(np.round(owed, 9)))
            counts[topic, split] += 1
            owed[split] -= 1
    return counts


def split_by_topic(topics, groups, units, shares, unit_lot, split_lot):
    """Divide the topics over the splits: (split of each record, -1 for those that have to go).

    topics, groups: (N,) int64, of each record. units: the unit of each topic; topics of one unit stay together.
    unit_lot: the order of equals, one place per unit. split_lot: (groups, S), places that decide between splits which
    have equally many of a group's records.

    A group whose memes are in topics of different splits keeps the records of the split that has most of them.
    """
    record_unit = units[topics]
    splits = divide(np.bincount(record_unit), shares, unit_lot)[record_unit]
    votes = np.zeros((groups.max() + 1, len(shares)), dtype=np.int64)
    np.add.at(votes, (groups, splits), 1)
    kept = np.lexsort((split_lot, -votes))[:, 0]
    return np.where(splits == kept[groups], splits, -1)


def divide(sizes, shares, lot):
    """The split of each unit of so many records: (U,) int64.

    Units come by size (to the next power of two, so that the lot decides between similar ones), the large ones first.
    Each goes to the split which is furthest below its share of the records that have come so far.
    """
    shares = np.asarray(shares)
    splits = np.empty(len(sizes), dtype=np.int64)
    got = np.zeros(len(shares))
    order = np.lexsort((lot, [-int(size).bit_length() for size in sizes]))
    for place, unit in enumerate(order):
        below = np.round(shares * (got.sum() + sizes[unit]) - got, 9)
        empty = np.flatnonzero(got == 0)
        candidates = empty if len(order) - place <= len(empty) else np.arange(len(shares))
        split = candidates[np.argmax(below[candidates])]
        splits[unit] = split
        got[split] += sizes[unit]
    return splits


def split_community(community, shares, split_by, seed, template_groups=False):
    """The split of each record of a memes.Community, (N,) int64: the index of its share.

    Records whose published split is "test" get the last index, the others are divided over the splits before it. By
    topic, records of a group that is kept in another split are dropped from the community. Memes of a group of
    near-duplicates (with `template_groups`, which is to be had by template: of a template) are in one split.
    """
    shares = np.asarray(shares)
    given = np.array([record.split == "test" for record in community.records], dtype=bool)
    splits = np.full(len(community.records), len(shares) - 1, dtype=np.int64)
    if any(record.split for record in community.records):
        shares = shares[:-1] / shares[:-1].sum()
    if not given.all():
        splits[~given] = _divided(community, np.flatnonzero(~given), shares, split_by, seed, template_groups)
    elsewhere = Unusable("in another split", "this meme and its near-duplicates have more records there")
    if template_groups:
        elsewhere = Unusable("in another split", "the memes of this template have more records there")
    community.drop(dict.fromkeys(np.flatnonzero(splits < 0).tolist(), elsewhere))
    return splits[splits >= 0]


def _divided(community, indices, shares, split_by, seed, template_groups):
    records = [community.records[index] for index in indices]
    memes = community.record_meme[indices]
    labels = (community.template if template_groups else community.near)[memes]
    _, groups = np.unique(labels, return_inverse=True)
    group_names = {}
    for group, meme in zip(groups.tolist(), memes.tolist(), strict=True):
        name = community.first_name(meme)
        group_names[group] = min(name, group_names.get(group, name))
    group_names = [group_names[group] for group in range(len(group_names))]
    queries = {record.topic_id: normalised_text(record.query) for record in records}
    topic_places = {topic_id: place for place, topic_id in enumerate(queries)}
    topics = np.array([topic_places[record.topic_id] for record in records])
    if split_by != "topic":
        return split_by_record(topics, groups, shares, by_lot(seed, queries), by_lot(seed, group_names))
    unit_places = {query: place for place, query in enumerate(dict.fromkeys(queries.values()))}
    units = np.array([unit_places[query] for query in queries.values()])
    ties = by_lot(seed, [f"{name}\n{split}" for name in group_names for split in range(len(shares))])
    return split_by_topic(topics, groups, units, shares, by_lot(seed, unit_places), ties.reshape(-1, len(shares)))
