"""Make all runs of a benchmark, then its tables.

python -m scripts.reproduce --communities NAME [NAME ...] --data_root DIR --out DIR [-- flags for every run]

A run is one seed of a method on a community, in OUT/<community>/<method>/seed_<n>/. Runs that are finished are left
alone, interrupted ones go on; one whose flags or data have changed since is made again, and why is said. Finished runs
of other code stay, which is said too, unless --remake changed is given. So the same command goes on after Ctrl-C, a
failure or a crash, and two calls may share one --out: a run that another process is making is left to it. A run that
fails does not stop the others.

Flags after `--` go to every run on which they have an effect (python main_task_retrieval.py --help):

    python -m scripts.reproduce --communities demo --methods drl_wti ief --seeds 0 1 2 --data_root data --out results \\
      -- --pretrained_clip_name ViT-tiny/8 --epochs 12 --batch_size 64 --lr 1e-3

On a cluster, --launcher slurm --slurm_time MINUTES makes a job of each run, which is queued again when the cluster
takes its machine back or its time is over, waits for all, and makes the tables. After Ctrl-C the jobs go on; the same
command waits for them again.

The tables are in OUT/tables; python -m scripts.make_tables makes them anew. Each run's output is in its console.txt.

Exit code: 0 if all runs are made; 1 if one failed, or for input that cannot be used; 2 for wrong flags; 130 after
Ctrl-C.
"""

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

from engine.arguments import positive_int
from util import InputError, Parser, ending_clearly, program


def seed(text):
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be between 0 and {2**32 - 1}, not {text}")
    return value


def parameter(text):
    """NAME=VALUE of sbatch -> (NAME, VALUE)."""
    name, sign, value = text.partition("=")
    if not re.fullmatch(r"[a-z][a-z-]*", name) or not sign or not value:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE as in `sbatch --NAME=VALUE`, not {text!r}")
    if name in ("partition", "time"):
        raise argparse.ArgumentTypeError(f"{name} has a flag of its own, --slurm_{name}")
    return name, value


def to_arguments(argv):
    """(namespace, tokens after `--`)."""
    parser = Parser(
        prog="python -m scripts.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--communities", nargs="+", required=True, metavar="NAME", help="folders in --data_root (docs/DATA.md)")
    add("--methods", nargs="+", default=["reference", "main"], metavar="NAME",
        help="of engine/methods.py, or reference, main, ablation, all (default: reference main)")  # fmt: skip
    add("--seeds", nargs="+", type=seed, default=[0], metavar="N", help="(default: 0)")
    add("--data_root", type=Path, required=True, metavar="DIR", help="holds a folder per community")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the runs and tables; made if it is not there")
    add("--gpus", nargs="+", type=int, metavar="N",
        help="one run at a time on each of these GPUs (default: one after the other, on the first)")  # fmt: skip
    add("--launcher", choices=("here", "slurm"), default="here",
        help="here: processes of this machine; slurm: a job for each run (default: %(default)s)")  # fmt: skip
    add("--slurm_time", type=positive_int, metavar="MINUTES", help="of a job; when it is over the job is queued again")
    add("--slurm_partition", metavar="NAME", help="(default: the cluster's)")
    add("--slurm", nargs="+", type=parameter, default=[], metavar="NAME=VALUE",
        help="what else sbatch is to be told, such as gres=gpu:1 cpus-per-task=8 mem=32G")  # fmt: skip
    add("--baseline", metavar="NAME", help="method with which the tables compare the others (default: clip4clip_meanp)")
    add("--sentence_model", metavar="NAME", help="of the methods sentence_encoder and …_max")
    add("--remake", choices=("changed",), help="changed: make finished runs again that other code has made")
    add("--dry_run", action="store_true", help="print the commands of the runs to be made, and make nothing")
    argv = sys.argv[1:] if argv is None else list(argv)
    end = argv.index("--") if "--" in argv else len(argv)
    if "--any_code" in argv[:end]:
        parser.error("--any_code is gone: finished runs of other code stay, and --remake changed makes them again")
    args = parser.parse_args(argv[:end])
    args.seeds = list(dict.fromkeys(args.seeds))
    if args.launcher == "slurm" and args.slurm_time is None:
        parser.error("--launcher slurm needs --slurm_time MINUTES")
    if args.launcher == "slurm" and args.gpus is not None:
        parser.error("--gpus is for this machine's; a job asks for its own: --slurm gres=gpu:1")
    if args.launcher != "slurm" and (args.slurm_time or args.slurm_partition or args.slurm):
        parser.error("--slurm… is for --launcher slurm")
    return args, argv[end + 1 :]


