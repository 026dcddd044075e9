"""From clean memes of imgflip to the three splits of a community."""

import random
from collections import defaultdict
from itertools import zip_longest

from dataloaders.communities import SPLITS
from preprocess.imgflip575k.text_filter import comparable
from util import InputError

KINDS = ("topics", "templates", "titles")


def split_memes(memes, kind, seed=0, limit=None, max_templates=None):
    """{split: [(meme, topic id, query)]} of the clean memes, which are grouped by template, best first.

    topics: a topic is a template, its query one of the template's other names. templates: the same, but with
    another query in each split as far as there are names. titles: a topic is one meme, its query the meme's title.
    max_templates: use that many templates, drawn by seed. limit: at most that many memes, taken from the templates
    in turn. 80 % of the memes (of a topic, with topics and templates) go to train, the others to val and test in
    equal parts. Raises InputError if a split is empty.
    """
    rng = random.Random(seed)
    if kind == "titles":
        memes = with_distinct_titles(memes)
    groups = by_template(memes)
    if max_templates and max_templates < len(groups):
        chosen = random.Random(f"templates-{seed}").sample(sorted(groups), max_templates)
        groups = {slug: groups[slug] for slug in sorted(chosen)}
    if limit:
        groups = in_turn(groups, limit)
    rows = {split: [] for split in SPLITS}
    if kind == "titles":
        for split, part in deal([meme for group in groups.values() for meme in group], rng).items():
            rows[split] = [(meme, f"t-{meme.meme_id}", meme.title) for meme in part]
    else:
        for slug, group in sorted(groups.items()):
            queries = split_queries(group[0].template, kind)
            for split, part in deal(group, rng).items():
                rows[split] += [(meme, slug, queries[split]) for meme in part]
    if empty := [split for split in SPLITS if not rows[split]]:
        left = sum(map(len, groups.values()))
        needed = "three" if kind == "titles" else "three of a template"
        raise InputError(
            f"{' and '.join(empty)} would be empty: {left} memes of {len(groups)} templates are left for --kind {kind},"
            f" and {needed} are needed to reach every split; raise --limit, or lower --max_templates"
        )
    for split in SPLITS:
        rng.shuffle(rows[split])
    return rows


def with_distinct_titles(memes):
    """The memes with a title of their own, each title once: the first meme that has it."""
    first = {}
    for meme in memes:
        if meme.title:
            first.setdefault(comparable(meme.title), meme)
    return list(first.values())


def by_template(memes):
    groups = defaultdict(list)
    for meme in memes:
        groups[meme.template.slug].append(meme)
    return groups


def in_turn(groups, limit):
    """The groups with at most `limit` memes together: the first of each group, then the second of each, and so on."""
    turns = zip_longest(*groups.values())
    taken = [meme for turn in turns for meme in turn if meme is not None][:limit]
    return by_template(taken)


def split_queries(template, kind):
    """{split: query}: other names first; where there are too few, the name itself."""
    queries = [*template.names[:3], *[template.name] * 3][:3]
    return dict(zip(SPLITS, queries if kind == "templates" else queries[:1] * 3, strict=True))


def deal(memes, rng):
    """{split: memes}, at random: a tenth each to val and test, one at least; fewer than three all go to train."""
    memes = rng.sample(memes, len(memes))
    tenth = max(1, round(len(memes) * 0.1)) if len(memes) >= 3 else 0
    return {"train": memes[2 * tenth :], "val": memes[:tenth], "test": memes[tenth : 2 * tenth]}
