"""The report of preprocess.statistics as it is printed and written: terminal, Markdown, duplicates.csv."""

import csv
from pathlib import Path

from preprocess.measuring.counts import summary, total
from preprocess.measuring.number_tables import (
    LISTED,
    SHOWN,
    aligned,
    check_rows,
    compared_line,
    emotion_line,
    markdown,
    markdown_table,
    measure_rows,
    paper_rows,
    wrapped,
)
from util import replaced_atomically

WORDS = (
    "Words: a Chinese or Japanese character is one; other text is split at white space, and a piece counts if it "
    "holds a letter or a digit. Tokens: CLIP's, start and end included. A cut text keeps its end token. Quoted: the "
    "text on the meme as the caption repeats it, or the caption's last passage in quotation marks."
)
PAIR_HEADER = (
    *("community", "kind", "image_id_a", "image_id_b", "splits_a", "splits_b", "across_splits"),
    *("hash_distance", "text_distance", "image_a", "image_b"),
)
PLOTS = {
    "memes_per_topic": "Memes per topic",
    "token_lengths": "Token lengths with the cut marked",
    "emotions": "Emotions",
    "duplicates": "Duplicate pairs",
}


def combined(args, communities):
    """The content of statistics.json. communities: {name: Survey}."""
    parts = [community.measures["total"] for community in communities.values()]
    everything = summary(total(parts), args.max_words, args.max_caption_words)
    names = dict.fromkeys(split for community in communities.values() for split in community.report["splits"])
    records = {split: _records(communities, split) for split in names}
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    arguments["communities"] = list(map(str, args.communities))
    return {
        "arguments": arguments,
        "communities": {name: community.report for name, community in communities.items()},
        "all": {"total": everything, "splits": {split: {"records": count} for split, count in records.items()}},
    }


def _records(communities, split):
    reports = (community.report for community in communities.values())
    return sum(report["splits"][split]["records"] for report in reports if split in report["splits"])


def terminal(report):
    """The lines about one community."""
    yield ""
    yield wrapped(f"{report['title']}: {', '.join(report['files'].values())}, images in {report['images']}")
    yield from report["notes"]
    yield ""
    yield aligned(measure_rows(report["splits"] | {"total": report["total"]}))
    yield ""
    yield wrapped(emotion_line(report["total"]))
    yield ""
    yield aligned(check_rows(report), left=(0, 2))
    yield wrapped(compared_line(report["duplicates"]), "")
    if unreadable := report["unreadable"]:
        yield ""
        yield f"{len(unreadable):,} images cannot be read:"
        yield from (wrapped(f"  {reason}", "    ") for reason in list(unreadable.values())[:SHOWN])
        if len(unreadable) > SHOWN:
            yield f"  and {len(unreadable) - SHOWN:,} more"
    for problem in report["problems"]:
        yield wrapped(f"WARNING: {problem}")


def ending(out, report):
    """The lines after the last community: the table over all, and what was written."""
    yield ""
    yield aligned(paper_rows(report), left=(0, 1))
    if len(report["communities"]) > 1:
        yield "\nAll communities together"
        yield aligned(measure_rows({"all": report["all"]["total"]}))
    yield ""
    yield wrapped(WORDS, "")
    plots = [file for community in report["communities"].values() for file in community["plots"].values()]
    files = ["statistics.json", "statistics.md", "statistics.tex", "duplicates.csv", *plots]
    yield wrapped(f"written to {out}: {', '.join(files)}")


def page(report):
    """statistics.md."""
    lines = ["# Statistics", "", markdown_table(paper_rows(report), left=(0, 1)), "", markdown(WORDS), ""]
    for name, community in report["communities"].items():
        lines += [f"## {markdown(community['title'])}", ""]
        lines += [f"Images: {markdown(community['images'])}", "", *map(markdown, community["notes"]), ""]
        lines += community_lines(community)
        lines += [f"![{PLOTS[kind]} of {markdown(name)}](<{file}>)\n" for kind, file in community["plots"].items()]
    if len(report["communities"]) > 1:
        lines += ["## All communities", "", markdown_table(measure_rows({"all": report["all"]["total"]})), ""]
    return "\n".join(lines)


def community_lines(community):
    """What was measured of one community, as lines of Markdown: its problems, and the tables below a heading each."""
    lines = [f"**{markdown(problem)}**\n" for problem in community["problems"]]
    lines += [markdown_table(measure_rows(community["splits"] | {"total": community["total"]})), ""]
    lines += ["### Duplicates, leakage, topics", ""]
    lines += [markdown_table([("", "number", ""), *check_rows(community)], left=(0, 2)), ""]
    lines += [markdown(compared_line(community["duplicates"])), ""]
    lines += _topic_lists(community["topics"])
    lines += _listed("Images that cannot be read", [markdown(reason) for reason in community["unreadable"].values()])
    return [*lines, "### Emotions", "", markdown_table(_emotion_rows(community)), ""]


def _emotion_rows(community):
    """A row per word: how many persons have it in each split."""
    parts = community["splits"] | {"total": community["total"]}
    rows = [["word", *parts]]
    for word in list(community["total"]["emotions"])[:LISTED]:
        rows.append([word, *(f"{part['emotions'].get(word, 0):,}" for part in parts.values())])
    others = [
        sum(part["emotions"].values()) - sum(part["emotions"].get(row[0], 0) for row in rows) for part in parts.values()
    ]
    return [*rows, ["other words", *(f"{count:,}" for count in others)]] if any(others) else rows


def _topic_lists(topics):
    lines = []
    for split, small in topics["small"].items():
        title = f"Topics in {split} with fewer than {topics['min_memes']} memes"
        lines += _listed(title, list(map(markdown, small)))
    for split, found in topics["near_identical_queries"].items():
        members = [
            "; ".join(f"{markdown(topic)}: {markdown(query)}" for topic, query in group[:SHOWN])
            + (f"; and {len(group) - SHOWN:,} more" if len(group) > SHOWN else "")
            for group in found
        ]
        lines += _listed(f"Topics in {split} whose queries are nearly the same", members)
    return lines


def _listed(title, items):
    if not items:
        return []
    rest = [f"- and {len(items) - LISTED:,} more"] if len(items) > LISTED else []
    return [f"{title} ({len(items):,}):", "", *(f"- {item}" for item in items[:LISTED]), *rest, ""]


def write_pairs(path, communities):
    """duplicates.csv: a row per pair. communities: {name: Survey}."""
    with replaced_atomically(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(PAIR_HEADER)
        for name, community in communities.items():
            for pair in community.pairs:
                ids = pair.first.image_id, pair.second.image_id
                splits = "+".join(pair.first_splits), "+".join(pair.second_splits)
                distances = pair.hash_distance, f"{pair.text_distance:.4f}"
                files = pair.first.image, pair.second.image
                writer.writerow((name, pair.kind, *ids, *splits, "yes" if pair.across else "no", *distances, *files))
