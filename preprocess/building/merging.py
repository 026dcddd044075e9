"""Records -> a community's memes: files with the same bytes are one meme, and what cannot be used is left out."""

import posixpath
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np

from dataloaders.cells import is_blank
from dataloaders.meme_records import Meme
from preprocess.annotation.emotion_words import map_emotions
from preprocess.building.inputs import Record, Unusable


@dataclass(eq=False)
class Community:
    """Record i of `records` says that meme `record_meme[i]`, (N,) int64, was posted in its topic.

    fact: (M,) int64, where the ImageFacts have each meme. near, template: (M,) int64, labels of the groups of
    near-duplicates and of the templates. merged: {image of a meme: the images it stands for too}. dropped: [(Record,
    Unusable)]. unknown_emotions: words outside the table, counted.
    """

    memes: list[Meme]
    fact: np.ndarray
    records: list[Record]
    record_meme: np.ndarray
    dropped: list[tuple[Record, Unusable]]
    merged: dict[str, list[str]]
    unknown_emotions: Counter
    near: np.ndarray = None
    template: np.ndarray = None

    def first_name(self, meme):
        """The first of the images that a meme stands for, by name: the same in any order of the records."""
        image = self.memes[meme].image
        return min([image, *self.merged.get(image, ())])

    def drop(self, reasons):
        """Drop records: `reasons` is {index of the record: Unusable}. Memes without any record go as well."""
        keep = np.array([index not in reasons for index in range(len(self.records))], dtype=bool)
        self.dropped += [(self.records[index], reason) for index, reason in sorted(reasons.items())]
        self.records = [record for record, kept in zip(self.records, keep, strict=True) if kept]
        left, self.record_meme = np.unique(self.record_meme[keep], return_inverse=True)
        self.memes = [self.memes[meme] for meme in left]
        self.fact = self.fact[left]
        if self.near is not None:
            self.near, self.template = self.near[left], self.template[left]


def gather(source, facts, table):
    """The Community of a Source. facts: ImageFacts of its records' images. table: emotion table, {word: emotion}."""
    where = {path: index for index, path in enumerate(facts.paths)}
    memes, fact, dropped, unknown = {}, [], list(source.unusable), Counter()
    records, record_meme = [], []
    images = defaultdict(dict)  # sha256 -> its images; a dict keeps the order
    for record in source.records:
        index = where[record.image]
        sha256 = str(facts.sha256[index])
        try:
            if record.image in facts.errors:
                raise Unusable("image missing or unreadable", facts.errors[record.image])
            if sha256 not in memes:
                captions, text, words = source.describe(record, sha256)
                emotions, not_in_table = map_emotions(words, table)
                unknown.update(not_in_table)
                memes[sha256] = len(fact), Meme(record.image_id, record.image, captions, emotions, text)
                fact.append(index)
        except Unusable as reason:
            dropped.append((record, reason))
            continue
        images[sha256][record.image] = None
        records.append(record)
        record_meme.append(memes[sha256][0])
    merged = {image: others for image, *others in images.values() if others}
    community = Community(
        memes=with_ids([meme for _, meme in memes.values()]),
        fact=np.array(fact, dtype=np.int64),
        records=records,
        record_meme=np.array(record_meme, dtype=np.int64),
        dropped=dropped,
        merged=merged,
        unknown_emotions=unknown,
    )
    drop_without_caption(community)
    drop_repeated(community)
    return community


def drop_without_caption(community):
    """If some memes have captions, drop the records of those without: what reads captions needs one for each."""
    without = [not meme.captions for meme in community.memes]
    if any(without) and not all(without):
        reason = Unusable("no caption", "other memes have captions")
        community.drop({i: reason for i, meme in enumerate(community.record_meme) if without[meme]})


def drop_repeated(community):
    """Of the records of one topic, meme (and given split), keep the first."""
    first, reasons = {}, {}
    for index, (record, meme) in enumerate(zip(community.records, community.record_meme, strict=True)):
        there = first.setdefault((record.split, record.topic_id, meme), record)
        if there is not record:
            place = f"line {there.place}" if isinstance(there.place, int) else there.place
            reasons[index] = Unusable("repeated", f"this topic has this meme in {place} already ({there.image})")
    community.drop(reasons)


def with_ids(memes):
    """The memes with an image_id each: the given one, else the path without suffix if that is unique, else the path."""
    stems = Counter(posixpath.splitext(meme.image)[0] for meme in memes)
    taken = {meme.image for meme in memes} | {meme.image_id for meme in memes}
    named = []
    for meme in memes:
        image_id = meme.image_id
        if image_id is None:
            stem = posixpath.splitext(meme.image)[0]
            unique = stems[stem] == 1 and (stem not in taken or stem == meme.image)
            image_id = stem if unique else meme.image
            if is_blank(image_id) or image_id != image_id.strip():  # an id can be seen, and has no spaces around it
                image_id = f'"{image_id}"'
        named.append(replace(meme, image_id=image_id))
    return named


def merge(community, labels, pixels):
    """Let the meme with the most `pixels` (M,) stand for each group of `labels` (M,), with the records of all.

    Of equal ones it is the first by name.
    """
    best = {}
    for meme in sorted(range(len(labels)), key=lambda meme: (-pixels[meme], community.first_name(meme))):
        best.setdefault(labels[meme], meme)
    stands_for = np.array([best[label] for label in labels.tolist()], dtype=np.int64)
    for meme in np.flatnonzero(stands_for != np.arange(len(stands_for))):
        kept, image = community.memes[stands_for[meme]].image, community.memes[meme].image
        community.merged.setdefault(kept, []).extend([image, *community.merged.pop(image, [])])
    community.record_meme = stands_for[community.record_meme]
    drop_repeated(community)
