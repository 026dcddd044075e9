"""The folder that earlier public code read -> records with their published split.

    train_id_*.csv         a column image_id: the images of the train split
    train JSON             {"sentences": [{"image_id", "caption"}], "titles": {image_id: [caption, ...]}}
    test JSON              {image_id: {"gt": query, "titles": [caption, ...]}}
    emotion JSONs          [{"image_id", "emotion": [{"person1": "happy"}, ...]}], any number of files
    similarity_matrix.csv  0/1, test queries x test images in the order of the test JSON; may be absent
    images                 <image_id>.jpg (or .png, ...), or <image_id>/img_00001.jpg, in any subfolder

`sentences` and `gt` are the queries, `titles` the captions. A topic is a distinct query.
"""

import hashlib
import posixpath
import re
from collections import defaultdict
from pathlib import Path

from dataloaders.cells import BadCell, unicode_forms
from dataloaders.csv_rows import BadRows, read_records
from preprocess.annotation.pictures import find_images
from preprocess.building.inputs import Description, Record, Source, Unusable
from preprocess.building.published_entries import Entries, identifier
from preprocess.building.published_files import find_files
from preprocess.building.published_matrix import read_matrix
from util import InputError

FRAME = re.compile(r"img_(\d+)")


def published_records(folder, images):
    """The Source of the published layout in `folder`; `images` is the folder of the images.

    The test records come first: where train and test have the same file, the meme is described as in test. Raises
    InputError: files that are missing, ambiguous or broken; all the broken entries together.
    """
    files = find_files(folder)
    entries = Entries()
    tests = entries.of_test(*files.test)
    titles, sentences = entries.of_train(*files.train)
    emotions = entries.of_emotions(files.emotions)
    entries.raise_if_any()
    records, unusable = test_records(tests, files.test[0], files.matrix)
    train, unused = train_records(sentences, files.train[0], files.train_ids)
    of_id, notes = images_of_ids(images, {record.image_id for record in records + train})
    test_titles = {image_id: captions for image_id, (_, captions) in tests.items()}

    def describe(record, _):
        captions = (test_titles if record.split == "test" else titles).get(record.image_id, ())
        return Description(captions, "", emotions.get(record.image_id, ()))

    located, missing = [], Unusable("no image file", f"none in {images} has this name")
    for record in records + train:
        if record.image_id in of_id:
            located.append(record._replace(image=of_id[record.image_id]))
        else:
            unusable.append((record, missing))
    with_emotions = sum(image_id in emotions for image_id in of_id)
    notes = [*files.notes, *notes, f"Emotions: an entry for {with_emotions:,} of {len(of_id):,} images."]
    return Source(located, unusable + unused, describe, notes)


def topic_id_of(query):
    """A topic's id: the same for the same query."""
    return "t" + hashlib.sha256(query.encode("utf-8")).hexdigest()[:16]


def record_of(place, image_id, query, split):
    return Record(place, image_id, topic_id_of(query) if query else "", query, image_id, split)


def without_blank(records, unusable):
    """The records with a query; the others go to `unusable`."""
    unusable += [(record, Unusable("the query is empty")) for record in records if not record.query]
    return [record for record in records if record.query]


def test_records(tests, path, matrix):
    """(records, unusable) of the test split: each image with its own query, or what the matrix (a path) says."""
    image_ids, queries = list(tests), [query for query, _ in tests.values()]
    own = [
        record_of(f"{path.name}, {image_id!r}", image_id, query, "test")
        for image_id, query in zip(image_ids, queries, strict=True)
    ]
    unusable = []
    if matrix is None:
        return without_blank(own, unusable), unusable
    relevant = {}  # (query, image_id) -> Record; rows of the same query say it together
    for row, columns in enumerate(read_matrix(matrix, image_ids), start=1):
        for column in columns:
            query, image_id = queries[row - 1], image_ids[column]
            place = f"{matrix.name}, row {row}, column {column + 1}"
            relevant.setdefault((query, image_id), record_of(place, image_id, query, "test"))
    for number, record in enumerate(own, start=1):
        if (record.query, record.image_id) not in relevant:
            details = f"{matrix.name} has 0 in row {number}, column {number}"
            unusable.append((record, Unusable("not relevant by the matrix", details)))
    return without_blank(relevant.values(), unusable), unusable


