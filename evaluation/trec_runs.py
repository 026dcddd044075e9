"""TREC runs: a line for each query and meme found, `query Q0 meme rank score tag`; and qrels, what is relevant."""

from __future__ import annotations

import math
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from dataloaders.csv_rows import BadRows, shown
from metrics import RankedQueries
from util import InputError, replaced_atomically

DEPTH = 1000  # memes of a query in a run, as TREC has it
TAG = "IEF"
BEIR_HEADING = ["query-id", "corpus-id", "score"]
GRADE = re.compile(r"-?\d{1,9}")
ONCE = "each pair once"
NO_LINE = "found no line of a run, expected query Q0 meme rank score tag"


def write_run(
    path: str | os.PathLike[str], found: Iterable[tuple[str, Iterable[tuple[str, float]]]], tag: str = TAG
) -> None:
    """(query id, its (meme id, score), best first) of each query -> a TREC run, atomically.

    Scores have nine digits, which tell any two float32 numbers apart. Ids are written by `word`.
    """
    with replaced_atomically(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        for query_id, memes in found:
            query = word(query_id)
            for rank, (meme_id, score) in enumerate(memes, start=1):
                file.write(f"{query} Q0 {word(meme_id)} {rank} {score:.9g} {tag}\n")


def word(text: str) -> str:
    """An id as TREC's and BEIR's files have it, in which white space, quotes and # would mean something else: they
    stand as %20 and the like.
    """
    return "".join(urllib.parse.quote(c) if c.isspace() or c in '%"#' else c for c in text)


class Qrels:
    """Which memes are relevant to which query. relevant: {query id: its relevant meme ids}, queries in the order of
    their ids, as trec_eval has them; without: how many further queries have none.
    """

    def __init__(self, relevant: dict[str, set[str]], without: int) -> None:
        self.relevant, self.without = relevant, without

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Qrels:
        """Read `query iteration meme grade`, or BEIR's table `query-id corpus-id score` with its heading.

        A grade of 1 or more is relevant. InputError: a line is none of these, a pair is judged twice, or nothing is
        relevant.
        """
        relevant: dict[str, set[str]] = {}
        judged: set[tuple[str, str]] = set()
        bad, columns = BadRows(), 4
        for number, words in lines(path):
            if not judged and words[:3] == BEIR_HEADING:
                columns = 3
                continue
            if len(words) != columns or not GRADE.fullmatch(words[-1]):
                expected = "query meme grade" if columns == 3 else "query iteration meme grade"
                bad.add(path, number, [f"found {shown(' '.join(words))}, expected {expected}, a whole number"])
                continue
            query, meme, grade = words[0], words[-2], int(words[-1])
            if (query, meme) in judged:
                bad.add(path, number, [f"found {_again(query, meme)}, expected {ONCE}"])
            judged.add((query, meme))
            own = relevant.setdefault(query, set())
            if grade >= 1:
                own.add(meme)
        bad.raise_if_any()
        some = {query: relevant[query] for query in sorted(relevant) if relevant[query]}
        if not some:
            raise InputError(f"{path}: found no relevant meme, expected lines `query iteration meme grade`")
        return cls(some, len(relevant) - len(some))


def read_run(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """{query id: {meme id: score}} of a TREC run; neither the order of its lines nor its ranks count, as in trec_eval.

    InputError: a line is none of a run (`add_line`), or there is no line.
    """
    run: dict[str, dict[str, float]] = {}
    bad = BadRows()
    for number, words in lines(path):
        try:
            add_line(run, words)
        except BadLine as error:
            bad.add(path, number, [str(error)])
    bad.raise_if_any()
    if not run:
        raise InputError(f"{path}: {NO_LINE}")
    return run


class BadLine(ValueError):
    """A line that is none of a run. expected: what it should have been."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}, expected {expected}")
        self.expected = expected


def add_line(run: dict[str, dict[str, float]], words: list[str]) -> tuple[str, str]:
    """Put a line's words into {query id: {meme id: score}}; returns its query and its meme.

    BadLine: there are not six words, the score is no finite number, or the query has the meme already.
    """
    try:
        query, _, meme, _, score, _ = words
        value = float(score)
    except ValueError:
        raise BadLine(shown(" ".join(words)), "query Q0 meme rank score tag, the score a number") from None
    if not math.isfinite(value):
        raise BadLine(f"the score {score[:60]}", "a finite one")
    own = run.setdefault(query, {})
    if meme in own:
        raise BadLine(_again(query, meme), ONCE)
    own[meme] = value
    return query, meme


def _again(query: str, meme: str) -> str:
    return f"query {shown(query)}, meme {shown(meme)} again"


def lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """(number, words) of each line of a run or of qrels that has some and is no comment. InputError: it is no text."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.startswith("#") and (words := line.split()):
                    yield number, words
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found bytes that are not UTF-8, expected UTF-8") from error


def ranks_in_run(run: Mapping[str, Mapping[str, float]], qrels: Qrels, as_trec: bool = False) -> RankedQueries:
    """The ranks of all relevant memes, infinite where the run has not got them; the queries in the order of `qrels`.

    In a tie memes that are not relevant come first, as in metrics.py. as_trec: as trec_eval has it, which reads scores
    in 32 bits, and puts what ties into the opposite order of its ids.
    """
    ranks, query = [], []
    for place, (query_id, relevant) in enumerate(qrels.relevant.items()):
        found = run.get(query_id, {})
        if as_trec:
            single = np.array([*found.values()], np.float32).tolist()
            keys = {meme: (-score, False) for meme, score in zip(found, single, strict=True)}
        else:
            keys = {meme: (-score, meme in relevant) for meme, score in found.items()}
        order = sorted(sorted(found, reverse=True), key=keys.__getitem__)
        own = [rank for rank, meme in enumerate(order, start=1) if meme in relevant]
        ranks += [*own, *[math.inf] * (len(relevant) - len(own))]
        query += [place] * len(relevant)
    return RankedQueries(np.array(ranks, np.float64), np.array(query))
