"""The numbers of preprocess.statistics as tables: for the terminal, as Markdown, as LaTeX rows."""

import re
import unicodedata

from dataloaders.communities import SPLITS

WIDTH = 100  # columns of a terminal
SHOWN = 5  # of a list, on the terminal
LISTED = 20  # of a list, in Markdown
WORDS_SHOWN = 12
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}
PAPER_COLUMNS = ("community", "language", "topics", "records", "memes", "train", "val", "test")


def measure_rows(summaries):
    """Rows of cells, the heading first: a column per summary (a dict as `counts.summary` makes it)."""
    rows = [["n (share); median (quartiles)", *summaries]]
    parts = list(summaries.values())

    def row(label, cell):
        rows.append([label, *map(cell, parts)])

    def spread_rows(label, get):
        row(label, lambda part: _middle(get(part)))
        row("  least – most", lambda part: _range(get(part)))

    def cut_rows(kind):
        for place, limit in enumerate(entry["limit"] for entry in parts[0][kind]["cut"]):

            def get(part, place=place):
                return part[kind]["cut"][place]

            row(f"  cut at {limit}", lambda part: _share(get(part)["cut"], part[kind]["count"]))
            if not any(get(part)["cut"] for part in parts):
                continue
            row("    tokens lost", lambda part: f"{get(part)['tokens_lost']:,}")
            row("      of all tokens", lambda part: _percent_of(get(part)["share_of_tokens_lost"]))
            if kind == "captions":
                row("      of text that is quoted", lambda part: f"{get(part)['quotation_tokens_lost']:,}")
                row("    of those cut, quote", lambda part: f"{get(part)['quoting']:,}")
                row("      lose quoted text", lambda part: _share(get(part)["quotation_cut"], get(part)["quoting"]))
                row("      lose all of it", lambda part: _share(get(part)["quotation_lost"], get(part)["quoting"]))

    for name in ("records", "topics", "memes"):
        row(name, lambda part, name=name: f"{part[name]:,}")
    spread_rows("memes per topic", lambda part: part["memes_per_topic"])
    for kind in ("queries", "captions", "text"):
        if kind != "queries":
            row(f"memes without {kind}", lambda part, kind=kind: _share(part[kind]["memes_without"], part["memes"]))
        if kind == "captions":
            spread_rows("captions per meme", lambda part: part["captions"]["per_meme"])
        for unit in ("words", "tokens"):
            spread_rows(f"{kind}, {unit}", lambda part, kind=kind, unit=unit: part[kind][unit])
        cut_rows(kind)
    for label, wanted in (("no emotion", {"0"}), ("one person", {"1"})):
        row(label, lambda part, wanted=wanted: _share(_persons(part, wanted), part["memes"]))
    row("several persons", lambda part: _share(part["memes"] - _persons(part, {"0", "1"}), part["memes"]))
    row("emotion words", lambda part: f"{len(part['emotions']):,}")
    for side in ("width", "height"):
        spread_rows(f"image {side}", lambda part, side=side: part["images"][side])
    for kind in parts[-1]["images"]["formats"]:
        row(f"  {kind}", lambda part, kind=kind: f"{part['images']['formats'].get(kind, 0):,}")
    row("animated", lambda part: f"{part['images']['animated']:,}")
    row("unreadable images", lambda part: f"{part['images']['unreadable']:,}")
    return rows


def paper_rows(report):
    """A row per community in the form of a paper's table of data sets, the heading first, then all together."""
    rows = [list(PAPER_COLUMNS)]
    named = dict(report["communities"])
    if len(named) > 1:
        named["all"] = {"language": "", **report["all"]}
    for name, community in named.items():
        numbers = community["total"]
        splits = community["splits"]
        records = [f"{splits[split]['records']:,}" if split in splits else "–" for split in SPLITS]
        counts = (f"{numbers[key]:,}" for key in ("topics", "records", "memes"))
        rows.append([community.get("title", name), community["language"] or "–", *counts, *records])
    return rows


