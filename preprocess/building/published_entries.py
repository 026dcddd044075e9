"""The entries of the published JSON files -> checked values; all the bad entries are collected for one message."""

import json

from dataloaders.cells import BadCell, is_blank, parse_captions, parse_emotions, parse_identifier
from dataloaders.csv_rows import SHOWN_ROWS, shown
from preprocess.annotation.answer import UNWRITABLE
from preprocess.building.inputs import as_cell
from util import InputError


class Entries:
    """What the JSON files say, checked entry by entry; what is wrong is collected for one message."""

    def __init__(self):
        self.problems = []

    def checked(self, where, parse, value):
        """parse(value), or None where it is bad."""
        try:
            return parse(value)
        except BadCell as error:
            self.problems.append(f"{where}: {error}")

    def of_test(self, path, value):
        """{image_id: (query, captions)} of the test JSON."""
        tests = {}
        for name, entry in value.items():
            where = f"{path}, {shown(name)}"
            image_id = self.checked(where, identifier, name)
            entry = self.checked(where, fields("gt", "titles"), entry)
            if entry and image_id:
                query = self.checked(f"{where}, 'gt'", text_of, entry["gt"])
                tests[image_id] = query, self.checked(f"{where}, 'titles'", captions_of, entry["titles"])
        return tests

    def of_train(self, path, value):
        """({image_id: captions}, [(image_id, query)]) of the train JSON."""
        titles, sentences = {}, []
        if not isinstance(value["titles"], dict) or not isinstance(value["sentences"], list):
            raise InputError(f"{path}: found other types, expected 'sentences' to be a list and 'titles' an object")
        for name, captions in value["titles"].items():
            where = f"{path}, titles[{shown(name)}]"
            titles[self.checked(where, identifier, name)] = self.checked(where, captions_of, captions)
        for number, entry in enumerate(value["sentences"]):
            where = f"{path}, sentences[{number}]"
            if entry := self.checked(where, fields("image_id", "caption"), entry):
                image_id = self.checked(f"{where}, 'image_id'", identifier, entry["image_id"])
                sentences.append((image_id, self.checked(f"{where}, 'caption'", text_of, entry["caption"])))
        return titles, sentences

    def of_emotions(self, files):
        """{image_id: words} of all emotion JSONs."""
        emotions = {}
        for path, value in files:
            for number, entry in enumerate(value):
                where = f"{path}, [{number}]"
                if not (entry := self.checked(where, fields("image_id", "emotion"), entry)):
                    continue
                image_id = self.checked(f"{where}, 'image_id'", identifier, entry["image_id"])
                words = self.checked(f"{where}, 'emotion'", emotions_of, entry["emotion"])
                if words is not None and emotions.setdefault(image_id, words) != words:
                    shows = len(self.problems) < SHOWN_ROWS  # each would cost as much as the largest
                    found, expected = (shown(words), shown(emotions[image_id])) if shows else ("", "")
                    self.problems.append(f"{where}: found {found} for {image_id!r}, expected {expected} as before")
        return emotions

    def raise_if_any(self):
        if self.problems:
            more = len(self.problems) - SHOWN_ROWS
            lines = self.problems[:SHOWN_ROWS] + [f"and {more:,} more"] * (more > 0)
            raise InputError("\n  ".join([f"{len(self.problems):,} bad entries:", *lines]))


def fields(*names):
    """A parser of an object that has these fields."""

    def parse(value):
        if not isinstance(value, dict) or not value.keys() >= set(names):
            raise BadCell(shown(json.dumps(value)), f"an object with {' and '.join(map(repr, names))}")
        return value

    return parse


def identifier(value):
    """An image_id as text; it may be a text or a whole number. Raises BadCell, as the other parsers do."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadCell(shown(json.dumps(value)), "an image_id: a text or a whole number")
    return parse_identifier(text_of(str(value)))


def text_of(value):
    """A text that a CSV can hold, without spaces around it; it may be empty."""
    if not isinstance(value, str):
        raise BadCell(shown(json.dumps(value)), "a text")
    if UNWRITABLE.search(value):
        raise BadCell(shown(json.dumps(value)), "text without NUL bytes and halves of a character (\\ud800 to \\udfff)")
    return "" if is_blank(value) else value.strip()


def captions_of(value):
    """The `titles` of one image, a list of texts or one text -> tuple; blank ones are left out."""
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list):
        raise BadCell(shown(json.dumps(value)), "a list of captions")
    return parse_captions(as_cell([each for each in captions if not isinstance(each, str) or not is_blank(each)]))


def emotions_of(value):
    """The `emotion` of one image: what a CSV's cell may hold, or null."""
    return parse_emotions(value if isinstance(value, str) else as_cell(value)) if value is not None else ()
