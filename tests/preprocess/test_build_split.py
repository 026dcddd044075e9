"""Dividing records over splits: shares, groups that stay together, topics, the seed."""

from types import SimpleNamespace

import numpy as np
import pytest

from preprocess.building.inputs import Record
from preprocess.building.split import by_lot, divide, quotas, split_by_record, split_by_topic, split_community

SHARES = (0.8, 0.1, 0.1)


def lots(*counts):
    return [by_lot(0, range(count)) for count in counts]


def random_records(rng, topics, memes, records):
    """Distinct (topic, meme) pairs: topics (N,), memes (N,), both numbered without gaps."""
    pairs = np.unique(np.stack([rng.integers(topics, size=records), rng.integers(memes, size=records)], 1), axis=0)
    rng.shuffle(pairs)
    return (np.unique(column, return_inverse=True)[1] for column in pairs.T)


# The lot


def test_the_lot_is_an_order_of_the_names_that_other_names_do_not_change():
    names = [f"m{n}" for n in range(50)]
    places = by_lot(3, names)
    assert sorted(places) == list(range(50))
    assert by_lot(3, names).tolist() == places.tolist() != by_lot(4, names).tolist()
    fewer = by_lot(3, names[::2])
    assert np.argsort(fewer).tolist() == [n // 2 for n in np.argsort(places) if n % 2 == 0]


def test_the_lot_favours_nobody():
    first = [int(np.argmin(by_lot(seed, "abcde"))) for seed in range(500)]
    assert np.bincount(first).min() > 60  # 100 each, the standard deviation is 9


# By record


@pytest.mark.parametrize("shares", [SHARES, (0.5, 0.25, 0.25), (0.34, 0.33, 0.33), (0.98, 0.01, 0.01)])
def test_quotas_are_within_one_of_each_topics_share_and_of_the_total(shares):
    rng = np.random.default_rng(0)
    for sizes in (np.ones(300, int), np.full(40, 10), rng.integers(1, 60, 80), np.array([5]), np.array([1000, 1, 1])):
        counts = quotas(sizes, np.array(shares), by_lot(1, range(len(sizes))))
        assert (counts >= 0).all() and counts.sum(axis=1).tolist() == sizes.tolist()
        assert (np.abs(counts - np.outer(sizes, shares)) < 2).all()
        assert (np.abs(counts.sum(axis=0) - sizes.sum() * np.array(shares)) < 1.01).all()


def test_a_topics_share_that_is_a_whole_number_is_met_exactly():
    topics = np.repeat(np.arange(6), [10, 20, 30, 40, 50, 90])
    splits = split_by_record(topics, np.arange(len(topics)), SHARES, *lots(6, len(topics)))
    for topic, size in enumerate([10, 20, 30, 40, 50, 90]):
        found = np.bincount(splits[topics == topic], minlength=3)
        assert found.tolist() == [size * 8 // 10, size // 10, size // 10]


def test_topics_of_one_record_are_divided_too():
    splits = split_by_record(np.arange(1000), np.arange(1000), SHARES, *lots(1000, 1000))
    assert np.bincount(splits).tolist() == [800, 100, 100]


@pytest.mark.parametrize("seed", range(4))
def test_groups_stay_together_and_shares_are_met(seed):
    rng = np.random.default_rng(seed)
    topics, memes = random_records(rng, topics=12, memes=500, records=900)
    groups = np.where(rng.random(memes.max() + 1) < 0.3, memes.max() + 1 + rng.integers(60), np.arange(memes.max() + 1))
    _, groups = np.unique(groups[memes], return_inverse=True)
    splits = split_by_record(topics, groups, SHARES, *lots(topics.max() + 1, groups.max() + 1))
    assert all(len(set(splits[groups == group])) == 1 for group in range(groups.max() + 1))
    biggest = np.bincount(groups).max()
    assert np.abs(np.bincount(splits) - np.array(SHARES) * len(splits)).max() <= max(2, biggest / 2)
    for topic in range(topics.max() + 1):
        shares = np.bincount(splits[topics == topic], minlength=3) / (topics == topic).sum()
        assert np.abs(shares - SHARES).max() < 0.16


def test_where_a_group_is_a_whole_topic_the_shares_hold_over_the_topics():
    topics = np.repeat(np.arange(50), 20)
    splits = split_by_record(topics, topics, SHARES, *lots(50, 50))
    assert np.bincount(splits).tolist() == [800, 100, 100]


def test_no_split_is_empty_where_there_are_enough_groups():
    topics = np.zeros(3, int)
    assert set(split_by_record(topics, np.arange(3), SHARES, *lots(1, 3))) == {0, 1, 2}


def test_a_group_is_put_where_its_own_topics_want_it():
    # Topic 0 has got its 8 train records by a group of 8; a group of topics 0 and 1 follows, most of it in topic 1.
    topics = np.array([0] * 8 + [0, 1, 1, 1] + [0] + [1] * 7)
    groups = np.array([0] * 8 + [1] * 4 + list(range(2, 10)))
    splits = split_by_record(topics, groups, SHARES, *lots(2, 10))
    assert set(splits[:12]) == {0}
    assert sorted(splits[topics == 0]) == [0] * 9 + [1] or sorted(splits[topics == 0]) == [0] * 9 + [2]
    assert np.bincount(splits).tolist() == [16, 2, 2]


# By topic


@pytest.mark.parametrize("seed", range(4))
def test_topics_and_units_stay_whole_and_groups_keep_their_majority(seed):
    rng = np.random.default_rng(seed)
    topics, groups = random_records(rng, topics=60, memes=250, records=700)
    units = rng.integers(45, size=60)
    _, units = np.unique(units, return_inverse=True)
    ties = rng.permuted(np.tile(np.arange(3), (groups.max() + 1, 1)), axis=1)
    splits = split_by_topic(topics, groups, units, SHARES, by_lot(seed, range(units.max() + 1)), ties)
    kept = splits >= 0
    for unit in range(units.max() + 1):
        assert len(set(splits[kept & (units[topics] == unit)])) <= 1
    assigned = divide(np.bincount(units[topics]), SHARES, by_lot(seed, range(units.max() + 1)))[units[topics]]
    for group in range(groups.max() + 1):
        here = groups == group
        votes = np.bincount(assigned[here], minlength=3)
        winners = np.flatnonzero(votes == votes.max())
        winner = min(winners, key=lambda split: ties[group, split])
        assert splits[here].tolist() == [winner if split == winner else -1 for split in assigned[here]]
    assert np.abs(np.bincount(assigned) / len(assigned) - SHARES).max() < 0.03


def test_large_and_small_topics_are_divided_alike():
    sizes = np.concatenate([np.full(100, 64), np.full(100, 4)])
    splits = divide(sizes, SHARES, by_lot(0, range(200)))
    assert np.bincount(splits[:100]).tolist() == np.bincount(splits[100:]).tolist() == [80, 10, 10]


def test_three_topics_are_enough_for_three_splits():
    assert sorted(divide(np.array([10, 10, 10]), SHARES, by_lot(0, range(3)))) == [0, 1, 2]
    assert sorted(divide(np.array([1000, 3, 2]), SHARES, by_lot(0, range(3)))) == [0, 1, 2]


# A community


def community(records, memes, near, template=None):
    """What split_community needs of a Community. records: [(topic_id, query, meme, published split or None)]."""

    def drop(reasons):
        result.reasons = {result.records[index].place: reason for index, reason in reasons.items()}

    result = SimpleNamespace(
        records=[Record(n, f"{m}.jpg", t, q, None, s) for n, (t, q, m, s) in enumerate(records)],
        record_meme=np.array([memes.index(m) for _, _, m, _ in records]),
        memes=memes,
        first_name=lambda meme: f"{memes[meme]}.jpg",
        near=np.array(near),
        template=np.array(near if template is None else template),
        drop=drop,
    )
    return result


def test_the_order_of_the_records_does_not_matter():
    rng = np.random.default_rng(0)
    topics, memes = random_records(rng, topics=9, memes=120, records=300)
    names = [f"m{meme}" for meme in range(memes.max() + 1)]
    records = [(f"t{topic}", f"q{topic}", f"m{meme}", None) for topic, meme in zip(topics, memes, strict=True)]
    mixed, other_numbers = rng.permutation(len(records)), rng.permutation(len(names))
    for split_by in ("record", "topic"):
        splits = split_by_pair(records, names, split_by, seed=5)
        again = split_by_pair([records[i] for i in mixed], [names[i] for i in other_numbers], split_by, seed=5)
        assert again == splits and set(splits.values()) == {0, 1, 2}
        assert split_by_pair(records, names, split_by, seed=6) != splits


def split_by_pair(records, names, split_by, seed):
    """{(topic, meme): split} of the records that are kept, each meme being a group of its own."""
    built = community(records, names, range(len(names)))
    splits = split_community(built, SHARES, split_by, seed)
    kept = [(topic, meme) for place, (topic, _, meme, _) in enumerate(records) if place not in built.reasons]
    return dict(zip(kept, splits.tolist(), strict=True))


def test_topics_of_the_same_normalised_query_are_one():
    same = ["Monday  again", "monday again ", "ＭＯＮＤＡＹ again"]
    for seed in range(8):
        records = [(f"t{n}", query, f"m{n}", None) for n, query in enumerate([*same, *"abcdefgh"])]
        built = community(records, [f"m{n}" for n in range(11)], range(11))
        splits = split_community(built, (0.6, 0.2, 0.2), "topic", seed)
        assert len(set(splits[:3])) == 1 and set(splits) == {0, 1, 2}


def test_a_published_test_split_stays_and_val_is_part_of_train():
    records = [("a", "a", f"m{n}", "test" if n < 40 else "train") for n in range(140)]
    names = [f"m{n}" for n in range(140)]
    splits = split_community(community(records, names, range(140)), (0.6, 0.2, 0.2), "record", 0)
    assert set(splits[:40]) == {2} and np.bincount(splits[40:]).tolist() == [75, 25]


def test_templates_stay_together_only_if_wanted():
    records = [("a", "a", f"m{n}", None) for n in range(40)]
    names = [f"m{n}" for n in range(40)]
    template = [n // 4 for n in range(40)]
    together = split_community(community(records, names, range(40), template), SHARES, "record", 0, True)
    assert all(len(set(together[n : n + 4])) == 1 for n in range(0, 40, 4))
    apart = split_community(community(records, names, range(40), template), SHARES, "record", 0, False)
    assert any(len(set(apart[n : n + 4])) > 1 for n in range(0, 40, 4))


def test_records_of_a_group_in_another_split_are_dropped_with_the_reason():
    records = [(f"t{n}", f"query {n}", "twin" if n in (0, 1) else f"m{n}", None) for n in range(12)]
    names = ["twin", *(f"m{n}" for n in range(2, 12))]
    seen = set()
    for seed in range(12):
        built = community(records, names, range(11))
        splits = split_community(built, (0.4, 0.3, 0.3), "topic", seed)
        assert len(splits) == 12 - len(built.reasons)
        assert set(built.reasons) <= {0, 1} and len(built.reasons) < 2
        assert all(reason.kind == "in another split" for reason in built.reasons.values())
        seen.add(tuple(built.reasons))
    assert seen == {(), (0,), (1,)}  # the tie goes by lot
