"""Emotion words as models answer them -> the emotions of the table `emotion_words.csv`, which anyone may edit.

A row of the table is a word and the emotion that it means. A row without an emotion names a word that means no
expression ("none"): it is left out. A word that is not in the table stays as it is.
"""

import csv
from pathlib import Path

from util import InputError

DEFAULT = Path(__file__).with_suffix(".csv")
HEADER = ["word", "emotion"]


def read_emotion_table(path=DEFAULT):
    """{word: emotion} of a CSV with the columns word and emotion; the emotion "" means that the word is left out.

    Words are lower-cased and stripped. An emotion that has no row of its own means itself. Raises InputError with
    file and line: a file that cannot be read, a wrong header, an empty or repeated word, an emotion that is itself
    mapped to another one.
    """
    table, lines = {}, {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            if (header := next(reader, [])) != HEADER:
                raise InputError(f"{path}, line 1: found {','.join(header)!r}, expected {','.join(HEADER)!r}")
            for row in filter(None, reader):
                where = f"{path}, line {reader.line_num}"
                if len(row) != 2:
                    raise InputError(f"{where}: found {len(row)} fields, expected a word and its emotion")
                word, emotion = map(normalised, row)
                if not word:
                    raise InputError(f"{where}: found an empty word, expected one")
                if word in lines:
                    raise InputError(f"{where}: found {word!r} again, expected it once (it is in line {lines[word]})")
                table[word], lines[word] = emotion, reader.line_num
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found bytes that are not UTF-8, expected UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: broken quoting ({error})") from error
    emotions = vocabulary(table)
    if not emotions:
        raise InputError(f"{path}: found no emotion, expected at least one")
    for word, emotion in table.items():
        if emotion and table.get(emotion, emotion) != emotion:
            raise InputError(
                f"{path}, line {lines[word]}: found {word!r} -> {emotion!r}, which line {lines[emotion]} maps to "
                f"{table[emotion]!r}; expected an emotion that means itself"
            )
    return table | {emotion: emotion for emotion in emotions}


def vocabulary(table):
    """The emotions of a table, each once, in the order in which they appear."""
    return tuple(dict.fromkeys(emotion for emotion in table.values() if emotion))


def map_emotions(words, table):
    """(emotions, unknown): each word's emotion, in order; words outside the table stay as they are, lower-cased.

    `unknown` lists those, each as often as it occurs. Words which the table gives no emotion are left out.
    """
    words = [word for word in map(normalised, words) if table.get(word, word)]
    return tuple(table.get(word, word) for word in words), [word for word in words if word not in table]


def normalised(word):
    """The word in lower case, with single spaces."""
    return " ".join(word.lower().split())
