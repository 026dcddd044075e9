"""Which file of the published layout is which: told by what is in it; names decide between several of one kind."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from dataloaders.csv_rows import MAX_FIELD, shown
from preprocess.building.published_matrix import fields_of, is_row
from util import InputError

WANTED = {  # kind -> (what it is, what is in the name of the right one of several)
    "train_ids": ("a CSV with the column image_id (train_id_*.csv)", "train_id"),
    "train": ('a JSON file {"sentences": [...], "titles": {...}}', "train"),
    "test": ('a JSON file {image_id: {"gt": query, "titles": [...]}}', "test"),
    "matrix": ("a CSV of 0 and 1 (similarity_matrix.csv)", "similarity_matrix"),
}


class PublishedFiles(NamedTuple):
    """Paths, and what is in the JSON files. emotions: [(path, content)]. matrix may be None."""

    train_ids: Path
    train: tuple[Path, Any]
    test: tuple[Path, Any]
    matrix: Path | None
    emotions: list[tuple[Path, Any]]
    notes: list[str]


def find_files(folder):
    """The PublishedFiles in `folder` and its subfolders. InputError: one is missing, or several could be it."""
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: found no such folder, expected one with the published files (--from_json)")
    found, contents, others = {kind: [] for kind in (*WANTED, "emotions")}, {}, []
    for path in sorted(_json_and_csv(folder)):
        if path.suffix.lower() == ".json":
            contents[path] = read_json(path)
            kind = _kind_of_json(contents[path])
        else:
            kind = _kind_of_csv(path)
        (others if kind is None else found[kind]).append(path)
    chosen = {}
    for kind, (what, name) in WANTED.items():
        named = [path for path in found[kind] if name in path.name.lower()]
        candidates = named if len(found[kind]) > 1 and named else found[kind]
        if len(candidates) > 1:
            raise InputError(f"{folder}: found {', '.join(map(str, candidates))}, expected {what} once")
        if not candidates and kind != "matrix":
            raise InputError(f"{folder}: found no {what[2:]}, expected one in this folder or a subfolder")
        chosen[kind] = candidates[0] if candidates else None
        others += [path for path in found[kind] if path not in candidates]
    files = [path for path in (*chosen.values(), *found["emotions"]) if path]
    notes = [f"Read: {', '.join(str(path.relative_to(folder)) for path in files)}."]
    if others:
        notes.append(f"Not used: {', '.join(str(path.relative_to(folder)) for path in sorted(others))}.")
    return PublishedFiles(
        train_ids=chosen["train_ids"],
        train=(chosen["train"], contents[chosen["train"]]),
        test=(chosen["test"], contents[chosen["test"]]),
        matrix=chosen["matrix"],
        emotions=[(path, contents[path]) for path in found["emotions"]],
        notes=notes,
    )


def _json_and_csv(folder):
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith((".json", ".csv")) and not name.startswith("."):
                yield Path(here, name)


def read_json(path):
    """The content of a JSON file. InputError: no UTF-8, no JSON, a name twice in one object."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_object)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found bytes that are not UTF-8 at byte {error.start}, expected UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: found no valid JSON ({error}), expected JSON") from error


def _object(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{shown(twice)} is twice in one object")
    return value


def _kind_of_json(value):
    if isinstance(value, dict):
        if "sentences" in value and "titles" in value:
            return "train"
        first = next(iter(value.values()), None)
        return "test" if isinstance(first, dict) and "gt" in first else None
    first = value[0] if isinstance(value, list) and value else None
    return "emotions" if isinstance(first, dict) and {"image_id", "emotion"} <= first.keys() else None


def _kind_of_csv(path):
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = [fields_of(line) for line in (file.readline(MAX_FIELD), file.readline(MAX_FIELD))]
    if "image_id" in lines[0]:
        return "train_ids"
    named = WANTED["matrix"][1] in path.name.lower()  # read in any case: it says what is relevant, or is an error
    return "matrix" if named or is_row(lines[1] or lines[0]) else None
