"""Make a community of real memes with real queries from the public data set MemeCap (Hwang and Shwartz 2023).

    git clone https://github.com/eujhwang/meme-cap
    python -m preprocess.memecap --source meme-cap --images memes --out data/memecap --query meaning

The data set has memes that people posted on Reddit, the posts' titles, and annotators' captions of what is seen
(img_captions, which become the captions) and of what is meant. What a query is depends on --query:

    meaning  what an annotator says that the meme means, without the opening "Meme poster is …"; a train meme's further
             ones are further queries
    title    the title of the post; equal ones are one topic

The text on the images is read on this machine, or from --ocr FILE. Emotions are not in the data set. Memes are split,
near-duplicates together. The pictures belong to others, and some are rude: for research only, not to be published.
"""

import argparse
import hashlib
import importlib.util
import json
from pathlib import Path

from dataloaders.communities import SPLITS
from preprocess.building.continued import begin
from preprocess.building.shares import check_shares
from util import InputError, Parser, ending_clearly, program, sha256_of, write_json

VERSION = 1  # goes up when other records are made, so that an older folder is not continued
MANIFEST = "memecap.json"
QUERIES = ("meaning", "title")
EMOTIONS = ("none", "faces")
SPLIT = [0.65, 0.1, 0.25]


def make_community(source, out, query, images=None, ocr=None, emotions="none", split=SPLIT, seed=0):
    """Write the community into the folder `out`; returns what the manifest says.

    An interrupted call is continued by the next one with the same arguments: images and readings that are there are
    kept, the CSVs come last. Raises InputError for bad entries, and if `out` holds anything else.
    """
    out = Path(out)
    check(out, split, text=ocr is None, faces=emotions == "faces")
    from preprocess.annotation.emotion_words import read_emotion_table
    from preprocess.building.folder import counted, hashes_file, without_spaces, write_dropped, write_splits
    from preprocess.building.inputs import Source
    from preprocess.building.meme_groups import near_duplicate_groups
    from preprocess.building.merging import gather
    from preprocess.comparing.image_facts import image_facts
    from preprocess.comparing.near_duplicates import DEFAULT_HASH_THRESHOLD
    from preprocess.posted.pictures import checksums, place_pictures
    from preprocess.posted.posts import read_posts
    from preprocess.posted.records import to_records
    from preprocess.posted.splits import add_further_queries, split_memes

    found = read_posts(source, images, ocr)
    records, unusable, further = to_records(found.posts, query)
    paths = sorted({record.image for record in records})
    arguments = {"query": query, "ocr": ocr is not None, "emotions": emotions, "split": list(split), "seed": seed}
    data = digest(found.files + ([ocr] if ocr else []), checksums(found.images, paths))
    begin(out, MANIFEST, arguments | {"version": VERSION, "data": data})

    placed, unreadable, copied = place_pictures(found.images, out / "images", paths)
    unusable += [(record, unreadable[record.image]) for record in records if record.image in unreadable]
    records = [record._replace(image=placed[record.image]) for record in records if record.image in placed]
    facts = image_facts(out / "images", sorted(set(placed.values())), hashes_file(out.resolve()))
    readings = read(out, facts, text=ocr is None, faces=emotions == "faces")
    describe = describer({post.post_id: post for post in found.posts}, found.texts, readings, emotions == "faces")
    community = gather(Source(records, unusable, describe, []), facts, read_emotion_table())
    community.near, _ = near_duplicate_groups(community.memes, facts.phash[community.fact], DEFAULT_HASH_THRESHOLD)
    splits = split_memes(community, split, seed)
    splits, asked = add_further_queries(community, splits, further)

    manifest = {
        "arguments": arguments | {"version": VERSION, "data": data},
        "posts": found.read,
        "left_out": without_spaces(counted(community.dropped)),
        "text": f"from {Path(ocr).name}" if ocr else models(readings),
        "emotions": models(readings) if emotions == "faces" else "none are given",
        "further_queries": asked if query == "meaning" else {},
        **counts(community, splits),
    }
    write_splits(out, community, splits)
    write_dropped(out / "dropped.csv", community.dropped, "entry")
    write_json(out / MANIFEST, manifest)
    hashes_file(out.resolve()).unlink(missing_ok=True)
    return manifest | {"copied": copied}


