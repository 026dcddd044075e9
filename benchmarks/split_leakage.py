"""What the test split shares with train where a community is divided by record, by topic and by template.

    python -m benchmarks.split_leakage data/imgflip data/imgflip_titles --seed 0

The communities are those of preprocess.imgflip: the folder of an image names its template, which is the truth here. The
records of all their splits are divided anew by preprocess.build_community, by template twice: as the pictures' hashes
tell it, and by the name. Counted are, in what it writes: test memes whose template train has, by name; pairs of memes
with hashes that agree (of the same picture), and how many are across splits; test topics that train has.
"""

import contextlib
import csv
import io
import json
import tempfile
from pathlib import Path

from dataloaders.communities import SPLITS
from dataloaders.meme_records import read_splits
from preprocess import build_community
from preprocess.comparing.image_facts import image_facts
from preprocess.comparing.near_duplicates import DEFAULT_HASH_THRESHOLD
from preprocess.measuring.quality import duplicate_pairs, splits_by_meme
from util import Parser, program

WAYS = {
    "record": ("--split_by", "record"),
    "topic": ("--split_by", "topic"),
    "template, by hash": ("--split_by", "template"),
    "template, by name": ("--split_by", "template", "--template_column", "template"),
}
HEADING = (
    "split by",
    "records",
    "dropped",
    "test memes of known templates",
    "known test topics",
    "same picture across",
)


def template_of(meme):
    return meme.image.partition("/")[0]


def read_community(folder):
    """The splits of a community's folder, {name: Split}."""
    return read_splits({split: folder / f"{split}.csv" for split in SPLITS}, folder / "images")[0]


def write_inputs(splits, facts, folder):
    """Write records.csv, with a column `template`, and annotations.jsonl into `folder`."""
    sha256 = dict(zip(facts.paths, facts.sha256.tolist(), strict=True))
    with open(folder / "records.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "topic_id", "query", "template"))
        for split in splits.values():
            for topic, meme in zip(split.record_topic, split.record_meme, strict=True):
                image = split.memes[meme].image
                row = image, split.topic_ids[topic], split.queries[topic], template_of(split.memes[meme])
                writer.writerow(row)
    with open(folder / "annotations.jsonl", "w", encoding="utf-8") as file:
        for meme, _ in splits_by_meme(splits).values():
            row = {"image": meme.image, "sha256": sha256[meme.image], "status": "ok", "captions": meme.captions}
            file.write(json.dumps(row | {"text": meme.text, "emotions": meme.emotions}) + "\n")


def measure(community, seed):
    """Yield the row of each way, as HEADING has it."""
    splits = read_community(community)
    images = [meme.image for meme, _ in splits_by_meme(splits).values()]
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder)
        write_inputs(splits, image_facts(community / "images", images), inputs)
        given = ["--records", str(inputs / "records.csv"), "--annotations", str(inputs / "annotations.jsonl")]
        for number, (way, flags) in enumerate(WAYS.items()):
            out = inputs / str(number)
            with contextlib.redirect_stdout(io.StringIO()):
                build_community.main(
                    [*given, "--images", str(community / "images"), "--out", str(out), "--seed", str(seed), *flags]
                )
            yield way, *figures(out)


def figures(folder):
    """The cells of a community that was built: records, dropped and so on."""
    splits = read_community(folder)
    facts = image_facts(folder / "images", [meme.image for meme, _ in splits_by_meme(splits).values()])
    _, duplicates = duplicate_pairs(splits, facts, DEFAULT_HASH_THRESHOLD)
    known = set(map(template_of, splits["train"].memes))
    memes = [template_of(meme) in known for meme in splits["test"].memes]
    topics = [topic in set(splits["train"].topic_ids) for topic in splits["test"].topic_ids]
    pairs = duplicates["same_template"]
    dropped = json.loads((folder / "build.json").read_text(encoding="utf-8"))["dropped"]
    yield " / ".join(f"{len(split):,}" for split in splits.values())
    yield f"{sum(dropped.values()):,}"
    yield f"{sum(memes):,} of {len(memes):,} ({sum(memes) / len(memes):.1%})"
    yield f"{sum(topics):,} of {len(topics):,}"
    yield f"{pairs['pairs_across_splits']:,} of {pairs['pairs']:,} pairs ({pairs['share']:.1%})"


@program
def main(argv=None):
    parser = Parser(prog="python -m benchmarks.split_leakage", description=__doc__)
    parser.add_argument("communities", nargs="+", type=Path, metavar="DIR", help="made by preprocess.imgflip")
    parser.add_argument("--seed", type=int, default=0, help="of the splits (default: %(default)s)")
    args = parser.parse_args(argv)
    for community in args.communities:
        print(f"{community}, seed {args.seed}\n| {' | '.join(HEADING)} |")
        for row in measure(community, args.seed):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
