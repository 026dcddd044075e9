"""Score the test split by a reference that needs no training: it compares queries with captions, and sees no image.

bm25              BM25 (k1 1.5, b 0.75) over a meme's captions as one document; no knowledge of language
sentence_encoder  cosine of a pretrained sentence encoder's vectors: of the query, and of the captions in the mean
sentence_encoder_max  the same, of the query and the caption nearest to it

The output folder is like that of main_task_retrieval.py --do_eval. Only the test split is read; nothing is fitted.
All captions of a meme are used. Needs: pip install -r requirements-references.txt
"""

import argparse
import importlib.metadata
import math
import time
from pathlib import Path

from dataloaders.communities import COMMUNITIES
from dataloaders.meme_records import CAPTION_SOURCES, texts
from engine.methods import METHODS
from scripts.references import bm25, sentence_encoder
from util import NotWritten, Parser, ending_clearly, make_logger, program, write_json

BLOCK_SCORES = 2**22  # of a block of queries, with all memes
NAMES = tuple(name for name, method in METHODS.items() if method.group == "reference")
# what main_task_retrieval.py's flags would be, for the functions which are shared with it
AS_EVALUATION = {
    "do_train": False,
    "do_eval": True,
    "resume_model": None,
    "branches": "qc",
    "train_csv": None,
    "val_csv": None,
}


def to_arguments(argv):
    parser = Parser(
        prog="python -m scripts.reference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("method", choices=NAMES, help="which reference")
    add("--data_path", metavar="DIR", help="folder with test.csv")
    add("--output_dir", required=True, metavar="DIR", help="where the run writes everything")
    add("--test_csv", metavar="FILE", help="instead of <data_path>/test.csv")
    add("--features_path", metavar="DIR", help="folder of the images, instead of <data_path>/images; none is opened")
    add("--datatype", choices=tuple(COMMUNITIES), default="custom", help="which community it is (default: %(default)s)")
    add("--caption_source", choices=CAPTION_SOURCES, default="caption",
        help="which columns are captions (default: %(default)s)")  # fmt: skip
    add(
        "--sentence_model",
        metavar="NAME",
        help=f"of the two sentence encoders: Hugging Face name or folder (default: {sentence_encoder.DEFAULT_MODEL})",
    )
    add("--seed", type=int, default=0, help="of the intervals; nothing else is drawn (default: %(default)s)")
    add("--save_similarity", action="store_true", help="also write the scores, fused.npy, and relevance.npz")
    add("--save_run", action="store_true", help="also write test.trec, a TREC run of each query's first 1,000 memes")
    add("--overwrite", action="store_true", help="start anew in an --output_dir that holds a run")
    args = parser.parse_args(argv)
    if args.method == "bm25":
        if args.sentence_model:
            parser.error("--sentence_model is of sentence_encoder, not of bm25")
        del args.sentence_model
        args.k1, args.b, args.idf = bm25.K1, bm25.B, "lucene"
    else:
        args.sentence_model = args.sentence_model or sentence_encoder.DEFAULT_MODEL
    return args


def run(args):
    """Read the test split, score it, print the table, and leave the folder of a run."""
    from engine.output_folder import OutputFolder

    shared = argparse.Namespace(**vars(args), **AS_EVALUATION)
    folder = OutputFolder(shared)
    try:
        with folder:
            folder.take()
            _run(args, shared, folder)
    except NotWritten as error:
        raise NotWritten(f"{error}{folder.way_on(error)}") from error


def _run(args, shared, folder):
    import torch

    from dataloaders import data_dataloaders as loaders
    from engine import run_record, test_record

    started = time.monotonic()
    logger = make_logger()
    folder.keep_log(logger)
    logger.info(run_record.command_line())
    splits, lines = loaders.read_community(shared, ("test",), captions_needed=True)
    split = splits["test"]
    documents = [texts(meme, args.caption_source) for meme in split.memes]
    for line in lines:
        logger.info(line)

    device = torch.device("cpu")
    if args.method == "bm25":
        reference, package = bm25.BM25(split.queries, documents), bm25.PACKAGE
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        logger.info(f"loading {args.sentence_model}, {device.type}")
        make = sentence_encoder.NAMES[args.method]
        reference = make(split.queries, documents, args.sentence_model, device)
        package = sentence_encoder.PACKAGE
    counts = {"test": counts_of(split, documents) | reference.counts}
    for line in loaders.count_lines(counts, emotions_are_read=False):
        logger.info(line)
    logger.info(reference.description)
    folder.begin(logger, args)
    run_record.write_run(shared, loaders.csv_paths(shared, ("test",)), splits, run_record.REFERENCE_SOURCES)

    results = score(shared, split, reference, device)
    facts = test_record.run_facts(args, device)
    facts["versions"][package] = importlib.metadata.version(package)
    record = facts | {
        "best_epoch": None,
        "alpha": None,
        "trained_alpha": None,
        "test": results,
        "counts": counts,
        "parameters": {"all": reference.parameters, "trained": 0},
        "seconds": {"training": None, "evaluation_on_val": None, "all": round(time.monotonic() - started, 1)},
        "records_per_second": None,
    }
    write(shared, record, logger)


def counts_of(split, documents):
    """Counts for the run's record, named as those of main_task_retrieval.py."""
    return {
        "topics": len(split.queries),
        "memes": len(split.memes),
        "records": len(split),
        "memes_per_topic": round(len(split) / len(split.queries), 2),
        "memes_without_captions": sum(not document for document in documents),
    }


def score(args, split, reference, device):
    """Everything that is measured on the test split; writes test_queries.npz and, if asked for, the matrix and the run.

    args: as for the functions which are shared with main_task_retrieval.py.
    """
    import metrics
    from engine import test_record
    from evaluation.eval_loop import rank_blocks
    from evaluation.query_record import BEST_KEPT, BestMemes, QueryRecord
    from evaluation.trec_runs import DEPTH

    queries, memes = len(split.queries), len(split.memes)
    relevance = metrics.Relevance(split.record_topic, split.record_meme, (queries, memes))
    best = BestMemes(relevance, DEPTH if args.save_run else BEST_KEPT)
    high = math.ceil(BLOCK_SCORES / memes)
    blocks = [slice(row, min(row + high, queries)) for row in range(0, queries, high)]
    ranks = rank_blocks(
        lambda rows: {"fused": reference.scores(rows)},
        blocks,
        relevance,
        best=best,
        save_to=args.output_dir if args.save_similarity else None,
    )
    QueryRecord.of(split, relevance, ranks, best).save(args.output_dir)
    if args.save_run:
        test_record.save_run(args, split, best, [{"name": args.method, "method": reference.description}], device)
    return test_record.test_results(ranks, relevance, args.seed)


def write(args, record, logger):
    """Write metrics.jsonl and, last, metrics.json; print the table."""
    from engine import run_record, test_record

    line = {"split": "test", "alpha": None, "scores": record["test"]["scores"]}
    run_record.write_lines(args, "metrics.jsonl", [line])
    write_json(Path(args.output_dir) / "metrics.json", record)
    for line in test_record.table_lines(record["test"]):
        logger.info(line)
    logger.info(f"written to {Path(args.output_dir).resolve()}: {', '.join(run_record.written(args))}")


@program
def main(argv=None):
    args = to_arguments(argv)
    with ending_clearly("stopped"):
        run(args)


if __name__ == "__main__":
    main()
