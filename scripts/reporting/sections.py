"""The parts of the page that need no script: results, facts, gains and losses, worst queries, breakdown."""

import numpy as np

from metrics import METRICS, UNITS, shown_metrics
from pages.markup import joined, scrolling, tag
from scripts.reporting.shown_runs import title, unusual_flags
from scripts.reporting.weights import PARTS, gain_of_fusing, how_set

SCORES = {**PARTS, "fused": "fused"}
DIRECTIONS = {"query_to_meme": "query to meme", "meme_to_query": "meme to query"}
IN_BREAKDOWN = ("mAP", "R@1", "R@5")
LISTED = 6  # queries that gained most, that lost most; the worst ones
FEW = 10  # a group of fewer queries says little


def results(runs):
    """A table for each direction; page.js shows one of them at a time."""
    tables = [
        tag(
            "div",
            tag("h3", name.capitalize()),
            scrolling(results_table(runs, direction), f"results, {name}"),
            class_="panel",
        )
        for direction, name in DIRECTIONS.items()
    ]
    test = runs[0].metrics["test"]
    text = (
        f"Test split: {test['queries']:,} queries, {test['memes']:,} memes, {test['relevant_pairs']:,} relevant pairs. "
        f"{UNITS[0].upper()}{UNITS[1:]}. Small: 95 % bootstrap intervals over the queries (not over seeds); "
        "intervals that overlap do not mean that two runs do not differ. docs/METRICS.md defines the metrics."
    )
    return joined([tag("p", text), tag("div", *tables, class_="panels")])


def results_table(runs, direction):
    head = tag("thead", tag("tr", tag("td"), *(tag("th", column, scope="col") for column in shown_metrics())))
    bodies = [tag("tbody", *run_rows(run, direction, len(runs) > 1)) for run in runs]
    chance = runs[0].metrics["test"]["random"][direction]["metrics"]
    bodies.append(tag("tbody", results_row("random ranking", chance, None)))
    return tag("table", head, *bodies, class_="numbers results")


def run_rows(run, direction, named):
    if named:
        columns = len(shown_metrics()) + 1
        yield tag("tr", tag("th", tag("span", run.name), scope="rowgroup", colspan=columns), class_="group")
    for score, label in SCORES.items():
        if score in run.scores and not (score == "fused" and len(run.scores) == 2):
            entry = run.scores[score][direction]
            only = score == "fused" and len(run.scores) == 1
            yield results_row(title(run) or "score" if only else label, entry["metrics"], entry["intervals"])


def results_row(label, metrics, intervals):
    cells = []
    for column in shown_metrics():
        digits, interval = METRICS[column].digits, None
        if intervals is not None and column in intervals:
            low, high = intervals[column]
            interval = tag("small", f"{low:.{digits}f}–{high:.{digits}f}")
        cells.append(tag("td", f"{metrics[column]:.{digits}f}" if column in metrics else "–", interval))
    return tag("tr", tag("th", label, scope="row"), *cells)


def facts(runs, community):
    """A table with a column for each run."""
    rows = [(name, [fact(run) for run in runs]) for name, fact in FACTS.items()]
    head = tag("thead", tag("tr", tag("td"), *(tag("th", run.name, scope="col") for run in runs)))
    body = tag(
        "tbody",
        *(
            tag("tr", tag("th", name, scope="row"), *(tag("td", c) for c in cells))
            for name, cells in rows
            if any(cells)
        ),
    )
    text = f"Community {community.name}: {community.csv}, images in {community.features}."
    table = tag("table", head, body, class_="facts" if len(runs) > 1 else "facts single")
    return joined([tag("p", text), scrolling(table, "run facts")])


def method(run):
    return joined([run.args.get("method") or "none named", tag("small", title(run)) if title(run) else None])


def flags(run):
    """What differs from the defaults, or a reference's settings."""
    return joined(tag("code", f"{flag} {value}", class_="flag") for flag, value in unusual_flags(run))


