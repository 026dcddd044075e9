"""Which of the methods asked for are made: their names, and what the common flags make of them."""

from argparse import Namespace

from engine.arguments import build_parser, given_values
from engine.methods import GROUPS, METHODS
from scripts.reproduction.command_lines import make_runs
from util import InputError

NOT_RUN = "not run"
NO_WEIGHTS = "zero-shot needs towers that have a common space of their own"


def choose(args, communities, common):
    """What is made of what the command line asks for.

    args: of scripts.reproduce; common: CommonFlags. Returns ([Method] asked for, [Run] to have, {(community, method,
    seed): why a method is not run}, sentences to tell the user). InputError for what makes no sense.
    """
    methods = chosen_methods(args.methods)
    check_baseline(args.baseline, methods)
    useless = [method.name for method in without_weights(methods, common)]
    if args.baseline in useless:
        raise InputError(f"--baseline {args.baseline} is not run: {NO_WEIGHTS}")
    reasons = dict.fromkeys(useless, NOT_RUN)
    notes = [f"{name} is not run: {NO_WEIGHTS}" for name in useless]
    rest = [method for method in methods if method.name not in reasons]
    runs = make_runs(communities, rest, args.seeds, args.out, common, args.sentence_model)
    for name, other in same_settings(runs).items():
        if METHODS[name].group == "ablation":
            reasons[name] = f"same settings as {other}"
            notes.append(f"{name} is not run: {reasons[name]}")
        else:
            notes.append(f"{name} has the same settings as {other}")
    notes += notes_on([method for method in rest if method.name not in reasons], common)
    runs = [run for run in runs if run.method.name not in reasons]
    check_galleries(runs, common)
    not_made = {
        (community.name, name, seed): reason
        for community in communities
        for name, reason in reasons.items()
        for seed in args.seeds
    }
    return methods, runs, not_made, notes


def chosen_methods(names):
    """Methods by their names, by those of groups, and `all`: [Method], in the order of the tables."""
    chosen = set()
    for name in names:
        if name not in METHODS and name not in GROUPS and name != "all":
            raise InputError(
                f"--methods {name}: no such method; there are {', '.join(METHODS)}, and {', '.join((*GROUPS, 'all'))}"
            )
        chosen |= {method.name for method in METHODS.values() if name in (method.name, method.group, "all")}
    return [METHODS[name] for name in METHODS if name in chosen]


def check_baseline(name, methods):
    """InputError where the tables could not compare with this method; None is their default."""
    from scripts import make_tables

    make_tables.check_baseline(name)
    if name is not None and name not in [method.name for method in methods]:
        raise InputError(f"--baseline {name} is none of the methods: {', '.join(method.name for method in methods)}")


def without_weights(methods, common):
    """Those that score towers as they are, where these have no common space: [Method]. InputError where that is all."""
    from engine.build_model import has_common_space

    name = "pretrained_clip_name"
    clip = getattr(common.values, name, build_parser().get_default(name))
    if has_common_space(Namespace(pretrained_clip_name=clip)):
        return []
    found = [method for method in methods if method.group != "reference" and not method.trained]
    if found and found == methods:
        names = ", ".join(method.name for method in found)
        raise InputError(f"{names}: {NO_WEIGHTS} (--{name} {clip})")
    return found


def same_settings(runs):
    """{name of a method: name of the one with whose settings it would run}; the other of the two is none of the keys.

    Where one of them is an ablation, that is the key; of two, the one whose own flags are overridden by others.
    """
    groups = {}
    for run in runs:
        settings = {name: value for name, value in run.settings.items() if name not in ("method", "output_dir")}
        key = (run.community, run.seed, repr(sorted(settings.items())))
        groups.setdefault(key, {})[run.method.name] = run
    result = {}
    for group in groups.values():
        first, *others = sorted(group, key=lambda name: _rank(group[name]))
        result |= dict.fromkeys(others, first)
    return result


def _rank(run):
    """Which of several equal runs stands for all: IEF, else a method of the main table, else what its name says."""
    own = given_values(run.method.flags)
    changed = any(run.settings.get(name) != value for name, value in own.items())
    return run.method.name != "ief", run.method.group == "ablation", changed, list(METHODS).index(run.method.name)


def notes_on(methods, common):
    """Yields a sentence per method that the common flags make another one, or no longer another one than the rest."""
    for method in methods:
        own, new = given_values(method.flags), vars(common.values)
        both = [name for name in new if name in own]
        changed = [f"--{name} {new[name]} instead of {own[name]}" for name in both if own[name] != new[name]]
        if changed:
            yield f"{method.name} runs with {', '.join(changed)}"
        shared = [f"--{name} {new[name]}" for name in both if own[name] == new[name]]
        if shared and method.group == "ablation":
            yield f"{', '.join(shared)}, which {method.name} is about, is a flag of every run"


def check_galleries(runs, common):
    """InputError where --skip_bad_images would leave out memes for some of the methods only."""
    without = dict.fromkeys(run.method.name for run in runs if not run.reads_images)
    readers = dict.fromkeys(run.method.name for run in runs if run.reads_images)
    if getattr(common.values, "skip_bad_images", False) and without and readers:
        raise InputError(
            f"--skip_bad_images: {', '.join(without)} open no images and would keep the memes that "
            f"{', '.join(readers)} leave out, so no table could compare them. Take the rows of the bad images out of "
            "the CSVs (a run without this flag names them), or give the methods that open no images a call and an "
            "--out of their own"
        )
