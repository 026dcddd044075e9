"""The folder of a community that was built: CSVs, images, what was dropped, build.json."""

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path

from dataloaders.communities import SPLITS
from dataloaders.meme_records import COLUMNS
from util import InputError, progress_bar, replaced_atomically, write_json

MANIFEST = "build.json"
OWN = {MANIFEST, "dropped.csv", "images", *(f"{name}.csv" for name in SPLITS)}


def check_free(out, overwrite=False, manifest=MANIFEST, own=OWN):
    """Raise InputError unless the folder `out` can be made: nothing is there, or what this program may overwrite.

    manifest: the file that shows that the program made it; own: the names of all that it writes. What a killed process
    had set aside and not replaced yet gets its name back.
    """
    out = Path(out)
    if not out.exists() and aside(out).is_dir():
        aside(out).rename(out)
    if out.is_file():
        raise InputError(f"{out} is a file; a community is a folder")
    found = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if not found:
        return
    if manifest not in found:
        raise InputError(f"{out} is not empty and was not made by this program; choose another folder or remove it")
    if not overwrite:
        raise InputError(f"{out} was made by this program already; --overwrite replaces it, or choose another folder")
    if others := [name for name in found if name not in own]:
        raise InputError(f"{out} holds {', '.join(others)}, which this program did not write; move it elsewhere first")


def aside(out):
    """Where an old folder waits until the new one has its name."""
    return out.with_name(f".{out.name}.old")


def take_place(building, out):
    """Give the folder `building` the name `out`; what was there is removed afterwards, and stays if that fails."""
    old = aside(out)
    shutil.rmtree(old, ignore_errors=True)  # of a killed process that had replaced it
    if out.exists():
        out.rename(old)
    try:
        building.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_splits(folder, community, splits):
    """Write train.csv, val.csv, test.csv; `splits` is the number of each record's split in SPLITS."""
    rows = [_meme_cells(meme) for meme in community.memes]
    for number, name in enumerate(SPLITS):
        path = folder / f"{name}.csv"
        with replaced_atomically(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for record, meme, split in zip(community.records, community.record_meme, splits, strict=True):
                if split == number:
                    writer.writerow(rows[meme] | {"topic_id": record.topic_id, "query": record.query})


def _meme_cells(meme):
    persons = {f"person{number}": word for number, word in enumerate(meme.emotions, start=1)}
    return {
        "image_id": meme.image_id,
        "image": meme.image,
        "captions": json.dumps(meme.captions, ensure_ascii=False),
        "emotions": json.dumps(persons, ensure_ascii=False),
        "text": meme.text,
    }


def write_dropped(path, dropped, place):
    """Write a row for each dropped record; `place` is what the first column is called."""
    with (
        replaced_atomically(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow((place, "image", "topic_id", "reason"))
        for record, reason in dropped:
            writer.writerow((record.place, record.image, record.topic_id, reason))


def counted(dropped):
    """{kind of reason: how many records}, the most frequent first."""
    return dict(Counter(reason.kind for _, reason in dropped).most_common())


def without_spaces(counts):
    """{text: number}, the texts as names in a JSON record: without spaces."""
    return {text.replace(" ", "_"): number for text, number in counts.items()}


def place_images(source, target, paths, link):
    """Put the images `paths`, relative to both folders, into `target`; returns how many were copied.

    They become hard links, or copies where that is impossible or not wanted (`link` is False). What is a symbolic link
    in `source` becomes a file.
    """
    copied = 0
    for path in progress_bar(paths, desc="linking images" if link else "copying images", unit="img"):
        file, place = os.path.realpath(source / path), target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if link:
            try:
                os.link(file, place)
                continue
            except OSError:  # another file system, one without hard links, somebody else's file
                pass
        shutil.copy2(file, place)
        copied += 1
    return copied


def hashes_file(out):
    """The file beside `out` that keeps the images' hashes until the community is complete."""
    return out.with_name(f".{out.name}.image_facts.csv")


def write_manifest(folder, args, counts, community):
    """Write build.json: arguments, counts, what was dropped and merged, versions."""
    from engine.run_record import versions

    arguments = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    value = {
        "arguments": arguments,
        "counts": counts,
        "dropped": without_spaces(counted(community.dropped)),
        "merged": community.merged,
        "versions": versions(),
    }
    write_json(folder / MANIFEST, value)
