"""The learning curves of several runs in the same charts."""

from pages.markup import joined, tag
from scripts.reporting.chart import SHAPES, Line, line_chart, number
from scripts.reporting.curves import ON_VAL, alpha_points, curves, on_val, shared_scales, timeline

COLOURS, DASHES = 6, 5  # that page.css has for runs: with both, thirty lines are told apart


def learning_curves(runs):
    """The section's content. Where several runs were trained: charts with a line for each, and then each one's own."""
    trained = [run for run in runs if run.evaluations]
    if len(trained) < 2:
        return curves(runs)
    text = "A line for each run: its total loss, its fused score on val, its α."
    if any(len(timeline(run, "epoch").stages) > 1 for run in trained):
        text += " The stages of a staged run follow each other."
    return joined(
        [
            tag("p", text),
            tag("div", *overlaid(trained, shared_scales(trained)), class_="charts"),
            tag("details", tag("summary", "Each run's own charts, with QI and QC"), curves(runs)),
        ]
    )


def overlaid(runs, scales):
    """The charts; scales: of `shared_scales`."""

    def total(run, steps):
        return [(steps.place(line), line["losses"]["total"]) for line in run.losses if "total" in line["losses"]]

    def alpha(run, _):
        return next(iter(alpha_points(run).values()), [])

    yield chart("Training loss, total", runs, "step", "loss", scales["loss"], total)
    for metric in ON_VAL:

        def fused(run, epochs, metric=metric):
            lines = [line for line in run.evaluations if "fused" in line["scores"]]
            return [(epochs.place(line), on_val(line, "fused", metric)) for line in lines]

        yield chart(f"{metric} on val, query to meme", runs, "epoch", "%", scales[metric], fused, with_best=True)
    if "α" in scales:
        yield chart("α, the weight of QI", runs, "step", "α", scales["α"], alpha)


def chart(title, runs, key, y_label, y_ticks, points_of, with_best=False):
    """A chart with a line for each run: points_of(run, its Timeline of `key`). with_best: a ring at the best epoch."""
    lines = []
    for place, run in enumerate(runs):
        times = timeline(run, key)
        best = run.metrics["best_epoch"] if with_best else None
        line = Line(run.name, f"c{place % COLOURS} d{place % DASHES}", points_of(run, times))
        line.shape, line.starts, line.best = place % len(SHAPES), times.starts, best and times.place(best)
        lines += [line] if line.points else []
    return line_chart(title, lines, key, y_label, y_ticks, tip=lambda x: f"{key} {number(x)}")
