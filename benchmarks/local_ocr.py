"""How well `annotate --provider local` reads the text of a community's memes: character and word error rates.

    python -m benchmarks.local_ocr --community data/imgflip [--images 600] [--seed 0] [--worst 5]

The column `text` of train.csv is taken for the truth, letter case and the width of spaces apart. Memes are drawn from
all topics in turn. The settings in preprocess/annotation/local_text.py were chosen on the first half of such a sample
of rendered memes of `preprocess.imgflip`; the second half was not looked at.
"""

import csv
import json
import random
import time
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein

from benchmarks.machine import describe
from preprocess.annotation.local import Local
from preprocess.annotation.pictures import pictures_of
from util import Parser, program, progress_bar


def sample(path, count, seed):
    """`count` rows of a CSV that have a text: one of each topic in turn, in random order."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["text"].strip()]
    topics, chance = {}, random.Random(seed)
    for row in rows:
        topics.setdefault(row["topic_id"], []).append(row)
    for row_list in topics.values():
        chance.shuffle(row_list)
    in_turn = sorted((turn, topic) for topic, row_list in topics.items() for turn in range(len(row_list)))
    chosen = [topics[topic][turn] for turn, topic in in_turn[:count]]
    chance.shuffle(chosen)
    return chosen


def error_rates(truth, found):
    """(character, word) error rate: Levenshtein distance over the length of the truth."""
    truth, found = truth.casefold().split(), found.casefold().split()
    in_characters = Levenshtein.distance(" ".join(truth), " ".join(found)) / len(" ".join(truth))
    return in_characters, Levenshtein.distance(truth, found) / len(truth)


@program
def main():
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--community", type=Path, required=True, metavar="DIR")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worst", type=int, default=0, help="print so many of the worst readings")
    options = parser.parse_args()
    rows = sample(options.community / "train.csv", options.images, options.seed)
    local, read = Local(), []
    started = time.perf_counter()
    for row in progress_bar(rows, unit="img"):
        pictures = pictures_of(options.community / "images" / row["image"], max_frames=3, max_side=1024)
        text = json.loads(local.answer(pictures).answer)["text"]
        read.append((*error_rates(row["text"], text), row["image"], row["text"], text))
    seconds = (time.perf_counter() - started) / len(rows)
    rates = np.array([each[:2] for each in read])
    print(f"{describe('cpu')}; {local.model}; {len(rows)} images, one at a time, {seconds:.2f} s each")
    half = len(rows) // 2
    for name, part in ("first half", rates[:half]), ("second half", rates[half:]), ("all", rates):
        characters, words = part.T
        print(f"{name}: {len(part)} images; character error rate under 10 %: {np.mean(characters < 0.1):.1%}, "
              f"0: {np.mean(characters == 0):.1%}, median {np.median(characters):.2%}, mean {characters.mean():.2%}; "
              f"word error rate: mean {words.mean():.2%}")  # fmt: skip
    for characters, _, image, truth, found in sorted(read, reverse=True)[: options.worst]:
        print(f"{image}: {characters:.0%}\n  truth: {truth}\n  found: {found}")


if __name__ == "__main__":
    main()
