"""Whether a community's folder holds what a published one says: the CSVs and the pictures, to the last byte."""

import csv
from collections import Counter
from typing import NamedTuple

import numpy as np

from preprocess.comparing.image_facts import image_facts
from preprocess.comparing.near_duplicates import DEFAULT_HASH_THRESHOLD, bit_count
from preprocess.describing.croissant import IMAGE_COLUMNS
from preprocess.describing.folder import IMAGES, MANIFEST
from util import InputError, read_json, sha256_of

SHOWN = 5


class Published(NamedTuple):
    """csvs: {split: path of its CSV}; images: {image: its row of images.csv}."""

    csvs: dict
    images: dict


def read_published(folder):
    """The Published of a folder that preprocess.describe wrote. InputError if it is none, or was changed since."""
    value = read_json(folder / MANIFEST, dict, "the croissant.json of a folder that preprocess.describe wrote")
    try:
        files = {each["@id"]: each["sha256"] for each in value["distribution"] if each["@type"] == "cr:FileObject"}
        files = {name: (folder / name, sha256) for name, sha256 in files.items()}
        splits = {name[: -len(".csv")]: path for name, (path, _) in files.items() if name != IMAGES}
        images, _ = files[IMAGES]
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"{folder / MANIFEST}: found no files with checksums, expected what preprocess.describe writes"
        ) from None
    for path, sha256 in files.values():
        if not path.is_file():
            raise InputError(f"{path}: found no such file, expected the one that {folder / MANIFEST} names")
        if (found := sha256_of(path)) != sha256:
            raise InputError(f"{path}: found the SHA-256 {found}, expected {sha256} as in {folder / MANIFEST}")
    with open(images, encoding="utf-8", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    return Published(splits, rows)


def differences(source, published, workers=None):
    """Sentences that say where a community differs from a Published. source: a measuring.survey.Source."""
    found = []
    for split, path in published.csvs.items():
        if split not in source.csv_paths:
            found.append(f"{split}.csv: there is none here")
        elif (here := source.csv_paths[split]).read_bytes() != path.read_bytes():
            found.append(f"{split}.csv: {_row_difference(here, path)}")
    found += [
        f"{split}.csv: there is none in the published folder"
        for split in source.csv_paths
        if split not in published.csvs
    ]
    return found + _image_differences(source.images, published.images, workers)


def _row_difference(here, there):
    ours, theirs = (Counter(map(tuple, _rows(path))) for path in (here, there))
    only_here, only_there = (ours - theirs).total(), (theirs - ours).total()
    if not only_here and not only_there:
        return "the same rows in another order, or written in another way"
    return f"{only_here:,} rows are only here, {only_there:,} only in the published folder"


def _rows(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def _image_differences(folder, expected, workers):
    facts = image_facts(folder, list(expected), workers=workers)
    published = {name: np.array([row[name] for row in expected.values()]) for name in IMAGE_COLUMNS}
    phash = np.array([int(value, 16) for value in published["phash"]], np.uint64)
    readable = facts.kind != ""
    other = readable & (facts.sha256 != published["sha256"])
    alike = bit_count(facts.phash[other] ^ phash[other]) <= DEFAULT_HASH_THRESHOLD
    found = []
    if absent := [facts.paths[i] for i in np.flatnonzero(~readable)]:
        found.append(f"pictures that are not here or cannot be read: {_named(absent)}")
    if other.any():
        names = [facts.paths[i] for i in np.flatnonzero(other)]
        found.append(
            f"pictures with other bytes: {_named(names)}; {int(alike.sum()):,} of them look the same"
            f" (perceptual hashes within {DEFAULT_HASH_THRESHOLD} of 64 bits)"
        )
    return found


def _named(names):
    return f"{len(names):,} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
