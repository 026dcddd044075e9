"""The folder that is published: the CSVs, images.csv, the pictures or not, croissant.json and README.md."""

import csv
import shutil

from dataloaders.communities import SPLITS
from dataloaders.meme_records import COLUMNS
from preprocess.building.folder import check_free, place_images, take_place
from preprocess.describing.card import card
from preprocess.describing.croissant import IMAGE_COLUMNS, croissant
from util import InputError, sha256_of, write_json, write_text

MANIFEST, CARD, IMAGES = "croissant.json", "README.md", "images.csv"
OWN = {MANIFEST, CARD, IMAGES, "images", *(f"{split}.csv" for split in SPLITS)}


def check_place(out, community):
    """InputError unless the folder `out` can be made, or is one of an earlier call, which the new one replaces."""
    if out == community.resolve():
        raise InputError(f"--out {out} is the community itself; choose another folder")
    check_free(out, overwrite=True, manifest=MANIFEST, own=OWN)


def write_folder(out, source, survey, with_images, answers, rebuild):
    """Write the folder, which gets its name when it is complete. source: a measuring.survey.Source; survey: a Survey.

    InputError for images that cannot be read: nobody could use them.
    """
    facts = survey.facts
    if facts.errors:
        raise InputError(
            f"{len(facts.errors):,} images cannot be read; the first one: {next(iter(facts.errors.values()))}"
        )
    building = out.with_name(f".{out.name}.partial")
    shutil.rmtree(building, ignore_errors=True)  # of a killed process
    try:
        building.mkdir(parents=True)
        for split, path in source.csv_paths.items():
            shutil.copyfile(path, building / f"{split}.csv")
        rows = image_rows(facts)
        write_images(building / IMAGES, rows)
        names = [*(f"{split}.csv" for split in source.csv_paths), IMAGES]
        files = {name: (sha256_of(building / name), (building / name).stat().st_size) for name in names}
        columns = columns_of(source.csv_paths.values())
        command = rebuild.command if rebuild else None
        about = (survey.report, files, columns, len(rows), with_images, answers, command)
        write_json(building / MANIFEST, croissant(*about))
        write_text(building / CARD, card(survey.report, columns, len(rows), with_images, answers, rebuild))
        if with_images:
            place_images(source.images, building / "images", [row["image"] for row in rows], link=True)
        take_place(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def image_rows(facts):
    """The rows of images.csv by ImageFacts: one for each file, by name."""
    columns = (facts.sha256, facts.phash, facts.width, facts.height)
    found = {
        path: (path, sha256, f"{phash:016x}", width, height)
        for path, sha256, phash, width, height in zip(
            facts.paths, *(column.tolist() for column in columns), strict=True
        )
    }
    return [dict(zip(IMAGE_COLUMNS, found[path], strict=True)) for path in sorted(found)]


def write_images(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(IMAGE_COLUMNS))
        writer.writeheader()
        writer.writerows(rows)


def columns_of(csv_paths):
    """The columns of meme_records.COLUMNS that all the CSVs have."""
    headers = []
    for path in csv_paths:
        with open(path, encoding="utf-8-sig", newline="") as file:
            headers.append(next(csv.reader(file)))
    return [column for column in COLUMNS if all(column in header for header in headers)]
