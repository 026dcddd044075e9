"""The tables as CSV: a row per number, in full precision. A method or community without numbers is a row, too."""

import csv
import dataclasses
import io

from metrics import METRICS
from scripts.tables.run_tree import COSTS
from scripts.tables.spreads import Comparison, metric_spread, spread
from scripts.tables.weights_and_costs import best_epochs, set_by, several, two_branches
from util import write_text

SPREAD = ("mean", "sd", "seeds", "status")
RESULT_COLUMNS = ("community", "method", "metric", *SPREAD, "baseline", "gain", "low", "high", "significant")
WEIGHT_COLUMNS = ("community", "method", "quantity", *SPREAD, "set_by", "best_epochs")
COST_COLUMNS = ("community", "method", "quantity", *SPREAD, "device", "processes", "best_epochs")
SIGNIFICANCE_COLUMNS = (*(field.name for field in dataclasses.fields(Comparison)), "significant")


def write(path, columns, rows):
    """rows: dicts; what a row has not is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def result_rows(communities, names, comparisons, with_random=False):
    """All metrics of the methods whose names `names(community)` gives."""
    for community in communities:
        if community.absent or not names(community):
            yield {"community": community.slug, "status": community.absent or "not run"}
        elif with_random and community.runs:
            for metric, value in community.runs[0].random.items():
                own = {"community": community.slug, "method": "random", "metric": metric}
                yield {**own, "mean": value, "status": "expectation"}
        for name in names(community):
            entry = community.methods[name]
            for row in spread_rows(community, entry, "metric", {m: metric_spread(entry, m) for m in METRICS}):
                found = comparisons.get((community.slug, name, row.get("metric")))
                more = {}
                if found is not None:
                    more = {key: getattr(found, key) for key in ("baseline", "gain", "low", "high")}
                    more["significant"] = found.verdict
                yield {**row, **more}


def weight_rows(communities):
    for community in communities:
        if community.absent:
            yield {"community": community.slug, "status": community.absent}
        for entry in filter(two_branches, community.methods.values()):
            quantities = {
                "alpha": [run.alpha and run.alpha["mean"] for run in entry.runs],
                "alpha_min_over_queries": [run.alpha and run.alpha["min"] for run in entry.runs],
                "alpha_max_over_queries": [run.alpha and run.alpha["max"] for run in entry.runs],
                **{
                    f"fused_minus_better_part_{metric}": [gain_of(run, metric) for run in entry.runs]
                    for metric in ("mAP", "R@1")
                },
            }
            found = {name: spread(values) for name, values in quantities.items()}
            more = {"set_by": several(map(set_by, entry.runs)), "best_epochs": best_epochs(entry.runs)}
            yield from (row | more for row in spread_rows(community, entry, "quantity", found))


def gain_of(run, metric):
    """Fused minus the part that was better on val, on test; None where the run does not say which one was."""
    return run.gain and run.gain["metrics"][metric]["gain"]


def cost_rows(communities):
    for community in communities:
        if community.absent:
            yield {"community": community.slug, "status": community.absent}
        for entry in community.methods.values():
            found = {name: spread([run.costs[name] for run in entry.runs]) for name in COSTS}
            more = {
                "device": several(run.device for run in entry.runs),
                "processes": several(run.processes for run in entry.runs),
                "best_epochs": best_epochs(entry.runs),
            }
            yield from (row | more for row in spread_rows(community, entry, "quantity", found))


def spread_rows(community, entry, key, spreads):
    """A row per {name: Spread or None}; one row where the method has no finished run."""
    own = {"community": community.slug, "method": entry.method.name}
    if entry.missing:
        yield {**own, "status": entry.missing}
        return
    seeds = " ".join(str(run.seed) for run in entry.runs)
    for name, found in spreads.items():
        numbers = {"mean": found.mean, "sd": found.sd} if found is not None else {}
        yield {**own, key: name, **numbers, "seeds": seeds, "status": entry.status}


def significance_rows(*families):
    for comparison in (comparison for family in families for comparison in family.values()):
        yield dataclasses.asdict(comparison) | {"significant": comparison.verdict}
