"""The cost of reading a CSV is in proportion to its size, whatever is in it."""

import json
import time

import pytest

from dataloaders import csv_rows
from dataloaders.csv_rows import BadRows, read_records
from dataloaders.meme_records import read_splits
from util import InputError

HEADER = "image_id,image,topic_id,query,captions,emotions\n"


def counted_lines(monkeypatch, at_most):
    """A list with the number of lines which the reader has taken; more than `at_most` is an error at once."""
    taken, decoded = [0], csv_rows._decoded

    def counting(file, marked):
        for line in decoded(file, marked):
            taken[0] += 1
            assert taken[0] <= at_most, f"more than {at_most} lines were read"
            yield line

    monkeypatch.setattr(csv_rows, "_decoded", counting)
    return taken


@pytest.mark.parametrize("line", ['x","\n', 'a,b","\n'])
def test_lines_that_all_leave_a_quote_open(tmp_path, monkeypatch, line):
    """Each begins a record that goes on to the end of the file, by which the rest was read again for each."""
    path, lines = tmp_path / "train.csv", 400_000 // len(line)
    path.write_text(HEADER + line * lines)
    counted_lines(monkeypatch, at_most=10 * (path.stat().st_size // 2))
    bad_rows = BadRows()
    list(read_records(path, bad_rows))
    with pytest.raises(InputError) as raised:
        bad_rows.raise_if_any()
    assert "never closed" in str(raised.value) or "found broken quoting" in str(raised.value)
    assert "the rest of the file is not read" in str(raised.value).splitlines()[-1]


def test_a_long_header_is_not_repeated_for_each_bad_row(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(",".join(['""'] * 100_000) + "\n" + "a,b\n" * 100_000)
    started, bad_rows = time.process_time(), BadRows()
    list(read_records(path, bad_rows))
    assert time.process_time() - started < 5  # 5 GB of messages before
    assert bad_rows.count == 100_000 and sum(map(len, bad_rows.lines)) < 20_000


def test_a_file_with_some_open_quotes_is_read_to_its_end(tmp_path):
    path = tmp_path / "train.csv"
    rows = [
        f'm{number},"{number}.jpg,t,q,c,\n' if number % 40 == 7 else f"m{number},a.jpg,t,q,c,\n"
        for number in range(900)
    ]
    path.write_text(HEADER + "".join(rows))
    bad_rows = BadRows()
    good = [fields[0] for _, fields in read_records(path, bad_rows)]
    assert good == ["image_id", *(f"m{number}" for number in range(900) if number % 40 != 7)]
    assert bad_rows.count == 23 and not bad_rows.unread


def test_a_row_of_a_hundred_thousand_bad_fields_is_told_in_some_lines(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(HEADER.encode() + b"\xff," * 100_000 + b"\n")
    bad_rows = BadRows()
    list(read_records(path, bad_rows))
    assert bad_rows.count == 1 and len(bad_rows.lines) <= 21 and "99,98" in bad_rows.lines[-1]


def test_rows_that_contradict_one_large_row_do_not_each_cost_as_much(tmp_path, monkeypatch):
    path, calls = tmp_path / "train.csv", []
    shown = csv_rows.shown_difference
    monkeypatch.setattr(csv_rows, "shown_difference", lambda *values: calls.append(1) or shown(*values))
    large = f"m1,a.jpg,t0,q,{'c' * 900_000},\n"
    path.write_text(HEADER + large + "".join(f"m1,a.jpg,t{number},q,b,\n" for number in range(1, 3000)))
    started = time.process_time()
    with pytest.raises(InputError, match="2,999 bad rows, the first 20 of them"):
        read_splits({"train": path}, tmp_path)
    assert len(calls) <= 20
    assert time.process_time() - started < 10


def test_an_id_has_a_length_that_a_table_of_all_can_hold(tmp_path):
    """The record of a run keeps all ids as long as the longest: one of 900,000 letters made it 4 MB for each meme."""
    path = tmp_path / "train.csv"
    path.write_text(HEADER + f"{'m' * 1000},a.jpg,t1,q,c,\n{'m' * 1001},b.jpg,{'t' * 1001},q,c,\n")
    with pytest.raises(InputError) as raised:
        read_splits({"train": path}, tmp_path)
    message = str(raised.value)
    assert "1 bad row" in message and len(message) < 1000
    assert "column 'image_id'" in message and "column 'topic_id'" in message and "at most 1,000 characters" in message


def test_a_meme_has_as_many_emotion_words_as_a_batch_can_hold(tmp_path):
    """All memes of a batch are padded to the most words of one: a cell of 1 MB asked for 65 GB of vectors."""
    path = tmp_path / "train.csv"
    rows = [
        f'm{words},a.jpg,t1,q,c,"{json.dumps(["sad"] * words)}"\n'.replace('"sad"', '""sad""') for words in (1000, 1001)
    ]
    path.write_text(HEADER + "".join(rows))
    with pytest.raises(InputError, match="line 3, column 'emotions': found 1,001 words(.|\n)*at most 1,000") as raised:
        read_splits({"train": path}, tmp_path)
    assert "1 bad row" in str(raised.value)