@program
def main(argv=None):
    args, common_tokens = to_arguments(argv)
    with ending_clearly("stopped; the same command goes on from there"):
        return reproduce(args, common_tokens)


def reproduce(args, common_tokens):
    """Check everything, make the runs that are missing, then the tables: the exit code."""
    from scripts.reproduction import changed_code, choice, cluster, command_lines, data_folders
    from scripts.reproduction.plan import AGAIN, DONE, MISSING, Plan
    from scripts.reproduction.runner import ROOT, Runner, remove_leftover, seconds_of

    if Path.cwd() != ROOT:
        raise InputError(f"start this in the repository's folder: cd {shlex.quote(str(ROOT))}")
    if args.out.resolve() == args.data_root.resolve():
        raise InputError(f"--out {args.out} is the folder of the data; choose another one for the runs")
    common = command_lines.CommonFlags(common_tokens)
    found, absent = data_folders.find_communities(args.communities, args.data_root)
    if not found:
        raise InputError("\n".join(f"{name}: no data: {reason}" for name, reason in absent.items()))
    common.check_paths(found)
    notes = [f"{name}: no data: {reason}" for name, reason in absent.items()]
    slots = slots_of(args.gpus)
    methods, runs, not_made, remarks = choice.choose(args, found, common)
    notes += [f"note: {remark}" for remark in remarks]
    command_lines.check_requirements(runs)
    plan = Plan(data_folders.data_versions(found, runs, common.values), args.remake == "changed")
    states = {run.name: plan.state(run) for run in runs}
    command_lines.check_weights([run for run in runs if states[run.name].kind in (MISSING, AGAIN)])
    notes += changed_code.lines(runs, states)

    for note in notes:
        print(f"# {note}" if args.dry_run else note)
    if args.dry_run:
        if args.launcher == "slurm":
            flags = [("time", args.slurm_time), ("partition", args.slurm_partition), *args.slurm]
            print("# a job for each of these commands:", *(f"--{name}={value}" for name, value in flags if value))
        print_commands(runs, states, slots)
        return 0
    if args.launcher == "slurm":
        executor = cluster.executor_of(args.out, args.slurm_time, args.slurm_partition, args.slurm)
        outcome = cluster.make_by_jobs(print_plan(runs, states), plan, executor)
    else:
        to_make = print_plan(runs, states)
        known = [(run, seconds) for run in runs if run not in to_make and (seconds := seconds_of(run)) is not None]
        outcome = Runner(to_make, plan, slots, known).make_all()
    states = {run.name: plan.state(run) for run in runs}
    for run in runs:
        remove_leftover(run, plan)
    print_outcome(outcome, states)
    if outcome.stopped:
        return 130
    left_out = not_made | {
        (run.community, run.method.name, run.seed): why_not_made(run, states[run.name], outcome)
        for run in runs
        if states[run.name].kind != DONE
    }
    make_tables(args, runs, methods, absent, left_out)
    return 0 if all(state.kind == DONE for state in states.values()) else 1


