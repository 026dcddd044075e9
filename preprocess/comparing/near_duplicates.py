"""Memes that are nearly the same: their perceptual hashes agree within a few bits, and so do the texts on them.

The hash alone finds the template: a template's memes differ in little but the text. All pairs are compared, by
blocks, so that memory holds a block and what was found.
"""

import os
import unicodedata
from functools import partial

import numpy as np

from preprocess.comparing.quotation import quotation
from util import InputError

# On 5,863 memes of 68 templates, 99 % of the copies (compressed, resized, cropped by 3 %, darker, lighter, grey) and
# 67 % of the pairs of one template are within 10 bits, and none of 16.9 million pairs of two templates is. Within 12
# bits the first templates run together.
DEFAULT_HASH_THRESHOLD = 10  # of 64 bits
TEXT_THRESHOLD = 0.1  # of the longer text's length
ROWS, COLUMNS = 32, 2**16  # of a block; few rows, so that their texts are about equally long
ROUNDING = 1e-6


def near_duplicate_pairs(phashes, texts=None, hash_threshold=DEFAULT_HASH_THRESHOLD, text_threshold=TEXT_THRESHOLD):
    """The pairs of near-duplicates among N items: (M, 2) int64, i < j in each, in ascending order.

    `phashes`: (N,) uint64; `texts`: N strings. Two items are near-duplicates if their hashes differ in at most
    `hash_threshold` bits and the edit distance of their texts (Levenshtein's, over `normalised_text`) divided by the
    longer one's length is at most `text_threshold`. Two empty texts agree; an empty one agrees with no other. Without
    `texts` the hashes alone decide. Raises InputError if texts are given and rapidfuzz is missing.
    """
    phashes = np.asarray(phashes, np.uint64)
    if texts is None:
        found = list(similar_hashes(phashes, hash_threshold, np.zeros(len(phashes), np.int64), text_threshold))
    else:
        distances = distance_function(text_threshold)
        texts = [normalised_text(text) for text in texts]
        lengths = np.array([len(text) for text in texts], np.int64)
        close = similar_hashes(phashes, hash_threshold, lengths, text_threshold)
        found = [agreeing(pairs, texts, lengths, distances, text_threshold) for pairs in close]
    pairs = np.sort(np.concatenate([np.empty((0, 2), np.int64), *found]), axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def groups(count, pairs):
    """The connected component of each of `count` items: (count,) int64 labels, numbered by first appearance."""
    pairs, roots = np.asarray(pairs, np.int64).reshape(-1, 2), np.arange(count)  # root: the smallest of a component
    while len(pairs):
        ends = np.sort(roots[pairs], axis=1)
        differ = ends[:, 0] < ends[:, 1]
        pairs, ends = pairs[differ], ends[differ]
        parents = np.arange(count)
        np.minimum.at(parents, ends[:, 1], ends[:, 0])
        while (parents[parents] != parents).any():
            parents = parents[parents]
        roots = parents[roots]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def compared_texts(memes):
    """(texts, "text" or "captions"): what is compared of the memes, and where it comes from.

    That is the text on the memes if any of them has one. Else it is what their captions quote: of each meme the longest
    quotation, or, without one, its captions, one to a line. (All of a caption would be too alike on one template.)
    """
    if any(meme.text.strip() for meme in memes):
        return [meme.text for meme in memes], "text"
    return [longest_quotation(meme.captions) or "\n".join(meme.captions) for meme in memes], "captions"


def longest_quotation(captions):
    places = ((caption, quotation(caption, "")) for caption in captions)
    return max((caption[place[0] : place[1]] for caption, place in places if place), key=len, default="")


def normalised_text(text):
    """What is compared of a text: compatible characters made one (NFKC), case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def distance_function(threshold):
    """distances(texts, others) -> float64: each pair's normalised edit distance, or 1 where it is above `threshold`."""
    try:
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cpdist
    except ImportError:
        raise InputError(
            "comparing texts needs rapidfuzz, 3.8 or later: pip install -r requirements-data.txt"
        ) from None
    return partial(cpdist, scorer=Levenshtein.normalized_distance, score_cutoff=threshold, dtype=np.float64)


def similar_hashes(phashes, hash_threshold, lengths, text_threshold):
    """Yield pairs (M, 2) of items whose hashes differ in at most `hash_threshold` bits; each pair comes once.

    Ordered by the lengths (N,) of the items' texts, so that those too different in length do not meet.
    """
    order = np.argsort(lengths, kind="stable")
    hashes, lengths = phashes[order], lengths[order]
    longest = lengths / (1 - text_threshold) + ROUNDING if text_threshold < 1 else np.full(len(lengths), np.inf)
    for start in range(0, len(order), ROWS):
        rows = hashes[start : start + ROWS, None]
        stop = np.searchsorted(lengths, longest[start + len(rows) - 1], side="right")
        for left in range(start, stop, COLUMNS):
            differing_bits = bit_count(rows ^ hashes[left : min(stop, left + COLUMNS)])
            first, second = np.nonzero(differing_bits <= hash_threshold)
            first, second = first + start, second + left
            once = first < second
            if once.any():
                yield np.stack([order[first[once]], order[second[once]]], axis=1)


def agreeing(pairs, texts, lengths, distances, threshold):
    """Those of the `pairs` (M, 2) of items whose texts agree."""
    shorter, longer = np.sort(lengths[pairs], axis=1).T
    pairs = pairs[(longer - shorter <= threshold * longer + ROUNDING) & ((shorter > 0) | (longer == 0))]
    if not len(pairs):
        return pairs
    firsts, seconds = ([texts[i] for i in column] for column in pairs.T.tolist())
    workers = os.cpu_count() if len(pairs) > 1000 else 1
    return pairs[distances(firsts, seconds, workers=workers) <= threshold]


def bit_count(words):
    """How many bits are set in each uint64."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(words)
    return BITS[words[..., None].view(np.uint16)].sum(axis=-1, dtype=np.uint8)


BITS = np.array([bin(word).count("1") for word in range(2**16)], np.uint8)
