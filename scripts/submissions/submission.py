"""A folder that was handed in -> who made what, the ranks of its runs, and everything that is wrong with it.

submission.json       the method, its authors, a link, what it was trained on
<community>.trec      a TREC run of each community that it takes part in
<community>.trec.json what stands beside a run: how it was made, in ir_metadata's sections

Nobody has looked at these files yet. Their names are fixed and no file names another one, so that nothing outside the
folder is read; links are not followed, and sizes are bounded before anything is opened.
"""

import dataclasses
import json
import os
import unicodedata
from pathlib import Path
from urllib.parse import urlsplit

from dataloaders.csv_rows import shown
from evaluation.trec_runs import DEPTH, NO_LINE, BadLine, add_line, lines, ranks_in_run
from metrics import RankedQueries
from scripts.submissions.communities import NAME, NAMED
from util import InputError, read_json

ABOUT = "submission.json"
ABOUT_BYTES, RECORD_BYTES = 2**16, 2**20
LINE_BYTES = 200  # of a run, in the mean
SECTIONS = ("platform", "implementation", "method", "data")  # of ir_metadata, as --save_run writes them
LISTED = 5  # ids in a warning


@dataclasses.dataclass(frozen=True)
class Submission:
    """trained_on: as submission.json has it; ranked: {community: the ranks of its run's relevant memes}, of the runs
    without an error.
    """

    folder: Path
    method: str
    authors: list[str]
    link: str | None
    trained_on: list[str] | dict[str, list[str] | None] | None
    ranked: dict[str, RankedQueries]

    def data_of(self, community):
        """What the run of a community is of a model trained on; None where that is left open."""
        return data_of(self.trained_on, community)


def data_of(trained_on, community):
    return trained_on.get(community) if isinstance(trained_on, dict) else trained_on


def read_submission(folder, communities, problems):
    """The Submission in a folder; None where its submission.json has an error. Adds to `problems` all that is wrong."""
    if not NAME.fullmatch(folder.resolve().name):
        problems.error(folder, f"found this name, expected {NAMED}")
    if folder.is_symlink():
        problems.error(folder, "found a link, expected a folder")
        return None
    files = regular_files(folder, problems)
    runs = {f"{name}.trec": name for name in communities}
    for name in sorted(files.keys() - {ABOUT, *runs, *(f"{run}.json" for run in runs)}):
        if name.endswith(".trec"):
            problems.error(
                folder / name,
                f"found a run of no community, expected one of {', '.join(runs)}",
            )
        else:
            problems.warning(folder / name, "is neither submission.json, nor a run, nor beside one: it is not read")
    if ABOUT in files:
        about = read_about(folder / ABOUT, files[ABOUT], problems)
    else:
        about = None
        problems.error(folder / ABOUT, "found no such file, expected method, authors, link, trained_on")
    present = [run for run in runs if run in files]
    if not present:
        problems.error(folder, f"found no run, expected one or more of {', '.join(runs)}")
    ranked = {}
    for run in present:
        path, beside = folder / run, folder / f"{run}.json"
        data = None if about is None else data_of(about.get("trained_on"), runs[run])
        if about is not None and data is None:
            problems.warning(folder / ABOUT, f'"trained_on" is left open for {run}: the page will say "unknown"')
        ranks = read_ranks(path, files[run], communities[runs[run]], problems)
        if beside.name in files:
            check_record(beside, files[beside.name], data, problems)
        else:
            problems.error(beside, f"found no such file, expected how {run} was made, as --save_run writes it")
        if not problems.is_bad(path, beside):
            ranked[runs[run]] = ranks
    if about is None or problems.is_bad(folder / ABOUT):
        return None
    return Submission(folder, *(about.get(name) for name in FIELDS), ranked)


def regular_files(folder, problems):
    """{name: size} of the folder's files, without what is a link, a pipe or the like."""
    files = {}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        problems.error(folder, f"cannot be read ({error.strerror}), expected a submission's folder")
        return files
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            problems.warning(path, "is a folder: it is not read")
        elif entry.is_file(follow_symlinks=False):
            files[entry.name] = entry.stat(follow_symlinks=False).st_size
        else:
            problems.error(path, f"found {'a link' if entry.is_symlink() else 'no file'}, expected a file")
    return files


# --- submission.json -------------------------------------------------------------------------------------------------


def is_line(value, longest):
    """Whether a value is a text of one line, with something to see, that a page can hold."""
    return (
        isinstance(value, str)
        and 0 < len(value.strip()) <= len(value) <= longest
        and not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value)
    )


def are_lines(value, least, most):
    return isinstance(value, list) and least <= len(value) <= most and all(is_line(line, 100) for line in value)


def is_link(value):
    """Whether a value is an address that leads to where it says: http or https, with a host, and no user before it."""
    if not is_line(value, 500) or any(character.isspace() or character == "\\" for character in value):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False


def is_data(value):
    return value is None or are_lines(value, 0, 50)


