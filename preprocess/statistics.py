"""Count what a community holds, and find what may spoil an evaluation on it.

python -m preprocess.statistics DIR [DIR ...] --out DIR
python -m preprocess.statistics --agreement a.jsonl b.jsonl [c.jsonl ...] --out DIR

The folder --out gets statistics.json, statistics.md, statistics.tex (rows of a table of data sets), duplicates.csv,
plots and, where there are duplicates, a picture of them; or agreement.json and agreement.md. What was read of the
images is kept there in image_facts_<community>.csv, so that a second call is quick.

Exit code: 0; with --strict 1 if there is leakage between splits, if there are duplicates, exact or near, or if images
cannot be read; 1 for input that cannot be used, 2 for wrong flags, 130 after Ctrl-C.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from preprocess.measuring.flags import ONE_COMMUNITY, add_measuring_flags, check_limits
from util import InputError, Parser, ending_clearly, program, write_json, write_text


def to_arguments(argv):
    parser = Parser(
        prog="python -m preprocess.statistics",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("communities", nargs="*", type=Path, metavar="DIR", help="folder with train.csv, val.csv, test.csv, images/")
    add("--agreement", nargs="+", metavar="FILE", help="compare these annotations.jsonl instead, two or more")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the results; made if it is not there")
    add_measuring_flags(parser)
    add("--strict", action="store_true", help="exit code 1 if there is leakage, or duplicates, or unreadable images")
    add("--emotion_table", type=Path, metavar="FILE",
        help="with --agreement: word,emotion instead of emotion_words.csv")  # fmt: skip
    args = parser.parse_args(argv)
    if bool(args.communities) == bool(args.agreement):
        parser.error("give folders of communities, or --agreement with two or more files")
    if len(args.communities) > 1 and (given := [name for name in ONE_COMMUNITY if getattr(args, name)]):
        parser.error(f"--{given[0]} is for one community; {len(args.communities)} are given")
    of_agreement = {"communities", "agreement", "out", "emotion_table"}
    given = [name for name, value in vars(args).items() if value != parser.get_default(name)]
    if args.agreement and (useless := [name for name in given if name not in of_agreement]):
        parser.error(f"--{useless[0]} does nothing with --agreement")
    if not args.agreement and args.emotion_table:
        parser.error("--emotion_table goes with --agreement only")
    check_limits(parser, args)
    return args


def check_packages(*names):
    """InputError with the line to install them, if one of the optional packages is missing."""
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise InputError(f"preprocess.statistics needs {' and '.join(missing)}: pip install -r requirements-data.txt")


def check_folder(out):
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made: {error.strerror}") from error


def compare_annotations(args):
    """Write agreement.json and agreement.md, and print the latter's tables."""
    from preprocess.annotation.emotion_words import DEFAULT, read_emotion_table
    from preprocess.measuring import agreement as statistics_agreement
    from preprocess.measuring import agreement_tables as statistics_agreement_pages

    table = read_emotion_table(args.emotion_table or DEFAULT)
    raters = statistics_agreement.read_raters(args.agreement)
    report = statistics_agreement.agreement(args.agreement, raters, table)
    write_json(args.out / "agreement.json", report)
    write_text(args.out / "agreement.md", statistics_agreement_pages.page(report))
    print("\n".join(statistics_agreement_pages.terminal(report)))
    print(f"\nwritten to {args.out}: agreement.json, agreement.md")


def describe_communities(args):
    """Write and print everything about the communities; the problems found, one line each."""
    from preprocess.measuring import findings as statistics_report
    from preprocess.measuring import number_tables as statistics_pages
    from preprocess.measuring import survey as statistics_community

    if args.out.resolve() in [folder.resolve() for folder in args.communities]:
        raise InputError(f"--out {args.out} is the community itself; choose another folder for the results")
    sources = statistics_community.sources(args)
    communities = {}
    for name, source in sources.items():
        communities[name] = statistics_community.describe(name, source, args)
        print("\n".join(statistics_report.terminal(communities[name].report)), flush=True)
    report = statistics_report.combined(args, communities)
    write_json(args.out / "statistics.json", report)
    write_text(args.out / "statistics.md", statistics_report.page(report))
    write_text(args.out / "statistics.tex", statistics_pages.latex_table(statistics_pages.paper_rows(report)))
    statistics_report.write_pairs(args.out / "duplicates.csv", communities)
    print("\n".join(statistics_report.ending(args.out, report)))
    return [problem for community in communities.values() for problem in community.report["problems"]]


@program
def main(argv=None):
    args = to_arguments(argv)
    with ending_clearly("stopped; what was read of the images is kept, and the same command goes on from there"):
        check_packages("rapidfuzz", *([] if args.agreement else ["matplotlib"]))
        check_folder(args.out)
        if args.agreement:
            compare_annotations(args)
        elif describe_communities(args) and args.strict:
            sys.exit(
                "error: --strict: leakage, duplicates or unreadable images were found; they are listed above\n"
                "(preprocess.build_community keeps near-duplicates in one split, and with --near_duplicates merge makes"
                " one meme of them)"
            )


if __name__ == "__main__":
    main()
