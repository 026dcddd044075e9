"""HTML and SVG from nested calls. Whatever is not markup already is escaped, so no text from data can become any."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path

VOID = {"input", "link", "meta"}  # elements that have no end tag
# What JSON may hold but a <script> element may not, and the two line ends that only JavaScript knows
UNSAFE = "<>&\u2028\u2029"
SHARED = Path(__file__).parent


class Markup(str):
    """Text that is HTML; only `tag`, `joined` and `embedded` make it, and of files of ours who reads them."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. children: Markup as it is, all else escaped, None left out. `class_` is the attribute class,
    `data_query` is data-query; an attribute that is None or False is left out, True has no value.
    """
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    shown = "".join(
        f" {names[key]}" if value is True else f' {names[key]}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{shown}>" + ("" if name in VOID else f"{joined(children)}</{name}>"))


def joined(children: Iterable[object]) -> Markup:
    """Several children one after the other."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(str(c)) for c in children if c is not None))


def scrolling(content: Markup, label: str) -> Markup:
    """A box of its own, called `label`, for what scrolls sideways where the screen is too narrow."""
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)


def embedded(data: object) -> Markup:
    """JSON that is safe inside a <script> element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in UNSAFE:
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def styles(*own: Path) -> str:
    """The shared styles, and then a page's own files."""
    return _read(SHARED / "base.css", *own)


def script(*own: Path) -> str:
    """The shared elements and tips, and then a page's own files."""
    return _read(SHARED / "elements.js", SHARED / "tips.js", *own)


def _read(*paths: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def head(title: str, *children: object) -> Markup:
    """The <head> of a page that is read on phones and in the dark, too."""
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        *children,
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
    )


def document(head: Markup, body: Markup) -> str:
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"