def best_epoch(run):
    best = run.metrics["best_epoch"]
    if best is None:
        return "not trained"
    stage = f" of stage {best['stage']}" if run.args.get("co_train") == "staged" else ""
    return f"{best['epoch']}{stage}; " + ", ".join(f"{name} on val {value:.2f}" for name, value in best["val"].items())


def alpha(run):
    """α of the run, and how it was set."""
    own = run.metrics["alpha"]
    if own is None:
        return ""
    varies = own["max"] - own["min"] > 1e-6
    text = f"{'mean ' if varies else ''}{own['mean']:.3f}"
    text += f" (from {own['min']:.3f} to {own['max']:.3f})" if varies else ""
    return f"{text}, {how_set(run.args, own)}"


def gain_over_part(run):
    """Fused minus the part that was better on val, with intervals."""
    found = gain_of_fusing(run.metrics)
    if found is None:
        return ""
    gains = (
        f"{name} {signed(each['gain'])} [{', '.join(map(signed, each['interval']))}]"
        for name, each in found["metrics"].items()
    )
    return f"{PARTS[found['part']]} (by {found['chosen_by']}): {', '.join(gains)}"


def duration(seconds):
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def times(run):
    shown = {name: duration(value) for name, value in (run.metrics["seconds"] or {}).items()}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items() if value is not None)


def parameters(run):
    counts = run.metrics.get("parameters")
    return f"{counts['all']:,}, of which {counts['trained'] or 0:,} trained" if counts and counts["all"] else ""


def device(run):
    processes = run.metrics.get("processes") or 1
    return f"{run.metrics['device']}{f', {processes} processes' if processes > 1 else ''}"


def named_numbers(numbers):
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in numbers.items()
    )


def code_version(run):
    code = run.start.get("code")
    if not code:
        return ""
    return code["version"][:12] + (f", commit {code['commit'][:10]}" if code["commit"] else "")


def command(run):
    """The command line, each word as a whole, so that no line ends within a flag."""
    words = (joined([tag("span", word), " "]) for word in run.metrics["command"].split(" "))
    return tag("code", *words, class_="command")


def splits(run):
    """The sizes of the splits that were read."""
    counts = (run.metrics.get("counts") or {}).items()
    return "; ".join(
        f"{name}: {c['records']:,} records, {c['topics']:,} queries, {c['memes']:,} memes" for name, c in counts
    )


FACTS = {
    "method": method,
    "settings that are not the defaults": flags,
    "seed": lambda run: str(run.args.get("seed")),
    "α, the weight of QI": alpha,
    "fused minus the better part on val": gain_over_part,
    "best epoch": best_epoch,
    "data": splits,
    "parameters": parameters,
    "device": device,
    "time": times,
    "training records per second": lambda run: (
        f"{run.metrics['records_per_second']:,.1f}" if run.metrics.get("records_per_second") else ""
    ),
    "peak memory (MiB)": lambda run: named_numbers(run.metrics.get("peak_memory_mib") or {}),
    "versions": lambda run: named_numbers(run.metrics.get("versions") or {}),
    "code version": code_version,
    "command": command,
    "folder": lambda run: str(run.folder),
}


def query_list(queries, chosen, value):
    """A list of queries, each a button that shows it in the gallery; value(query): what stands before it."""
    items = [
        tag(
            "li",
            tag("span", value(query), class_="value"),
            tag("button", queries[query], class_="link", data_query=query, dir="auto"),
        )
        for query in map(int, chosen)
    ]
    return tag("ol", *items, class_="queries") if items else tag("p", "None.", class_="quiet")


def gains(comparisons, queries):
    """For each comparison the queries that gain most and lose most; None where there is nothing to compare."""
    if not comparisons:
        return None
    text = (
        "Differences in each query's average precision (AP), in points of %. The mean is the difference in mAP, with a "
        "95 % interval from a paired bootstrap over the queries."
    )
    return joined([tag("p", text), *(gain(comparison, queries) for comparison in comparisons)])


