"""One cell of a CSV -> its value. A bad cell raises BadCell, which says what was found and expected."""

import functools
import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dataloaders.csv_rows import shown

CAPTIONS = 'a JSON list of texts such as ["a cat", "a cat on a sofa"], or one text that does not begin with [ or {'
EMOTIONS = (
    'a JSON list of words such as ["happy", "sad"], a JSON list of objects such as {"person1": "happy"},'
    " one such object, or one word that does not begin with [ or {"
)
MAX_ID = 1000  # characters: tables of all ids take as much for each as for the longest
MAX_PERSONS = 1000  # with an emotion word: all memes of a batch are padded to the most of one
UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # Unicode's categories of control and format characters and of white space
FILLERS = set("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | set(map(chr, range(0xFE00, 0xFE10)))
DRIVE = re.compile("[A-Za-z]:")


class BadCell(ValueError):
    """`found …, expected …`"""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}, expected {expected}")


def is_blank(text: str) -> bool:
    """Whether nothing can be seen of the text: it is empty, or spaces, control, format and filling characters alone."""
    return not any(unicodedata.category(each) not in UNSEEN and each not in FILLERS for each in text)


def shown_blank(text: str) -> str:
    """A blank text as messages quote it, with the numbers of its characters."""
    return ascii(text[:60])


def missing_note(path: str | os.PathLike[str], columns: Mapping[str, Iterable[Sequence[str]]]) -> list[str]:
    """A sentence to tell the user, if some texts are what `DataFrame.astype(str)` makes of a missing value.

    columns: {name of a column: the texts of each of its different cells}.
    """
    counts = {name: sum(any(map(_is_missing, texts)) for texts in cells) for name, cells in columns.items()}
    found = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    if not found:
        return []
    return [
        f"WARNING: {path}: 'nan', 'None' or '<NA>' is read as a word, but is what pandas' astype(str) writes for a"
        f" missing value: {found}. If nothing is meant, write an empty cell (in pandas fillna('') before astype(str))."
    ]


def _is_missing(text: str) -> bool:
    text = text.strip()
    return text == "None" or text.lower() in ("nan", "<na>", "nat")


def parse_identifier(cell: str) -> str:
    """The cell as it is: not blank, and without spaces around it, which would silently make a second id."""
    if is_blank(cell) or cell != cell.strip():
        raise BadCell(
            shown_blank(cell) if is_blank(cell) else shown(cell), "an id that is not empty and has no spaces around it"
        )
    if len(cell) > MAX_ID:
        raise BadCell(f"{len(cell):,} characters, {shown(cell)}", f"an id of at most {MAX_ID:,} characters")
    return cell


def parse_query(cell: str) -> str:
    """The cell as it is: a text that is not empty."""
    if is_blank(cell):
        raise BadCell(shown_blank(cell), "a text that is not empty")
    return cell


def parse_captions(cell: str) -> tuple[str, ...]:
    """A JSON list of texts, or one bare text -> tuple of texts; an empty cell or list -> ()."""
    if is_blank(cell):
        return ()
    if cell.lstrip()[0] not in "[{":
        return (cell,)
    captions = _json(cell, CAPTIONS)
    if not isinstance(captions, list):
        raise BadCell(f"the JSON object {shown(cell)}", CAPTIONS)
    _check_texts(captions, cell, CAPTIONS)
    return tuple(captions)


def parse_some_captions(cell: str) -> tuple[str, ...]:
    """As `parse_captions`, but an empty cell or list is refused."""
    captions = parse_captions(cell)
    if not captions:
        raise BadCell(f"no caption in {shown(cell)}", f"at least one: {CAPTIONS}")
    return captions


