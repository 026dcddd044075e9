"""Tables as Markdown that GitHub shows, and as lines of a terminal."""

from preprocess.measuring.number_tables import aligned, markdown, wrapped
from scripts.tables.table import sentences

STYLES = {"best": "**{}**", "second": "<ins>{}</ins>", "": "{}"}


def page(tables):
    """tables.md."""
    lines = ["# Tables", ""]
    for table in tables:
        lines += [f"## {markdown(table.caption)}", ""]
        for section in table.sections:
            lines += [f"### {markdown(section.title)}", "", *rows(table, section), "", markdown(sentences(section)), ""]
        if table.absent:
            lines += ["| community | |", "|:--|:--|"]
            lines += [f"| {markdown(title)} | {markdown(reason)} |" for title, reason in table.absent]
            lines.append("")
        lines += [f"- {markdown(note)}" for note in table.notes]
        lines.append("")
    return "\n".join(lines)


def rows(table, section):
    rule = [":--" if i < table.left else "--:" for i in range(len(table.columns))]
    yield line(map(markdown, table.columns))
    yield line(rule)
    for row in section.rows:
        cells = [*map(styled, row.cells), *([markdown(row.message)] if row.message else [])]
        yield line(cells + [""] * (len(table.columns) - len(cells)))


def line(cells):
    return f"| {' | '.join(cells)} |"


def styled(cell):
    text = STYLES[cell.place].format(markdown(cell.text)) if cell.text else ""
    return f"{text}{f' ± {cell.spread}' if cell.spread else ''}{cell.mark}"


def terminal(table, columns):
    """Lines: these columns of a table, with its marks but bold and underlined, and its last note, on significance."""
    chosen = [table.columns.index(name) for name in columns]
    for section in table.sections:
        marked = {i for row in section.rows for i, cell in enumerate(row.cells) if cell.mark}
        body = [[f"{name} " if i in marked else name for i, name in enumerate(table.columns)]]
        for row in section.rows:
            cells = [plain(cell, i in marked) for i, cell in enumerate(row.cells)]
            cells += [row.message] + [""] * len(table.columns)
            body.append(cells)
        yield f"\n{section.title}: {table.caption.lower()}"
        yield aligned([[cells[i] for i in chosen] for cells in body])
        yield wrapped(sentences(section, without=STYLES), "")
    if table.absent:
        yield ""
        yield from (wrapped(f"{title}: {reason}") for title, reason in table.absent)
    yield ""
    yield wrapped(table.notes[-1], "")


def plain(cell, marked):
    """marked: the column has marks, for which there has to be room."""
    return f"{cell.text}{f' ± {cell.spread}' if cell.spread else ''}{cell.mark or ' ' * marked}"
