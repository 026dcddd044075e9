"""The main table and the ablation table: metrics of the test split, and what differs significantly."""

from engine.methods import METHODS
from metrics import METRICS, UNITS, shown_metrics
from scripts.tables import notes
from scripts.tables.spreads import LEVEL, Spread, compare, metric_spread
from scripts.tables.table import MARKS, SPREAD_LEGEND, Cell, Row, Section, Table, legend, number_cell, places

MAIN_GROUPS = ("reference", "main")
ABLATION_COLUMNS = ("R@1", "R@5", "R@10", "mAP")
FULL, GAIN_METRIC = "ief", "mAP"
IN_PERCENT = f"{UNITS[0].upper()}{UNITS[1:]}, where lower is better."
EPOCHS = "The best epochs are in the table of costs."


def main_names(community):
    return [name for name, entry in community.methods.items() if entry.method.group in MAIN_GROUPS]


def ablation_names(community):
    """The full model, if it is there, and the ablations; empty where there are none."""
    ablations = [name for name, entry in community.methods.items() if entry.method.group == "ablation"]
    return [FULL, *ablations] if ablations and FULL in community.methods else ablations


def main_comparisons(communities, baseline, tested):
    """{(community, method, metric): Comparison} of the main table; empty where the baseline has no runs."""
    return compare("main", pairs(communities, baseline, main_names), tested)


def ablation_comparisons(communities):
    """{(community, method, metric): Comparison} of the ablation table: mAP against the full model."""
    return compare("ablation", pairs(communities, FULL, ablation_names), (GAIN_METRIC,))


def pairs(communities, baseline, names):
    found = []
    for community in communities:
        base = community.methods.get(baseline)
        if base is not None and base.runs:
            entries = [community.methods[name] for name in names(community) if name != baseline]
            found += [(community.slug, entry, base) for entry in entries if entry.runs]
    return found


def main_table(communities, baseline, tested, comparisons):
    title, sections, absent = METHODS[baseline].title, [], []
    for community in communities:
        if community.absent or not main_names(community):
            absent.append((community.title, community.absent or "no method of the main table was run"))
            continue
        names = main_names(community)
        remarks = list(notes.of_community(community, names))
        base = community.methods.get(baseline)
        if comparisons and (base is None or not base.runs):
            remarks.append(f"No significance test here: {METHODS[baseline].title} has no finished run.")
        rows = main_rows(community, comparisons)
        marks = main_legend(community, rows, title)
        sections.append(Section(community.slug, community.title, rows, marks, remarks))
    alone = any(community.methods[baseline].runs for community in communities if baseline in community.methods)
    untested = "no other method has a" if alone else "it has no"
    remarks = [
        notes.selection(communities),
        EPOCHS,
        f"{IN_PERCENT} The random ranking is an expectation.",
        *["What prints alike shares bold and underlining."] * any("best" in part.legend for part in sections),
        significance_note(comparisons, f"{title} in {' and '.join(tested)}")
        or f"No significance test: the baseline is {title}, and {untested} finished run; --baseline names another.",
    ]
    return Table("main", "Results on the test split", ["method", *shown_metrics()], 1, sections, absent, remarks)


def main_rows(community, comparisons):
    entries = [community.methods[name] for name in main_names(community)]
    columns = shown_metrics()
    spreads = {metric: [metric_spread(entry, metric) for entry in entries] for metric in columns}
    ranked = {metric: places(means_that_compare(entries, found), metric) for metric, found in spreads.items()}
    rows = []
    if community.runs:
        random = community.runs[0].random
        chance = (
            number_cell(Spread(random[metric], None, 0) if metric in random else None, METRICS[metric].digits)
            for metric in columns
        )
        rows.append(Row([Cell("random ranking"), *chance]))
    for i, entry in enumerate(entries):
        cells = [
            number_cell(
                spreads[metric][i],
                METRICS[metric].digits,
                place=ranked[metric][i],
                mark=mark(comparisons.get((community.slug, entry.method.name, metric))),
            )
            for metric in columns
        ]
        title = Cell(entry.title)
        rows.append(Row([title], entry.missing) if entry.missing else Row([title, *cells]))
    return rows


def most_seeds(entries):
    """The greatest number of runs that a trained method has."""
    return max((len(entry.runs) for entry in entries if entry.method.seeded), default=0)


