"""Groupings of the queries, for the breakdown and the gallery's filters."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import regex

from dataloaders.meme_records import RESERVED_EMOTIONS

RELEVANT_UP_TO = (1, 5, 20)
WORDS_UP_TO = (2, 5, 10, 20)
EMOTIONS_SHOWN = 12
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}"
WORD = regex.compile(rf"[{UNSPACED}]|[\p{{L}}\p{{M}}\p{{N}}'’\-&&[^{UNSPACED}]]+", regex.VERSION1)
LETTER_OF = {"Chinese characters": regex.compile(r"\p{Han}"), "Latin": regex.compile(r"\p{Latin}")}
LETTER = regex.compile(r"\p{L}")


@dataclass
class Grouping:
    """key: for the page's script; title, definition: for its readers. labels: of the groups that have queries, in
    order; group: (Q,) each query's index into them.
    """

    key: str
    title: str
    definition: str
    labels: list
    group: np.ndarray


def groupings(queries, memes, relevance):
    """The Groupings of queries (Q texts) with relevant memes (M Memes)."""
    return [
        grouping(
            "emotion",
            "Emotion",
            "The emotion word that most persons on the query's relevant memes have (of equally frequent ones the first "
            "by alphabet); none: they have no emotion word.",
            *by_emotion(memes, relevance),
        ),
        grouping(
            "relevant",
            "Relevant memes",
            "How many memes of the gallery are relevant to the query.",
            *by_number(relevance.counts, RELEVANT_UP_TO),
        ),
        grouping(
            "length",
            "Query length",
            "In words; of scripts without spaces (Chinese, kana) every character counts as one.",
            *by_number([len(WORD.findall(query)) for query in queries], WORDS_UP_TO),
        ),
        grouping(
            "script",
            "Language",
            "By the script of most of the query's letters; other: another one, or no letter.",
            *by_script(queries),
        ),
    ]


def grouping(key, title, definition, labels, group):
    """A Grouping without the groups that have no query."""
    used, group = np.unique(group, return_inverse=True)
    return Grouping(key, title, definition, [labels[index] for index in used], group)


def by_emotion(memes, relevance):
    """(labels, (Q,) group): the most frequent words first, the rare ones as "other words", then "none"."""
    counts = [Counter() for _ in range(relevance.shape[0])]
    for query, meme in zip(relevance.query.tolist(), relevance.meme.tolist(), strict=True):
        counts[query].update(word for word in memes[meme].emotions if word not in RESERVED_EMOTIONS)
    words = [min(count, key=lambda word: (-count[word], word)) if count else None for count in counts]
    queries_of = Counter(word for word in words if word is not None)
    ordered = sorted(queries_of, key=lambda word: (-queries_of[word], word))[:EMOTIONS_SHOWN]
    place = {word: index for index, word in enumerate(ordered)} | {None: len(ordered) + 1}
    return [*ordered, "other words", "none"], np.array([place.get(word, len(ordered)) for word in words])


def by_number(numbers, bounds):
    """(labels, group): a group up to each bound, and one above the last."""
    starts = [1, *(bound + 1 for bound in bounds)]
    labels = [str(first) if first == last else f"{first}–{last}" for first, last in zip(starts, bounds, strict=False)]
    return [*labels, f"over {bounds[-1]}"], np.searchsorted(bounds, numbers)


def by_script(queries):
    """(labels, group): the script with the most letters in the query, "other" where that is none of them."""
    counts = np.array([[len(pattern.findall(query)) for pattern in LETTER_OF.values()] for query in queries])
    letters = np.array([len(LETTER.findall(query)) for query in queries])
    counts = np.column_stack([counts, np.maximum(letters - counts.sum(axis=1), 0)])
    group = np.where(letters == 0, len(LETTER_OF), counts.argmax(axis=1))
    return [*LETTER_OF, "other"], group
