"""A CSV file -> its records, each with the line it begins on; all the bad rows are collected."""

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator

from util import InputError

MAX_FIELD = 1_000_000  # characters; a quote that is never closed ends here instead of swallowing the file
MAX_HEADER = 300  # characters of it in a message
SHOWN_ROWS = 20
READ_AGAIN = 4  # times a file's size, after broken quoting: lines that all leave a quote open would take their square
NUL = "\udc00"  # stands for a NUL byte while a line is parsed; "surrogateescape" uses U+DC80 to U+DCFF only


class BadRows:
    """The bad rows of all files: the first 20 in full, the others counted."""

    def __init__(self) -> None:
        self.count = 0
        self.lines: list[str] = []
        self.remark: str | None = None  # a line about all of them, to go first
        self.unread: list[str] = []  # of files that are not read to their end, to go last

    def add(self, path: str | os.PathLike[str], line: int, problems: list[str]) -> None:
        """Note one bad row of `path`, which begins on `line` (1-based), with all that is wrong with it."""
        self.count += 1
        if self.count <= SHOWN_ROWS:
            self.lines += [f"  {path}, line {line}, {problem}" for problem in problems[:SHOWN_ROWS]]
            if len(problems) > SHOWN_ROWS:
                self.lines.append(f"  {path}, line {line}, and {len(problems) - SHOWN_ROWS:,} more in this row")

    def difference(self, found: str | tuple[str, ...], expected: str | tuple[str, ...]) -> tuple[str, str]:
        """`shown_difference` for the next row; blank where that is not shown: each costs as much as the larger."""
        return shown_difference(found, expected) if self.count < SHOWN_ROWS else ("", "")

    def raise_if_any(self) -> None:
        """Raise InputError with all that was collected."""
        if self.count:
            first = f", the first {SHOWN_ROWS} of them" if self.count > SHOWN_ROWS else ""
            rest = [f"  and {self.count - SHOWN_ROWS:,} more bad rows"] if self.count > SHOWN_ROWS else []
            head = f"{self.count:,} bad row{'s' * (self.count > 1)}{first}:"
            raise InputError("\n".join([*filter(None, [self.remark]), head, *self.lines, *rest, *self.unread]))


def shown(value: str | tuple[str, ...], start: int = 0, width: int = 60) -> str:
    """`value` (a tuple as JSON) as messages quote it: on one line, `width` characters from `start` on."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    part = repr(text[start : start + width])
    return f"{'…' * (start > 0)}{part}{'…' * (start + width < len(text))}"


def shown_difference(found: str | tuple[str, ...], expected: str | tuple[str, ...]) -> tuple[str, str]:
    """Both as messages quote them, from a little before the place where they begin to differ."""
    found, expected = (v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in (found, expected))
    same = len(os.path.commonprefix([found, expected]))
    start = same - 20 if same > 40 else 0
    return shown(found, start), shown(expected, start)


def read_records(path: str | os.PathLike[str], bad_rows: BadRows) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) for each record of a CSV file, the header first; the record begins on `line`.

    UTF-8 with or without a BOM, RFC 4180 quoting. Blank lines are passed over. Each record has as many fields
    as the header. What is bad in encoding, quoting or number of fields goes to `bad_rows` and is not yielded;
    after broken quoting, reading goes on with the line after the one on which that record begins, as long as not too
    much has to be read again. Raises OSError where the file cannot be read.
    """
    with open(path, "rb") as file, _field_limit():
        begin = file.read(3)
        if begin[:2] in (b"\xff\xfe", b"\xfe\xff"):
            bad_rows.add(path, 1, ["header: found UTF-16, expected UTF-8"])
            return
        file.seek(3 if begin == b"\xef\xbb\xbf" else 0)
        header, columns = None, ""
        read_again, allowed = 0, max(READ_AGAIN * os.fstat(file.fileno()).st_size, MAX_FIELD)
        lines_before = 0  # those which the present reader did not see
        marked: list[bool] = []
        reader = csv.reader(_decoded(file, marked), strict=True)
        while True:
            position, line = file.tell(), lines_before + reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                read_again += file.tell() - position
                file.seek(position)
                bad_rows.add(path, line, [_quoting_problem(error, file.readline())])
                if header is None:
                    return
                if read_again > allowed:
                    bad_rows.unread.append(
                        f"  {path}, line {line + 1}: from here on the rest of the file is not read, as too many records"
                        " begin with a quote that is not closed"
                    )
                    return
                lines_before = line
                marked.clear()
                reader = csv.reader(_decoded(file, marked), strict=True)
                continue
            if marked:
                marked.clear()
                bad_rows.add(path, line, _encoding_problems(fields, header, line))
                if header is None:
                    return
            elif len(fields) < 2 and not "".join(fields).strip():
                continue
            elif header is not None and len(fields) != len(header):
                bad_rows.add(path, line, [_shape_problem(fields, len(header), columns)])
            else:
                yield line, fields
            if header is None:
                header, columns = fields, ",".join(fields)
                columns = columns if len(columns) <= MAX_HEADER else f"{columns[:MAX_HEADER]}…"  # in each bad row


@contextlib.contextmanager
def _field_limit() -> Iterator[None]:
    before = csv.field_size_limit(MAX_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _decoded(file: Iterable[bytes], marked: list[bool]) -> Iterator[str]:
    """The lines of a binary file as text; one that is not clean UTF-8 gets stand-ins and adds to `marked`."""
    for raw in file:
        try:
            line = raw.decode()
        except UnicodeDecodeError:
            line = raw.decode(errors="surrogateescape")
            marked.append(True)
        if "\0" in line:
            line = line.replace("\0", NUL)
            marked.append(True)
        yield line


def _encoding_problems(fields: list[str], header: list[str] | None, line: int) -> list[str]:
    """What to say of stand-ins; the record begins on `line`, and the bad byte may be some lines further."""
    problems = []
    for index, field in enumerate(fields):
        raw = field.replace(NUL, "\0").encode(errors="surrogateescape")
        column = f"column {header[index]!r}" if header and index < len(header) else f"field {index + 1}"
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            place = line + raw.count(b"\n", 0, error.start)
            part = raw[max(0, error.start - 20) : error.start + 20]
            problems.append(f"{column}: found {part!r} in line {place}, which is not UTF-8, expected UTF-8")
        if (nul := raw.find(b"\0")) >= 0:
            place = line + raw.count(b"\n", 0, nul)
            part = raw[max(0, nul - 20) : nul + 20]
            problems.append(f"{column}: found a NUL byte in {part!r} in line {place}, expected text")
        line += raw.count(b"\n")
    return problems


def _quoting_problem(error: csv.Error, raw_line: bytes) -> str:
    record = f"the record {shown(raw_line.decode(errors='surrogateescape').rstrip())}"
    message = str(error)
    if "field limit" in message:
        return (
            f"{record}: found a field of more than {MAX_FIELD:,} characters, expected at most that many"
            " (is a quote never closed?)"
        )
    if "end of data" in message:
        return f"{record}: found a quote that is never closed, expected a closing quote"
    if "new-line" in message:
        return f"{record}: found a carriage return without a line feed, expected such text to be quoted"
    return f"{record}: found broken quoting ({message}), expected quotes inside a quoted field to be doubled"


def _shape_problem(fields: list[str], expected: int, columns: str) -> str:
    hint = "a field with a comma, a quote or a newline has to be in quotes"
    return f"fields: found {len(fields)}, the last one {shown(fields[-1])}, expected {expected}: {columns} ({hint})"
