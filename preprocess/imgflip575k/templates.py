"""The templates of an ImgFlip575K checkout, with the project's table of what their pictures show."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from preprocess.imgflip575k.text_filter import comparable, one_line, to_ascii
from util import InputError, read_json

TABLE = Path(__file__).with_name("templates.csv")
COLUMNS = ("template", "emotions", "description")
SUFFIX = " Meme Template"  # of every title in the data set
RUDE = ("hate", "sexual", "profanity")  # the categories of blocked words which keep out a template's other name


@dataclass(frozen=True)
class Template:
    """slug: its file name in the checkout; names: the other names that users gave it; image and memes: paths."""

    slug: str
    name: str
    names: tuple
    description: str
    emotions: tuple
    image: Path
    memes: Path


class Checkout(NamedTuple):
    """What a checkout has: the templates to use, and the slugs of those that are left out or lack something.

    without_row: not in the table. without_memes: in the table only. without_picture: {slug: why it cannot be read}.
    undescribed: their name is their slug's. names: of all templates, as `comparable` gives them.
    """

    templates: list
    without_row: list
    without_memes: list
    without_picture: dict
    undescribed: list
    names: set


def read_templates(source, table, blocked, without_a_row=False):
    """The Checkout in the folder `source`, with the table of what the pictures show.

    blocked: BlockedWords, for the other names. without_a_row: use templates without a row as well; all that is said
    of their picture is the template's name. Slugs agree whatever their case, and a picture has any suffix. Raises
    InputError if no template is left, and for broken files but pictures.
    """
    folder = Path(source) / "dataset"
    memes = {path.stem: path for path in sorted((folder / "memes").glob("*.json")) if not path.name.startswith(".")}
    if not memes:
        raise InputError(
            f"{folder / 'memes'}: found no memes, expected a clone of https://github.com/schesa/ImgFlip575K_Dataset"
            f" in {source}"
        )
    rows = read_table(table)
    images = folder / "templates" / "img"
    files = sorted(images.glob("*"))
    found = Checkout([], [], [], {}, [], set())
    for slug, path in memes.items():
        facts = folder / "templates" / f"{slug}.json"
        name, names = read_names(facts, slug, blocked)
        found.names.update(comparable(each) for each in (name, *names, slug.replace("-", " ")))
        row = rows.get(slug.casefold())
        if row is None:
            found.without_row.append(slug)
            if not without_a_row:
                continue
            row = slug, f"The meme template {name}.", ()
        image, fault = readable_picture(file for file in files if file.stem.casefold() == slug.casefold())
        if image is None:
            found.without_picture[slug] = fault or f"found no picture of it in {images}"
            continue
        if not facts.is_file():
            found.undescribed.append(slug)
        found.templates.append(Template(slug, name, names, *row[1:], image, path))
    if found.without_picture and not found.templates:
        raise InputError(f"{images}: found no picture that can be read; {next(iter(found.without_picture.values()))}")
    if not found.templates:
        raise InputError(
            f"{table}: found a row for none of {', '.join(found.without_row[:5])}, …, expected one for each template"
        )
    there = {slug.casefold() for slug in memes}
    found.without_memes.extend(slug for slug, _, _ in rows.values() if slug.casefold() not in there)
    return found


def readable_picture(paths):
    """(the first of the files that can be read as an image, ""), or (None, why the last one cannot)."""
    from preprocess.imgflip575k.images import read_picture

    fault = ""
    for path in paths:
        try:
            read_picture(path)
            return path, ""
        except InputError as error:
            fault = str(error)
    return None, fault


def read_names(path, slug, blocked):
    """(name, other names) of a template; rude other names and those that repeat one are left out.

    `path`: the JSON file that describes it; some templates of the data set have none.
    """
    facts = read_json(path, dict, "an object that describes a template") if path.is_file() else {}
    title, others = (text if isinstance(text := facts.get(key), str) else "" for key in ("title", "alternative_names"))
    name = one_line(title).removesuffix(SUFFIX.strip()).strip() or slug.replace("-", " ")
    kept = {comparable(name): name}
    for other in map(one_line, others.split(",")):
        if comparable(other) and blocked.category(to_ascii(other) or "") not in RUDE:
            kept.setdefault(comparable(other), other)
    return name, tuple(kept.values())[1:]


def read_table(path):
    """{slug, case folded: (slug, description, emotions)} of a CSV with the columns template, emotions, description."""
    rows = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if absent := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
                raise InputError(f"{path}, line 1: found no column {', '.join(absent)}, expected {', '.join(COLUMNS)}")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                slug, emotions, description = ((row[column] or "").strip() for column in COLUMNS)
                if not slug or not description:
                    raise InputError(f"{where}: found an empty template or description, expected both")
                if slug.casefold() in rows:
                    raise InputError(f"{where}: found the template {slug!r} again, expected each once")
                rows[slug.casefold()] = (slug, description, _emotions(emotions, where))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: found no readable CSV ({error}), expected the table of templates") from None
    return rows


def _emotions(cell, where):
    try:
        emotions = json.loads(cell)
    except (ValueError, RecursionError):
        emotions = None
    if not isinstance(emotions, list) or not all(isinstance(word, str) and word.strip() for word in emotions):
        raise InputError(
            f'{where}: found the emotions {cell[:60]!r}, expected a JSON list of words such as ["happy"] or []'
        )
    return tuple(emotions)
