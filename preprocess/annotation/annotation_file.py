"""annotations.jsonl: one JSON object per line, a line per answered image, only ever appended to.

The key of a row is the SHA-256 of the image's bytes; of several rows with one key the last one counts. What a
killed process leaves is a torn last line at worst: reading passes over it, opening for appending cuts it off.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from preprocess.annotation.answer import FAILURES
from util import InputError, locked

STATUSES = ("ok", *FAILURES)
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Annotation:
    """One row. `captions`, `text` and `emotions` (not mapped) are empty unless `status` is "ok", `error` if it is.

    `prompt` identifies prompt, language and schema; tokens and `cost` (US dollars) are None where nobody knows them.
    """

    image: str
    sha256: str
    status: str
    captions: tuple = ()
    text: str = ""
    emotions: tuple = ()
    error: str = ""
    notes: tuple = ()
    provider: str = ""
    model: str = ""
    language: str = ""
    prompt: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None

    @property
    def asked(self):
        """What was asked of whom: (provider, model, prompt)."""
        return self.provider, self.model, self.prompt

    @property
    def asked_in_words(self):
        return f"provider {self.provider!r}, model {self.model!r}, prompt {self.prompt!r}"


TEXTS = ("image", "sha256", "status", "text", "error", "provider", "model", "language", "prompt")
LISTS = ("captions", "emotions", "notes")
NUMBERS = ("input_tokens", "output_tokens", "cost", "seconds")
LARGEST = 10**12  # of the numbers


def read_annotations(path):
    """{sha256: Annotation}: the last row of each image, in the order of their first rows.

    A torn last line is passed over. Raises InputError, with the line, for any other line that is not a row, and
    for a file that cannot be read or has no row.
    """
    annotations = last_rows(read_rows(path)[0])
    if not annotations:
        raise InputError(f"{path}: found no row, expected what preprocess.annotate writes")
    return annotations


def last_rows(rows):
    """{sha256: Annotation} of a sequence of Annotations: the last one of each key."""
    return {row.sha256: row for row in rows}


def read_rows(path):
    """(rows, good): all rows as Annotations and the length in bytes of the part that holds them.

    `good` is less than the file's size if the last line is torn. Raises InputError as `read_annotations` does.
    """
    rows, good = [], 0
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            for number, line in enumerate(file, start=1):
                try:
                    if line.strip():
                        rows.append(parse_row(line))
                except RecursionError:
                    raise InputError(
                        f"{path}, line {number}: found JSON that is nested too deeply, expected a JSON object as "
                        "preprocess.annotate writes it"
                    ) from None
                except ValueError as error:
                    if good + len(line) >= size and is_torn(line, error):
                        break
                    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
                        found = shown(line.decode("utf-8", "replace").strip())
                        error = f"found {found}, expected a JSON object as preprocess.annotate writes it"
                    raise InputError(f"{path}, line {number}: {error}") from None
                good += len(line)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return rows, good


def is_torn(line, error):
    """Whether a last line that is not JSON can be the beginning of a row, or zeros that a crash of the system left."""
    begins = line[:2] in (b"{", b'{"') or not line.strip(b"\0\n")
    return begins and isinstance(error, (json.JSONDecodeError, UnicodeDecodeError))


def parse_row(line):
    """The Annotation in the bytes of a line; ValueError (found, expected) if it is none."""
    try:
        value = json.loads(line.decode("utf-8"))
    except RecursionError:
        raise ValueError("found deep nesting, expected a JSON object as preprocess.annotate writes it") from None
    if not isinstance(value, dict):
        raise ValueError(f"found {shown(value)}, expected a JSON object")
    fields = {}
    for name in Annotation.__dataclass_fields__:
        found = value.get(name)
        if name in TEXTS and isinstance(found, str):
            fields[name] = found
        elif name in LISTS and isinstance(found, list) and all(isinstance(each, str) for each in found):
            fields[name] = tuple(found)
        elif name in NUMBERS and type(found) in (int, float) and 0 <= found <= LARGEST:
            fields[name] = found
        elif found is not None:
            number = f"a number from 0 to {LARGEST:,}"
            kind = "a text" if name in TEXTS else "a list of texts" if name in LISTS else number
            raise ValueError(f"{name!r}: found {shown(found)}, expected {kind}")
    if absent := [name for name in ("image", "sha256", "status") if name not in fields]:
        raise ValueError(f"found no {', '.join(map(repr, absent))}, expected a row as preprocess.annotate writes it")
    if not SHA256.fullmatch(fields["sha256"]):
        raise ValueError(f"'sha256': found {shown(fields['sha256'])}, expected 64 hexadecimal digits")
    if fields["status"] not in STATUSES:
        raise ValueError(f"'status': found {shown(fields['status'])}, expected one of {', '.join(STATUSES)}")
    return Annotation(**fields)


def shown(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


class AnnotationFile:
    """The file open for appending, by one process at a time: a context manager.

    `rows` are those that it held when it was opened, `repaired` is a sentence if its last line was torn. Raises
    InputError as `read_annotations` does (an empty file or none is fine), and if another process has it open.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.repaired = ""

    def __enter__(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from error
        try:
            if not locked(self.file):
                raise InputError(f"{self.path}: another process is writing this file")
            self.rows, good = read_rows(self.path)
            self.repair(good)
        except BaseException:
            self.file.close()
            raise
        return self

    def __exit__(self, *error):
        self.file.close()

    def repair(self, good):
        size = os.fstat(self.file.fileno()).st_size
        if good < size:
            self.file.truncate(good)
            self.repaired = f"{self.path}: cut off a torn last line of {size - good} bytes"
        elif good:
            with open(self.path, "rb") as file:
                file.seek(-1, os.SEEK_END)
                whole = file.read() == b"\n"
            if not whole:  # the row is complete, only its newline was lost
                self.file.write(b"\n")
                self.repaired = f"{self.path}: the last line had no newline"

    def append(self, annotation):
        """Write one row; it has left this process when this returns."""
        data = line_of(annotation)
        while data:
            data = data[self.file.write(data) :]


def line_of(annotation):
    """The row's line, as bytes."""
    row = {name: value for name, value in vars(annotation).items() if keeps(name, value, annotation.status)}
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8")


def keeps(name, value, status):
    """Whether a row has this field: answers only if it is ok, an error only if not, notes only if there are some."""
    if name in ("captions", "text", "emotions"):
        return status == "ok"
    return status != "ok" if name == "error" else value != () or name != "notes"
