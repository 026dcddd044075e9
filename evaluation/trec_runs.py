"""TREC runs: a line for each query and meme found, `query Q0 meme rank score tag`."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterable

from util import replaced_atomically

DEPTH = 1000  # memes of a query in a run, as TREC has it
TAG = "IEF"


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
    """An id as TREC's files have it, which have no place for white space: that stands as %20 and the like."""
    return "".join(urllib.parse.quote(letter) if letter.isspace() or letter == "%" else letter for letter in text)
