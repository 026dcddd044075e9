"""The learning curves of each run: loss, retrieval on val, α."""

from pages.markup import joined, tag
from scripts.reporting.chart import Line, beside, histogram, line_chart, nothing, ticks

ON_VAL = ("mAP", "R@1", "R@5", "R@10")
TITLES = {"fused": "fused", "qi": "QI", "qc": "QC"}
LOSSES = {"total": "total", **TITLES}
SHAPES = {"fused": 0, "qi": 1, "qc": 2, "total": 3}  # of chart.SHAPES


class Timeline:
    """Places of steps and epochs on one axis: stages of training follow each other.

    key: "step" or "epoch". lines: those of losses.jsonl and metrics.jsonl.
    """

    def __init__(self, key, lines):
        self.key = key
        longest = {}
        for line in lines:
            longest[line["stage"]] = max(longest.get(line["stage"], 0), line[key])
        self.stages, start = [], 0
        for stage, length in longest.items():
            self.stages.append((start, stage))
            start += length

    @property
    def starts(self):
        return [start for start, _ in self.stages]

    def place(self, line):
        return line[self.key] + next(start for start, stage in self.stages if stage == line["stage"])

    def called(self, place):
        """What a place is called: "step 120", or "epoch 3 of stage qc"."""
        start, stage = next(item for item in reversed(self.stages) if item[0] < place or item[0] == 0)
        of_stage = f" of stage {stage}" if len(self.stages) > 1 else ""
        return f"{self.key} {place - start:g}{of_stage}"


def curves(runs):
    """The charts of each run, a column for each, with the same scales."""
    scales = shared_scales(runs)
    return beside([(run.name if len(runs) > 1 else None, figures(run, scales)) for run in runs])


def shared_scales(runs):
    """{"loss" | metric | "α": ticks of the vertical axis}, for all values of all runs."""
    losses = [value for run in runs for line in run.losses for value in _shown_losses(line).values()]
    scales = {"loss": ticks(min([0, *losses]), max([1, *losses]))}
    for metric in ON_VAL:
        lines = [line for run in runs for line in run.evaluations]
        values = [on_val(line, score, metric) for line in lines for score in TITLES if score in line["scores"]]
        scales[metric] = ticks(0, max([1, *values]))
    points = [point for run in runs for _, values in alpha_points(run).items() for point in values]
    alphas = [y for _, *ys in [*points, *(band for run in runs for band in _alpha_bands(run))] for y in ys]
    if alphas:
        middle = (min(alphas) + max(alphas)) / 2
        scales["α"] = ticks(max(0, min(*alphas, middle - 0.05)), min(1, max(*alphas, middle + 0.05)))
    return scales


def on_val(line, score, metric):
    return line["scores"][score]["query_to_meme"]["metrics"][metric]


def _shown_losses(line):
    return {name: value for name, value in line["losses"].items() if name in LOSSES}


def figures(run, scales):
    """The charts of one run."""
    if not run.evaluations:
        return [nothing("Nothing was trained in this run: it has no curves.")]
    charts = [loss_chart(run, scales["loss"])] if run.losses else []
    charts += [val_chart(run, metric, scales[metric]) for metric in ON_VAL]
    if alpha_points(run):
        charts.append(alpha_chart(run, scales["α"]))
    return charts


def timeline(run, key):
    return Timeline(key, [*run.losses, *run.evaluations])


def loss_chart(run, y_ticks):
    steps = timeline(run, "step")
    lines = []
    for name, label in LOSSES.items():
        points = [(steps.place(line), line["losses"][name]) for line in run.losses if name in line["losses"]]
        if points and not _is_total(run, name):
            lines.append(Line(label, name, points, shape=SHAPES[name], starts=steps.starts))
    return line_chart("Training loss", lines, "step", "loss", y_ticks, steps.stages, tip=steps.called)


def _is_total(run, name):
    """Whether this loss is the only one, wherever it is: then the total is the same."""
    return name != "total" and all(len(_shown_losses(line)) == 2 for line in run.losses if name in line["losses"])


def val_chart(run, metric, y_ticks):
    epochs = timeline(run, "epoch")
    lines = []
    for score, label in TITLES.items():
        points = [
            (epochs.place(line), on_val(line, score, metric)) for line in run.evaluations if score in line["scores"]
        ]
        if points and (run.has_two_branches or score != "fused"):  # with one branch, fused is that branch
            lines.append(Line(label, score, points, shape=SHAPES[score], starts=epochs.starts))
    best = run.metrics["best_epoch"]
    title = f"{metric} on val, query to meme"
    return line_chart(title, lines, "epoch", "%", y_ticks, epochs.stages, best and epochs.place(best), epochs.called)


def alpha_points(run):
    """{label: [(line's place, α)] over time}; empty where it does not change, or is fitted at the end alone."""
    if (
        run.args.get("fusion") not in ("learned", "query")
        or run.args.get("co_train") == "staged"
        or not run.has_two_branches
    ):
        return {}
    steps = timeline(run, "step")
    on_val = [(steps.place(line), line["alpha"]["mean"]) for line in run.evaluations if line.get("alpha")]
    trained = [(steps.place(line), line["alpha"]) for line in run.losses]
    if run.args["fusion"] == "query":
        label = "fitted on val" if run.fits_each_epoch else "mean over val's queries (lowest to highest)"
        return {label: on_val}
    return {"fitted on val": on_val, "trained": trained} if run.fits_each_epoch else {"α": trained}


def _alpha_bands(run):
    """[(line's place, lowest, highest α of val's queries)], where each query has its own."""
    if run.args.get("fusion") != "query" or run.fits_each_epoch or not alpha_points(run):
        return []
    steps = timeline(run, "step")
    return [(steps.place(line), line["alpha"]["min"], line["alpha"]["max"]) for line in run.evaluations]


def alpha_chart(run, y_ticks):
    steps, band = timeline(run, "step"), _alpha_bands(run)
    styles = (("alpha", 0), ("total", SHAPES["total"]))
    lines = [
        Line(label, style, of, band, shape)
        for (style, shape), (label, of) in zip(styles, alpha_points(run).items(), strict=False)
    ]
    return line_chart("α, the weight of QI", lines, "step", "α", y_ticks, tip=steps.called)


def alpha_distributions(runs):
    """Histograms of α over the test queries, of the runs with one per query; None where there is none."""
    columns = [
        (
            run.name if len(runs) > 1 else None,
            [histogram("α of the test queries", run.record.alpha.tolist(), "α", "queries")],
        )
        for run in runs
        if run.args.get("fusion") == "query" and len(run.record.alpha)
    ]
    if not columns:
        return None
    text = (
        "score = α QI + (1 − α) QC, with an α of its own for each query. In the gallery, queries can be ordered by α."
    )
    return joined([tag("p", text), beside(columns)])
