"""The community that runs were tested on: its queries and memes, in the order of the runs' records."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.communities import COMMUNITIES
from dataloaders.meme_records import read_splits
from util import InputError, sha256_of

ELSEWHERE = "if the data have moved, --data_path says where they are (or --test_csv and --features_path)"


@dataclass
class Community:
    """name: of the community; csv, features: the test split's CSV and its folder of images. queries: (Q,) texts,
    memes: (M,) meme_records.Meme. notes: sentences to tell the reader.
    """

    name: str
    csv: Path
    features: Path
    queries: list
    memes: list
    notes: list


def read_community(runs, data_path=None, features_path=None, test_csv=None):
    """The Community of the runs, which share their queries and memes. InputError where the data are not there, or are
    not those of the runs' records.
    """
    first = runs[0]
    csv, features = places(first.args, data_path, features_path, test_csv)
    if not csv.is_file():
        raise InputError(f"{csv}: no such file; {first.folder} was tested on it; {ELSEWHERE}")
    notes = []
    if not features.is_dir():
        if any(images_read(run) for run in runs):
            raise InputError(f"{features}: no such folder of images; {first.folder} was tested on them; {ELSEWHERE}")
        notes.append(f"There is no folder {features}: the gallery has no pictures.")
    split = read_splits({"test": csv}, features, read_captions=False)[0]["test"]
    topics, memes = places_in(split, first, csv)
    checksum = sha256_of(csv)
    changed = [run.name for run in runs if run.start and run.start["data"]["test"]["csv"] != checksum]
    if changed:
        notes.append(
            f"{csv.name} is not the same file, by its SHA-256, as the one that these runs read: {', '.join(changed)}. "
            "Queries, memes and relevant pairs are the same; captions or emotions may not be."
        )
    return Community(
        name=COMMUNITIES[first.args["datatype"]].name,
        csv=csv,
        features=features,
        queries=[split.queries[topic] for topic in topics],
        memes=[split.memes[meme] for meme in memes],
        notes=notes,
    )


def places(args, data_path, features_path, test_csv):
    """(CSV, folder of images): as given, else inside the given --data_path, else as the run had them."""
    root = data_path or args["data_path"] or ""
    csv = test_csv or (not data_path and args.get("test_csv")) or Path(root, "test.csv")
    features = features_path or (not data_path and args.get("features_path")) or Path(root, "images")
    return Path(csv), Path(features)


def images_read(run):
    """Whether the run found a folder of images."""
    return not run.start or run.start["data"]["test"]["images"] is not None


def places_in(split, run, csv):
    """The indices in the CSV's split of the record's queries and memes; InputError where they do not agree.

    A run with --skip_bad_images may have left out some of the CSV's records.
    """
    record = run.record
    own = (split.topic_ids, [meme.image_id for meme in split.memes])
    places = []
    for wanted, ids, what in zip(
        (record.topic_ids.tolist(), record.image_ids.tolist()), own, ("topic", "image"), strict=True
    ):
        place = {identifier: index for index, identifier in enumerate(ids)}
        if unknown := [identifier for identifier in wanted if identifier not in place]:
            raise InputError(
                f"{csv}: has no {what}_id {unknown[0]!r}, which {run.folder} was tested on ({len(unknown):,} of its "
                f"{len(wanted):,} are missing); expected the CSV of that run; {ELSEWHERE}"
            )
        if len(ids) != len(wanted) and not run.args.get("skip_bad_images"):
            raise InputError(
                f"{csv}: has {len(ids):,} distinct {what}_ids, {run.folder} was tested on {len(wanted):,}; expected "
                f"the CSV of that run; {ELSEWHERE}"
            )
        places.append(np.array([place[identifier] for identifier in wanted]))
    topics, memes = places
    in_csv = np.sort(split.record_topic * len(split.memes) + split.record_meme)
    in_record = topics[record.relevance.query] * len(split.memes) + memes[record.relevance.meme]
    if not np.isin(in_record, in_csv).all() or (len(in_record) != len(in_csv) and not run.args.get("skip_bad_images")):
        raise InputError(
            f"{csv}: other memes were posted in its topics ({len(in_csv):,} records) than those that {run.folder} was "
            f"tested on ({len(in_record):,}); expected the CSV of that run; {ELSEWHERE}"
        )
    return topics, memes