def means_that_compare(entries, spreads):
    """The means of the methods with the most seeds and of untrained ones, which need none; None for the others."""
    most = most_seeds(entries)
    return [
        found.mean if found and (not entry.method.seeded or found.count == most) else None
        for entry, found in zip(entries, spreads, strict=True)
    ]


def main_legend(community, rows, baseline):
    """The legend of a community's rows of the main table; baseline: its title."""
    entries = [community.methods[name] for name in main_names(community)]
    most = most_seeds(entries)
    fewer = any(entry.runs and entry.method.seeded and len(entry.runs) < most for entry in entries)
    but = f" (trained methods with fewer than {most} seeds take no part)" if fewer else ""
    bold = {"best": f"Bold: the best of a column{but}.", "second": "Underlined: the second."}
    found = legend(rows, SPREAD_LEGEND | bold | significance_legend(baseline))
    return found | notes.code_versions(community, main_names(community))


def ablation_table(communities, comparisons):
    sections, absent = [], []
    for community in communities:
        if not ablation_names(community):
            absent.append((community.title, "no ablation was run"))
            continue
        names = ablation_names(community)
        remarks = list(notes.of_community(community, names))
        if FULL not in community.methods or community.methods[FULL].missing:
            remarks.append(f"No differences here: {METHODS[FULL].title} has no finished run.")
        rows = ablation_rows(community, names, comparisons)
        marks = legend(rows, SPREAD_LEGEND | significance_legend(METHODS[FULL].title))
        marks |= notes.code_versions(community, names)
        sections.append(Section(community.slug, community.title, rows, marks, remarks))
    remarks = [
        notes.selection(communities),
        EPOCHS,
        f"Each row changes one part of {METHODS[FULL].title}; in brackets: what {METHODS[FULL].title} has there.",
        IN_PERCENT,
        f"Δ {GAIN_METRIC}: the difference to {METHODS[FULL].title}, with its 95 % paired bootstrap interval over "
        "queries.",
        significance_note(comparisons, METHODS[FULL].title) or "No significance test: there is nothing to compare.",
    ]
    columns = ["part", "setting", *ABLATION_COLUMNS, f"Δ {GAIN_METRIC}", "95 % interval"]
    return Table("ablation", "Ablations on the test split", columns, 2, sections, absent, remarks)


def ablation_rows(community, names, comparisons):
    rows, part = [], None
    for name in names:
        entry = community.methods[name]
        shown = entry.method.changes if entry.method.changes != part else ""
        part = entry.method.changes
        labels = [Cell(shown or ("full model" if name == FULL else "")), Cell(entry.setting)]
        if entry.missing:
            rows.append(Row(labels, entry.missing))
            continue
        cells = [number_cell(metric_spread(entry, metric), METRICS[metric].digits) for metric in ABLATION_COLUMNS]
        rows.append(Row([*labels, *cells, *gain_cells(comparisons.get((community.slug, name, GAIN_METRIC)))]))
    return rows


def gain_cells(comparison):
    if comparison is None:
        return [Cell("–"), Cell("–")]
    digits = METRICS[comparison.metric].digits
    interval = f"[{signed(comparison.low, digits)}, {signed(comparison.high, digits)}]"
    return [Cell(signed(comparison.gain, digits), mark=mark(comparison)), Cell(interval)]


def signed(value, digits):
    """A difference with its sign; what prints as zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def mark(comparison):
    return MARKS[comparison.verdict] if comparison is not None else ""


def significance_legend(title):
    """What † and ‡ mean against the method of this title."""
    return {mark: f"{mark} significantly {verdict} than {title}." for verdict, mark in MARKS.items() if mark}


def significance_note(comparisons, against):
    """How significance was tested, and whether anything is; empty where nothing was compared."""
    if not comparisons:
        return ""
    some = next(iter(comparisons.values()))
    none = "" if any(found.verdict for found in comparisons.values()) else " None is."
    return (
        f"A difference to {against} is significant where both two-sided p-values, of the paired bootstrap and of the "
        f"randomisation test over queries ({some.resamples:,} resamples each), are below {LEVEL} after Holm's "
        f"correction for the {some.comparisons:,} comparison{'s' * (some.comparisons > 1)} of this table.{none} A "
        "query's value is its mean over the seeds: the tests are over queries, not over the randomness of training."
    )
