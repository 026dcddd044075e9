"""Make a leaderboard from submissions: one static page for each community, and one that lists them.

python -m scripts.leaderboard [--submissions DIR] [--communities DIR] [--out DIR]

Each row has the metrics with bootstrap intervals, the difference to the row above with its corrected p-value, and
whether the method was trained on this data. A run in which scripts.check_submission finds an error is left out, and
named. The pages need no network and no script.
"""

import argparse
from pathlib import Path

from scripts.check_submission import add_communities
from scripts.submissions.problems import counted
from util import InputError, Parser, ending_clearly, program, write_text


def to_arguments(argv):
    parser = Parser(
        prog="python -m scripts.leaderboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--submissions", type=Path, default=Path("submissions"), metavar="DIR",
        help="folder with a folder for each submission (default: %(default)s)")  # fmt: skip
    add_communities(parser)
    add("--out", type=Path, default=Path("results/leaderboard"), metavar="DIR",
        help="folder for the pages; made if it is not there (default: %(default)s)")  # fmt: skip
    add("--sort", default="mAP", metavar="METRIC", help="the metric that ranks and tests (default: %(default)s)")
    return parser.parse_args(argv)


def leaderboard(folder, communities, split, out, metric):
    """Write the pages of the submissions in `folder` into `out`, and print the rankings."""
    from scripts.submissions.communities import INDEX, read_communities
    from scripts.submissions.page import community_page, index_page
    from scripts.submissions.problems import Problems
    from scripts.submissions.ranking import SORTABLE, ranking
    from scripts.submissions.submission import read_submission

    if metric not in SORTABLE:
        raise InputError(f"--sort: found {metric}, expected one of {', '.join(SORTABLE)}")
    if not folder.is_dir():
        raise InputError(f"--submissions {folder}: found no such folder, expected one of submissions")
    communities = read_communities(communities, split)
    submissions, bad = [], []
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        problems = Problems()
        submission = read_submission(path, communities, problems)
        if submission is not None:
            submissions.append(submission)
        if problems.errors:
            bad.append(path)
            print(f"{path}: {counted(problems.errors, 'error')}, by check_submission")
    rankings = [(community, ranking(submissions, name, metric)) for name, community in communities.items()]
    out.mkdir(parents=True, exist_ok=True)
    for community, rows in rankings:
        shown = {row.submission.folder for row in rows}
        left_out = [path.name for path in bad if path not in shown and (path / f"{community.name}.trec").is_file()]
        write_text(out / f"{community.name}.html", community_page(community, rows, metric, left_out, list(communities)))
        for line in told(community.name, rows, metric, left_out):
            print(line)
    write_text(out / f"{INDEX}.html", index_page(rankings, metric))
    print(f"written to {out}: {INDEX}.html, {', '.join(f'{name}.html' for name in communities)}")


def told(name, rows, metric, left_out):
    """A community's ranking for the terminal."""
    without = f", without {', '.join(left_out)}" if left_out else ""
    yield f"{name}: {counted(len(rows), 'submission')}{without}"
    for row in rows:
        mean, (low, high), step = row.scored.printed[metric], row.scored.intervals[metric], row.step
        text = f"  {row.rank}. {row.submission.method}: {metric} {mean:.2f} [{low:.2f},{high:.2f}]"
        if step is not None:
            text += f", {step.gain:+.2f} [{step.low:+.2f},{step.high:+.2f}] to the row above, p = {step.p:.4f}"
        yield text


@program
def main(argv=None):
    args = to_arguments(argv)
    with ending_clearly("stopped"):
        leaderboard(args.submissions, args.communities, args.split, args.out, args.sort)


if __name__ == "__main__":
    main()
