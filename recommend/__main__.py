"""Memes for a sentence, from the command line (docs/USE.md).

python -m recommend index --model runs/demo/checkpoint_best.pt --images DIR --out INDEX
python -m recommend search INDEX "memes for when the deadline is tomorrow"
python -m recommend serve INDEX
python -m recommend export INDEX --out features.npz
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from util import InputError, Parser, ending_clearly, first_line, program, sha256_of

if TYPE_CHECKING:
    from recommend.recommender import Recommender
    from recommend.request import Answer, Request, Weighted

SIGN = re.compile(r"[+-](\d+(?:\.\d*)?|\.\d+)?")
SHOWN = 20  # of many images that are left out, as many are named
NAMED = 5  # of the memes that are nearly the same
QUERIES_AT_ONCE = 64


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m recommend", description="Memes for a sentence (docs/USE.md).")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    _add_index(commands.add_parser("index", help="make an index of a folder of memes, or bring it up to date"))
    _add_search(commands.add_parser("search", help="search an index by a sentence, a picture, an emotion"))
    _add_serve(commands.add_parser("serve", help="a page, and a JSON API, to search an index in a browser"))
    _add_export(commands.add_parser("export", help="write an index's features and ids as .npz"))
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "mps"), help="the default is cuda where there is one, else cpu"
    )


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="a run's checkpoint_best.pt, a folder of scripts.publish, or hub:OWNER/NAME[@REVISION]",
    )
    parser.add_argument("--images", metavar="DIR", help="folder of the images; the default is <data_path>/images")
    parser.add_argument("--annotations", metavar="FILE", help="annotations.jsonl of preprocess.annotate")
    parser.add_argument("--data_path", metavar="DIR", help="a community, whose CSVs say what is known of the memes")
    parser.add_argument("--out", required=True, metavar="INDEX", help="folder of the index, which is made or updated")
    parser.add_argument("--fp32", action="store_true", help="features in single precision, twice as large")
    parser.add_argument("--image_cache", metavar="DIR", help="keep decoded images there, for other models and runs too")
    _add_device(parser)


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument(
        "text",
        nargs="*",
        metavar="TEXT",
        help='a sentence; further ones come after + or -, with a weight or without: "a cat" + "at work" -0.5 "a dog"',
    )
    parser.add_argument("--like", metavar="IMAGE_OR_ID", help="memes like this picture, of the index or not")
    parser.add_argument("--emotion", metavar="WORD", help="first the memes whose persons show it, or one near to it")
    parser.add_argument("--seen", metavar="FILE", help="ids of memes that are not to come again, one in a line")
    parser.add_argument("--top", type=int, default=10, help="how many memes (default: 10)")
    parser.add_argument("--min_score", type=float, help="leave out memes below this score")
    parser.add_argument("--duplicates", action="store_true", help="show memes that are nearly the same as one before")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--queries", metavar="FILE", help="many sentences: a line each, or a CSV's topic_id and query")
    parser.add_argument("--out", metavar="RUN", help="with --queries: a TREC run, or a CSV where the name ends so")
    parser.add_argument("--model", metavar="MODEL", help="the index's model, where it has been moved")
    _add_device(parser)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("--port", type=int, default=7860, help="0 takes one that is free (default: 7860)")
    parser.add_argument("--host", default="127.0.0.1", help="another address lets others in (default: 127.0.0.1)")
    parser.add_argument("--model", metavar="MODEL", help="the index's model, where it has been moved")
    _add_device(parser)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="the file, of NumPy's arrays")


@program
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    with ending_clearly("stopped; the same command goes on from here" if args.command == "index" else "stopped"):
        {"index": index, "search": search, "serve": serve, "export": export}[args.command](args)
    return 0


def index(args: argparse.Namespace) -> None:
    """Make or update an index; torchrun's processes share the work."""
    from engine import distributed
    from engine.host_memory import keep_freed_memory
    from recommend.gallery import Gallery
    from recommend.indexing import update
    from recommend.model import ModelInUse
    from recommend.store import Store

    keep_freed_memory()
    failed = tells = True
    try:
        gallery = Gallery(args.images, args.annotations, args.data_path)
        device = distributed.setup(chosen_device(args.device))
        tells = distributed.is_main()
        model = ModelInUse(args.model, str(device))
        summary = update(args.out, model, gallery, args.fp32, image_cache=args.image_cache)
        failed = False
    except (InputError, OSError):
        if tells:
            raise
        sys.exit(1)  # the first process says what all of them have met
    except RuntimeError as error:
        if not distributed.lost_another(error):
            raise
        raise InputError(
            f"another process has ended ({first_line(error)}); the same command goes on from here"
        ) from None
    finally:
        distributed.tear_down(failed)
    if not tells:
        return
    for note in gallery.notes:
        print(note)
    print(
        f"{args.out}: {summary.memes:,} memes; {summary.encoded:,} encoded now, {summary.kept:,} known before, "
        f"{summary.dropped:,} gone"
    )
    if summary.without_captions:
        print(
            f"{summary.without_captions:,} memes have no captions, which the model reads: they rank lower "
            "(--annotations or --data_path say what is known of memes)"
        )
    if words := sorted(summary.unknown_emotions):
        print(f"{len(words)} emotion words are not in the model's vocabulary, read as unknown: {words[:20]}")
    if summary.bad:
        images = "image" if len(summary.bad) == 1 else "images"
        print(f"{len(summary.bad):,} {images} cannot be used, left out:", file=sys.stderr)
        for reason in list(summary.bad.values())[:SHOWN]:
            print(f"  {reason}", file=sys.stderr)
        if len(summary.bad) > SHOWN:
            print(f"  and {len(summary.bad) - SHOWN:,} more", file=sys.stderr)
    sizes = Store.open(args.out).sizes()
    print(f"a meme takes {sizes['features'] / 1024:.1f} KiB of features and {sizes['rest'] / 1024:.1f} KiB besides")


