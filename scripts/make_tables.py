"""Tables of results from the records of runs alone: Markdown, LaTeX (booktabs) and CSV.

python -m scripts.make_tables RUNS --out DIR

RUNS/<community>/<method>/seed_<n>/ are runs, as scripts.reproduce lays them out. The folder --out gets tables.md, and
of each of the tables main, ablation, weights and cost a .tex file, its notes as .txt, and a .csv file; significance.csv
has every comparison. Numbers are of the test split, mean and standard deviation over seeds; nothing is chosen on it.
What was not run is a row that says so.

Exit code: 0; 1 for runs that cannot be used or compared, 2 for wrong flags, 130 after Ctrl-C.
"""

import argparse
from pathlib import Path

from dataloaders.communities import BENCHMARK
from engine.methods import METHODS
from util import InputError, Parser, ending_clearly, program, write_text

BASELINE = "clip4clip_meanp"
TESTED = ("mAP", "R@1")
SHOWN = {  # of a table, where it is printed
    "main": ("method", "R@1", "R@5", "R@10", "MdR", "mAP"),
    "ablation": ("part", "setting", "R@1", "R@10", "mAP", "Δ mAP"),
}


def to_arguments(argv):
    parser = Parser(
        prog="python -m scripts.make_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", type=Path, metavar="RUNS", help="folder with <community>/<method>/seed_<n>/")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the tables; made if it is not there")
    add("--communities", nargs="+", metavar="NAME",
        help="default: all that have runs, and the benchmark's six")  # fmt: skip
    add("--methods", nargs="+", metavar="NAME", help="of engine/methods.py; default: all that have runs")
    add("--seeds", nargs="+", type=int, metavar="N", help="default: all that there are")
    add("--baseline", metavar="NAME",
        help=f"the method that the others are tested against (default: {BASELINE})")  # fmt: skip
    add("--tested", nargs="+", default=list(TESTED), metavar="METRIC",
        help=f"in which of the main table's metrics (default: {' '.join(TESTED)}); ablations: mAP")  # fmt: skip
    return parser.parse_args(argv)


def make_tables(
    runs, out, communities=None, methods=None, seeds=None, baseline=None, tested=TESTED, absent=None, left_out=None
):
    """Write all tables of the runs below the folder `runs` into the folder `out`.

    communities, methods, seeds: names and numbers; None: all that have runs. Of a method without a seed the run of
    the first of `seeds` that has one is taken. baseline: a method of the main table, by default `clip4clip_meanp`.
    absent: {community: why it has no runs}, a row each. left_out: {(community, method, seed): why}, runs whose folders
    are not read, as "failed". Prints the main table and the ablations. InputError: a record is damaged, runs of a
    community have different test splits, or there are no runs.
    """
    from scripts.tables import csv_files, latex, markdown, results, weights_and_costs
    from scripts.tables.run_tree import read_communities

    tested = list(dict.fromkeys(tested))
    check_tested(tested)
    check_baseline(baseline)
    found, unknown = read_communities(runs, communities, methods, seeds, absent, left_out)
    if unknown:
        print(f"left out, as engine/methods.py has no such method: {', '.join(unknown)}")
    baseline = baseline or BASELINE
    main_tests = results.main_comparisons(found, baseline, tested)
    ablation_tests = results.ablation_comparisons(found)
    present = [community for community in found if not community.absent]  # the main table alone names the others
    tables = [
        results.main_table(found, baseline, tested, main_tests),
        results.ablation_table(present, ablation_tests),
        weights_and_costs.weights_table(present),
        weights_and_costs.cost_table(present),
    ]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "tables.md", markdown.page(tables))
    for table in tables:
        write_text(out / f"{table.name}.tex", latex.document(table))
        write_text(out / f"{table.name}.txt", latex.notes_file(table))
    main_rows = csv_files.result_rows(found, results.main_names, main_tests, with_random=True)
    ablation_rows = csv_files.result_rows(found, results.ablation_names, ablation_tests)
    files = {
        "main.csv": (csv_files.RESULT_COLUMNS, main_rows),
        "ablation.csv": (csv_files.RESULT_COLUMNS, ablation_rows),
        "weights.csv": (csv_files.WEIGHT_COLUMNS, csv_files.weight_rows(found)),
        "cost.csv": (csv_files.COST_COLUMNS, csv_files.cost_rows(found)),
        "significance.csv": (
            csv_files.SIGNIFICANCE_COLUMNS,
            csv_files.significance_rows(main_tests, ablation_tests),
        ),
    }
    for name, (columns, rows) in files.items():
        csv_files.write(out / name, columns, rows)
    for table in tables:
        if table.name in SHOWN and (table.sections or table is tables[0]):
            for line in markdown.terminal(table, SHOWN[table.name]):
                print(line)
    written = [f"{table.name}.{ending}" for table in tables for ending in ("tex", "txt")]
    print(f"\nwritten to {out}: tables.md, {', '.join([*written, *files])}")


def check_tested(tested):
    """InputError for what is no mean, or has no column in the main table, where its marks stand."""
    from metrics import METRICS, shown_metrics

    possible = [name for name in shown_metrics() if not METRICS[name].is_median]
    for name in tested:
        if name not in possible:
            why = ", a median: the tests are of means" if name in METRICS and METRICS[name].is_median else ""
            raise InputError(f"--tested: found {name}{why}, expected some of {', '.join(possible)}")


def check_baseline(name):
    """InputError where it is no method of the main table."""
    possible = [method.name for method in METHODS.values() if method.group != "ablation"]
    if name is not None and name not in possible:
        raise InputError(f"--baseline: found {name}, expected a method of the main table: {', '.join(possible)}")


@program
def main(argv=None):
    args = to_arguments(argv)
    with ending_clearly("stopped"):
        from scripts.tables.run_tree import NO_RUNS

        absent = dict.fromkeys(BENCHMARK, NO_RUNS) if args.communities is None else None
        make_tables(**vars(args), absent=absent)


if __name__ == "__main__":
    main()
