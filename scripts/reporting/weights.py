"""How a run's weights of QI and QC were set, and what fusing gained, from its records."""

PARTS = {"qi": "QI", "qc": "QC"}


def how_set(settings, alpha):
    """How a run's α was set. settings: its args.json; alpha: metrics.json's, None of a run with one branch.

    Runs from before --fusion_data have the trained weights, or in staged training those of a grid on val.
    """
    fusion, data = settings.get("fusion"), settings.get("fusion_data")
    if fusion == "learned":
        if settings.get("co_train") == "staged":
            return "staged: chosen on val" if data is None else "staged: fitted on val"
        return "fitted on val" if data == "val" else "trained"
    if fusion == "query":
        if data != "val":
            return "trained, per query"
        per_query = alpha is not None and alpha["min"] < alpha["max"]
        return "fitted on val, per query" if per_query else "fitted on val, one for all queries"
    return str(fusion)


def gain_of_fusing(results):
    """metrics.json's entry on fused minus the part that was better on val; None where it has none."""
    return results["test"].get("fused_minus_the_better_part")
