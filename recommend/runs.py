"""Many queries from a file, and what is found for them as a TREC run or a CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from dataloaders.cells import is_blank
from dataloaders.csv_rows import BadRows, read_records
from evaluation.trec_runs import write_run as write_trec_run
from recommend.request import Answer
from util import InputError, replaced_atomically

COLUMNS = ("query_id", "query", "rank", "id", "score", "below", "qi", "qc", "alpha")


def read_queries(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """[(id, query)] of a file: a CSV with the columns topic_id and query, of which a query may come again, or text with
    a query in each line, after an id and a tab, or without one: then the id is the line's number.

    InputError where it cannot be read, an id is there with two queries, or there is no query.
    """
    path = Path(path)
    try:
        pairs = list(_of_csv(path) if path.suffix.lower() == ".csv" else _of_lines(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found bytes that are not UTF-8, expected UTF-8") from error
    queries: dict[str, str] = {}
    for query_id, query in pairs:
        if is_blank(query_id) or is_blank(query):
            raise InputError(f"{path}: found an empty id or query, beside {(query_id + query)[:60]!r}")
        if queries.setdefault(query_id, query) != query:
            raise InputError(f"{path}: found the id {query_id!r} with two queries, expected one")
    if not queries:
        raise InputError(f"{path}: found no query")
    return list(queries.items())


def _of_csv(path: Path) -> Iterator[tuple[str, str]]:
    bad_rows = BadRows()
    records = read_records(path, bad_rows)
    _, header = next(records, (1, []))
    rows = [fields for _, fields in records]
    bad_rows.raise_if_any()
    if absent := [name for name in ("topic_id", "query") if name not in header]:
        raise InputError(f"{path}: found the columns {', '.join(header)}, expected also {', '.join(absent)}")
    for fields in rows:
        yield fields[header.index("topic_id")], fields[header.index("query")]


def _of_lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not is_blank(line):
            query_id, tab, query = line.partition("\t")
            yield (query_id.strip(), query.strip()) if tab else (str(number), line.strip())


def write_run(path: str | os.PathLike[str], found: Iterable[tuple[str, str, Answer]]) -> None:
    """(id, query, answer) of each query -> a CSV where the name ends so, else a TREC run."""
    if is_csv(path):
        with replaced_atomically(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            _write_csv(file, found)
    else:
        write_trec_run(path, ((name, ((meme.id, meme.score) for meme in answer)) for name, _, answer in found))


def is_csv(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() == ".csv"


def _write_csv(file: IO[str], found: Iterable[tuple[str, str, Answer]]) -> None:
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for query_id, query, answer in found:
        for meme in answer:
            numbers = (meme.score, meme.below, meme.qi, meme.qc, meme.alpha)
            writer.writerow((query_id, query, meme.rank, meme.id, *("" if n is None else f"{n:.7g}" for n in numbers)))