def signed(value, decimals=2):
    return f"{value:+.{decimals}f}".replace("-", "−")


def gain(comparison, queries):
    mean, (low, high) = comparison.interval()
    gained, lost = comparison.most_gained, comparison.most_lost
    same = len(queries) - len(gained) - len(lost)

    def value(query):
        change = f"{comparison.before[query]:.1f} → {comparison.after[query]:.1f}"
        return joined([tag("b", signed(comparison.gain[query], 1)), tag("small", change)])

    lists = [
        tag("div", tag("h4", f"Gained most, of {len(gained):,}"), query_list(queries, gained[:LISTED], value)),
        tag("div", tag("h4", f"Lost most, of {len(lost):,}"), query_list(queries, lost[:LISTED], value)),
    ]
    counts = (
        f"mAP {signed(mean)} [{signed(low)}, {signed(high)}]; "
        f"{len(gained):,} queries gain, {len(lost):,} lose, {same:,} stay"
    )
    return tag(
        "div",
        tag("h3", comparison.title),
        tag("p", comparison.detail, class_="quiet"),
        tag("p", counts),
        tag("div", *lists, class_="pair") if len(gained) + len(lost) else None,
        class_="gain",
    )


def worst(runs, queries):
    """The queries with the lowest average precision of each run."""
    columns = []
    for run in runs:
        precision, rank = run.per_query("mAP"), run.per_query("MdR")
        order = np.argsort(precision, kind="stable")[:LISTED]

        def value(query, precision=precision, rank=rank):
            return joined([tag("b", f"{precision[query]:.1f}"), tag("small", f"first at {rank[query]:.0f}")])

        columns.append(tag("div", tag("h3", run.name) if len(runs) > 1 else None, query_list(queries, order, value)))
    text = "The queries with the lowest average precision, in %, and the rank of the first relevant meme."
    return joined([tag("p", text), tag("div", *columns, class_="columns" if len(runs) > 1 else None)])


def breakdown(runs, groupings):
    """A table for each grouping; a group is a button that filters the gallery."""
    values = [{metric: run.per_query(metric) for metric in IN_BREAKDOWN} for run in runs]
    tables = [
        tag(
            "div",
            tag("h3", grouping.title),
            tag("p", grouping.definition, class_="quiet"),
            scrolling(breakdown_table(runs, values, grouping), f"breakdown, {grouping.title.lower()}"),
            class_="breakdown",
        )
        for grouping in groupings
    ]
    text = (
        "Means over the queries of a group, query to meme, in %. A group is shown in the gallery at a click. Groups of "
        f"fewer than {FEW} queries are grey: their means say little."
    )
    wide = "breakdowns" if len(runs) == 1 else None
    return joined([tag("p", text), tag("div", *tables, class_=wide)])


def breakdown_table(runs, values, grouping):
    names = [tag("th", run.name, scope="colgroup", colspan=len(IN_BREAKDOWN)) for run in runs]
    columns = [tag("th", metric, scope="col") for _ in runs for metric in IN_BREAKDOWN]
    rows = [tag("tr", tag("td"), tag("td"), *names)] if len(runs) > 1 else []
    rows.append(tag("tr", tag("td"), tag("th", "queries", scope="col"), *columns))
    body = []
    for index, label in enumerate(grouping.labels):
        inside = grouping.group == index
        button = tag("button", label, class_="link", data_grouping=grouping.key, data_group=index, dir="auto")
        means = [tag("td", f"{of_run[metric][inside].mean():.2f}") for of_run in values for metric in IN_BREAKDOWN]
        count = tag("td", f"{inside.sum():,}")
        body.append(
            tag("tr", tag("th", button, scope="row"), count, *means, class_="few" if inside.sum() < FEW else None)
        )
    return tag("table", tag("thead", *rows), tag("tbody", *body), class_="numbers")
