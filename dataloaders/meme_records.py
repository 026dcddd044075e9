"""CSV -> checked records. A record is one (topic, meme) pair; docs/DATA.md has the columns and rules."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataloaders.cells import (
    BadCell,
    ImageFolder,
    missing_note,
    parse_captions,
    parse_emotions,
    parse_identifier,
    parse_query,
    parse_some_captions,
)
from dataloaders.csv_rows import BadRows, read_records, shown
from util import InputError

REQUIRED_COLUMNS = ("image_id", "image", "topic_id", "query", "captions", "emotions")
COLUMNS = (*REQUIRED_COLUMNS, "text")
MEME_COLUMNS = ("image", "captions", "emotions", "text")  # where all rows of an image_id agree
RESERVED_EMOTIONS = ("none", "unknown")  # the first two entries of a model's vocabulary
CAPTION_SOURCES = ("caption", "text", "both")


@dataclass(frozen=True, slots=True)
class Meme:
    """A meme as its rows describe it.

    image: path relative to the image folder, normalised, with `/`. captions: any number of texts. emotions:
    lower-cased words, one per person, in order. text: the words on the image, "" if not given.
    """

    image_id: str
    image: str
    captions: tuple[str, ...]
    emotions: tuple[str, ...]
    text: str


@dataclass(frozen=True, eq=False)
class Split:
    """The records of one CSV: record i says that meme `record_meme[i]` was posted in topic `record_topic[i]`.

    topic_ids and queries: one per topic; memes: the distinct ones; both in order of first appearance.
    record_topic, record_meme: (N,) int64, indices into them.
    """

    name: str
    topic_ids: list[str]
    queries: list[str]
    memes: list[Meme]
    record_topic: np.ndarray
    record_meme: np.ndarray

    def __len__(self) -> int:
        return len(self.record_topic)


def read_splits(
    csv_paths: Mapping[str, str | os.PathLike[str]], features_path: str | os.PathLike[str], read_captions: bool = True
) -> tuple[dict[str, Split], list[str]]:
    """Read and check all given splits: ({name: Split}, notes).

    csv_paths: {name: path of its CSV}. features_path: the image folder; whether the images exist and can be
    decoded is not checked here. read_captions: whether anything reads the captions; then none may be empty.
    notes: sentences to tell the user once. Raises InputError with all the bad rows of all the files.
    """
    parsers: dict[str, Callable[[str], Any]] = {
        "image_id": parse_identifier,
        "image": ImageFolder(features_path).parse_path,
        "topic_id": parse_identifier,
        "query": parse_query,
        "captions": parse_some_captions if read_captions else parse_captions,
        "emotions": parse_emotions,
        "text": str,
    }
    bad_rows = BadRows()
    first_rows: _FirstRows = {}
    ignored: dict[str, None] = {}  # a dict keeps the order
    splits = {}
    for name, path in csv_paths.items():
        try:
            split = _read_split(name, path, parsers, first_rows, ignored, bad_rows)
        except OSError as error:
            raise InputError(f"{path}: found no readable file ({error.strerror}), expected a CSV") from error
        if split is not None:
            splits[name] = split
    if read_captions and first_rows and all(meme.captions is None for meme, *_ in first_rows.values()):
        bad_rows.remark = (
            "No meme has a caption that can be read. To do without: --caption_source text reads the column 'text', "
            "and --branches qi --caption_fusion none reads neither."
        )
    bad_rows.raise_if_any()
    notes = [f"Columns that are not used: {', '.join(map(repr, ignored))}."] if ignored else []
    seen: set[str] = set()
    for name, split in splits.items():
        memes = [meme for meme in split.memes if meme.image_id not in seen]
        seen |= {meme.image_id for meme in memes}
        columns: dict[str, list[Sequence[str]]] = {
            "captions": [meme.captions for meme in memes],
            "emotions": [meme.emotions for meme in memes],
            "text": [(meme.text,) for meme in memes],
            "query": [(query,) for query in split.queries],
            "topic_id": [(topic_id,) for topic_id in split.topic_ids],
            "image_id": [(meme.image_id,) for meme in memes],
        }
        notes += missing_note(csv_paths[name], columns)
    return splits, notes


def texts(meme: Meme, caption_source: str) -> tuple[str, ...]:
    """The texts that stand for the captions of `meme`: `caption`, `text` (none if it is blank), or `both`."""
    if caption_source not in CAPTION_SOURCES:
        raise ValueError(f"caption_source is {caption_source!r}; expected one of {CAPTION_SOURCES}")
    captions = meme.captions if caption_source != "text" else ()
    text = (meme.text,) if caption_source != "caption" and meme.text.strip() else ()
    return captions + text


def emotion_vocabulary(split: Split) -> list[str]:
    """The sorted distinct emotion words of the split's memes, without the reserved `none` and `unknown`."""
    return sorted({word for meme in split.memes for word in meme.emotions}.difference(RESERVED_EMOTIONS))


def emotion_ids(words: Iterable[str], index_of: Mapping[str, int]) -> list[int]:
    """A meme's emotion words by {word: index}: what is not in it is `unknown`, no word at all is `none`."""
    none, unknown = range(len(RESERVED_EMOTIONS))
    return [index_of.get(word, unknown) for word in words] or [none]


