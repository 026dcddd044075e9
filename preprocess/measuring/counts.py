"""A community's splits -> what is counted: records, topics, memes, lengths, emotions, images.

Words: each Chinese or Japanese character counts as one; everything else is split at white space, and a piece
counts if it holds a letter or a digit. Tokens are CLIP's, start and end tokens included.
"""

import functools
import operator
from collections import Counter
from dataclasses import dataclass, fields

import numpy as np
import regex

from preprocess.comparing.quotation import quotation

CHARACTER = r"\p{Han}\p{Hiragana}\p{Katakana}"
WORD = regex.compile(rf"[{CHARACTER}]|[^\W_{CHARACTER}][^\s{CHARACTER}]*", regex.VERSION1)
CLIP_CONTEXT = 77  # tokens, CLIP's own limit


@dataclass(frozen=True, eq=False)
class Lengths:
    """Texts of one kind: arrays (n,) of their words and tokens, and the tokens [start, end) of what they quote.

    The start token is token 0. Both are -1 where a text quotes nothing, is no caption or is too short to be cut.
    """

    words: np.ndarray
    tokens: np.ndarray
    quote_start: np.ndarray
    quote_end: np.ndarray

    @classmethod
    def of(cls, rows):
        """From (words, tokens, quote_start, quote_end) per text."""
        return cls(*np.array(rows, dtype=np.int64).reshape(-1, 4).T)

    def __add__(self, other):
        return Lengths(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


@dataclass(frozen=True, eq=False)
class Measures:
    """What is measured of one split or of several. Sums of it are those of splits that share nothing.

    memes_per_topic: (topics,); captions_per_meme, persons: (memes,); width, height: (readable images,), in pixels.
    emotions: persons by word; formats: images by kind.
    """

    records: int
    memes_per_topic: np.ndarray
    captions_per_meme: np.ndarray
    persons: np.ndarray
    queries: Lengths
    captions: Lengths
    text: Lengths
    emotions: Counter
    width: np.ndarray
    height: np.ndarray
    formats: Counter
    animated: int
    unreadable: int

    def __add__(self, other):
        def joined(a, b):
            return np.concatenate([a, b]) if isinstance(a, np.ndarray) else a + b

        return Measures(*(joined(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


class TextLengths:
    """Measures each distinct text once. Quotations are looked for in captions of more than `shortest_limit` tokens."""

    def __init__(self, tokenizer, shortest_limit):
        self.tokenizer, self.shortest_limit = tokenizer, shortest_limit
        self._known = {}

    def __call__(self, text, quoted=None):
        """(words, tokens, quote_start, quote_end) of `text`; `quoted`: of a caption, the words on the image."""
        key = (text, quoted)
        if key not in self._known:
            tokens = len(self.tokenizer.encode(text)) + 2
            place = quotation(text, quoted) if quoted is not None and tokens > self.shortest_limit else None
            span = (-1, -1)
            if place is not None:
                before, inside = (len(self.tokenizer.encode(part)) for part in (text[: place[0]], text[slice(*place)]))
                span = (1 + before, min(1 + before + inside, tokens - 1))
            self._known[key] = (len(words(text)), tokens, *span)
        return self._known[key]


def words(text):
    """The words of a text, as this module's docstring defines them."""
    return WORD.findall(text)


def measure(splits, image_facts, lengths):
    """{split: Measures} of one community, "total" last.

    splits: {name: Split}. image_facts: {image: (width, height, kind, frames)} of the readable images.
    lengths: a TextLengths. In the total a meme, a topic, a topic's meme and a topic's query count once each.
    """
    per_meme = {}
    for split in splits.values():
        for meme in split.memes:
            if meme.image_id not in per_meme:
                captions = [lengths(caption, meme.text) for caption in meme.captions]
                text = [lengths(meme.text)] if meme.text.strip() else []
                per_meme[meme.image_id] = (meme, captions, text)
    parts = {name: _records(split) for name, split in splits.items()}
    parts["total"] = [record for records in parts.values() for record in records]
    return {name: _measures(records, per_meme, image_facts, lengths) for name, records in parts.items()}


def total(measures):
    """The Measures of several communities together."""
    return functools.reduce(operator.add, measures)


def _records(split):
    pairs = zip(split.record_topic.tolist(), split.record_meme.tolist(), strict=True)
    return [(split.topic_ids[topic], split.queries[topic], split.memes[meme].image_id) for topic, meme in pairs]


def _measures(records, per_meme, image_facts, lengths):
    memes = [per_meme[image_id] for image_id in dict.fromkeys(image_id for _, _, image_id in records)]
    memes_of_topic = Counter(topic for topic, _ in {(topic, image_id) for topic, _, image_id in records})
    images = [image_facts.get(meme.image) for meme, _, _ in memes]
    readable = [image for image in images if image is not None]
    return Measures(
        records=len(records),
        memes_per_topic=np.array(list(memes_of_topic.values()), np.int64),
        captions_per_meme=np.array([len(captions) for _, captions, _ in memes], np.int64),
        persons=np.array([len(meme.emotions) for meme, _, _ in memes], np.int64),
        queries=Lengths.of(
            [lengths(query) for _, query in dict.fromkeys((topic, query) for topic, query, _ in records)]
        ),
        captions=Lengths.of([row for _, captions, _ in memes for row in captions]),
        text=Lengths.of([row for _, _, text in memes for row in text]),
        emotions=Counter(word for meme, _, _ in memes for word in meme.emotions),
        width=np.array([image[0] for image in readable], np.int64),
        height=np.array([image[1] for image in readable], np.int64),
        formats=Counter(image[2] for image in readable),
        animated=sum(image[3] > 1 for image in readable),
        unreadable=len(images) - len(readable),
    )


def summary(measures, max_words, max_caption_words):
    """The numbers of one Measures as a JSON-ready dict; docs and tables are made from it."""
    caption_limits = sorted({max_caption_words, CLIP_CONTEXT})
    return {
        "records": measures.records,
        "topics": len(measures.memes_per_topic),
        "memes": len(measures.persons),
        "memes_per_topic": spread(measures.memes_per_topic),
        "queries": text_summary(measures.queries, sorted({max_words, CLIP_CONTEXT})),
        "captions": {
            "per_meme": spread(measures.captions_per_meme),
            "memes_without": int((measures.captions_per_meme == 0).sum()),
            **text_summary(measures.captions, caption_limits),
        },
        "text": {
            "memes_without": len(measures.persons) - len(measures.text.words),
            **text_summary(measures.text, caption_limits),
        },
        "emotions": dict(measures.emotions.most_common()),
        "persons_per_meme": {str(n): int((measures.persons == n).sum()) for n in np.unique(measures.persons).tolist()},
        "images": {
            "width": spread(measures.width),
            "height": spread(measures.height),
            "formats": dict(measures.formats.most_common()),
            "animated": measures.animated,
            "unreadable": measures.unreadable,
        },
    }


def text_summary(lengths, limits):
    """Lengths in words and tokens, and what each limit cuts off."""
    return {
        "count": len(lengths.words),
        "words": spread(lengths.words),
        "tokens": spread(lengths.tokens),
        "cut": [cut(lengths, limit) for limit in limits],
    }


def cut(lengths, limit):
    """What a limit of so many tokens cuts off; a cut text keeps limit - 1 tokens and the end token.

    `quoting`: the cut texts with a quotation; of these `quotation_cut` lose a part of it and `quotation_lost` all.
    """
    lost = np.maximum(lengths.tokens - limit, 0)
    quoting = (lost > 0) & (lengths.quote_start >= 0)
    kept = np.minimum(lengths.quote_end, limit - 1)
    return {
        "limit": limit,
        "cut": int((lost > 0).sum()),
        "share": float((lost > 0).mean()) if len(lost) else 0.0,
        "tokens_lost": int(lost.sum()),
        "share_of_tokens_lost": float(lost.sum() / lengths.tokens.sum()) if len(lost) else 0.0,
        "most_lost_by_one": int(lost.max(initial=0)),
        "quoting": int(quoting.sum()),
        "quotation_cut": int((quoting & (lengths.quote_end > kept)).sum()),
        "quotation_lost": int((quoting & (lengths.quote_start >= kept)).sum()),
        "quotation_tokens_lost": int((lengths.quote_end - np.maximum(kept, lengths.quote_start))[quoting].sum()),
    }


def spread(values):
    """Minimum, quartiles, maximum and mean; None of no values."""
    if not len(values):
        return None
    names = ("min", "q1", "median", "q3", "max")
    found = dict(zip(names, np.percentile(values, (0, 25, 50, 75, 100)).tolist(), strict=True))
    return found | {"mean": float(np.mean(values))}
