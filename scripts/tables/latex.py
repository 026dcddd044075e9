r"""Tables as LaTeX floats for \input, one per community: booktabs, and graphicx to shrink one that is too wide.

Under a float stands what its marks mean; the notes are in a text file beside it.
"""

import re

from preprocess.measuring.number_tables import latex, wrapped
from scripts.tables.table import sentences

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
    for i, section in enumerate(table.sections):
        body = [line(row, len(table.columns)) for row in section.rows]
        if i == len(table.sections) - 1 and table.absent:
            body += [r"\midrule", *absent_lines(table)]
        caption = f"{escaped(table.caption)}: {escaped(section.title)}."
        floats.append(one_float(table, caption, label(table, section.slug), body, section.legend.values()))
    if not floats:
        body = absent_lines(table)
        floats.append(one_float(table, f"{escaped(table.caption)}.", f"tab:{table.name}", body, []))
    return "\n".join([PACKAGES, f"% Notes: {table.name}.txt", *floats])


def notes_file(table):
    """The text of the file with the notes: of each community, then of all."""
    parts = [f"{section.title}: {sentences(section)}" for section in table.sections]
    return "\n".join([f"{table.caption}\n", *(f"{wrapped(part)}\n" for part in [*parts, *table.notes])])


def one_float(table, caption, name, body, legend):
    count = len(table.columns)
    footnote = " ".join(map(escaped, legend))
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
            *([rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {footnote}}}"] if footnote else []),
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
