"""A split of a community in the formats of other people's programs: BEIR's and MTEB's folder, TREC's topics and qrels.

python -m scripts.export_benchmark --data_path DATA --out DIR [--split test]

corpus.jsonl          a meme a line: _id, title (empty), text (its captions), metadata (image, captions, emotions, text)
queries.jsonl         a query a line: _id, text
qrels/<split>.tsv     which meme is relevant to which query, as BEIR has it
topics.<split>.trec   the queries as TREC topics; qrels.<split>.trec: the same relevance as TREC has it

A split is a collection of its own: its memes alone are the gallery. Ids are written as in a TREC run of --save_run, so
that `python metrics.py RUN --qrels DIR/qrels/<split>.tsv` scores one. No image is copied.
"""

import argparse
import contextlib
import json
from pathlib import Path

from dataloaders.communities import SPLITS
from dataloaders.meme_records import CAPTION_SOURCES
from util import InputError, Parser, ending_clearly, program, replaced_atomically


def to_arguments(argv):
    parser = Parser(
        prog="python -m scripts.export_benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data_path", type=Path, required=True, metavar="DATA", help="folder with train.csv, val.csv, test.csv")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the files; made if it is not there")
    add("--split", choices=SPLITS, default="test", help="which split (default: %(default)s)")
    add("--caption_source", choices=CAPTION_SOURCES, default="caption",
        help="which columns are the memes' text (default: %(default)s)")  # fmt: skip
    return parser.parse_args(argv)


def export(data_path, out, split="test", caption_source="caption"):
    """Write a split's files into the folder `out`: (the Split, the files' names)."""
    from dataloaders.meme_records import read_splits, texts
    from evaluation.trec_runs import word

    path = data_path / f"{split}.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file; --data_path is the folder of a community's CSVs")
    data = read_splits({split: path}, data_path / "images", read_captions=False)[0][split]
    queries, memes = list(map(word, data.topic_ids)), [word(meme.image_id) for meme in data.memes]
    pairs = [(queries[q], memes[m]) for q, m in zip(data.record_topic, data.record_meme, strict=True)]
    files = {
        "corpus.jsonl": (
            as_json({"_id": name, "title": "", "text": "\n".join(texts(meme, caption_source)), "metadata": facts(meme)})
            for name, meme in zip(memes, data.memes, strict=True)
        ),
        "queries.jsonl": (
            as_json({"_id": name, "text": query}) for name, query in zip(queries, data.queries, strict=True)
        ),
        f"qrels/{split}.tsv": (
            "\t".join(line) for line in [("query-id", "corpus-id", "score"), *((*pair, "1") for pair in pairs)]
        ),
        f"topics.{split}.trec": map(topic, queries, data.queries),
        f"qrels.{split}.trec": (f"{query} 0 {meme} 1" for query, meme in pairs),
    }
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:  # all files, or none
        for name, lines in files.items():
            temporary = stack.enter_context(replaced_atomically(out / name))
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                file.writelines(f"{line}\n" for line in lines)
    return data, list(files)


def facts(meme):
    return {"image": meme.image, "captions": meme.captions, "emotions": meme.emotions, "text": meme.text}


def as_json(value):
    return json.dumps(value, ensure_ascii=False)


def topic(name, query):
    """A TREC topic: the query in one line, and the two further parts that readers of TREC's expect, empty."""
    title = " ".join(query.split())
    return f"<top>\n<num> Number: {name}\n<title> {title}\n<desc> Description:\n<narr> Narrative:\n</top>\n"


@program
def main(argv=None):
    args = to_arguments(argv)
    with ending_clearly("stopped; nothing was written"):
        data, names = export(**vars(args))
    print(
        f"{args.split}: {len(data.queries):,} queries, {len(data.memes):,} memes, {len(data):,} relevant pairs, "
        f"written to {args.out}: {', '.join(names)}"
    )


if __name__ == "__main__":
    main()
