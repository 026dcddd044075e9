"""similarity_matrix.csv of the published layout: which test images are relevant for which test query."""

import csv

import numpy as np

from dataloaders.csv_rows import shown
from util import InputError


def fields_of(line):
    """The fields of a line of a matrix: between commas, or else between spaces."""
    line = line.strip("\r\n")
    try:
        return next(csv.reader([line]), []) if "," in line else line.split()
    except csv.Error:  # a field of more characters than it reads: no 0 or 1
        return line.split(",")


def is_row(fields):
    """Whether these may be a line of a matrix: 0 and 1, perhaps after a label."""
    cells = fields[1:] or fields
    return bool(cells) and all(_number(cell) in (0, 1) for cell in cells)


def _number(cell):
    try:
        return float(cell)
    except ValueError:
        return None


def read_matrix(path, image_ids):
    """The pairs (row, column) where the matrix has a 1, as a list per row. N = len(image_ids) rows and columns.

    A header line and a column of labels are passed over; a label that is an image_id has to be in its place. Raises
    InputError: another shape, a cell that is neither 0 nor 1.
    """
    count = len(image_ids)
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    has_header = len(lines) == count + 1
    widths = {len(fields_of(line)) for line in lines[has_header:]}  # a header may lack the name of the labels' column
    has_labels = widths == {count + 1}
    if len(lines) not in (count, count + 1) or not (has_labels or widths == {count}):
        raise InputError(
            f"{path}: found {len(lines):,} lines of {' or '.join(map(str, sorted(widths))) or 'no'} fields, expected"
            f" {count:,} x {count:,} as the test JSON has {count:,} images (with or without a header and a first column"
            " of labels)"
        )
    if has_header:
        _check_labels(f"{path}, line 1", fields_of(lines[0])[-count:], image_ids)
    rows, labels = [], []
    for number, line in enumerate(lines[has_header:], start=1 + has_header):
        fields = fields_of(line)
        cells = fields[has_labels:]
        try:
            values = np.array(cells, dtype=np.float64)
        except ValueError:
            values = np.full(count, np.nan)
        if len(values) != count or not np.isin(values, (0, 1)).all():
            wrong = next((cell for cell in cells if _number(cell) not in (0, 1)), f"{len(cells)} cells")
            raise InputError(f"{path}, line {number}: found {shown(wrong)}, expected {count:,} cells of 0 or 1")
        rows.append(np.flatnonzero(values).tolist())
        labels += fields[:has_labels]
    _check_labels(f"{path}, first column", labels, image_ids)
    return rows


def _check_labels(where, labels, image_ids):
    if labels != image_ids and set(labels) == set(image_ids):
        place = next(i for i, (label, image_id) in enumerate(zip(labels, image_ids, strict=True)) if label != image_id)
        raise InputError(
            f"{where}: found image {shown(labels[place])} in place {place + 1}, expected {shown(image_ids[place])}: the"
            " order of the test JSON"
        )
