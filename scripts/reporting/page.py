"""All parts -> one HTML file that needs nothing else."""

import base64
import hashlib
from pathlib import Path

from pages import markup
from pages.markup import Markup, embedded, tag
from scripts.reporting.comparisons import comparisons
from scripts.reporting.curves import alpha_distributions
from scripts.reporting.gallery import gallery, gallery_data
from scripts.reporting.overlay import learning_curves
from scripts.reporting.query_groups import groupings
from scripts.reporting.sections import breakdown, facts, gains, results, worst
from scripts.reporting.thumbnails import thumbnails

LIMIT = 19_500_000  # bytes of the file
ASSETS = Path(__file__).parent


def page(runs, community, progress=True):
    """(the HTML, {file name: why} of images without a picture) of the report on `runs`."""
    own_groupings = groupings(community.queries, community.memes, runs[0].record.relevance)
    compared = comparisons(runs)
    data, orders, memes = gallery_data(runs, community, own_groupings, compared)
    bad = {}
    sections = [
        ("results", "Results", results(runs)),
        ("facts", "Run facts", facts(runs, community)),
        ("curves", "Learning curves", learning_curves(runs)),
        ("alpha", "α of the queries", alpha_distributions(runs)),
        ("gains", "Gains and losses", gains(compared, community.queries)),
        ("worst", "Worst queries", worst(runs, community.queries)),
        ("breakdown", "Breakdown", breakdown(runs, own_groupings)),
        ("gallery", "Gallery", gallery(runs, own_groupings, orders)),
    ]
    sections = [part for part in sections if part[2] is not None]
    without_pictures = document(runs, community, sections, data)
    if community.features.is_dir():
        names = list(dict.fromkeys(meme.image for meme in memes))
        room = LIMIT - len(without_pictures.encode()) - 60 * len(memes)
        pictures, bad = thumbnails(community.features, names, max(room, 0) * 3 // 4, progress)
        place = {name: index for index, name in enumerate(pictures)}
        data["pictures"] = [base64.b64encode(picture).decode() for picture in pictures.values()]
        for meme, entry in zip(memes, data["memes"], strict=True):
            entry["picture"] = place.get(meme.image)
    return document(runs, community, sections, data), bad


def document(runs, community, sections, data):
    """The file. sections: [(id, heading, content)]; data: for page.js."""
    css, code = markup.styles(ASSETS / "page.css"), markup.script(ASSETS / "page.js")
    checksum = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    rules = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{checksum}'"
    names = ", ".join(run.name for run in runs)
    head = markup.head(
        f"{community.name}: {names}",
        tag("meta", http_equiv="Content-Security-Policy", content=rules),
        tag("style", Markup(css)),
    )
    links = [tag("a", heading, href=f"#{key}") for key, heading, _ in sections]
    parts = [tag("section", tag("h2", heading), content, id=key) for key, heading, content in sections]
    notes = [tag("p", note, class_="note") for note in community.notes]
    body = tag(
        "body",
        tag("header", tag("h1", f"{community.name}: retrieval report"), tag("p", names)),
        tag("nav", *links, class_="contents", aria_label="contents"),
        tag("main", *notes, *parts),
        tag("div", id="tip", role="tooltip", hidden=True),
        tag("script", embedded(data), id="data", type="application/json"),
        tag("script", Markup(code)),
    )
    return markup.document(head, body)