def fingerprint(split: Split) -> str:
    """SHA-256 of everything that a split's CSV says."""
    digest = hashlib.sha256(repr((split.topic_ids, split.queries, split.memes)).encode("utf-8", "surrogatepass"))
    for array in (split.record_topic, split.record_meme):
        digest.update(array.tobytes())
    return digest.hexdigest()


# image_id -> (Meme, path, line) of the row that the others have to agree with
_FirstRows = dict[str, tuple[Meme, str | os.PathLike[str], int]]


def _read_split(
    name: str,
    path: str | os.PathLike[str],
    parsers: Mapping[str, Callable[[str], Any]],
    first_rows: _FirstRows,
    ignored: dict[str, None],
    bad_rows: BadRows,
) -> Split | None:
    """One CSV -> Split. What is wrong goes to `bad_rows`; then the Split is of no use, or there is none."""
    records = read_records(path, bad_rows)
    faults_before = bad_rows.count
    header_line, header = next(records, (1, None))
    problems = _header_problems(header)
    if header is None or problems:
        if bad_rows.count == faults_before:  # else the header could not even be read, which is said already
            bad_rows.add(path, header_line, problems)
        return None
    ignored |= dict.fromkeys(column for column in header if column not in COLUMNS)
    columns = [(column, header.index(column), parsers[column]) for column in COLUMNS if column in header]

    topics: dict[str, tuple[int, Any, int]] = {}  # topic_id -> (index, query or None if bad, line of its first row)
    memes: dict[str, int] = {}  # image_id -> index
    pairs: dict[tuple[str, str], int] = {}  # (topic_id, image_id) -> line
    record_topic: list[int] = []
    record_meme: list[int] = []
    for line, fields in records:
        cells, problems = _read_cells(fields, columns)
        topic_id, query, image_id = cells.pop("topic_id"), cells.pop("query"), cells["image_id"]
        if topic_id is not None:
            topic, first_query, first_line = topics.setdefault(topic_id, (len(topics), query, line))
            record_topic.append(topic)
            if first_query is None:  # the topic's first row is bad: compare with this one from here on
                topics[topic_id] = (topic, query, line)
            if query != first_query and None not in (query, first_query):
                found, expected = bad_rows.difference(query, first_query)
                problems.append(
                    f"column 'query': found {found}, expected {expected} as in line {first_line}: topic"
                    f" {shown(topic_id)} has one query"
                )
        if image_id is not None:
            record_meme.append(memes.setdefault(image_id, len(memes)))
            problems += _disagreements(Meme(**cells), path, line, first_rows, bad_rows)
        if topic_id is not None and image_id is not None:
            first_line = pairs.setdefault((topic_id, image_id), line)
            if first_line != line:
                problems.append(
                    f"columns 'topic_id', 'image_id': found {shown(topic_id)}, {shown(image_id)} again,"
                    f" expected each pair once; it is in line {first_line} already"
                )
        if problems:
            bad_rows.add(path, line, problems)
    if not record_topic and bad_rows.count == faults_before:
        bad_rows.add(path, header_line, ["header: found no record below it, expected at least one"])
    return Split(
        name=name,
        topic_ids=list(topics),
        queries=[query for _, query, _ in topics.values()],
        memes=[first_rows[image_id][0] for image_id in memes],
        record_topic=np.array(record_topic, dtype=np.int64),
        record_meme=np.array(record_meme, dtype=np.int64),
    )


def _header_problems(header: list[str] | None) -> list[str]:
    if header is None:
        return [f"header: found nothing, expected {','.join(REQUIRED_COLUMNS)}[,text]"]
    absent = [column for column in REQUIRED_COLUMNS if column not in header]
    repeated = [column for column in COLUMNS if header.count(column) > 1]
    found = f"header: found {shown(','.join(header), width=300)}"
    problems = []
    if absent:
        problems.append(f"{found}, expected also the columns {', '.join(map(repr, absent))}")
    if repeated:
        problems.append(f"{found}, expected the columns {', '.join(map(repr, repeated))} once")
    return problems


def _read_cells(
    fields: list[str], columns: list[tuple[str, int, Callable[[str], Any]]]
) -> tuple[dict[str, Any], list[str]]:
    """({column: value, None where the cell is bad}, problems)."""
    cells: dict[str, Any] = {"text": ""}
    problems = []
    for column, index, parse in columns:
        try:
            cells[column] = parse(fields[index])
        except BadCell as error:
            cells[column] = None
            problems.append(f"column {column!r}: {error}")
    return cells, problems


def _disagreements(
    meme: Meme, path: str | os.PathLike[str], line: int, first_rows: _FirstRows, bad_rows: BadRows
) -> list[str]:
    """Where this row of a meme contradicts the meme's first one, in whatever split that is."""
    first, first_path, first_line = first_rows.setdefault(meme.image_id, (meme, path, line))
    if meme == first:
        return []
    problems = []
    for column in MEME_COLUMNS:
        value, first_value = getattr(meme, column), getattr(first, column)
        if value != first_value and None not in (value, first_value):
            found, expected = bad_rows.difference(value, first_value)
            problems.append(
                f"column {column!r}: found {found}, expected {expected} as in {first_path},"
                f" line {first_line}: rows of image_id {shown(meme.image_id)} agree"
            )
    if None in [getattr(first, column) for column in MEME_COLUMNS]:  # as with queries above
        first_rows[meme.image_id] = (meme, path, line)
    return problems
