"""Exported communities, a folder of scripts.export_benchmark each: what runs are checked and scored against."""

import dataclasses
import json
import re

from evaluation.trec_runs import DEPTH, Qrels
from metrics import Relevance, random_expectation
from util import InputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a community's or a submission's folder
NAMED = "a letter or digit, then letters, digits, dots, _ and -, at most 64 in all"
INDEX = "index"  # the leaderboard's first page, so no community's name


@dataclasses.dataclass(frozen=True)
class Community:
    """A split of a community. queries, memes: {id: its place}; qrels: which memes are relevant."""

    name: str
    split: str
    queries: dict
    memes: dict
    qrels: Qrels

    @property
    def depth(self):
        """How many memes a whole run has for a query."""
        return min(DEPTH, len(self.memes))

    @property
    def pairs(self):
        return sum(map(len, self.qrels.relevant.values()))

    def at_random(self):
        """The metrics of a random ranking."""
        pairs = [(query, self.memes[meme]) for query, own in enumerate(self.qrels.relevant.values()) for meme in own]
        shape = len(self.qrels.relevant), len(self.memes)
        return random_expectation(Relevance(*zip(*pairs, strict=True), shape))


def read_communities(folder, split):
    """{name: Community} of all folders in `folder` that have this split's qrels. InputError: there are none, or a file
    is damaged.
    """
    folders = sorted(path.parent.parent for path in folder.glob(f"*/qrels/{split}.tsv"))
    if not folders:
        raise InputError(
            f"--communities {folder}: found no folder with qrels/{split}.tsv in it, expected one for each community, "
            "by python -m scripts.export_benchmark"
        )
    return {path.name: read_community(path, split) for path in folders}


def read_community(folder, split):
    if not NAME.fullmatch(folder.name) or folder.name == INDEX:
        raise InputError(f"{folder}: found this name, expected {NAMED}, and not {INDEX}")
    qrels = Qrels.load(folder / "qrels" / f"{split}.tsv")
    queries, memes = read_ids(folder / "queries.jsonl"), read_ids(folder / "corpus.jsonl")
    judged = set().union(*qrels.relevant.values())
    for name, ids, known in (("queries.jsonl", qrels.relevant.keys(), queries), ("corpus.jsonl", judged, memes)):
        if absent := ids - known.keys():
            raise InputError(
                f"{folder / name}: found no {min(absent)}, which is in qrels/{split}.tsv; expected files of one export"
            )
    return Community(folder.name, split, queries, memes, qrels)


def read_ids(path):
    """{_id: its place} of a file with a JSON object a line."""
    ids = {}
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    ids.setdefault(json.loads(line)["_id"], len(ids))
                except (ValueError, TypeError, KeyError, RecursionError):
                    raise InputError(f"{path}, line {number}: found no JSON object with an _id") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected what export_benchmark wrote") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: found bytes that are not UTF-8") from None
    return ids
