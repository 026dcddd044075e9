"""One HTML file that shows finished runs: results, curves, gains and losses, breakdowns, each query's best memes.

python -m scripts.report RUN_DIR [RUN_DIR ...] [--out FILE]

A RUN_DIR is a run's folder (--output_dir). Several runs of the same test split are put side by side, and each further
one is compared with the first: `.../ief_no_emotions/seed_0 .../ief/seed_0` shows which queries gain from emotions. The
page is made from the runs' records and the community's test.csv and images alone, holds everything it shows, and opens
without a network.
"""

import argparse
from pathlib import Path

from util import InputError, Parser, ending_clearly, program, write_text


def to_arguments(argv):
    parser = Parser(
        prog="python -m scripts.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN_DIR", help="folder of a finished run; the first is the reference")
    add("--out", type=Path, metavar="FILE", help="the page; default: report.html in the first RUN_DIR")
    add(
        "--data_path",
        type=Path,
        metavar="DIR",
        help="where test.csv and images/ are now, if not where the run had them",
    )
    add("--features_path", type=Path, metavar="DIR", help="folder of the images, instead of <data_path>/images")
    add("--test_csv", type=Path, metavar="FILE", help="instead of <data_path>/test.csv")
    return parser.parse_args(argv)


@program
def main(argv=None):
    args = to_arguments(argv)
    with ending_clearly("stopped; nothing was written"):
        from scripts.reporting.page import page
        from scripts.reporting.shown_runs import read_runs
        from scripts.reporting.tested_community import read_community

        runs = read_runs(args.runs)
        out = args.out or args.runs[0] / "report.html"
        if out.is_dir() or not out.resolve().parent.is_dir():
            raise InputError(f"--out {out}: expected a file in a folder that is there")
        community = read_community(runs, args.data_path, args.features_path, args.test_csv)
        text, bad = page(runs, community)
        write_text(out, text)
        for note in [*community.notes, *told(bad)]:
            print(f"note: {note}")
        print(
            f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}, {len(community.queries):,} queries, "
            f"{len(community.memes):,} memes: written to {out} ({out.stat().st_size / 1e6:.1f} MB)"
        )


def told(bad):
    """A line about the images without a picture, if there are any."""
    if bad:
        name, why = next(iter(bad.items()))
        yield f"{len(bad):,} memes are shown without a picture; {name}: {why}"


if __name__ == "__main__":
    main()
