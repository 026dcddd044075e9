"""Memes that belong together: near-duplicates (picture and text agree) and templates (the pictures agree)."""

import numpy as np

from preprocess.comparing.near_duplicates import bit_count, compared_texts, groups, near_duplicate_pairs

BLOCK = 1024


def near_duplicate_groups(memes, phashes, hash_threshold):
    """(label of each meme's group (M,) int64, "text" or "captions": what was compared beside the pictures)."""
    texts, compared = compared_texts(memes)
    return groups(len(memes), near_duplicate_pairs(phashes, texts, hash_threshold)), compared


def template_groups(phashes, hash_threshold):
    """Label of each meme's template, (M,) int64: chains of hashes that differ in at most `hash_threshold` bits.

    The memes of one template are so many that their pairs would not fit into memory. So this goes from hash to hash:
    what is near enough to the ones just found is of the same template, until nothing is.
    """
    hashes, place = np.unique(np.asarray(phashes, np.uint64), return_inverse=True)
    labels = np.empty(len(hashes), dtype=np.int64)
    left = np.arange(len(hashes))
    label = -1
    while len(left):
        label += 1
        found, left = left[:1], left[1:]
        while len(found):
            labels[found] = label
            near = np.zeros(len(left), dtype=bool)
            for start in range(0, len(found), BLOCK):
                near |= _any_near(hashes[found[start : start + BLOCK]], hashes[left], hash_threshold)
            found, left = left[near], left[~near]
    _, first, label_of = np.unique(labels[place], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[label_of]  # numbered by first appearance


def named_templates(names, record_meme, near):
    """Label of each meme's template, (M,) int64, where the records name it.

    names: N texts, one per record; record_meme: (N,) its meme; near: (M,) labels of the near-duplicates. What shares a
    name is of one template, and so are near-duplicates: their names are then names of the same one.
    """
    distinct, name = np.unique(names, return_inverse=True)
    memes, first_near = len(near), len(near) + len(distinct)
    named = np.stack([record_meme, memes + name], axis=1)
    alike = np.stack([np.arange(memes), first_near + near], axis=1)
    return groups(first_near + near.max(initial=-1) + 1, np.concatenate([named, alike]))[:memes]


def _any_near(some, others, threshold):
    """(len(others),) bool: whether one of `some` is near."""
    near = np.zeros(len(others), dtype=bool)
    for start in range(0, len(others), 8 * BLOCK):
        part = slice(start, start + 8 * BLOCK)
        near[part] = (bit_count(some[:, None] ^ others[None, part]) <= threshold).any(axis=0)
    return near


def group_sizes(labels):
    """(groups of several memes, memes in them)."""
    sizes = np.bincount(labels)
    return int((sizes > 1).sum()), int(sizes[sizes > 1].sum())