@functools.lru_cache(maxsize=4096)  # there are few different cells
def parse_emotions(cell: str) -> tuple[str, ...]:
    """A JSON list of words or of {person: word}, one {person: word}, or one bare word -> tuple of words.

    The words are lower-cased and stripped, one per person, in order; nobody ("", [], {}) -> ().
    """
    if is_blank(cell):
        return ()
    if cell.lstrip()[0] not in "[{":
        return (cell.strip().lower(),)
    value = _json(cell, EMOTIONS)
    if isinstance(value, _Persons):
        words = value.words
    elif value and all(isinstance(element, _Persons) for element in value):
        words = [word for persons in value for word in persons.words]
        if not all(persons.words for persons in value):
            raise BadCell(f"an object without a person in {shown(cell)}", EMOTIONS)
    else:
        words = value
    if len(words) > MAX_PERSONS:
        raise BadCell(f"{len(words):,} words in {shown(cell)}", f"at most {MAX_PERSONS:,}: {EMOTIONS}")
    _check_texts(words, cell, EMOTIONS)
    return tuple(word.strip().lower() for word in words)


class ImageFolder:
    """The folder of the images. It is resolved once, and each of its folders once."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(path)
        self.resolved = {"": self.root}

    def parse_path(self, cell: str) -> str:
        """A path relative to this folder -> the same, normalised (`./a//b.jpg` and `a\\b.jpg` -> `a/b.jpg`).

        Where no file is called so, but one by the same letters in another Unicode form (é as one character or as two),
        that is it. Refused: absolute paths, drive letters, paths that leave the folder by `..` or by symbolic links.
        Whether there is such a file is not looked at.
        """
        path = posixpath.normpath(cell.replace("\\", "/"))
        if path == "." or is_blank(cell):
            raise BadCell(shown_blank(cell), "the path of an image file")
        if path[0] == "/" or DRIVE.match(path):
            raise BadCell(shown(cell), f"a path relative to {self.root}")
        if path == ".." or path.startswith("../"):
            raise BadCell(shown(cell), f"a path that stays inside {self.root}")
        path = self._as_on_disk(path)
        folder, _, name = path.rpartition("/")
        if folder not in self.resolved:
            self.resolved[folder] = os.path.realpath(os.path.join(self.root, folder))
        target = os.path.join(self.resolved[folder], name)
        if os.path.islink(target):
            target = os.path.realpath(target)
        if not target.startswith(os.path.join(self.root, "")):
            raise BadCell(f"{shown(cell)}, which is linked to {target!r}", f"a file inside {self.root}")
        return path

    def _as_on_disk(self, path: str) -> str:
        """The path in the Unicode form that its folders and its file have; as it is, where there is none."""
        if path.isascii() or len(unicode_forms(path)) == 1 or os.path.lexists(os.path.join(self.root, path)):
            return path
        there = ""
        for part in path.split("/"):
            names = [posixpath.join(there, form) for form in (part, *unicode_forms(part))]
            existing = (name for name in names if os.path.lexists(os.path.join(self.root, name)))
            if (found := next(existing, None)) is None:
                return path
            there = found
        return there


def unicode_forms(text: str) -> set[str]:
    """The text with composed and with decomposed letters; one text where it has none of these."""
    return {unicodedata.normalize(form, text) for form in ("NFC", "NFD")}


class _Persons:
    """A JSON object of emotions. Not a dict: a person who occurs twice would silently lose a word."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.words = [word for _, word in pairs]
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name occurs twice in one object")


_decode = json.JSONDecoder(object_pairs_hook=_Persons).decode


def _json(cell: str, expected: str) -> Any:
    try:
        return _decode(cell.strip())
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos + 1}"
    except (
        ValueError,
        RecursionError,
    ) as error:  # a name twice, a number of thousands of digits, deep nesting
        reason = str(error)
    raise BadCell(f"{shown(cell)}, which is not valid JSON ({reason})", expected)


def _check_texts(values: Sequence[Any], cell: str, expected: str) -> None:
    """Each of `values` has to be a text which is not blank and can be written as UTF-8."""
    for place, value in enumerate(values, start=1):
        if not isinstance(value, str):
            raise BadCell(f"{shown(cell)}, whose element {place} is not a text", expected)
        if is_blank(value):
            raise BadCell(f"{shown(cell)}, whose element {place} is empty", expected)
        if not value.isascii() and "\\u" in cell and any("\ud800" <= c <= "\udfff" for c in value):
            raise BadCell(
                f"{shown(cell)}, whose element {place} holds half of a character (\\ud800 to \\udfff)",
                expected,
            )
