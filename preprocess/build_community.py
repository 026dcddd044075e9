"""Build a community, the folder that training reads, from images, records and annotations.

    python -m preprocess.build_community --records records.csv --annotations annotations.jsonl \\
        --images memes --out data/mine

records.csv has the columns image (path below --images), topic_id and query; annotations.jsonl is what
preprocess.annotate writes. --from_json FOLDER reads the layout of earlier public code instead (see
preprocess/building/published.py). Files with the same bytes are one meme. Near-duplicate memes (the pictures'
hashes and the texts on them agree) never fall into different splits. What is left out is listed in dropped.csv.
"""

import argparse
import importlib.util
import shutil
from pathlib import Path

from preprocess.building.shares import SPLIT_BY, check_shares
from preprocess.comparing.near_duplicates import DEFAULT_HASH_THRESHOLD
from util import InputError, Parser, ending_clearly, program


def to_arguments(argv):
    parser = Parser(
        prog="python -m preprocess.build_community",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_argument_group("what it is built from")
    add = source.add_argument
    add("--records", type=Path, metavar="CSV", help="columns image, topic_id, query and perhaps image_id")
    add("--annotations", type=Path, metavar="FILE", help="annotations.jsonl of preprocess.annotate")
    add("--from_json", type=Path, metavar="DIR", help="the published layout, instead of these two")
    add("--images", type=Path, metavar="DIR", help="folder of the images (with --from_json by default that folder)")
    add("--emotion_table", type=Path, metavar="CSV",
        help="word,emotion (default: preprocess/annotation/emotion_words.csv)")  # fmt: skip
    split = parser.add_argument_group("splits")
    add = split.add_argument
    add("--split", type=float, nargs=3, default=[0.8, 0.1, 0.1], metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the records (default: 0.8 0.1 0.1); --from_json: val is so much of train and val")  # fmt: skip
    add("--split_by", choices=SPLIT_BY, default="record",
        help="record: every topic is in all splits; topic: a topic is in one split; template: a template, as far as"
        " pictures agree whatever the text, is in one split (default: %(default)s)")  # fmt: skip
    add("--template_column", metavar="NAME",
        help="the column of records.csv that names the template, instead of the pictures' hashes")  # fmt: skip
    add("--seed", type=int, default=0, help="another seed gives another split (default: %(default)s)")
    groups = parser.add_argument_group("near-duplicates")
    add = groups.add_argument
    add("--hash_threshold", type=int, metavar="BITS", default=DEFAULT_HASH_THRESHOLD,
        help="pictures agree if at most so many of 64 bits of their hashes differ (default: %(default)s)")  # fmt: skip
    add("--near_duplicates", choices=("keep", "merge"), default="keep",
        help="keep them in one split, or merge them into one meme (default: %(default)s)")  # fmt: skip
    add("--template_groups", action="store_true",
        help="with --split_by topic: keep whole templates in one split as well")  # fmt: skip
    out = parser.add_argument_group("output")
    add = out.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    add("--overwrite", action="store_true",
        help="replace a folder that this program made; it stays until the new one is complete")  # fmt: skip
    add("--images_as", choices=("hardlink", "copy", "none"), default="hardlink",
        help="hardlink takes no space (a copy where links are impossible); none: use --features_path")  # fmt: skip
    add("--workers", type=int, metavar="N", help="threads that hash images (default: all cores)")
    args = parser.parse_args(argv)
    if args.from_json and (args.records or args.annotations):
        parser.error("--from_json stands instead of --records and --annotations")
    if not args.from_json and not (args.records and args.annotations and args.images):
        parser.error("--records, --annotations and --images are needed (or --from_json)")
    if args.template_groups and args.split_by != "topic":
        parser.error("--template_groups goes with --split_by topic; without it, --split_by template does that")
    if args.template_column and (args.from_json or not keeps_templates(args)):
        parser.error("--template_column goes with --records and --split_by template (or --template_groups)")
    return args


def keeps_templates(args):
    """Whether no template may be in two splits."""
    return args.split_by == "template" or args.template_groups


def check(args):
    """Raise InputError for values that make no sense and for an --out that is taken."""
    from preprocess.building.folder import check_free

    check_shares(args.split)
    if not 0 <= args.hash_threshold <= 64:
        raise InputError(f"--hash_threshold: found {args.hash_threshold}, expected 0 to 64 bits")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers: found {args.workers}, expected 1 or more")
    if importlib.util.find_spec("rapidfuzz") is None:
        raise InputError("preprocess.build_community needs rapidfuzz: pip install -r requirements-data.txt")
    check_free(args.out, args.overwrite)
    if args.overwrite:
        for name in ("records", "annotations", "from_json", "images"):
            path = getattr(args, name)
            if path is not None and path.resolve().is_relative_to(args.out):
                raise InputError(f"--{name} {path} lies in --out, which --overwrite replaces; move it first")


def build(args):
    """Build the community that the arguments ask for, and print what was found. Raises InputError."""
    check(args)
    from preprocess.annotation.emotion_words import DEFAULT, read_emotion_table
    from preprocess.building.folder import hashes_file
    from preprocess.building.inputs import annotated_records
    from preprocess.building.meme_groups import named_templates, near_duplicate_groups, template_groups
    from preprocess.building.merging import gather, merge
    from preprocess.building.published import drop_leaks, published_records
    from preprocess.building.split import split_community
    from preprocess.building.summary import print_community, print_memes, print_next
    from preprocess.comparing.image_facts import image_facts

    table = read_emotion_table(args.emotion_table or DEFAULT)
    images = args.images or args.from_json
    if args.from_json:
        source = published_records(args.from_json, images)
    else:
        source = annotated_records(args.records, args.annotations, images, args.template_column)
    print(*source.notes, sep="\n", end="\n" * bool(source.notes))
    paths = sorted({record.image for record in source.records})
    facts = image_facts(images, paths, hashes_file(args.out), args.workers)
    community = gather(source, facts, table)
    phashes = facts.phash[community.fact]
    community.near, compared = near_duplicate_groups(community.memes, phashes, args.hash_threshold)
    if args.template_column:
        names = [record.template for record in community.records]
        community.template = named_templates(names, community.record_meme, community.near)
    else:
        community.template = template_groups(phashes, args.hash_threshold)
    whole_templates = keeps_templates(args)
    counts = print_memes(community, compared, args, whole_templates)
    if args.from_json:
        drop_leaks(community, whole_templates)
    if args.near_duplicates == "merge":
        pixels = facts.width.astype(int) * facts.height
        merge(community, community.near, pixels[community.fact])
    splits = split_community(community, args.split, args.split_by, args.seed, whole_templates)
    counts |= print_community(community, splits, args)
    copied = write(args, images, community, splits, counts)
    print_next(community, splits, args, images, copied)


def write(args, images, community, splits, counts):
    """Write the folder, which gets its name when it is complete and checked. Returns how many images were copied."""
    from dataloaders.meme_records import read_splits
    from preprocess.building.folder import (
        SPLITS,
        hashes_file,
        place_images,
        take_place,
        write_dropped,
        write_manifest,
        write_splits,
    )

    building = args.out.with_name(f".{args.out.name}.partial")
    shutil.rmtree(building, ignore_errors=True)  # of a killed process
    copied = 0
    try:
        building.mkdir(parents=True)
        write_splits(building, community, splits)
        write_dropped(building / "dropped.csv", community.dropped, "entry" if args.from_json else "line")
        write_manifest(building, args, counts, community)
        if args.images_as != "none":
            used = [meme.image for meme in community.memes]
            copied = place_images(images, building / "images", used, link=args.images_as == "hardlink")
        features = images if args.images_as == "none" else building / "images"
        has_captions = any(meme.captions for meme in community.memes)
        read_splits({name: building / f"{name}.csv" for name in SPLITS}, features, read_captions=has_captions)
        take_place(building, args.out)
        hashes_file(args.out).unlink(missing_ok=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return copied


@program
def main(argv=None):
    args = to_arguments(argv)
    args.out = args.out.resolve()
    with ending_clearly("stopped; what was read of the images is kept, and the same command goes on from there"):
        build(args)


if __name__ == "__main__":
    main()