def chosen_device(name: str | None) -> str:
    import torch

    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def search(args: argparse.Namespace) -> None:
    """Search and print, or write what is found for the queries of a file."""
    from recommend.recommender import Recommender
    from recommend.request import Request

    if (args.queries is None) != (args.out is None):
        raise InputError("--queries and --out go together: the file of the queries, and of what is found")
    if args.queries is not None and (args.text or args.json):
        raise InputError("--queries brings the sentences, and --out takes what is found: no TEXT, no --json")
    text, plus, minus = split_texts(args.text)
    seen = read_seen(args.seen) if args.seen is not None else []
    request = Request(text, None, plus, minus, args.emotion, seen, args.top, args.min_score, args.duplicates)
    if args.queries is None and args.like is None:
        request.check()
    recommender = Recommender.open(args.index, args.model, args.device)
    if args.like is not None:
        known = recommender.store.row_of(args.like) is not None
        if not known and not Path(args.like).is_file():
            raise InputError(f"--like {args.like}: found neither a meme of the index with this id nor such a file")
        request = dataclasses.replace(request, like=args.like if known else Path(args.like))
    if args.queries is not None:
        write_answers(recommender, request, args.queries, args.out)
        return
    answer = recommender.search(request)
    print(as_json(request, answer) if args.json else "\n".join(lines(request, answer)))


def split_texts(pieces: list[str]) -> tuple[str, list[Weighted], list[Weighted]]:
    """The command line's sentences -> (the first, those after +, those after -), with their weights."""
    text, plus, minus = "", list[Any](), list[Any]()
    waiting: str | None = None
    for number, piece in enumerate(pieces):
        if waiting is not None:
            (plus if waiting[0] == "+" else minus).append((piece, float(waiting[1:] or 1)))
            waiting = None
        elif SIGN.fullmatch(piece):
            waiting = piece
        elif number == 0:
            text = piece
        else:
            raise InputError(f"{piece!r}: a further sentence comes after + or -; one of several words needs quotes")
    if waiting is not None:
        raise InputError(f"there is no sentence after {waiting}")
    return text, plus, minus


def read_seen(path: str) -> list[str]:
    try:
        return [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"--seen {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--seen {path}: found bytes that are not UTF-8, expected UTF-8") from error


