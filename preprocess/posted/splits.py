"""Which split a meme goes to: by meme, where near-duplicates and the memes of one topic stay together."""

import numpy as np

from dataloaders.communities import SPLITS
from preprocess.building.inputs import Record
from preprocess.building.split import by_lot, divide
from preprocess.comparing.near_duplicates import groups, normalised_text
from util import InputError


def split_memes(community, shares, seed):
    """The split of each record of a memes.Community, (N,) int64. Raises InputError where a split would be empty.

    Memes that are joined by a topic or by being near-duplicates, directly or over others, are a unit and stay in one
    split; so nothing has to be dropped. The shares are those of the memes.
    """
    count = len(community.memes)
    first_of, links = {}, []
    for record, meme in zip(community.records, community.record_meme.tolist(), strict=True):
        for name in (("topic", record.topic_id), ("near", int(community.near[meme]))):
            links.append((first_of.setdefault(name, meme), meme))
    units = groups(count, links)
    if count and units.max() + 1 >= len(SPLITS):
        names = {}
        for record, unit in zip(community.records, units[community.record_meme].tolist(), strict=True):
            names[unit] = min(record.image_id, names.get(unit, record.image_id))
        lot = by_lot(seed, [names[unit] for unit in range(len(names))])
        return divide(np.bincount(units), shares, lot)[units][community.record_meme]
    reasons = "".join(f", the first one {record.place}: {reason}" for record, reason in community.dropped[:1])
    raise InputError(
        f"{count:,} memes are left, in {len(set(units.tolist())):,} groups that may be parted; expected at least"
        f" {len(SPLITS)}, one for each split ({len(community.dropped):,} posts left out{reasons})"
    )


def add_further_queries(community, splits, further):
    """Add to the community the train memes' further queries: (splits, {"added": n, "in another split": n, ...}).

    further: {post_id: [query, ...]}. Each is a topic of its own, or joins the train topic that has the same query. One
    that is a query of val or test, or that the meme has already, is left out.
    """
    topics = {
        normalised_text(record.query): (record, split) for record, split in zip(community.records, splits, strict=True)
    }
    pairs = {
        (record.topic_id, meme) for record, meme in zip(community.records, community.record_meme.tolist(), strict=True)
    }
    counts = {"added": 0, "asked_in_val_or_test": 0, "repeated": 0}
    records, memes = [], []
    for record, meme, split in zip(community.records, community.record_meme.tolist(), splits.tolist(), strict=True):
        if split != 0:
            continue
        for number, query in enumerate(further.get(record.image_id, ()), start=2):
            new = Record(record.place, record.image, f"{record.image_id}-{number}", query, record.image_id)
            known, where = topics.setdefault(normalised_text(query), (new, 0))
            if where != 0:
                counts["asked_in_val_or_test"] += 1
            elif (known.topic_id, meme) in pairs:
                counts["repeated"] += 1
            else:
                pairs.add((known.topic_id, meme))
                records.append(new._replace(topic_id=known.topic_id, query=known.query))
                memes.append(meme)
                counts["added"] += 1
    community.records = community.records + records
    community.record_meme = np.concatenate([community.record_meme, np.array(memes, np.int64)])
    return np.concatenate([splits, np.zeros(len(memes), np.int64)]), counts
