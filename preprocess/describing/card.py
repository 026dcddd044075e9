"""README.md of a folder that is published: the data card, what was measured and what only the owner can say."""

from preprocess.describing.croissant import IMAGE_COLUMNS, MEANINGS, description
from preprocess.describing.questions import QUESTIONS
from preprocess.measuring.findings import WORDS, community_lines
from preprocess.measuring.number_tables import markdown, markdown_table, paper_rows


def card(report, columns, images_count, with_images, answers, rebuild):
    """The text. columns: of the splits' CSVs; rebuild: a Rebuild, or None; the others as of `croissant`."""
    lines = [f"# {markdown(report['title'])}", "", markdown(description(report)), ""]
    lines += ["## Files", "", markdown_table(list(_file_rows(report, images_count, with_images)), (0, 1)), ""]
    lines += ["Columns of the splits' CSVs:", "", _columns({name: MEANINGS[name] for name in columns}), ""]
    lines += ["Columns of images.csv:", "", _columns({name: what for name, (_, what) in IMAGE_COLUMNS.items()}), ""]
    if rebuild:
        lines += _rebuild_lines(rebuild, with_images)
    lines += ["## What was measured", "", markdown_table(paper_rows(_as_one(report)), left=(0, 1)), "", markdown(WORDS)]
    lines += ["", *map(markdown, report["notes"]), "", *community_lines(report)]
    if answers:
        lines += ["## What the owner says", ""]
        for key, answer in answers.items():
            lines += [f"**{QUESTIONS[key].text}**", "", answer.strip(), ""]
    if left := open_questions(answers):
        lines += [f"## Open questions ({len(left)})", "", "Only the owner of the data can answer these.", ""]
        lines += [f"- `{key}`: {QUESTIONS[key].text}" for key in left]
        lines += [""]
    return "\n".join(lines)


def open_questions(answers):
    """The keys of the questions without an answer."""
    return [key for key in QUESTIONS if key not in answers]


def _columns(meanings):
    return markdown_table([("column", "what it is"), *meanings.items()], left=(0, 1))


def _file_rows(report, images_count, with_images):
    yield from (("file", "holds"), *((f"{split}.csv", _records(part)) for split, part in report["splits"].items()))
    yield "images.csv", f"checksum, perceptual hash and size of the {images_count:,} image files"
    yield "images/", "the pictures" if with_images else "not here: how to make them is said below"
    yield "croissant.json", "what a program has to know, in the format Croissant 1.1"


def _records(part):
    return f"{part['records']:,} records: {part['memes']:,} memes in {part['topics']:,} topics"


def _rebuild_lines(rebuild, with_images):
    lines = ["## To make it again" if with_images else "## The pictures", ""]
    if not with_images:
        lines += ["They are not part of this folder. This command makes the whole community again, with its pictures:"]
        lines += [""]
    lines += ["```sh", rebuild.command, "```", ""]
    if rebuild.inputs:
        lines += [f"Words in capitals stand for paths on your machine: {', '.join(rebuild.inputs)}.", ""]
    if rebuild.versions:
        versions = ", ".join(f"{name} {value}" for name, value in rebuild.versions.items())
        lines += [f"The bytes also depend on: {markdown(versions)}.", ""]
    lines += ["Whether the result is the same, file by file:", ""]
    return [*lines, "```sh", "python -m preprocess.describe FOLDER --check THIS_FOLDER", "```", ""]


def _as_one(report):
    """The report as that of several communities, which paper_rows expects."""
    return {"communities": {report["title"]: report}}