def write_answers(recommender: Recommender, request: Request, queries: str, out: str) -> None:
    from engine import ir_metadata
    from recommend.runs import is_csv, read_queries, write_run

    pairs = read_queries(queries)

    def found() -> Iterator[tuple[str, str, Answer]]:
        for start in range(0, len(pairs), QUERIES_AT_ONCE):
            some = pairs[start : start + QUERIES_AT_ONCE]
            answers = recommender.search_many([dataclasses.replace(request, text=query) for _, query in some])
            for (query_id, query), answer in zip(some, answers, strict=True):
                yield query_id, query, answer

    write_run(out, found())
    if not is_csv(out) and Path(out).parent != Path("/dev"):
        model = recommender.model
        used = ir_metadata.steps(model.args, checkpoint={"path": model.name, "sha256": model.sha256})
        topics = {"name": Path(queries).name, "source": queries, "sha256": sha256_of(queries)}
        data = {"test collection": topics | {"memes": len(recommender)}}
        ir_metadata.write_beside(out, model.device, used, "as in the index", data)
    print(f"{out}: what {len(pairs):,} queries find among {len(recommender):,} memes")


def as_json(request: Request, answer: Answer) -> str:
    memes = [dataclasses.asdict(meme) | {"path": str(meme.path)} for meme in answer]
    found = {"query": request.text, "words": answer.words, "gallery": answer.gallery, "notes": answer.notes}
    return json.dumps(found | {"memes": memes}, ensure_ascii=False, indent=2, allow_nan=False)


def lines(request: Request, answer: Answer) -> Iterator[str]:
    """What the terminal shows of an answer."""
    from dataloaders.cells import is_blank

    yield from answer.notes
    if answer.words:
        words = "  ".join(f"{text.strip()} {weight:.2f}" for text, weight in answer.words)
        yield f"weights of the words: {words}"
    if not answer.memes:
        yield f"nothing was found among {answer.gallery:,} memes"
        return
    before_minus = (not is_blank(request.text), request.like, *request.plus)
    taken_away = bool(request.minus) and not any(before_minus)
    joined = sum(map(bool, (*before_minus, *request.minus, request.emotion))) > 1
    alpha = answer[0].alpha
    weights = f"{alpha:.2f} QI + {1 - alpha:.2f} QC" if alpha is not None else ""
    if taken_away:
        weights = f"-({weights or 'QI or QC'})"
    if joined:
        yield "the score joins several parts and may exceed 1: it compares memes within this search alone"
        yield f"QI and QC are those of the first part{weights and f', which counts as {weights}'}"
    elif weights:
        yield f"score = {weights}"
    yield f"below: the share of the {answer.gallery:,} memes that score lower"
    yield f"{'rank':>4} {'score':>7} {'below':>7} {'QI':>7} {'QC':>7}  file"
    for meme in answer:
        qi, qc = (f"{number:7.4f}" if number is not None else f"{'-':>7}" for number in (meme.qi, meme.qc))
        yield f"{meme.rank:4} {meme.score:7.4f} {meme.below:7.2%} {qi} {qc}  {without_controls(str(meme.path))}"
        emotions = f"[{', '.join(dict.fromkeys(meme.emotions))}] " if meme.emotions else ""
        for told in (emotions + meme.caption, meme.text and f"text: {meme.text}"):
            if told:
                yield f"{'':35}  {without_controls(' '.join(told.split()))}"
        if meme.duplicates:
            more = f" and {len(meme.duplicates) - NAMED} more" if len(meme.duplicates) > NAMED else ""
            named = without_controls(", ".join(meme.duplicates[:NAMED]))
            yield f"{'':35}  nearly the same, not shown: {named}{more}"


def without_controls(text: str) -> str:
    """A text from data for the terminal, which would obey control characters: each as "?"."""
    return "".join("?" if unicodedata.category(letter) == "Cc" else letter for letter in text)


def serve(args: argparse.Namespace) -> None:
    """Answer on a page and by a JSON API, until Ctrl-C."""
    from recommend.recommender import Recommender  # first: what every command needs is missed before serve's own

    try:
        from recommend.serving import run
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "starlette", "uvicorn"):
            raise
        raise InputError(f"serve needs the package {error.name}: pip install -r requirements-serve.txt") from None
    with run.listening(args.host, args.port) as bound:
        recommender = Recommender.open(args.index, args.model, args.device)
        if told := run.warning(args.host):
            print(told, file=sys.stderr)
        run.serve(recommender, bound, run.names_of(args.host))


def export(args: argparse.Namespace) -> None:
    """Write the index's features with their ids."""
    from recommend.export import export as write
    from recommend.store import Store

    if not args.out.endswith(".npz"):
        raise InputError(f"--out {args.out}: expected a name that ends in .npz, which is what is written")
    store = Store.open(args.index)
    names = write(store, args.out)
    print(f"{args.out}: {len(store):,} memes; {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main())
