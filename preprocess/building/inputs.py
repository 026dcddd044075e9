"""records.csv and annotations.jsonl -> records and what is known of their images."""

import json
import os.path
from collections.abc import Callable
from typing import NamedTuple

from dataloaders.cells import (
    BadCell,
    ImageFolder,
    missing_note,
    parse_captions,
    parse_emotions,
    parse_identifier,
    parse_query,
)
from dataloaders.csv_rows import BadRows, read_records, shown, shown_difference
from preprocess.annotation.annotation_file import read_annotations
from preprocess.annotation.answer import UNWRITABLE
from util import InputError

REQUIRED = ("image", "topic_id", "query")
COLUMNS = (*REQUIRED, "image_id")


class Record(NamedTuple):
    """One (topic, meme) pair as the source has it.

    place: where that is, the line of a CSV or an entry of a JSON file. image: path relative to the image folder, or an
    id where there is no file. image_id: None if the source gives none. split: "train" or "test" where it is given.
    template: its name where it is given.
    """

    place: int | str
    image: str
    topic_id: str
    query: str
    image_id: str | None = None
    split: str | None = None
    template: str | None = None


class Description(NamedTuple):
    """What is known of a meme beside its picture. emotions: words as the source has them, not mapped."""

    captions: tuple[str, ...]
    text: str
    emotions: tuple[str, ...]


class Unusable(Exception):
    """A record that cannot be used: the kind of reason, which is counted, and the details."""

    def __init__(self, kind, details=""):
        super().__init__(f"{kind}: {details}" if details else kind)
        self.kind = kind


class Source(NamedTuple):
    """What a community is built from.

    unusable: [(Record, Unusable)] that are known from the start. describe(record, sha256): its image's Description, or
    raises Unusable. notes: sentences to tell the user.
    """

    records: list[Record]
    unusable: list[tuple[Record, Unusable]]
    describe: Callable[[Record, str], Description]
    notes: list[str]


def annotated_records(records_csv, annotations_file, images, template_column=None):
    """The Source of records.csv and annotations.jsonl; `images` is the image folder.

    template_column: the column that names each record's template, if there is one.
    Raises InputError with all the bad rows of records.csv, or for a broken annotations file.
    """
    if not os.path.isdir(images):
        raise InputError(f"{images}: found no such folder, expected the folder of the images (--images)")
    records, notes = records_of_csv(records_csv, images, template_column)
    annotations = read_annotations(annotations_file)

    def describe(record, sha256):
        annotation = annotations.get(sha256)
        if annotation is None:
            raise Unusable("no annotation")
        if annotation.status != "ok":
            raise Unusable("annotation failed", f"{annotation.status}: {annotation.error}")
        where = f"{annotations_file}, the row of {annotation.image}"
        return checked_description(where, annotation.captions, annotation.text, annotation.emotions)

    return Source(records, [], describe, notes)


def checked_description(where, captions, text, emotions):
    """The Description if a CSV can hold it, else InputError: blank captions or words, halves of characters, NUL."""
    for name, parse, value in (("captions", parse_captions, captions), ("emotions", parse_emotions, emotions)):
        try:
            parse(as_cell(value))
        except BadCell as error:
            raise InputError(f"{where}, {name!r}: {error}") from error
    if UNWRITABLE.search(text):
        raise InputError(f"{where}, 'text': found {shown(text)}, expected text without NUL and halves of a character")
    return Description(tuple(captions), text, tuple(emotions))


def records_of_csv(path, images, template_column=None):
    """(records, notes) of a CSV with the columns image, topic_id, query, perhaps image_id, and `template_column`."""
    parsers = {
        "image": ImageFolder(images).parse_path,
        "topic_id": parse_identifier,
        "query": parse_query,
        "image_id": parse_identifier,
        "template": parse_identifier,
    }
    columns = dict(zip(COLUMNS, COLUMNS, strict=True)) | ({"template": template_column} if template_column else {})
    bad_rows = BadRows()
    try:
        records, ignored = _read(path, columns, parsers, bad_rows)
    except OSError as error:
        raise InputError(f"{path}: found no readable file ({error.strerror}), expected a CSV") from error
    bad_rows.raise_if_any()
    if not records:
        raise InputError(f"{path}: found no record, expected at least one below the header")
    notes = [f"Columns of {path} that are not used: {', '.join(map(repr, ignored))}."] if ignored else []
    columns = {
        name: {(getattr(record, name) or "",) for record in records} for name in ("query", "topic_id", "image_id")
    }
    return records, notes + missing_note(path, columns)


def _read(path, columns, parsers, bad_rows):
    """columns: {field of a Record: the column that has it}."""
    rows = read_records(path, bad_rows)
    line, header = next(rows, (1, None))
    if header is None:
        if not bad_rows.count:  # else it is said already
            bad_rows.add(path, line, [f"header: found nothing, expected {','.join(REQUIRED)}"])
        return [], []
    found = f"header: found {shown(','.join(header), width=300)}, expected"
    needed = [column for field, column in columns.items() if field in (*REQUIRED, "template")]
    problems = [f"{found} also the column {column!r}" for column in needed if column not in header]
    problems += [f"{found} the column {column!r} once" for column in columns.values() if header.count(column) > 1]
    if problems:
        bad_rows.add(path, line, problems)
        return [], []
    places = [(field, column, header.index(column)) for field, column in columns.items() if column in header]
    records, queries, images = [], {}, {}
    for line, fields in rows:
        cells, problems = {"image_id": None}, []
        for field, column, index in places:
            try:
                cells[field] = parsers[field](fields[index])
            except BadCell as error:
                cells[field] = None
                problems.append(f"column {column!r}: {error}")
        for column, of, known in (("query", "topic_id", queries), ("image", "image_id", images)):
            problems += _disagreement(cells, column, of, known, line)
        if problems:
            bad_rows.add(path, line, problems)
        records.append(Record(line, **cells))
    return records, list(dict.fromkeys(column for column in header if column not in columns.values()))


def _disagreement(cells, column, of, known, line):
    """All rows of a topic have one query, all rows of an image_id one image. `known`: {id: (value, line)}."""
    if cells[of] is None or cells[column] is None:
        return []
    first, first_line = known.setdefault(cells[of], (cells[column], line))
    if cells[column] == first:
        return []
    found, expected = shown_difference(cells[column], first)
    name = shown(cells[of])
    return [
        f"column {column!r}: found {found}, expected {expected} as in line {first_line}: {of} {name} has one {column}"
    ]


def as_cell(value):
    """A list or dict as the CSV's cells hold it: JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)
