"""The sentences under a table: what the runs have in common, and what not."""

from scripts.tables.table import listed

SHARED_SETTINGS = (  # of training; a method that sets one of them itself is left out
    *("pretrained_clip_name", "init_model", "epochs", "batch_size", "lr", "weight_decay", "warmup_proportion"),
    *("precision", "select_metric", "max_words", "max_captions"),
)


def selection(communities):
    """One sentence: which split and which epoch the numbers are of."""
    trained = [run for community in communities for run in community.runs if run.best is not None]
    chosen = sorted({run.settings["select_metric"] for run in trained if "select_metric" in run.settings})
    by = f" by {' or '.join(chosen)}" if chosen else ""
    return (
        "Test split, query to meme, scored once per run, after all choices: the epoch is the one that was best on val"
        f"{by} (of the last stage, where training is staged), and α is learned, fixed, or chosen on val. Nothing is "
        "chosen on the test split."
    )


def of_community(community, methods=None):
    """Sentences about a community's runs, of these methods (names) only."""
    entries = [entry for name, entry in community.methods.items() if methods is None or name in methods]
    runs = [run for entry in entries for run in entry.runs]
    if not runs:
        return []
    yield test_split(runs[0])
    seeds = next((entry.expected for entry in entries if entry.method.seeded), ())
    if seeds:
        yield f"Seed{'s' * (len(seeds) > 1)} {listed(seeds)}."
    yield code(runs)
    for split in ("train", "val"):
        yield from differing(f"The {split} split", runs, lambda run, split=split: run.data.get(split, {}).get("csv"))
    for split in ("train", "val", "test"):
        yield from differing(
            f"The images of the {split} split", runs, lambda run, split=split: run.data.get(split, {}).get("images")
        )
    for key in SHARED_SETTINGS:
        flag = f"--{key}"
        comparable = [
            run
            for entry in entries
            if entry.method.trained and flag not in entry.method.flags
            for run in entry.runs
            if key in run.settings
        ]
        values = sorted({str(run.settings[key]) for run in comparable})
        if len(values) > 1:
            yield f"Not all runs have the same {flag}: found {listed(values)}."


def test_split(run):
    counts = run.counts
    without = counts["queries"] - len(run.values)
    left_out = f" ({without:,} more have nothing relevant and are left out)" if without else ""
    pairs = counts["relevant pairs"]
    return f"{len(run.values):,} queries{left_out}, {counts['memes']:,} memes, {pairs:,} relevant pairs."


def code(runs):
    """The version of the code, or that there are several, with a run of each."""
    of_version = {}
    for run in runs:
        of_version.setdefault((run.code["version"], run.code["commit"]), run)
    texts = {}
    for (version, commit), run in of_version.items():
        text = f"{str(version)[:12]}{f' (commit {commit[:12]})' if commit else ''}"
        texts[f"{text} ({where(run)})" if len(of_version) > 1 else text] = None
    if len(of_version) == 1:
        return f"Code version {listed(texts)}."
    return f"The runs are of {len(of_version)} versions of the code: {listed(texts)}."


def differing(what, runs, get):
    """A sentence where the runs that know a checksum do not all have the same."""
    first = {}
    for run in runs:
        if get(run) is not None:
            first.setdefault(get(run), run)
    if len(first) > 1:
        yield f"{what} is not the same in all runs: compare {listed(where(run) for run in first.values())}."


def where(run):
    return f"{run.folder.parent.name}/{run.folder.name}"
