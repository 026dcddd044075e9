"""The table of the weights of QI and QC, and that of the costs."""

from evaluation.significance import paired_bootstrap
from metrics import METRICS
from scripts.reporting.weights import PARTS, how_set
from scripts.tables import notes
from scripts.tables.results import signed
from scripts.tables.spreads import query_means, spread
from scripts.tables.table import SPREAD_LEGEND, Cell, Row, Section, Table, legend, listed, number_cell

COST_COLUMNS = {  # heading: (name of runs.COSTS, decimals, unit)
    "training, s": ("training_seconds", 1, 1),
    "validation, s": ("val_seconds", 1, 1),
    "records/s": ("records_per_second", 1, 1),
    "memory, MiB": ("peak_host_mib", 0, 1),
    "GPU memory, MiB": ("peak_device_mib", 0, 1),
    "parameters, M": ("parameters", 2, 1e6),
    "trained, M": ("trained_parameters", 2, 1e6),
}


def set_by(run):
    """How a run's α was set."""
    return how_set(run.settings, run.alpha)


def best_epochs(runs):
    """The best epoch on val of each run, with the stage where training has several."""
    epochs = []
    for run in runs:
        staged = run.settings.get("co_train") == "staged"
        epochs.append("–" if run.best is None else f"{run.best['stage'] + ' ' if staged else ''}{run.best['epoch']}")
    return listed(epochs) if set(epochs) != {"–"} else "–"


def several(values):
    """The different ones of a list, joined."""
    return " / ".join(dict.fromkeys(map(str, values)))


def two_branches(entry):
    """Whether a method has both QI and QC: by its runs, else by its flags."""
    if entry.runs:
        return any(run.alpha is not None for run in entry.runs)
    return entry.method.group != "reference" and "--branches" not in entry.method.flags


def weights_table(communities):
    sections, absent = [], []
    for community in communities:
        entries = [entry for entry in community.methods.values() if two_branches(entry)]
        if not entries:
            absent.append((community.title, "no method with two branches was run"))
            continue
        names = [entry.method.name for entry in entries]
        remarks = list(notes.of_community(community, names))
        rows = list(map(weights_row, entries))
        marks = legend(rows, SPREAD_LEGEND) | notes.code_versions(community, names)
        sections.append(Section(community.slug, community.title, rows, marks, remarks))
    columns = ["method", "how α is set", "α", "over queries", "better on val", "Δ mAP", "Δ R@1", "best epoch"]
    remarks = [
        notes.selection(communities),
        "Score = α QI + (1 − α) QC. The α of a network that gives one per query is the mean over the test queries, "
        "with the least and the greatest α of a query in any run beside it.",
        "Better on val: the part, QI or QC, that is better there by the metric which chose the epoch. Δ: the fused "
        "score minus that part on test, with its 95 % paired bootstrap interval over queries; a query's value is its "
        "mean over the seeds.",
        "Best epoch on val, by seed; of a staged run with its last stage.",
    ]
    return Table("weights", "Weights of QI and QC", columns, 2, sections, absent, remarks)


def weights_row(entry):
    title = Cell(entry.title)
    if entry.missing:
        return Row([title], entry.missing)
    alphas = [run.alpha for run in entry.runs if run.alpha is not None]
    per_query = any(run.settings.get("fusion") == "query" for run in entry.runs)
    low, high = min(alpha["min"] for alpha in alphas), max(alpha["max"] for alpha in alphas)
    return Row(
        [
            title,
            Cell(several(map(set_by, entry.runs))),
            number_cell(spread([alpha["mean"] for alpha in alphas]), 3),
            Cell(f"{low:.3f} – {high:.3f}" if per_query else "–"),
            Cell(several(PARTS[run.gain["part"]] for run in entry.runs) if knows_better_part(entry) else "–"),
            gain_cell(entry, "mAP"),
            gain_cell(entry, "R@1"),
            Cell(best_epochs(entry.runs)),
        ]
    )


def knows_better_part(entry):
    """Whether all runs say which part was better on val; those of earlier versions do not."""
    return all(run.gain is not None for run in entry.runs)


def gain_cell(entry, metric):
    """Fused minus the better part of each run, over queries, with its interval."""
    if not knows_better_part(entry):
        return Cell("–")
    fused = query_means([run.values for run in entry.runs], metric)
    part = query_means([run.part_values for run in entry.runs], metric)
    gain, low, high, _ = paired_bootstrap(fused, part)
    digits = METRICS[metric].digits
    return Cell(f"{signed(gain, digits)} [{signed(low, digits)}, {signed(high, digits)}]")


def cost_table(communities):
    sections = []
    for community in communities:
        remarks = list(notes.of_community(community))
        rows = list(map(cost_row, community.methods.values()))
        marks = notes.code_versions(community)
        sections.append(Section(community.slug, community.title, rows, marks, remarks))
    remarks = [
        "Means over the seeds. Training includes the evaluations on val after each epoch; records/s, of training, does "
        "not. Seconds are of whatever else the machine did meanwhile.",
        "Memory: the peak of the first process, and on its GPU where there is one. Parameters in millions; trained: "
        "those that a stage of the training changes.",
        "Best epoch on val, by seed, of which the other tables' numbers are; of a staged run with its last stage.",
    ]
    columns = ["method", "device", "processes", *COST_COLUMNS, "best epoch"]
    return Table("cost", "Costs", columns, 2, sections, [], remarks)


def cost_row(entry):
    title = Cell(entry.title)
    if entry.missing:
        return Row([title], entry.missing)
    cells = []
    for name, digits, unit in COST_COLUMNS.values():
        cell = number_cell(spread([run.costs[name] for run in entry.runs]), digits, unit)
        cells.append(Cell(cell.text))
    devices, processes = (several(getattr(run, name) for run in entry.runs) for name in ("device", "processes"))
    return Row([title, Cell(devices), Cell(processes), *cells, Cell(best_epochs(entry.runs))])
