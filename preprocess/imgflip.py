"""Make a community of real memes from a clone of the public data set ImgFlip575K.

    git clone https://github.com/schesa/ImgFlip575K_Dataset
    python -m preprocess.imgflip --source ImgFlip575K_Dataset --out data/imgflip

The data set has the texts, titles and templates of memes from imgflip.com; the memes are drawn anew, the texts on
their template. What a topic is depends on --kind:

    topics     a template; its query is another name of it, the same in all splits: known topics, new memes
    templates  a template; its query differs from split to split: unknown queries
    titles     one meme; its query is the title that its author gave it; no topic is in two splits

Used are memes with two texts, in English, ASCII and of at most 160 characters, without links and without the words
of imgflip575k/blocked_words.txt, on the templates of imgflip575k/templates.csv. The pictures belong to others: for
research only, not to be published.
"""

import argparse
import csv
import hashlib
import json
import os
import shlex
from pathlib import Path

from dataloaders.communities import SPLITS
from preprocess.building.continued import begin
from preprocess.imgflip575k.split import KINDS, split_memes
from preprocess.imgflip575k.templates import TABLE, read_templates
from preprocess.imgflip575k.text_filter import BLOCKED_WORDS, BlockedWords, to_ascii
from preprocess.imgflip575k.usable_memes import read_memes
from util import InputError, Parser, ending_clearly, program, replaced_atomically, write_json

VERSION = 1  # goes up when other memes are made, so that an older folder is not continued
MANIFEST = "imgflip.json"


def make_community(source, out, kind="topics", limit=None, max_templates=None, seed=0, size=336, quality=88,
                   templates=TABLE, all_templates=False, blocked_words=BLOCKED_WORDS, workers=1):  # fmt: skip
    """Write a community of memes from the checkout `source` into the folder `out`; returns what the manifest says.

    An interrupted call is continued by the next one with the same arguments: images that are there are kept, the
    CSVs come last. templates, blocked_words: the tables to use. all_templates: also those
    without a row. workers: processes that draw; what they write does
    not depend on their number. Raises InputError for broken data, and if `out` holds anything else.
    """
    from preprocess.building.folder import without_spaces
    from preprocess.imgflip575k.images import Job, draw_missing

    out = Path(out)
    if out.is_file():
        raise InputError(f"{out} is a file; a community is a folder")
    blocked = BlockedWords(blocked_words)
    checkout = read_templates(source, templates, blocked, all_templates)
    memes, counts = read_memes(checkout.templates, checkout.names, blocked)
    rows = split_memes(memes, kind, seed, limit, max_templates)
    chosen = [meme for split in SPLITS for meme, *_ in rows[split]]
    pictures = sorted({meme.template.image for meme in chosen})
    arguments = {
        **{
            "kind": kind,
            "limit": limit,
            "max_templates": max_templates,
            "all_templates": all_templates,
            "seed": seed,
            "size": size,
        },
        **{"quality": quality, "version": VERSION, "OpenCV": opencv_version(), "data": digest(rows, pictures)},
    }
    manifest = {
        "arguments": arguments,
        "memes": {"read": counts.pop("read", 0), "clean": len(memes), "used": len(chosen)},
        "dropped": without_spaces(dict(counts.most_common())),
        "templates": {
            "used": len(pictures),
            "without_a_row": checkout.without_row,
            "without_memes": checkout.without_memes,
            "without_a_picture": checkout.without_picture,
            "without_a_description": checkout.undescribed,
        },
        **{split: {"records": len(rows[split]), "topics": len({row[1] for row in rows[split]})} for split in SPLITS},
    }
    begin(out, MANIFEST, arguments)
    images = str(out / "images")
    jobs = [
        Job(str(meme.template.image), os.path.join(images, file_name(meme)), to_ascii(meme.upper), to_ascii(meme.lower))
        for meme in chosen
    ]
    manifest["drawn"] = draw_missing(jobs, size, quality, workers)
    for split in SPLITS:
        write_csv(out / f"{split}.csv", rows[split])
    write_json(out / MANIFEST, {key: value for key, value in manifest.items() if key != "drawn"})
    return manifest


def digest(rows, pictures):
    """A checksum of all that decides what the community's files hold."""
    total = hashlib.sha256()
    for split in SPLITS:
        for row in rows[split]:
            total.update(json.dumps((split, *to_cells(*row))).encode())
    for picture in pictures:
        total.update(hashlib.sha256(picture.read_bytes()).digest())
    return total.hexdigest()[:16]


def opencv_version():
    """The part of OpenCV's version that its fonts depend on."""
    import cv2

    return int(cv2.__version__.split(".")[0])


def file_name(meme):
    """The meme's file, relative to the images: a folder per template."""
    return f"{meme.template.slug}/{meme.meme_id}.jpg"


