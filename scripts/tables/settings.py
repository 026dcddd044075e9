"""In which settings runs differ: within a method, between methods, and from what a method is."""

from argparse import Namespace
from functools import cache

from engine.arguments import default_values, given_values, without_effect
from engine.methods import METHODS
from scripts.reporting.shown_runs import NEVER_DIFFERENT
from scripts.tables.run_tree import full_title

NOT_COMPARED = NEVER_DIFFERENT - {"init_model"}  # paths, the seed, and what no result depends on


def mixed(entries):
    """Yields (title, flag, {value: the first Run that has it}) where the runs of a method do not have the same."""
    for entry in entries:
        for flag in flags(entry.runs):
            values = first_runs(entry.runs, flag)
            if len(values) > 1:
                yield full_title(entry.method), flag, values


def differing(entries):
    """Yields (flag, {value: the first Run that has it}) where methods differ that do not set the flag themselves.

    A run on which the flag has no effect does not count, nor does one that has not got it, as a reference.
    """
    for flag in flags([run for entry in entries for run in entry.runs]):
        comparable = [entry.runs for entry in entries if flag not in own_flags(entry.method)]
        if len(first_runs(sum(comparable, []), flag)) == 1:
            continue
        with_effect = [[run for run in runs if has_effect(run, flag)] for runs in comparable]
        values = first_runs(sum(with_effect, []), flag)
        if len({frozenset(first_runs(runs, flag)) for runs in with_effect if first_runs(runs, flag)}) > 1:
            yield flag, values


def overridden(entries):
    """Yields (flag, value, the method's own value, [titles]): methods whose own flags their runs do not have."""
    found = {}
    for entry in entries:
        for flag, own in definition(entry.method).items():
            for value in first_runs(entry.runs, flag):
                if value != shown(own):
                    found.setdefault((flag, value, shown(own)), []).append(full_title(entry.method))
    for (flag, value, own), titles in found.items():
        yield flag, value, own, titles


def flags(runs):
    """The names of the settings that count, in the order of args.json."""
    return [name for name in dict.fromkeys(name for run in runs for name in run.settings) if name not in NOT_COMPARED]


def first_runs(runs, flag):
    """{value as text: the first Run that has it}, of the runs that have the flag."""
    found = {}
    for run in runs:
        if flag in run.settings:
            found.setdefault(shown(run.settings[flag]), run)
    return found


@cache
def own_flags(method):
    """{flag: value} that a method sets itself."""
    return given_values(method.flags)


@cache
def definition(method):
    """{flag: value} that make a method what it is; without flags of its own, the defaults that ablations change."""
    if method.flags or method.group == "reference":
        return own_flags(method)
    changed = {flag for other in METHODS.values() if other.group == "ablation" for flag in own_flags(other)}
    return {flag: value for flag, value in defaults().items() if flag in changed and value is not None}


@cache
def defaults():
    return default_values()


def has_effect(run, flag):
    """Whether a flag of a run's settings changes its result. A reference has none without effect."""
    complete = defaults() | run.settings
    return "branches" not in run.settings or not any(without_effect(Namespace(**complete), {flag}))


def shown(value):
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