def check_rows(community):
    """(what, number, remark) of duplicates, leakage and topics of one community's report."""
    duplicates, leakage, topics = (community[key] for key in ("duplicates", "leakage", "topics"))
    shared = {
        "memes": ("leakage: memes in two splits", "the same image_id"),
        "exact": ("leakage: exact duplicates", "pairs across splits"),
        "near": ("leakage: near-duplicates", "pairs across splits"),
        "topics": ("leakage: topics in two splits", "the same topic_id"),
        "queries": ("leakage: queries in two splits", "the same but for case and white space"),
        "templates": ("leakage: templates in two splits", "hashes agree, from meme to meme"),
    }
    template = duplicates["same_template"]
    no_error = "" if "templates" in leakage else "; no error"
    rows = [
        ("exact duplicates", duplicates["exact"]["pairs"], f"pairs, {_grouped(duplicates['exact'])}: the same bytes"),
        ("near-duplicates", duplicates["near"]["pairs"], f"pairs, {_grouped(duplicates['near'])}: hash and text agree"),
        *((shared[key][0], count, shared[key][1]) for key, count in leakage.items()),
        (
            "same template across splits",
            template["pairs_across_splits"],
            f"{_percent_of(template['share'])} of {template['pairs']:,} pairs whose hashes agree{no_error}",
        ),
    ]
    for split, small in topics["small"].items():
        rows.append((f"small topics in {split}", len(small), f"topics with fewer than {topics['min_memes']} memes"))
    for split, found in topics["near_identical_queries"].items():
        remark = f"topics in {len(found):,} groups, queries within 10 % of edits"
        rows.append((f"near-identical queries in {split}", sum(map(len, found)), remark))
    return [(what, f"{number:,}", remark) for what, number, remark in rows]


def compared_line(duplicates):
    """What near-duplicates are, as one sentence."""
    text = "the text on them" if duplicates["compared"] == "text" else "what their captions quote (no meme has a text)"
    return (
        f"Near-duplicates: the memes' hashes agree within {duplicates['hash_threshold']} of 64 bits, and {text} within "
        "10 % of edits. The same template: the hashes agree."
    )


def emotion_line(summary, shown=WORDS_SHOWN):
    """The most frequent emotion words with their shares of the persons, as one sentence."""
    emotions = summary["emotions"]
    if not emotions:
        return "Emotions: no meme has any."
    persons = sum(emotions.values())
    words = [f"{word} {_percent_of(count / persons)}" for word, count in list(emotions.items())[:shown]]
    rest = f", and {len(emotions) - shown} more words" if len(emotions) > shown else ""
    return f"Emotions of {persons:,} persons: {', '.join(words)}{rest}."


def aligned(rows, left=(0,)):
    """Rows of cells as lines; columns are to the right but those in `left`. Wide characters take two columns."""
    widths = [max(map(display_width, cells)) for cells in zip(*rows, strict=True)]
    lines = []
    for cells in rows:
        padding = [" " * (width - display_width(cell)) for width, cell in zip(widths, cells, strict=True)]
        padded = [
            cell + pad if i in left else pad + cell for i, (cell, pad) in enumerate(zip(cells, padding, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def display_width(text):
    """Columns of a terminal that a text takes."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def wrapped(text, indent="  "):
    """A text on lines of a terminal, the later ones indented; spaces at its start stay."""
    head = text[: len(text) - len(text.lstrip())]
    lines, used = [], WIDTH
    for word in text.split():
        width = display_width(word)
        if used + 1 + width > WIDTH:
            lines.append((indent if lines else head) + word)
            used = display_width(lines[-1])
        else:
            lines[-1] += f" {word}"
            used += 1 + width
    return "\n".join(lines)


def markdown_table(rows, left=(0,)):
    """Rows of cells, the heading first, as a Markdown table."""
    rule = [":--" if i in left else "--:" for i in range(len(rows[0]))]
    indented = [
        [re.sub("^ +", lambda spaces: "&nbsp;" * len(spaces[0]), markdown(cell)) for cell in row] for row in rows
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [indented[0], rule, *indented[1:]])


def markdown(text):
    """Text as it stands in a Markdown table: one line, nothing in it is markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", re.sub(r"[\r\n]+", " ", text))


def latex(text):
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(character, character) for character in text).replace("–", "--")


def latex_table(rows):
    """Rows of cells, the heading first, as a table of the package booktabs."""
    lines = [" & ".join(map(latex, cells)) + r" \\" for cells in rows]
    total = [r"\midrule"] if len(rows) > 2 else []
    body = [*lines[1:-1], *total, lines[-1]]
    head = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{ll{'r' * (len(rows[0]) - 2)}}}", r"\toprule", lines[0]]
    return "\n".join([*head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""])


def _middle(spread):
    if spread is None:
        return "–"
    return f"{_number(spread['median'])} ({_number(spread['q1'])}–{_number(spread['q3'])})"


def _range(spread):
    return "–" if spread is None else f"{_number(spread['min'])} – {_number(spread['max'])}"


def _number(value):
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _share(count, of):
    return _percent(count, count / of) if of else f"{count:,}"


def _percent(count, share):
    return f"{count:,} ({_percent_of(share)})"


def _percent_of(share):
    return f"{100 * share:.1f} %"


def _persons(summary, numbers):
    return sum(count for number, count in summary["persons_per_meme"].items() if number in numbers)


def _grouped(counts):
    return f"{counts['memes']:,} memes in {counts['groups']:,} groups"
