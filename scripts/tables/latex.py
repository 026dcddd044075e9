r"""Tables as LaTeX floats for \input, one per community: booktabs, and graphicx to shrink one that is too wide."""

import re

from preprocess.measuring.number_tables import latex

SYMBOLS = {
    **{"α": r"$\alpha$", "Δ": r"$\Delta$", "±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$", "−": "$-$"},
    **{"<": "$<$", ">": "$>$", "|": "$|$"},  # which the old font encoding has not
    **{"[": "{[}", "*": "{*}"},  # after the end of a row these would be its arguments
}
MARKS = {"†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "": ""}
STYLES = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
PACKAGES = r"""% \usepackage{booktabs}
% \usepackage{graphicx}
% Names in Chinese need XeLaTeX or LuaLaTeX and a font that has them."""


def escaped(text):
    """Text as LaTeX prints it, the tables' symbols included."""
    return "".join(SYMBOLS.get(character, character) for character in latex(text))


def document(table):
    """The table's .tex file: a float per community; those without data are rows of the last one."""
    floats = []
    first = label(table, table.sections[0].slug) if table.sections else None
    for i, section in enumerate(table.sections):
        see = [] if i == 0 else [rf"Otherwise as Table~\ref{{{first}}}."]
        notes = [*map(escaped, section.notes), *(map(escaped, table.notes) if i == 0 else see)]
        body = [line(row, len(table.columns)) for row in section.rows]
        if i == len(table.sections) - 1 and table.absent:
            body += [r"\midrule", *absent_lines(table)]
        caption = f"{escaped(table.caption)}: {escaped(section.title)}."
        floats.append(one_float(table, caption, label(table, section.slug), body, notes))
    if not floats:
        body = absent_lines(table)
        floats.append(one_float(table, f"{escaped(table.caption)}.", f"tab:{table.name}", body, []))
    return "\n".join([PACKAGES, *floats])


def one_float(table, caption, name, body, notes):
    count = len(table.columns)
    return "\n".join(
        [
            r"\begin{table*}[tp]",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{{name}}}",
            r"\setlength{\tabcolsep}{3.5pt}",
            FIT,
            rf"\begin{{tabular}}{{@{{}}{'l' * table.left}{'r' * (count - table.left)}@{{}}}}",
            r"\toprule",
            " & ".join(map(escaped, table.columns)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            *([rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {' '.join(notes)}}}"] if notes else []),
            r"\end{table*}",
            "",
        ]
    )


def line(row, count):
    cells = list(map(styled, row.cells))
    if row.message:
        cells.append(rf"\multicolumn{{{count - len(cells)}}}{{l}}{{{escaped(row.message)}}}")
    return " & ".join(cells) + r" \\"


def absent_lines(table):
    rest = len(table.columns) - 1
    return [
        rf"{escaped(title)} & \multicolumn{{{rest}}}{{l}}{{{escaped(reason)}}} \\" for title, reason in table.absent
    ]


def styled(cell):
    text = STYLES[cell.place] % escaped(cell.text)
    spread = rf"$_{{\pm {cell.spread}}}$" if cell.spread else ""
    return text + spread + MARKS[cell.mark]


def label(table, slug):
    """`tab:main-english-memes`; what is no ASCII letter, digit or underscore stands as its code between dots."""
    plain = re.sub("[^A-Za-z0-9_]", lambda found: f".{ord(found[0]):x}.", slug)
    return f"tab:{table.name}-{plain.replace('_', '-')}"