FIELDS = {  # what each of submission.json's has to be
    "method": (lambda value: is_line(value, 100), "one line of 1 to 100 characters"),
    "authors": (
        lambda value: are_lines(value, 1, 50),
        "a list of 1 to 50 names, each a line of at most 100 characters",
    ),
    "link": (
        lambda value: value is None or is_link(value),
        "an address that begins with http:// or https://, of at most 500 characters, or null",
    ),
    "trained_on": (
        lambda value: is_data(value) or (isinstance(value, dict) and all(map(is_data, value.values()))),
        "a list of at most 50 communities and other data, each a line of at most 100 characters; [] where it was "
        "trained on nothing, null where that is left open; or an object with one of these for each community",
    ),
}


def read_about(path, size, problems):
    about = read_object(path, size, ABOUT_BYTES, problems)
    if about is None:
        return None
    for name, (is_right, expected) in FIELDS.items():
        if not is_right(about.get(name)):
            value = about.get(name)
            found = shown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            problems.error(path, f'"{name}": found {found if name in about else "nothing"}, expected {expected}')
    for name in about.keys() - FIELDS.keys():
        problems.warning(path, f"{shown(name)} is none of {', '.join(FIELDS)}: it is not read")
    return about


def read_object(path, size, most, problems):
    """The object in a JSON file; None, with an error, where there is none or the file is too large."""
    if size > most:
        problems.error(path, f"found {size:,} bytes, expected at most {most:,}")
        return None
    try:
        return read_json(path)
    except InputError as error:
        problems.error(path, str(error).removeprefix(f"{path}: "))
        return None


# --- runs ------------------------------------------------------------------------------------------------------------


def read_ranks(path, size, community, problems):
    """The ranks of a run's relevant memes. None, with an error, where metrics.py would not score it, it goes on after
    DEPTH memes of a query, or is too large to be read.
    """
    most = LINE_BYTES * community.depth * max(len(community.queries), 1000)
    if size > most:
        problems.error(
            path,
            f"found {size:,} bytes, expected at most {most:,}: {community.depth:,} memes of each query, "
            f"{LINE_BYTES} bytes each",
        )
        return None
    run = {}
    try:
        for number, words in lines(path):
            try:
                query, meme = add_line(run, words)
            except BadLine as error:
                problems.error(path, str(error), number, error.expected)
                continue
            if query not in community.queries:
                text = f"found query {shown(query)}, expected one of queries.jsonl: it is left out"
                problems.warning(path, text, number, "query")
            if meme not in community.memes:
                text = f"found meme {shown(meme)}, expected one of corpus.jsonl: it takes a place, and is not relevant"
                problems.warning(path, text, number, "meme")
    except InputError as error:
        problems.error(path, str(error).removeprefix(f"{path}: "))
        return None
    relevant = community.qrels.relevant
    if not run and not problems.is_bad(path):
        problems.error(path, NO_LINE)
    elif run and not run.keys() & relevant.keys():
        problems.error(path, f"found none of the {len(relevant):,} queries of qrels/{community.split}.tsv")
    for query, found in run.items():
        if len(found) > DEPTH:
            text = f"found {len(found):,} memes of query {shown(query)}, expected at most {DEPTH:,}"
            problems.error(path, text, kind="depth")
    if problems.is_bad(path):
        return None
    warn_of_places(path, run, community, problems)
    return ranks_in_run(run, community.qrels)


def warn_of_places(path, run, community, problems):
    """What the run loses by what it leaves out, and by equal scores, as docs/METRICS.md has it."""
    relevant = community.qrels.relevant
    absent = [query for query in relevant if query not in run]
    short = [query for query in relevant if query in run and len(run[query]) < community.depth]
    tied = []
    for query in relevant.keys() & run.keys():
        own = {score for meme, score in run[query].items() if meme in relevant[query]}
        if any(score in own for meme, score in run[query].items() if meme not in relevant[query]):
            tied.append(query)
    of = f"of {len(relevant):,} queries"
    if absent:
        problems.warning(path, f"{len(absent):,} {of} have no line ({listed(absent)}): they count as 0")
    if short:
        problems.warning(
            path,
            f"{len(short):,} {of} have fewer than {community.depth:,} memes ({listed(short)}): a relevant one that is "
            "not there counts as never found",
        )
    if tied:
        problems.warning(
            path,
            f"in {len(tied):,} {of} a relevant meme and one that is not have the same score ({listed(sorted(tied))}): "
            "the relevant one is ranked after it",
        )


def listed(ids):
    return ", ".join([*map(shown, ids[:LISTED]), *["…"] * (len(ids) > LISTED)])


def check_record(path, size, trained_on, problems):
    """Add what is wrong with the file beside a run, which says how it was made."""
    record = read_object(path, size, RECORD_BYTES, problems)
    if record is None:
        return
    absent = [name for name in SECTIONS if not isinstance(record.get(name), dict)]
    if absent == [*SECTIONS]:
        problems.error(path, f"found none of {', '.join(SECTIONS)}, expected sections of www.ir-metadata.org")
    elif absent:
        problems.warning(path, f"does not have {', '.join(absent)}: nobody can say from it how the run was made")
    data = record.get("data")
    if isinstance(data, dict) and data.get("training data") and trained_on == []:
        problems.warning(path, f'names training data, where "trained_on" of {ABOUT} is []')
