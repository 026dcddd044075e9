"""One annotations.jsonl of those that several machines or jobs wrote, checked.

    python -m preprocess.annotate … --out annotations.jsonl --shard 1/8        # on 8 machines, up to 8/8
    python -m preprocess.merge_annotations annotations.*-of-8.jsonl --images memes --out annotations.jsonl

All shards have to be there, each with its own images alone, asked of one model by one prompt; no image may have two
answers; with --images every image of the folder has to have a row. Then the file is written, whole. The same command
writes the same file again, also with --out among the files.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from preprocess.annotation.annotation_file import STATUSES, last_rows, line_of, read_rows
from preprocess.annotation.pictures import by_content, find_images
from preprocess.annotation.shards import Shard, shard_of
from util import InputError, Parser, ending_clearly, locked, program, replaced_atomically


def build_parser():
    parser = Parser(
        prog="python -m preprocess.merge_annotations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="what preprocess.annotate wrote, of shards or not")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file that holds all their rows")
    parser.add_argument("--images", metavar="DIR", help="check that each image of this folder has a row")
    parser.add_argument("--allow_mixed", action="store_true", help="take rows of several models or prompts")
    return parser


def read_files(paths):
    """{path: [Annotation]}. InputError for a file that cannot be used, or that another process is writing."""
    rows = {}
    for path in paths:
        try:
            with open(path, "rb") as file:
                if not locked(file):
                    raise InputError(f"{path}: another process is writing this file")
                rows[path] = read_rows(path)[0]
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return rows


def check_shards(rows):
    """InputError where the files of shards are not those of one division, or hold images of another shard."""
    shards = {path: found for path in rows if (found := shard_of(path))}
    counts = sorted({found.count for found in shards.values()})
    if len(counts) > 1:
        raise InputError(f"shards of {' and of '.join(map(str, counts))}: files of one division are merged at a time")
    wanted = {Shard(number, count) for count in counts for number in range(1, count + 1)}
    if absent := sorted(wanted - set(shards.values())):
        raise InputError(f"no file of the shard{'s' * (len(absent) > 1)} {', '.join(map(str, absent))}")
    for path, found in shards.items():
        for row in rows[path]:
            if not found.has(row.sha256):
                raise InputError(f"{path}: holds {row.image}, which is not in shard {found}")


def check_answers(rows):
    """InputError where files hold different answers about one image."""
    answers = {}  # {sha256: (path, answer)}
    for path, of_file in rows.items():
        for row in last_rows(of_file).values():
            if row.status == "ok":
                answer = row.captions, row.text, row.emotions
                other, first = answers.setdefault(row.sha256, (path, answer))
                if answer != first:
                    raise InputError(f"{row.image}: different answers about it in {other} and {path}; keep one of them")


def merged(rows):
    """All different rows, each image's together, and of these the answer last, as the last row counts."""
    distinct = dict.fromkeys(row for of_file in rows.values() for row in of_file)
    return sorted(distinct, key=lambda row: (row.image, row.sha256, row.status == "ok"))


def check_complete(folder, rows):
    """InputError where an image of the folder has no row."""
    images = by_content(folder, find_images(folder)[0])
    absent = [path for sha256, path in images.items() if sha256 not in rows]
    if absent:
        raise InputError(
            f"{len(absent):,} of {len(images):,} images in {folder} have no row, such as {absent[0]}: run their shards "
            "of preprocess.annotate to the end"
        )


def check_nothing_is_lost(out, rows):
    """InputError where the file that is to be replaced holds a row that the new one would not."""
    lost = set(read_rows(out)[0]) - set(rows) if os.path.exists(out) else ()
    if lost:
        raise InputError(f"{out} holds {len(lost):,} rows that none of the files has: name it among the files too")


@program
def main(argv=None):
    arguments = build_parser().parse_args(argv)
    with ending_clearly("stopped; nothing is changed"):
        rows = read_files(dict.fromkeys(arguments.files))
        check_shards(rows)
        together = merged(rows)
        if not together:
            raise InputError("the files hold no row")
        asked = dict.fromkeys(row.asked_in_words for row in together)
        if len(asked) > 1 and not arguments.allow_mixed:
            raise InputError(f"the files hold rows of {'; of '.join(asked)}. --allow_mixed takes them all")
        check_answers(rows)
        last = last_rows(together)
        if arguments.images:
            check_complete(arguments.images, last)
        check_nothing_is_lost(arguments.out, together)
        Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        with replaced_atomically(arguments.out) as temporary:
            temporary.write_bytes(b"".join(map(line_of, together)))
        counts = Counter(row.status for row in last.values())
        statuses = ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status])
        print(f"{arguments.out}: {len(together):,} rows of {len(rows)} files; {len(last):,} images: {statuses}")


if __name__ == "__main__":
    sys.exit(main())
