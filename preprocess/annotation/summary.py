"""What `annotate` prints at its end: what became of the images, what it cost, what to do next."""

from collections import Counter

from preprocess.annotation.annotation_file import STATUSES, last_rows
from preprocess.annotation.emotion_words import map_emotions

UNKNOWN_SHOWN = 20


def summary(images, rows, new_rows, table):
    """Lines about the images of a folder.

    `images`: {sha256: path}; `rows`: all rows of the file, `new_rows` those of this call; `table`: the emotion table.
    """
    last = last_rows(rows)
    there = [last[sha256] for sha256 in images if sha256 in last]
    counts = Counter(row.status for row in there)
    lines = [f"{len(images):,} different images: " + ", ".join(
        [f"{counts[status]:,} {status}" for status in STATUSES if counts[status]]
        + [f"{len(images) - len(there):,} not asked about yet"] * (len(there) < len(images))
    )]  # fmt: skip
    for status in STATUSES[1:]:
        if example := next((row for row in there if row.status == status), None):
            lines.append(f"  {status}, for example {example.image}: {example.error}")
    if answered := [row for row in there if row.status == "ok"]:
        lines += of_answers(answered, table)
    return [*lines, *of_costs(rows, new_rows)]


def of_answers(rows, table):
    captions, texts, emotions = (Counter(map(len, lists)) for lists in zip(
        *((row.captions, row.text.split(), row.emotions) for row in rows), strict=True
    ))  # fmt: skip
    yield f"captions per image: {spread(captions)}; images without text: {texts[0]:,}"
    yield f"emotion words per image: {spread(emotions)}"
    unknown = Counter(word for row in rows for word in map_emotions(row.emotions, table)[1])
    if unknown:
        shown = [f"{word} ({count:,})" for word, count in unknown.most_common(UNKNOWN_SHOWN)]
        more = f", and {len(unknown) - len(shown):,} other words" if len(unknown) > len(shown) else ""
        yield f"emotion words that are not in the table (kept as they are): {', '.join(shown)}{more}"
    if noted := sum(1 for row in rows if row.notes):
        yield f"answers of which something was mended or left out (see their notes): {noted:,}"


def spread(counts):
    """A Counter of numbers, as "1 (12 times), 2 (30 times)"."""
    return ", ".join(f"{number} ({count:,} times)" for number, count in sorted(counts.items()))


def of_costs(rows, new_rows):
    for name, counted in ("this call", new_rows), ("the whole file", rows):
        if not any(row.input_tokens is not None or row.output_tokens is not None for row in counted):
            continue
        line = f"{name}: {sum(row.input_tokens or 0 for row in counted):,} tokens in, "
        line += f"{sum(row.output_tokens or 0 for row in counted):,} out"
        if any(row.cost is not None for row in counted):
            line += f", {dollars(total_cost(counted))}"
            if unknown := sum(row.cost is None and row.input_tokens is not None for row in counted):
                line += f" and {unknown:,} rows whose cost is not known"
        yield line


def total_cost(rows):
    """US dollars of the rows whose cost is known."""
    return sum(row.cost or 0 for row in rows)


def dollars(amount):
    return f"${amount:,.4f}"
