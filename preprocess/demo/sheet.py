"""A picture of a dozen of the demo's memes with their queries and emotion words, for the documents."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np

from preprocess.demo.canvas import wrapped
from util import InputError, replaced_atomically

SHOWN = ("office-fear", "exam-surprise", "rain-sad", "party-happy", "kitchen-disgust", "gym-proud",
         "cat-fear", "update-angry", "football-happy", "bus-bored", "bed-angry", "beach-proud")  # fmt: skip
SILENT = ("football-happy", "bus-bored", "beach-proud")  # shown by a meme without emotion words
COLUMNS = 4
CELL, MARGIN, LINE = 220, 12, 17  # pixels: side of a meme, space around it, height of a line of text


def write_sheet(demo, path):
    """Write the PNG `path` with one meme per scene out of the training split of the folder `demo`.

    The memes are enlarged or reduced to 220 pixels; a demo of `--size 256` gives a sharp sheet. Raises
    InputError if `path` does not end in .png.
    """
    demo, path = Path(demo), Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: the sheet is a PNG; its name has to end in .png")
    with open(demo / "train.csv", encoding="utf-8", newline="") as file:
        stills = [row for row in csv.DictReader(file) if row["image"].endswith(".jpg") and row["text"]]
    cells = []
    for number, topic in enumerate(SHOWN):
        records = [row for row in stills if row["topic_id"] == topic]
        emotions = [json.loads(row["emotions"])[:1] for row in records]
        wanted = [] if topic in SILENT else [topic.split("-")[1]]
        fitting = [row for row, main in zip(records, emotions, strict=True) if main == wanted]
        record = fitting[number % len(fitting)]
        cells.append(_cell(demo / "images" / record["image"], record))
    rows = [np.hstack(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", np.vstack(rows))[1].tobytes())


def _cell(image, record):
    """A meme with its query and emotions below it: (height, width, 3) uint8."""
    pixels = cv2.imread(str(image), cv2.IMREAD_COLOR)
    method = cv2.INTER_AREA if len(pixels) > CELL else cv2.INTER_CUBIC
    cell = np.full((CELL + MARGIN + 5 * LINE, CELL + 2 * MARGIN, 3), 255, np.uint8)
    cell[MARGIN : MARGIN + CELL, MARGIN : MARGIN + CELL] = cv2.resize(pixels, (CELL, CELL), interpolation=method)
    emotions = ", ".join(json.loads(record["emotions"])) or "no emotion words"
    lines = [(line, (40, 40, 40)) for line in wrapped(record["query"], 3)]
    lines.append((f"[{emotions}]", (150, 90, 30)))
    for number, (line, colour) in enumerate(lines):
        place = (MARGIN, MARGIN + CELL + LINE * (number + 1))
        cv2.putText(cell, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
    return cell
