"""How far two or more annotations of the same images agree: emotions, captions, text.

Compared are the images that are "ok" in all files. Cohen's kappa is for two files, Fleiss' for more.
"""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np

from preprocess.annotation.annotation_file import read_annotations
from preprocess.annotation.emotion_words import map_emotions
from preprocess.comparing.near_duplicates import normalised_text
from preprocess.measuring.counts import spread, words
from preprocess.measuring.quality import text_distance
from util import InputError

WORST = 10
NOBODY = "none"


def cohen_kappa(first, second):
    """Cohen's (1960) kappa of two lists of categories; 1 if both are one and the same category throughout.

    There, chance alone gives full agreement and the formula is 0 / 0.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} categories; expected two lists of the same length, not empty")
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    one, other = Counter(first), Counter(second)
    return _kappa(observed, sum(one[category] * other[category] for category in one) / n**2)


def fleiss_kappa(counts):
    """Fleiss' (1971) kappa of counts (subjects, categories): how many raters chose it; 1 as `cohen_kappa` says.

    Every subject has the same number of raters, 2 or more.
    """
    counts = np.asarray(counts, dtype=np.int64)
    raters = counts.sum(axis=1)
    if not len(raters) or raters[0] < 2 or (raters != raters[0]).any():
        raise ValueError(f"the subjects have {np.unique(raters)} raters; expected the same number of at least 2")
    n = int(raters[0])
    observed = float((counts * (counts - 1)).sum(axis=1).mean() / (n * (n - 1)))
    shares = counts.sum(axis=0) / counts.sum()
    return _kappa(observed, float((shares**2).sum()))


def _kappa(observed, by_chance):
    return 1.0 if by_chance > 1 - 1e-12 else (observed - by_chance) / (1 - by_chance)


def kappa(ratings):
    """{"kappa", "observed", "constant"} of one list of categories per rater, all of the same length.

    observed: share of subjects (of pairs of raters) that agree. constant: every rater always chose one category.
    """
    subjects = list(zip(*ratings, strict=True))
    if len(ratings) == 2:
        value = cohen_kappa(*ratings)
    else:
        categories = {category: place for place, category in enumerate(dict.fromkeys(itertools.chain(*ratings)))}
        counts = np.zeros((len(subjects), len(categories)), np.int64)
        for row, chosen in zip(counts, subjects, strict=True):
            np.add.at(row, [categories[category] for category in chosen], 1)
        value = fleiss_kappa(counts)
    same = [a == b for chosen in subjects for a, b in itertools.combinations(chosen, 2)]
    constant = len({category for chosen in subjects for category in chosen}) == 1
    return {"kappa": value, "observed": float(np.mean(same)), "constant": constant}


def overlap(first, second):
    """F1 of the words of two sets of texts, case folded, each word as often as it occurs; 1 if neither has any."""
    one, other = (Counter(word for text in texts for word in words(text.casefold())) for texts in (first, second))
    size = one.total() + other.total()
    return 2 * (one & other).total() / size if size else 1.0


def read_raters(paths):
    """[{sha256: Annotation}] of the files; InputError unless there are two or more with an image in common."""
    if len(set(paths)) < 2 or len(set(paths)) < len(paths):
        raise InputError(f"--agreement: found {' '.join(map(str, paths))}, expected two or more different files")
    raters = [read_annotations(path) for path in paths]
    if not common(raters):
        raise InputError(f"{', '.join(map(str, paths))}: found no image that is ok in all files, expected at least one")
    return raters


def common(raters):
    """The keys that are "ok" for all, in the first one's order."""
    return [key for key in raters[0] if all(key in rater and rater[key].status == "ok" for rater in raters)]


def agreement(paths, raters, table):
    """All that is said of the agreement, JSON-ready. raters: as `read_raters`; table: {word: emotion}."""
    keys = common(raters)
    rows = [[rater[key] for rater in raters] for key in keys]
    emotions = [[map_emotions(annotation.emotions, table)[0] for annotation in row] for row in rows]
    pairs = list(itertools.combinations(range(len(raters)), 2))

    def mean_of_pairs(measure, values):
        return np.array([np.mean([measure(row[i], row[j]) for i, j in pairs]) for row in values])

    captions = None  # there is nothing to agree on if nobody wrote any
    if any(annotation.captions for row in rows for annotation in row):
        captions = mean_of_pairs(overlap, [[annotation.captions for annotation in row] for row in rows])
    text = mean_of_pairs(text_distance, [[normalised_text(annotation.text) for annotation in row] for row in rows])
    same_emotions = mean_of_pairs(_shared, emotions)
    persons = [len({len(annotation.emotions) for annotation in row}) == 1 for row in rows]
    return {
        "files": [
            {
                "file": str(path),
                "images": len(rater),
                "ok": sum(annotation.status == "ok" for annotation in rater.values()),
                "models": sorted({f"{a.provider} {a.model}".strip() for a in rater.values()}),
            }
            for path, rater in zip(paths, raters, strict=True)
        ],
        "images": len(keys),
        "kappa": "Cohen" if len(raters) == 2 else "Fleiss",
        "emotions": {
            "as_answered": kappa(_categories([[a.emotions for a in row] for row in rows])),
            "mapped": kappa(_categories(emotions)),
            "words": _per_word(emotions),
        },
        "persons": {"same_number": float(np.mean(persons))},
        "captions": {"overlap": None if captions is None else spread(captions)},
        "text": {"distance": spread(text), "at_most_0.1": float((text <= 0.1).mean())},
        "worst": _worst(paths, rows, same_emotions, captions, text),
    }


def _categories(emotions):
    """Each meme's distinct words joined, one list per rater: "happy+sad", or "none"."""
    return list(zip(*(["+".join(sorted(set(words))) or NOBODY for words in row] for row in emotions), strict=True))


def _per_word(emotions):
    """{word: kappa of its presence, with the memes that have it for each rater}, the most frequent first."""
    found = Counter(word for row in emotions for words in row for word in set(words))
    result = {}
    for word, _ in found.most_common():
        present = list(zip(*([word in words for words in row] for row in emotions), strict=True))
        result[word] = kappa(present) | {"memes": list(map(sum, present))}
    return result


def _shared(first, second):
    """Share of the words of two memes that both have; 1 if neither has any."""
    first, second = set(first), set(second)
    return len(first & second) / len(first | second) if first | second else 1.0


def _worst(paths, rows, emotions, captions, text):
    """The images with the lowest mean of the three agreements (two without captions), if it is not 1."""
    scores = np.mean([emotions, 1 - text, *([] if captions is None else [captions])], axis=0)
    worst = [i for i in np.argsort(scores, kind="stable")[:WORST].tolist() if scores[i] < 1]
    return [
        {
            "image": rows[i][0].image,
            "agreement": float(scores[i]),
            "emotions_shared": float(emotions[i]),
            "caption_overlap": None if captions is None else float(captions[i]),
            "text_distance": float(text[i]),
            "answers": [
                {
                    "file": Path(path).name,
                    "captions": list(annotation.captions),
                    "text": annotation.text,
                    "emotions": list(annotation.emotions),
                }
                for path, annotation in zip(paths, rows[i], strict=True)
            ],
        }
        for i in worst
    ]
