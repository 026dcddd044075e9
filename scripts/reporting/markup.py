"""HTML and SVG from nested calls. Whatever is not markup already is escaped, so no text from data can become any."""

import html

VOID = {"input", "meta"}  # elements that have no end tag


class Markup(str):
    """Text that is HTML; only `tag` and `joined` make it."""

    __slots__ = ()


def tag(name, /, *children, **attributes):
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


def joined(children):
    """Several children one after the other."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(str(c)) for c in children if c is not None))
