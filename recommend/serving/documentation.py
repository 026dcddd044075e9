"""`/docs`: the API's description as a plain page, from its own schema; nothing is loaded from elsewhere."""

from __future__ import annotations

from typing import Any

from pages import markup
from pages.markup import Markup, joined, scrolling, tag
from recommend.serving.page import LINKS

EXAMPLES = {
    "get /api/search": 'curl "{}api/search?text=the+deadline+is+tomorrow&emotion=fear&top=3"',
    "post /api/search": 'curl --data-binary @picture.jpg -H "Content-Type: image/jpeg" "{}api/search?top=3"',
    "get /api/index": 'curl "{}api/index"',
    "get /api/thumbnail": 'curl -o small.webp "{}api/thumbnail?id=ID"',
    "get /api/image": 'curl -o meme "{}api/image?id=ID"',
}


def documentation(schema: dict[str, Any], address: str) -> str:
    """The HTML. schema: OpenAPI; address: of this server, for the examples."""
    parts = [
        _operation(method, path, operation, address)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    about = tag(
        "p",
        "Answers are JSON. What cannot be answered gets a status from 400 to 499 and ",
        tag("code", '{"error": "a sentence"}'),
        ". The page's links hold the same options: ",
        tag("code", "/?text=…"),
        " shows what ",
        tag("code", "/api/search?text=…"),
        " answers. For programs: ",
        tag("a", "openapi.json", href="/openapi.json"),
        ".",
    )
    head = markup.head(f"API: {schema['info']['title']}", *LINKS)
    header = tag("header", tag("h1", "API"), tag("p", tag("a", "to the page", href="/")))
    return markup.document(head, tag("body", header, tag("main", about, *parts), class_="documentation"))


def _operation(method: str, path: str, operation: dict[str, Any], address: str) -> Markup:
    options = [_option(option) for option in operation.get("parameters", []) if method == "get"]
    table = tag(
        "table",
        tag("thead", tag("tr", *(tag("th", name, scope="col") for name in ("Option", "Is", "Default", "Meaning")))),
        tag("tbody", *options),
    )
    example = EXAMPLES.get(f"{method} {path}")
    return tag(
        "section",
        tag("h2", tag("code", f"{method.upper()} {path}")),
        tag("p", *_with_code(f"{operation['summary']}. {' '.join(operation['description'].split())}")),
        tag("pre", tag("code", example.format(address))) if example else None,
        scrolling(table, f"options of {path}") if options else None,
    )


def _with_code(text: str) -> list[object]:
    """Text whose `names` are code."""
    return [tag("code", piece) if place % 2 else piece for place, piece in enumerate(text.split("`"))]


def _option(option: dict[str, Any]) -> Markup:
    kind = option["schema"]
    kinds = [each for each in kind.get("anyOf", [kind]) if each.get("type") != "null"]
    needed = "needed" if option.get("required") else ""
    default = kind.get("default", needed)
    cells = [
        tag("th", tag("code", option["name"]), scope="row"),
        tag("td", joined([_kind(each) for each in kinds])),
        tag("td", "" if default == [] else str(default).lower() if isinstance(default, bool) else default),
        tag("td", option.get("description", "")),
    ]
    return tag("tr", *cells)


def _kind(kind: dict[str, Any]) -> str:
    if kind.get("type") == "array":
        return f"{_kind(kind['items'])}s"
    bounds = [
        f"{kind['minimum']:,} to {kind['maximum']:,}" if "minimum" in kind and "maximum" in kind else "",
        f"at most {kind['maxLength']:,} characters" if "maxLength" in kind else "",
    ]
    return ", ".join([kind.get("type", ""), *filter(None, bounds)])
