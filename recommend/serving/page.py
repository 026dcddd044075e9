"""The search page's HTML; page.js fills it."""

from __future__ import annotations

from typing import Any

from pages import markup
from pages.markup import Markup, embedded, tag
from recommend.request import MAX_PARTS, MAX_TEXT, MAX_TOP, MAX_WEIGHT
from recommend.serving.answers import MAX_UPLOAD

KEYS = (
    ("/", "to the search field"),
    ("← → ↑ ↓", "from meme to meme"),
    ("Enter", "captions, text and the large picture"),
    ("M", "more like this"),
    ("C", "copy the picture"),
    ("Esc", "close"),
)
LINKS = (tag("link", rel="icon", href="data:,"), tag("link", rel="stylesheet", href="/page.css"))


def page(facts: dict[str, Any]) -> str:
    """The page over an index. facts: `answers.facts`."""
    limits = {"top": MAX_TOP, "parts": MAX_PARTS, "weight": MAX_WEIGHT, "upload": MAX_UPLOAD}
    head = markup.head(
        "Memes for a sentence",
        tag("meta", name="referrer", content="no-referrer"),
        *LINKS,
    )
    body = tag(
        "body",
        tag("header", tag("h1", tag("a", "Memes for a sentence", href="/")), class_="top"),
        tag("main", _form(facts), _results(facts)),
        _footer(facts),
        tag("div", id="tip", role="tooltip", hidden=True),
        tag("div", "Drop the picture to find memes like it", id="drop", hidden=True),
        tag("script", embedded(facts | {"limits": limits}), id="data", type="application/json"),
        tag("script", src="/page.js"),
    )
    return markup.document(head, body)


def _form(facts: dict[str, Any]) -> Markup:
    field = tag(
        "input",
        type="search",
        id="text",
        name="text",
        maxlength=MAX_TEXT,
        placeholder="when the deadline is tomorrow",
        dir="auto",
        autocomplete="off",
        autofocus=True,
        enterkeyhint="search",
        aria_label="A sentence, to find memes for",
    )
    picture = tag(
        "label",
        "Picture…",
        tag("input", type="file", id="picture", accept="image/*", class_="unseen"),
        class_="button",
        title="Find memes like a picture: choose one here, drop it on the page, or paste it",
    )
    return tag(
        "form",
        tag("div", field, tag("button", "Search", type="submit", class_="first"), picture, class_="ask"),
        tag("ul", id="chosen", aria_label="what the search asks for, too"),
        tag("details", tag("summary", "More options"), _options(facts), id="options"),
        id="search",
        role="search",
        action="/",
    )


def _options(facts: dict[str, Any]) -> Markup:
    emotion = [
        _field("Prefer the emotion", tag("input", id="emotion", list="emotions", autocomplete="off", maxlength=200)),
        tag("datalist", *(tag("option", value=word) for word in facts["emotions"]), id="emotions"),
    ]
    return tag(
        "div",
        tag("div", id="parts", role="group", aria_label="further sentences"),
        tag("button", "+ a sentence", type="button", id="add", class_="button"),
        *(emotion if facts["emotions"] else ()),
        _field("Memes", tag("input", type="number", id="top", min=1, max=MAX_TOP, step=1)),
        _field("Least score", tag("input", type="number", id="min_score", min=-100, max=100, step="any")),
        tag("label", tag("input", type="checkbox", id="duplicates"), " near-duplicates, too", class_="check-field"),
        class_="options",
    )


def _field(label: str, control: Markup) -> Markup:
    return tag("label", tag("span", label), control)


def _results(facts: dict[str, Any]) -> Markup:
    return tag(
        "section",
        tag("progress", id="progress", hidden=True, aria_label="searching"),
        tag("p", id="status", role="status", tabindex=-1),
        tag("p", id="error", role="alert", hidden=True),
        tag("div", id="how"),
        tag("ol", id="memes", class_="memes", aria_label="memes, best first"),
        tag("button", "More memes", type="button", id="more", class_="button", hidden=True),
        tag("div", id="start"),
        tag("noscript", "The page needs JavaScript. The JSON API does not: ", tag("a", "its options", href="/docs")),
        id="results",
        aria_label="results",
    )


def _footer(facts: dict[str, Any]) -> Markup:
    keys = [tag("span", tag("kbd", key), f" {what}") for key, what in KEYS]
    return tag(
        "footer",
        tag("p", *keys, class_="keys"),
        tag("p", f"{facts['memes']:,} memes in the index · ", tag("a", "JSON API", href="/docs")),
    )
