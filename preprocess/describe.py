"""Describe a community for those who get it: a folder that can be published, with croissant.json and a data card.

    python -m preprocess.describe data/mine --out published/mine
    python -m preprocess.describe data/again --check published/mine

The folder --out gets the CSVs, the pictures (--without_images: not), images.csv with checksum, perceptual hash and size
of each picture, croissant.json (Croissant 1.1) and README.md, the data card: what preprocess.statistics measures, how
the folder is made again, and the questions that only the owner of the data can answer, which --answers fills.
--check says whether a folder that was made again is the same.

Exit code: 0; 1 for input that cannot be used, and with --check if the folder is another one; 2 for wrong flags.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from preprocess.measuring.flags import add_measuring_flags, check_limits
from util import InputError, Parser, ending_clearly, program

OF_CHECK = {"community", "check", "workers", "features_path", "train_csv", "val_csv", "test_csv"}


def to_arguments(argv):
    parser = Parser(
        prog="python -m preprocess.describe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("community", type=Path, metavar="DIR", help="folder with train.csv, val.csv, test.csv, images/")
    add("--out", type=Path, metavar="DIR", help="the folder to make; one of an earlier call is replaced")
    add("--without_images", action="store_true",
        help="leave the pictures out: who gets the folder makes them by the command in the card")  # fmt: skip
    add("--rebuild", metavar="COMMAND",
        help="what makes it again (default: by the file that this project's programs leave there)")  # fmt: skip
    add("--answers", type=Path, metavar="FILE",
        help='the owner\'s answers, a JSON object: {"license": "…"}; the card lists the questions')  # fmt: skip
    add("--check", type=Path, metavar="DIR", help="compare the community with this published folder instead")
    add_measuring_flags(parser)
    args = parser.parse_args(argv)
    if bool(args.out) == bool(args.check):
        parser.error("give --out, or --check")
    given = [name for name, value in vars(args).items() if value != parser.get_default(name)]
    if args.check and (useless := [name for name in given if name not in OF_CHECK]):
        parser.error(f"--{useless[0]} does nothing with --check")
    check_limits(parser, args)
    args.communities = [args.community]
    args.out = args.out and args.out.resolve()
    return args


def describe(args):
    """Write the folder --out, and print what it is and which questions are open. Raises InputError."""
    from preprocess.building.folder import hashes_file
    from preprocess.describing.card import open_questions
    from preprocess.describing.folder import check_place, write_folder
    from preprocess.describing.questions import read_answers
    from preprocess.describing.rebuild import PROGRAMS, Rebuild, rebuild_of
    from preprocess.measuring.survey import sources, survey

    if importlib.util.find_spec("rapidfuzz") is None:
        raise InputError("preprocess.describe needs rapidfuzz: pip install -r requirements-data.txt")
    answers = read_answers(args.answers)
    [(name, source)] = sources(args).items()
    check_place(args.out, args.community)
    rebuild = Rebuild(args.rebuild, (), {}) if args.rebuild else rebuild_of(args.community)
    if args.without_images and rebuild is None:
        raise InputError(
            f"--without_images: {args.community} has none of {', '.join(PROGRAMS)}, which say how it was made;"
            " expected --rebuild 'the command that makes it again'"
        )
    cache = hashes_file(args.out)
    cache.parent.mkdir(parents=True, exist_ok=True)
    found = survey(name, source, args, cache)
    write_folder(args.out, source, found, not args.without_images, answers, rebuild)
    cache.unlink()
    print(
        f"{args.out}: made, with {'no' * args.without_images or 'its'} pictures: croissant.json, README.md (the card)"
    )
    for problem in found.report["problems"]:
        print(f"WARNING: {problem}")
    if left := open_questions(answers):
        print(f"{len(left)} questions are open, which only the owner of the data can answer: {', '.join(left)}")
        print("README.md has them; --answers FILE fills them in")


def check(args):
    """Say whether the community is the published one; ends the program (code 1) where it is not."""
    from preprocess.describing.comparison import differences, read_published
    from preprocess.measuring.survey import sources

    published = read_published(args.check)
    [source] = sources(args).values()
    if found := differences(source, published, args.workers):
        sys.exit(
            "\n".join([f"error: {args.community} is not the same as {args.check}", *(f"  {line}" for line in found)])
        )
    counts = f"{len(published.csvs)} CSVs, {len(published.images):,} pictures"
    print(f"{args.community} is the same as {args.check}, to the last byte: {counts}")


@program
def main(argv=None):
    args = to_arguments(argv)
    with ending_clearly("stopped; what was read of the images is kept, and the same command goes on from there"):
        check(args) if args.check else describe(args)


if __name__ == "__main__":
    main()
