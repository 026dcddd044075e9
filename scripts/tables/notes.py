"""The sentences under a table: what the runs have in common, and what not."""

from scripts.tables import settings
from scripts.tables.table import listed


def selection(communities):
    """One sentence: which split and which epoch the numbers are of."""
    trained = [run for community in communities for run in community.runs if run.best is not None]
    chosen = sorted({run.settings.get("select_metric") for run in trained} - {None})
    by = f" by {' or '.join(chosen)}" if chosen else ""
    return (
        "Test split, query to meme, scored once per run, after all choices: the epoch is the one that was best on val"
        f"{by} (of the last stage, where training is staged), and α is fitted on val, trained, or fixed. Nothing is "
        "chosen on the test split."
    )


def of_community(community, methods=None):
    """Sentences about a community's runs, of these methods (names) only."""
    entries = entries_of(community, methods)
    runs = [run for entry in entries for run in entry.runs]
    if not runs:
        return []
    yield test_split(runs[0])
    seeds = next((entry.expected for entry in entries if entry.method.seeded), ())
    if seeds:
        yield f"Seed{'s' * (len(seeds) > 1)} {listed(seeds)}."
    yield from left_out(entries)
    yield from code(entries, several=False)
    for split in ("train", "val"):
        yield from differing(f"The {split} split", runs, lambda run, split=split: run.data.get(split, {}).get("csv"))
    for split in ("train", "val", "test"):
        yield from differing(
            f"The images of the {split} split", runs, lambda run, split=split: run.data.get(split, {}).get("images")
        )
    for title, flag, values in settings.mixed(entries):
        yield f"The row {title} mixes runs of different settings: --{flag} is {located(values, ' in {}')}."
    for flag, values in settings.differing(entries):
        yield f"--{flag} is not the same in all runs: {located(values, ' ({})')}."
    for flag, value, own, titles in settings.overridden(entries):
        yield f"Run with --{flag} {value}, where the method defines {own}: {'; '.join(titles)}."


def entries_of(community, methods):
    return [entry for name, entry in community.methods.items() if methods is None or name in methods]


def test_split(run):
    counts = run.counts
    without = counts["queries"] - len(run.values)
    left_out = f" ({without:,} more have nothing relevant and are left out)" if without else ""
    pairs = counts["relevant_pairs"]
    return f"{len(run.values):,} queries{left_out}, {counts['memes']:,} memes, {pairs:,} relevant pairs."


def left_out(entries):
    """A sentence where a row lacks runs that are left out; one that has no run at all says so itself."""
    runs = [
        f"{entry.method.name}/seed_{seed} ({reason})"
        for entry in entries
        if entry.runs
        for seed, reason in entry.left_out.items()
    ]
    if runs:
        yield f"Left out: {listed(runs)}."


def code(entries, several):
    """The version of the code, where there is one; with `several`: that there are several, where there are.

    A reference's covers more files: it is another one.
    """
    for whose, who, is_reference in (("", "The runs", False), (" of the references", "The references", True)):
        runs = [run for entry in entries if (entry.method.group == "reference") == is_reference for run in entry.runs]
        of_version = {}
        for run in runs:
            of_version.setdefault(run.code["version"], []).append(run)
        texts = {version: f"{str(version)[:12]}{commits(of)}" for version, of in of_version.items()}
        if len(texts) == 1 and not several:
            yield f"Code version{whose} {listed(texts.values())}."
        elif len(texts) > 1 and several:
            named = (f"{text} ({where(of_version[version][0])})" for version, text in texts.items())
            yield f"{who} are of {len(texts)} versions of the code: {listed(named)}."


def code_versions(community, methods=None):
    """For a legend, {sentence: sentence}: that a community's runs, of these methods (names), are of several."""
    return {sentence: sentence for sentence in code(entries_of(community, methods), several=True)}


def commits(runs):
    """The commits of runs of one version, in brackets; empty outside a repository."""
    names = dict.fromkeys(run.code["commit"][:12] for run in runs if run.code["commit"])
    return f" (commit{'s' * (len(names) > 1)} {listed(names)})" if names else ""


def differing(what, runs, get):
    """A sentence where the runs that know a checksum do not all have the same."""
    first = {}
    for run in runs:
        if get(run) is not None:
            first.setdefault(get(run), run)
    if len(first) > 1:
        yield f"{what} is not the same in all runs: compare {listed(where(run) for run in first.values())}."


def located(values, form):
    """{value: Run} as values with a folder each."""
    return listed(value + form.format(where(run)) for value, run in values.items())


def where(run):
    return f"{run.folder.parent.name}/{run.folder.name}"