def check(out, split, text, faces):
    """Raise InputError for values that make no sense, and for packages that are missing."""
    check_shares(split)
    if out.is_file():
        raise InputError(f"{out} is a file; a community is a folder")
    needed = {"rapidfuzz": "requirements-data.txt"}
    if text:
        needed |= dict.fromkeys(("rapidocr", "onnxruntime"), "requirements-annotate.txt")
    for package, file in needed.items():
        if importlib.util.find_spec(package) is None:
            raise InputError(f"preprocess.memecap needs {package}: pip install -r {file}")
    if faces:
        from preprocess.annotation.local_faces import check_installed

        check_installed()


def digest(files, checksums):
    """A checksum of all that is read: the `files`, and the pictures' [(path, checksum)]."""
    sums = [sha256_of(path) for path in files]
    return hashlib.sha256(json.dumps([sums, checksums]).encode()).hexdigest()[:16]


def read(out, facts, text, faces):
    """{sha256: Annotation} of the pictures in the folder `out`, by ImageFacts; {} where nothing is to be read."""
    if not text and not faces:
        return {}
    from preprocess.posted.reading import read_pictures

    images = {
        str(sha256): path for sha256, path in zip(facts.sha256, facts.paths, strict=True) if path not in facts.errors
    }
    return read_pictures(out / "images", images, out / "annotations.jsonl", text, faces)


def describer(posts, texts, readings, faces):
    """The function that a Source has: a record's Description. posts: {post_id: Post}; texts: of a file, or None."""
    from preprocess.building.inputs import checked_description

    def describe(record, sha256):
        post, reading = posts[record.image_id], readings.get(sha256)
        text = reading.text if texts is None else texts.get(post.post_id, "")
        return checked_description(post.place, post.captions, text, reading.emotions if faces else ())

    return describe


def models(readings):
    """The models that read the pictures, as a sentence's end."""
    return "; ".join(sorted({row.model for row in readings.values()}))


def counts(community, splits):
    """What the manifest says of the memes, of all and of each split."""
    from preprocess.building.meme_groups import group_sizes

    groups, near = group_sizes(community.near)
    memes = community.memes
    value = {
        "memes": {
            "used": len(memes),
            "exact_copies": sum(map(len, community.merged.values())),
            "groups": groups,
            "near_duplicates": near,
            "with_text": sum(bool(meme.text.strip()) for meme in memes),
            "with_emotions": sum(bool(meme.emotions) for meme in memes),
        }
    }
    for number, name in enumerate(SPLITS):
        here = [memes[meme] for meme in set(community.record_meme[splits == number].tolist())]
        of_split = [record for record, split in zip(community.records, splits, strict=True) if split == number]
        value[name] = {
            "memes": len(here),
            "topics": len({record.topic_id for record in of_split}),
            "records": len(of_split),
            "with_captions": sum(bool(meme.captions) for meme in here),
            "with_text": sum(bool(meme.text.strip()) for meme in here),
        }
    return value


def to_arguments(argv):
    parser = Parser(
        prog="python -m preprocess.memecap", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source", type=Path, required=True, metavar="DIR", help="the folder with memes-trainval.json or"
        " memes-test.json or both, or a clone of eujhwang/meme-cap")  # fmt: skip
    add("--out", type=Path, required=True, metavar="DIR", help="the folder to make; an interrupted one is continued")
    add("--query", choices=QUERIES, required=True, help="what a query is")
    add("--images", type=Path, metavar="DIR", help="the folder of the pictures memes_<post_id>.png (or .jpg, …);"
        " default: images or memes in --source, else --source itself")  # fmt: skip
    add("--ocr", type=Path, metavar="FILE", help='the text on the images: a line {"post_id": …, "ocr": …} for each;'
        " without it the text is read here (requirements-annotate.txt)")  # fmt: skip
    add("--emotions", choices=EMOTIONS, default="none",
        help="faces: words of annotate's local face model, which errs often (default: %(default)s)")  # fmt: skip
    add("--split", type=float, nargs=3, default=SPLIT, metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the memes (default: 0.65 0.1 0.25)")  # fmt: skip
    add("--seed", type=int, default=0, help="another seed gives other splits (default: %(default)s)")
    return parser.parse_args(argv)


@program
def main(argv=None):
    args = vars(to_arguments(argv))
    with ending_clearly("stopped; what was copied and read is kept, and the same command goes on from there"):
        manifest = make_community(**args)
    from preprocess.posted.report import report

    print("\n".join(report(manifest, args["out"])))


if __name__ == "__main__":
    main()
