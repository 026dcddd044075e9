"""A table as plain data: what markdown.py, latex.py and the terminal write."""

import dataclasses

from metrics import METRICS

MARKS = {"better": "†", "worse": "‡", "": ""}
SPREAD_LEGEND = {"±": "Mean ± standard deviation (n - 1) over the seeds, where there are several."}


@dataclasses.dataclass(frozen=True)
class Cell:
    """text ± spread. place: best, second or empty; mark: † (significantly better), ‡ (worse) or empty."""

    text: str = ""
    spread: str = ""
    place: str = ""
    mark: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """Cells from the left; a message, where there is one, stands in place of the rest."""

    cells: list
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """The part of a community. legend: {mark: a short sentence}, what has to stand by the rows; notes: sentences."""

    slug: str
    title: str
    rows: list
    legend: dict
    notes: list


@dataclasses.dataclass(frozen=True)
class Table:
    """columns: headings, the first `left` of them of text. absent: [(community, why it has no section)]."""

    name: str
    caption: str
    columns: list
    left: int
    sections: list
    absent: list
    notes: list


def number_cell(spread, digits, scale=1, **more):
    """The cell of a measures.Spread, or of None."""
    if spread is None:
        return Cell("–")
    sd = "" if spread.sd is None else f"{spread.sd / scale:,.{digits}f}"
    return Cell(f"{spread.mean / scale:,.{digits}f}", sd, **more)


def legend(rows, meanings):
    """Those of the {mark: sentence} whose marks occur in these rows: ±, best, second, † or ‡."""
    cells = [cell for row in rows for cell in row.cells]
    found = {"±" for cell in cells if cell.spread}.union(*({cell.place, cell.mark} for cell in cells))
    return {mark: sentence for mark, sentence in meanings.items() if mark in found}


def sentences(section, without=()):
    """All that stands under a Section's rows; without: marks whose meaning is left out."""
    return " ".join([*(text for mark, text in section.legend.items() if mark not in without), *section.notes])


def places(means, metric):
    """best, second or empty for each of the means; None has none. What prints alike shares its place."""
    printed = [None if mean is None else float(f"{mean:.{METRICS[metric].digits}f}") for mean in means]
    order = sorted({value for value in printed if value is not None}, reverse=not METRICS[metric].lower_is_better)
    if sum(value is not None for value in printed) < 2:
        return ["" for _ in means]
    names = dict(zip(order, ("best", "second"), strict=False))
    return [names.get(value, "") for value in printed]


def listed(values):
    return ", ".join(map(str, values))