def to_cells(meme, topic_id, query):
    """The cells of a record, in the order of meme_records.COLUMNS."""
    caption = f'{meme.template.description} The text reads: "{meme.text}"'
    captions, emotions = (json.dumps(list(texts), ensure_ascii=False) for texts in ([caption], meme.template.emotions))
    return (meme.image_id, file_name(meme), topic_id, query, captions, emotions, meme.text)


def write_csv(path, rows):
    from dataloaders.meme_records import COLUMNS

    with replaced_atomically(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(to_cells(*row) for row in rows)


def report(manifest, out, table):
    """What was read, left out and made, and how to go on: lines to print."""
    from preprocess.building.summary import size_flags

    memes, templates = manifest["memes"], manifest["templates"]
    why = ", which have a title of their own" if manifest["arguments"]["kind"] == "titles" else ""
    if slugs := templates["without_a_row"]:
        if manifest["arguments"]["all_templates"]:
            yield f"templates of which nothing is said but their name, without emotions: {', '.join(slugs)}"
        else:
            yield f"templates left out, as the table has no row for them: {', '.join(slugs)}"
        yield f"  (to describe one, add a line to {table}: its name, its emotions, a sentence that says what it shows;"
        yield "  --all_templates uses those without a line as well)"
    if faults := templates["without_a_picture"]:
        yield "templates left out, as there is no picture that can be read:"
        yield from (f"  {slug}: {fault}" for slug, fault in faults.items())
    if slugs := templates["without_a_description"]:
        yield f"templates of which the checkout has no other names: {', '.join(slugs)}"
    if slugs := templates["without_memes"]:
        yield f"rows of {table} for which the checkout has no memes: {', '.join(slugs)}"
    yield f"{memes['read']:9,} memes read"
    yield from (f"{count:9,}   dropped: {reason.replace('_', ' ')}" for reason, count in manifest["dropped"].items())
    yield f"{memes['clean']:9,} clean"
    yield f"{memes['used']:9,} used{why}, on {templates['used']} templates; {manifest['drawn']:,} drawn now"
    yield ""
    yield f"{'':5} {'records':>9} {'topics':>9}"
    yield from (f"{split:5} {manifest[split]['records']:9,} {manifest[split]['topics']:9,}" for split in SPLITS)
    yield ""
    scratch, flags = size_flags(manifest["train"]["records"])
    yield f"To train on it{scratch}:"
    flags = ["--do_train", "--data_path", str(out), *flags, "--output_dir", f"runs/{Path(out).resolve().name}"]
    yield f"  python main_task_retrieval.py {shlex.join(flags)}"


def cores():
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def at_least(smallest):
    def positive(text):
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"must be at least {smallest}")
        return value

    return positive


def to_arguments(argv):
    parser = Parser(
        prog="python -m preprocess.imgflip", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, number = parser.add_argument, at_least(1)
    add("--source", type=Path, required=True, metavar="CHECKOUT", help="the clone of schesa/ImgFlip575K_Dataset")
    add("--out", type=Path, required=True, metavar="DIR", help="the folder to make; an interrupted one is continued")
    add("--kind", choices=KINDS, default="topics", help="what a topic is (default: %(default)s)")
    add("--limit", type=number, metavar="N", help="at most N memes, from the templates in turn: those with a title"
        " of their own first, then the most viewed")  # fmt: skip
    add("--max_templates", type=number, metavar="N", help="use N templates, drawn by the seed")
    add("--seed", type=int, default=0, help="another seed gives other splits (default: %(default)s)")
    add("--size", type=at_least(64), default=336, help="pixels of an image's longer side (default: %(default)s)")
    add("--quality", type=int, choices=range(1, 101), default=88, metavar="1-100", help="of the JPEGs (default: 88)")
    add("--templates", type=Path, default=TABLE, metavar="FILE", help="the table of what the templates show; a"
        " template gets used by adding a row (default: preprocess/imgflip575k/templates.csv)")  # fmt: skip
    add("--all_templates", action="store_true", help="use those without a row as well: their captions say the"
        " template's name in place of what it shows, and they have no emotions")  # fmt: skip
    add("--blocked_words", type=Path, default=BLOCKED_WORDS, metavar="FILE", help="the words that keep a meme out"
        " (default: preprocess/imgflip575k/blocked_words.txt)")  # fmt: skip
    add("--workers", type=number, default=cores(), metavar="N", help="processes that draw (default: all cores)")
    return parser.parse_args(argv)


@program
def main(argv=None):
    args = vars(to_arguments(argv))
    with ending_clearly("stopped; the images drawn so far are kept, and the same command goes on from there"):
        manifest = make_community(**args)
    print("\n".join(report(manifest, args["out"], args["templates"])))


if __name__ == "__main__":
    main()
