"""The gallery: what page.js shows of each query, and the controls to choose and order the queries."""

from pages.markup import joined, tag

FURTHER = 12  # ranks of relevant memes below the best that are listed
CAPTIONS, CAPTION_LENGTH = 6, 400  # of a meme, at most


def gallery_data(runs, community, groupings, comparisons):
    """(what page.js reads, but without pictures, the Memes shown: the best-ranked first).

    A meme is referred to by its place in the second list.
    """
    shown = memes_in_order([run.record for run in runs])
    place = {meme: index for index, meme in enumerate(shown)}
    relevance = runs[0].record.relevance
    relevant = set(zip(relevance.query.tolist(), relevance.meme.tolist(), strict=True))
    columns = [run_column(run, place, relevant) for run in runs]
    orders, keys = order_choices(runs, comparisons)
    data = {
        "runs": [{"name": run.name} for run in runs],
        "groupings": [{"key": g.key, "title": g.title, "labels": g.labels} for g in groupings],
        "keys": keys,
        "orders": [order for _, order in orders],
        "queries": [
            {
                "text": text,
                "id": str(runs[0].record.topic_ids[query]),
                "relevant": int(relevance.counts[query]),
                "groups": [int(g.group[query]) for g in groupings],
                "runs": [column[query] for column in columns],
            }
            for query, text in enumerate(community.queries)
        ],
        "memes": [meme_data(community.memes[meme]) for meme in shown],
    }
    return data, orders, [community.memes[meme] for meme in shown]


def memes_in_order(records):
    """The indices of all memes in the records' best ones, by their best place."""
    order = {}
    for rank in range(max(record.best_meme.shape[1] for record in records)):
        for record in records:
            if rank < record.best_meme.shape[1]:
                order |= dict.fromkeys(record.best_meme[:, rank].tolist())
    return list(order)


def run_column(run, place, relevant):
    """What a run says of each query: a list of Q dicts. `best`: [meme, relevant, QI rank, QC rank], fused order."""
    record, precision = run.record, run.per_query("mAP")
    branches = [record.best_ranks[score] for score in ("qi", "qc") if run.has_two_branches]
    further = further_ranks(record)
    column = []
    for query in range(len(record.topic_ids)):
        best = [
            [place[meme], int((query, meme) in relevant), *(int(ranks[query, slot]) for ranks in branches)]
            for slot, meme in enumerate(record.best_meme[query].tolist())
        ]
        entry = {"ap": round(float(precision[query]), 4), "best": best, "further": further[query]}
        if len(record.alpha):
            entry["alpha"] = round(float(record.alpha[query]), 4)
        if record.words[query]:
            entry["words"] = [[text, round(weight, 4)] for text, weight in record.words[query]]
        column.append(entry)
    return column


def further_ranks(record):
    """For each query [the first ranks of relevant memes that are not among its best ones, how many they are]."""
    ranks = [[] for _ in record.topic_ids]
    kept = record.best_meme.shape[1]
    for query, rank in zip(record.relevance.query.tolist(), record.ranks["fused"].tolist(), strict=True):
        if rank > kept:
            ranks[query].append(rank)
    return [[sorted(of_query)[:FURTHER], len(of_query)] for of_query in ranks]


def order_choices(runs, comparisons):
    """([(label, [place in keys, 1 ascending or -1 descending])], keys: lists of a number for each query)."""
    keys = [list(range(len(runs[0].record.topic_ids)))]
    orders = []

    def add(values, *labels):
        keys.append([round(float(value), 4) for value in values])
        orders.extend((label, [len(keys) - 1, sign]) for label, sign in zip(labels, (1, -1), strict=True))

    for run in runs:
        of_run = f": {run.name}" if len(runs) > 1 else ""
        add(run.per_query("mAP"), f"worst first{of_run}", f"best first{of_run}")
    orders.append(("as in the CSV", [0, 1]))
    for comparison in comparisons:
        what = comparison.title[0].lower() + comparison.title[1:]
        add(-comparison.gain, f"gained most {what}", f"lost most {what}")
    for run in runs:
        if run.args.get("fusion") == "query" and len(run.record.alpha):
            of_run = f": {run.name}" if len(runs) > 1 else ""
            add(run.record.alpha, f"lowest α first{of_run}", f"highest α first{of_run}")
    return orders, keys


def meme_data(meme):
    """A meme's texts, shortened where they are very long."""
    captions = [shortened(caption) for caption in meme.captions[:CAPTIONS]]
    if len(meme.captions) > CAPTIONS:
        captions.append(f"… and {len(meme.captions) - CAPTIONS} more")
    return {"id": meme.image_id, "captions": captions, "emotions": list(meme.emotions), "text": shortened(meme.text)}


def shortened(text):
    return text if len(text) <= CAPTION_LENGTH else text[: CAPTION_LENGTH - 1] + "…"


def gallery(runs, groupings, orders):
    """The controls, and the place that page.js fills."""
    text = [
        "Each query with its ten best memes by the fused score. ",
        tag("span", "✓", class_="check"),
        " and a frame mark a relevant meme. ",
        "Under a meme: its fused rank, and its ranks by QI and by QC alone. "
        if any(r.has_two_branches for r in runs)
        else None,
        "Captions and emotions are shown at a click, under the mouse, or on focus. "
        "A miss is a query with no relevant meme among the ten.",
    ]
    return joined(
        [
            tag("p", *text),
            tag("form", *controls(runs, groupings, orders), class_="controls", id="controls"),
            pager(),
            tag("div", id="queries"),
            pager(),
            tag("noscript", "The gallery needs JavaScript."),
        ]
    )


def controls(runs, groupings, orders):
    yield field("Query contains", tag("input", type="search", id="search", autocomplete="off"))
    for grouping in groupings:
        choices = [("", "all"), *enumerate(grouping.labels)]
        yield field(grouping.title, select(f"group-{grouping.key}", choices))
    of_runs = [(index, f"of {run.name}" if len(runs) > 1 else "only these") for index, run in enumerate(runs)]
    yield field("Misses", select("misses", [("", "all queries"), *of_runs]))
    yield field("Order", select("order", [(index, label) for index, (label, _) in enumerate(orders)]))
    if any(words for run in runs for words in run.record.words):
        yield tag(
            "label", tag("input", type="checkbox", id="weights"), " word weights as numbers", class_="check-field"
        )
    yield tag("button", "Show all", type="button", id="show-all")


def field(label, control):
    return tag("label", tag("span", label), control)


def select(key, choices):
    return tag("select", *(tag("option", label, value=value) for value, label in choices), id=key)


def pager():
    return tag(
        "nav",
        tag("button", "← back", type="button", data_step=-1),
        tag("span", class_="status"),
        tag("button", "next →", type="button", data_step=1),
        class_="pager",
        aria_label="pages of the gallery",
    )
