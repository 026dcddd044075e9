"""Small folders that build_community reads, and slow formulas for what it may put together."""

import csv
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

from dataloaders.meme_records import read_splits
from preprocess import build_community

SPLITS = ("train", "val", "test")


def picture(seed, side=64):
    """A grey picture of a few smooth blobs, (side, side, 3); another seed gives a very different one."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 5), dtype=np.uint8)
    grey = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.repeat(grey[..., None], 3, axis=2)


def write_picture(path, seed, side=64, mark=0):
    """`mark` changes a few pixels: other bytes, (nearly) the same hash."""
    pixels = picture(seed, side)
    if mark:
        pixels[mark % side, :3] ^= 1 + mark % 7
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def annotation(path, **fields):
    """A row of annotations.jsonl for an image file, "ok" with one caption unless `fields` say otherwise."""
    row = {
        "image": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "status": "ok",
        "captions": [f"a caption of {path.name}"],
        "text": f"words of {path.name} and some more",
        "emotions": ["happy"],
        "provider": "openai",
        "model": "m",
        "language": "en",
        "prompt": "0123456789ab",
    }
    return row | fields


class Inputs:
    """A folder with images/, records.csv and annotations.jsonl."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.images = self.folder / "images"
        self.images.mkdir(parents=True)
        self.rows = []
        self.annotations = []

    def meme(self, name, topics, seed, side=64, mark=0, **fields):
        """An image, its annotation and a record per topic."""
        write_picture(self.images / name, seed, side, mark)
        self.annotations.append(annotation(self.images / name, **fields))
        self.post(name, topics)

    def post(self, name, topics):
        self.rows += [{"image": name, "topic_id": topic, "query": f"query of {topic}"} for topic in topics]

    def write(self):
        write_csv(self.folder / "records.csv", self.rows)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self.annotations]
        (self.folder / "annotations.jsonl").write_text("".join(lines), encoding="utf-8")

    def flags(self, out, *more):
        return [
            *("--records", str(self.folder / "records.csv")),
            *("--annotations", str(self.folder / "annotations.jsonl")),
            *("--images", str(self.images), "--out", str(self.folder / out), *more),
        ]

    def build(self, out, *more):
        """Write the files and build; returns the Built community."""
        self.write()
        build_community.main(self.flags(out, *more))
        return Built(self.folder / out)


class Built:
    """What lies in the folder of a community, read without the project's own code."""

    def __init__(self, folder):
        self.folder = folder
        self.rows = {name: read_csv(folder / f"{name}.csv") for name in SPLITS}
        self.dropped = read_csv(folder / "dropped.csv")
        self.manifest = json.loads((folder / "build.json").read_text(encoding="utf-8"))

    def all_rows(self):
        return [row for name in SPLITS for row in self.rows[name]]

    def split_of(self):
        """{image_id: names of the splits that have it}"""
        found = {}
        for name in SPLITS:
            for row in self.rows[name]:
                found.setdefault(row["image_id"], set()).add(name)
        return found

    def pairs(self, split=None):
        rows = self.rows[split] if split else self.all_rows()
        return sorted((row["topic_id"], row["image"]) for row in rows)

    def load(self, read_captions=True, images=None):
        paths = {name: self.folder / f"{name}.csv" for name in SPLITS}
        return read_splits(paths, images or self.folder / "images", read_captions)[0]


def write_csv(path, rows, columns=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path):
    import pandas as pd

    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def slow_groups(items, agree):
    """Sets of the items that are connected by pairs which agree."""
    groups = []
    for item in items:
        touched = [group for group in groups if any(agree(item, other) for other in group)]
        groups = [group for group in groups if group not in touched] + [{item}.union(*touched)]
    return groups


def slow_edit_distance(first, second):
    """Levenshtein's distance over the longer one's length."""
    if not first and not second:
        return 0.0
    before = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        row = [i]
        for j, b in enumerate(second, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
        before = row
    return before[-1] / max(len(first), len(second))
