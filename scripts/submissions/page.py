"""A community's ranking -> one HTML file that needs nothing else, and no script; and the page that lists them."""

import base64
import hashlib
from pathlib import Path

from metrics import METRICS, UNITS, shown_metrics
from pages import markup
from pages.markup import Markup, joined, scrolling, tag
from scripts.submissions.communities import INDEX
from scripts.submissions.problems import counted

ASSETS = Path(__file__).parent
NAMES = ("rank", "method", "authors", "trained on")  # of a row's first cells


def community_page(community, rows, metric, left_out, names):
    """The page. rows: of ranking.ranking; left_out: folders whose run has errors; names: of all communities."""
    columns = [metric, *(name for name in shown_metrics(wide=False) if name != metric)]
    facts = (
        f"The {community.split} split: {len(community.qrels.relevant):,} queries, {len(community.memes):,} memes, "
        f"{community.pairs:,} relevant pairs. Query to meme, {UNITS}."
    )
    parts = [
        tag("p", facts),
        scrolling(table(community, rows, metric, columns), f"{community.name}: submissions by {metric}"),
        tag("h2", "How to read it"),
        tag("ul", *(tag("li", note) for note in notes(metric, len(rows) - 1))),
    ]
    if left_out:
        parts.append(tag("p", f"Left out, as check_submission finds errors in them: {', '.join(left_out)}."))
    return document(f"{community.name}: leaderboard", parts, names, community.name)


def index_page(rankings, metric):
    """The page that lists the communities. rankings: [(Community, its rows)]."""
    first = f"first by {metric}"
    head = heading(("community", "queries", "memes", "submissions", first), ("community", first))
    body = [
        tag(
            "tr",
            tag("th", tag("a", community.name, href=f"{community.name}.html"), scope="row", class_="text"),
            tag("td", f"{len(community.qrels.relevant):,}"),
            tag("td", f"{len(community.memes):,}"),
            tag("td", f"{len(rows):,}"),
            tag("td", tag("bdi", rows[0].submission.method) if rows else "–", class_="text"),
        )
        for community, rows in rankings
    ]
    shown = scrolling(tag("table", caption("Communities"), head, tag("tbody", *body)), "Communities")
    return document("Leaderboards", [shown], [community.name for community, _ in rankings], None)


def document(title, parts, names, current):
    css = markup.styles(ASSETS / "page.css")
    checksum = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    rules = f"default-src 'none'; style-src 'sha256-{checksum}'; base-uri 'none'; form-action 'none'"
    head = markup.head(
        title,
        tag("meta", http_equiv="Content-Security-Policy", content=rules),
        tag("meta", name="referrer", content="no-referrer"),
        tag("style", Markup(css)),
    )
    pages = {INDEX: "all communities"} | {name: name for name in names}
    links = (
        tag("a", text, href=f"{name}.html", aria_current="page" if name == (current or INDEX) else None)
        for name, text in pages.items()
    )
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("nav", *links, aria_label="communities")),
        tag("main", *parts),
    )
    return markup.document(head, body)


def caption(text):
    return tag("caption", tag("span", text))


def heading(names, texts):
    """The row of column headers. texts: the names of those columns that hold no numbers."""
    cells = (tag("th", name, scope="col", class_="text" if name in texts else None) for name in names)
    return tag("thead", tag("tr", *cells))


def table(community, rows, metric, columns):
    head = heading([*NAMES, metric, "difference to the row above", *columns[1:]], NAMES[1:])
    body = (row_of(row, community, columns) for row in rows)
    text = f"{community.name}: {counted(len(rows), 'submission')}, by {metric}"
    return tag("table", caption(text), head, tag("tbody", *body), tag("tbody", random_row(community, columns)))


def row_of(row, community, columns):
    submission, scored = row.submission, row.scored
    first, *others = (tag("td", number(scored.printed, column), interval(scored, column)) for column in columns)
    lacks = tag("small", f"nothing found for {row.missed:,} queries") if row.missed else None
    return tag(
        "tr",
        tag("td", row.rank),
        tag("th", method(submission), lacks, scope="row", class_="text"),
        tag("td", *bdi_list(submission.authors), class_="text"),
        tag("td", trained_on(submission.data_of(community.name), community.name), class_="text"),
        first,
        tag("td", step(row.step, METRICS[columns[0]].digits)),
        *others,
    )


def random_row(community, columns):
    chance, none, no_text = community.at_random(), tag("td", "–"), tag("td", "–", class_="text")
    first, *others = (tag("td", number(chance, column)) for column in columns)
    name = tag("th", "random ranking", scope="row", class_="text")
    return tag("tr", none, name, no_text, no_text, first, none, *others)


def method(submission):
    name = tag("bdi", submission.method)
    return name if submission.link is None else tag("a", name, href=submission.link, rel="noopener noreferrer nofollow")


def trained_on(names, community):
    """A mark where it is this community, or nobody knows; then what else there is."""
    if names is None:
        return tag("span", "unknown", class_="mark unknown")
    others = bdi_list([name for name in names if name != community])
    if community in names:
        more = tag("small", "and ", *others) if others else None
        return joined([tag("span", "trained on this data", class_="mark"), more])
    return joined(others) if others else "nothing"


def bdi_list(texts):
    """Texts with commas between them, none of which changes the others' direction."""
    commas = [", "] * (len(texts) - 1) + [None]
    return [joined([tag("bdi", text), comma]) for text, comma in zip(texts, commas, strict=False)]


def number(values, column):
    return f"{values[column]:.{METRICS[column].digits}f}" if column in values else "–"


def interval(scored, column):
    if column not in scored.intervals:
        return None
    digits = METRICS[column].digits
    return tag("small", "–".join(f"{end:.{digits}f}" for end in scored.intervals[column]))


def step(found, digits):
    if found is None:
        return "–"
    gain, low, high = (signed(value, digits) for value in (found.gain, found.low, found.high))
    return joined([gain, tag("small", f"[{low}, {high}]"), tag("small", f"p = {found.p:.4f}")])


def signed(value, digits):
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def notes(metric, comparisons):
    yield "Small, under a metric: its 95 % bootstrap interval over queries (1,000 resamples, seed 0), not over seeds."
    yield (
        f"“difference to the row above”: in {metric}, with its 95 % paired bootstrap interval, and p, the larger of "
        "the two-sided p-values of the paired bootstrap and of the randomisation test (10,000 resamples each), both "
        f"after Holm's correction for the {max(comparisons, 0):,} comparisons of this page. A large p does not say "
        "that two methods are equal."
    )
    yield "“trained on” is what the authors say. “this data” is the community's train split. Unknown: they do not say."
    yield (
        "A meme that a run does not have counts as never found, a query that it does not have as 0. Relevant memes "
        "come last among equal scores. – stands for a rank that the run does not tell."
    )