def slots_of(gpus):
    """What runs that go on at the same time have in their environment: one dict for each."""
    if gpus is None:
        return [{}]
    import torch

    number = torch.cuda.device_count()
    if bad := [gpu for gpu in gpus if not 0 <= gpu < number]:
        there = f"torch sees {number}, numbered from 0" if number else "torch sees no GPU here"
        raise InputError(f"--gpus {bad[0]}: {there}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(gpu) for gpu in range(number)]
    return [{"CUDA_VISIBLE_DEVICES": names[gpu]} for gpu in gpus]


def print_commands(runs, states, slots):
    """A shell script of the runs to be made; what else there is to say in its comments."""
    from scripts.reproduction.plan import DONE, full_command

    made = 0
    for run in runs:
        state = states[run.name]
        print(f"# {run.name}: {state}" + dropped_note(run))
        if state.kind != DONE:
            slot = slots[made % len(slots)]
            made += 1
            print(" ".join([*(f"{k}={v}" for k, v in slot.items()), shlex.join(full_command(run, state))]))


def dropped_note(run):
    flags = ", ".join(f"--{name}" for name in sorted(run.dropped))
    return f" (without {flags}: no effect)" if flags else ""


def print_plan(runs, states):
    """Say how many runs are in which state, and why some are made again: the runs to be made."""
    from scripts.reproduction.plan import AGAIN, DONE

    to_make = [run for run in runs if states[run.name].kind != DONE]
    kinds = [states[run.name].kind for run in runs]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    print(f"{len(runs)} run{'s' * (len(runs) > 1)}: {counts}")
    for run in runs:
        if states[run.name].kind == AGAIN:
            print(f"  {run.name}: {states[run.name]}")
    return to_make


def print_outcome(outcome, states):
    """Say which runs failed or were not made, and how many are; states: {run's name: State after all}."""
    from scripts.reproduction.plan import DONE
    from scripts.reproduction.runner import indented

    for name, (console, lines) in outcome.failed.items():
        print(f"\n{name} failed; its output is in {console}:\n{indented(lines)}")
    made = sum(state.kind == DONE for state in states.values())
    if outcome.stopped:
        print(f"stopped: {made} of {len(states)} runs are made; the same command goes on from there", file=sys.stderr)
        return
    for name, state in states.items():
        if name in outcome.busy and state.kind != DONE:
            print(f"{name}: another process is making it")
        elif name not in outcome.failed and state.kind != DONE:
            print(f"{name} is not in the tables: {state.why or state.kind}")
    other_code = sum(state.other_code is not None for state in states.values())
    kept = f", {other_code} of them by other code" if other_code else ""
    failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
    print(f"{made} of {len(states)} runs are made{kept}{failed}")


def why_not_made(run, state, outcome):
    """What the tables say in place of a run's numbers."""
    if run.name in outcome.failed:
        return "failed"
    return "another process is making it" if run.name in outcome.busy else state.why or state.kind


def make_tables(args, runs, methods, absent, left_out):
    """The tables of all that is made in --out, by earlier calls too. left_out: {(community, method, seed): why it is
    not in them}.
    """
    from engine.methods import METHODS
    from scripts import make_tables as tables
    from scripts.tables.run_tree import find_folders, unusable

    if all((run.community, run.method.name, run.seed) in left_out for run in runs):
        print("no tables: no run is made")
        return
    there, _ = find_folders(args.out)
    for (community, method, seed), reason in unusable(runs, there, left_out).items():
        print(f"{community} {method} seed {seed} is not in the tables: {reason}")
        left_out[community, method, seed] = reason
    chosen = {method.name for method in methods}.union(*there.values())
    seeds = sorted({seed for of_community in there.values() for seeds in of_community.values() for seed in seeds})
    tables.make_tables(
        args.out,
        args.out / "tables",
        communities=list(dict.fromkeys([*args.communities, *there])),
        methods=[name for name in METHODS if name in chosen],
        seeds=list(dict.fromkeys([*args.seeds, *seeds])),
        baseline=args.baseline,
        absent=dict.fromkeys(absent, "no data"),
        left_out=left_out,
    )


if __name__ == "__main__":
    sys.exit(main())
