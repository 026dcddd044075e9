"""Say everything that is wrong with submissions to a leaderboard, before they are handed in.

python -m scripts.check_submission submissions/NAME [submissions/NAME ...]

A submission is a folder with submission.json, a run for each community that it takes part in, and beside each run how
it was made: docs/LEADERBOARD.md has an example. An error keeps a run off the leaderboard, and the exit code is 1; a
warning says what counts against it, or what a reader will miss. Needs no GPU and no network, and changes nothing.
"""

import argparse
import sys
from pathlib import Path

from dataloaders.communities import SPLITS
from util import Parser, ending_clearly, program

COMMUNITIES = Path("data/communities")


def to_arguments(argv):
    parser = Parser(
        prog="python -m scripts.check_submission",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="folder of a submission")
    add_communities(parser)
    return parser.parse_args(argv)


def add_communities(parser):
    """The two flags that scripts.leaderboard has too."""
    add = parser.add_argument
    add("--communities", type=Path, default=COMMUNITIES, metavar="DIR",
        help="folder with a folder of scripts.export_benchmark for each community (default: %(default)s)")  # fmt: skip
    add("--split", choices=SPLITS, default="test", help="which split was exported (default: %(default)s)")


@program
def main(argv=None):
    args = to_arguments(argv)
    with ending_clearly("stopped"):
        from scripts.submissions.communities import read_communities
        from scripts.submissions.problems import Problems, counted
        from scripts.submissions.submission import read_submission

        communities, errors = read_communities(args.communities, args.split), 0
        for folder in args.folders:
            problems = Problems()
            submission = read_submission(folder, communities, problems)
            shown = ", ".join(submission.ranked) if submission is not None else ""
            counts = f"{counted(problems.errors, 'error')}, {counted(problems.warnings, 'warning')}"
            print(f"{folder}: {counts}; would be shown: {shown or 'nothing'}")
            for line in problems.lines():
                print(f"  {line}")
            errors += problems.errors
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()