def train_records(sentences, path, ids_csv):
    """(records, unusable) of the train split: the sentences of the images that the CSV lists."""
    ids, unusable, records = train_ids(ids_csv), [], []
    for number, (image_id, query) in enumerate(sentences):
        record = record_of(f"{path.name}, sentences[{number}]", image_id, query, "train")
        if image_id in ids:
            records.append(record)
        else:
            unusable.append((record, Unusable("not in the train CSV", ids_csv.name)))
    with_query = {image_id for image_id, _ in sentences}
    for image_id, line in ids.items():
        if image_id not in with_query:
            record = record_of(f"{ids_csv.name}, line {line}", image_id, "", "train")
            unusable.append((record, Unusable("no query", f"{path.name} has no sentence for it")))
    return without_blank(records, unusable), unusable


def train_ids(path):
    """{image_id: line} of the CSV's column image_id. Raises InputError with all its bad rows."""
    bad_rows = BadRows()
    rows = read_records(path, bad_rows)
    ids, column = {}, next(rows, (1, ["image_id"]))[1].index("image_id")
    for line, cells in rows:
        try:
            ids.setdefault(identifier(cells[column]), line)
        except BadCell as error:
            bad_rows.add(path, line, [f"column 'image_id': {error}"])
    bad_rows.raise_if_any()
    return ids


def images_of_ids(images, ids):
    """({image_id: path of its image}, notes). Of a folder of frames the first one is taken.

    Raises InputError: no image of any id, or several of one.
    """
    files, frames = defaultdict(list), defaultdict(list)
    id_of = {form: image_id for image_id in ids for form in unicode_forms(image_id)}
    id_of |= {image_id: image_id for image_id in ids}
    for path in find_images(images)[0]:
        folder, name = posixpath.split(path)
        stem = posixpath.splitext(name)[0]
        if (frame := FRAME.fullmatch(stem)) and folder:
            frames[folder].append((int(frame[1]), path))
        elif stem in id_of:
            files[id_of[stem]].append(path)
    several = 0
    for folder, numbered in frames.items():
        if (image_id := id_of.get(posixpath.basename(folder))) is not None:
            files[image_id].append(min(numbered)[1])
            several += len(numbered) > 1
    for image_id, paths in files.items():
        if len(paths) > 1:
            found = ", ".join(str(Path(images, path)) for path in paths)
            raise InputError(f"image_id {image_id!r}: found {found}, expected one image file")
    if not files:
        example = min(ids, default="m1")
        raise InputError(
            f"{images}: found no image of an image_id, expected such as {example}.jpg or {example}/img_00001.jpg"
        )
    note = f"{several:,} images are folders of several frames (img_0000N): the first frame of each is the image."
    return {image_id: path for image_id, (path,) in files.items()}, [note] if several else []


def drop_leaks(community, template_groups):
    """Drop the train records of memes that are near-duplicates (or of the template) of a test meme."""
    labels = community.template if template_groups else community.near
    tests = {}  # label -> an image of test
    for record, meme in zip(community.records, community.record_meme, strict=True):
        if record.split == "test":
            tests.setdefault(labels[meme], record.image)
    kind = "of the template of a test meme" if template_groups else "near-duplicate of a test meme"
    community.drop(
        {
            index: Unusable(kind, tests[labels[meme]])
            for index, (record, meme) in enumerate(zip(community.records, community.record_meme, strict=True))
            if record.split == "train" and labels[meme] in tests
        }
    )
