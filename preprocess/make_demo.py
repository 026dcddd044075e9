"""Make the demo community: drawn memes in the project's format, the same for the same seed.

    python -m preprocess.make_demo --out data/demo

It is a demonstration. What a topic is about is spread on purpose. The scene is in the picture (but not behind
a close-up) and in the captions of half of the memes. The feeling is in the emotion words (two thirds of the
memes have some; bystanders often feel otherwise), small in the faces, and in the captions of a third of the
memes. The captions also tell the text, which hints at both, and small objects. So the picture, the captions
and the emotion words each tell what the others do not.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

from dataloaders.meme_records import COLUMNS
from preprocess.demo.meme_plans import plan_meme, write_image
from preprocess.demo.sheet import write_sheet
from preprocess.demo.wording import TOPICS
from util import InputError, Parser, program, progress_bar, replaced_atomically, write_json

VERSION = 1  # goes up when other memes are made, so that an older folder is not taken for this one
MEMES_PER_TOPIC = {"train": 24, "val": 4, "test": 4}
MANIFEST = "demo.json"


def make_demo(out, seed=0, size=128):
    """Write the demo community into the folder `out`, unless a finished one of the same arguments is there.

    `size` is the side of a meme in pixels, 32 or more. Returns the counts of topics, memes and records, and of
    the records in "train", "val" and "test". The folder gets its name only when it is complete. Raises
    InputError for a wrong size and if `out` is a file or a folder with something else in it.
    """
    out = Path(out).resolve()
    if size < 32:
        raise InputError(f"size is {size}; nothing can be recognised below 32 pixels")
    if (counts := present_counts(out, seed, size)) is not None:
        return counts
    memes = {
        split: [plan_meme(f"{topic}-{split}{n:02d}", topic, seed) for topic in TOPICS for n in range(count)]
        for split, count in MEMES_PER_TOPIC.items()
    }
    counts = {"topics": len(TOPICS), "memes": sum(map(len, memes.values()))}
    counts["records"] = sum(len(meme.topics) for split in memes.values() for meme in split)
    counts |= {split: sum(len(meme.topics) for meme in memes[split]) for split in memes}
    building = out.with_name(f".{out.name}.partial")
    shutil.rmtree(building, ignore_errors=True)  # of a killed process
    try:
        (building / "images").mkdir(parents=True)
        with progress_bar(total=counts["memes"], desc="drawing the demo's memes", unit="meme") as progress:
            for split, drawn in memes.items():
                write_csv(building / f"{split}.csv", drawn)
                for meme in drawn:
                    write_image(meme, building / "images" / meme.file_name, size, seed)
                    progress.update()
        write_json(building / MANIFEST, {"arguments": _arguments(seed, size), "counts": counts})
        if out.exists():
            out.rmdir()
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return counts


def _arguments(seed, size):
    return {"seed": seed, "size": size, "version": VERSION}


def present_counts(out, seed, size):
    """Counts of the finished demo in `out`, None if `out` is free; InputError if it holds something else."""
    out = Path(out)
    if out.is_file():
        raise InputError(f"{out} is a file; the demo community is a folder")
    if not out.exists() or not any(out.iterdir()):
        return None
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        made_with, counts = manifest["arguments"], manifest["counts"]
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(f"{out} is not empty and not a demo community; choose another folder") from None
    if made_with != _arguments(seed, size):
        raise InputError(f"{out} holds a demo of {made_with}, not of {_arguments(seed, size)}; remove it first")
    images = sum(1 for _ in (out / "images").glob("*"))
    if images != counts["memes"] or not all((out / f"{split}.csv").is_file() for split in MEMES_PER_TOPIC):
        raise InputError(f"{out}: the demo has lost files ({images} of {counts['memes']} images); remove it first")
    return counts


def write_csv(path, memes):
    """Write one split's records, a row per (topic, meme) pair."""
    with replaced_atomically(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for meme in memes:
            captions, emotions = json.dumps(meme.captions), json.dumps(meme.emotions)
            for topic in meme.topics:
                query = TOPICS[topic][2]
                writer.writerow((meme.image_id, meme.file_name, topic, query, captions, emotions, meme.text))


@program
def main(argv=None):
    parser = Parser(description="Make the demo community.")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other memes (default: %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="side of a meme in pixels (default: %(default)s)")
    parser.add_argument("--sheet", metavar="FILE", help="also draw a dozen of the memes with their queries")
    arguments = parser.parse_args(argv)
    try:
        there = present_counts(arguments.out, arguments.seed, arguments.size) is not None
        counts = make_demo(arguments.out, arguments.seed, arguments.size)
        print(f"{arguments.out}: {'already there' if there else 'made'}, "
              + ", ".join(f"{count} {name}" for name, count in counts.items()))  # fmt: skip
        if arguments.sheet:
            write_sheet(arguments.out, arguments.sheet)
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
