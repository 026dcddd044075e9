"""A search of an index of random features, against one plain matrix product of the same size: time and memory.

    python -m benchmarks.recommend [--memes 10000 150000 600000] [--queries 64] [--device cpu]

The index is written and opened as `recommend` does it, half precision, stills, 512 channels, WTI and QC. Timed is all
that follows the encoding of a query: its scores, the first ten, near-duplicates, their texts. Beside it stands, in the
same run, `torch.mm` of the query's words, or of all queries' words, and as many memes in single precision.
"""

import multiprocessing
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.machine import Figure, describe, gemm_rate, options_of, peak_memory, seconds_of, show, synchroniser
from dataloaders.meme_records import Meme
from modules.fusion import Fusion
from modules.ief_model import IEF, Wiring
from modules.image_similarity import TokenSimilarity
from recommend.model import ModelInUse
from recommend.recommender import Recommender
from recommend.request import Request
from recommend.store import Row, Store, Writer
from util import Parser, program

WIDTH = 512
WRITTEN = 2000  # memes at once
IN_ONE_PRODUCT = 150_000  # memes of a plain product: more of them take as much longer


class RandomModel(ModelInUse):
    """WTI, QC and a learned weight; a text is its number and its words, "17 12", and its features are random."""

    def __init__(self, device):
        self.device = torch.device(device)
        similarity = TokenSimilarity(WIDTH, 2)
        model = IEF(Wiring(), nn.Identity(), image_similarity=similarity, fusion=Fusion("learned", WIDTH))
        self.model = model.to(device).eval().requires_grad_(False)
        self.args = SimpleNamespace(max_words=77)

    def encode_texts(self, queries):
        words, weights, sentences = [], [], []
        longest = max(int(query.split()[1]) for query in queries)
        for query in queries:
            number, count = map(int, query.split())
            generator = torch.Generator().manual_seed(number)
            own = F.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)
            words.append(torch.cat([own, own[:1].expand(longest - count, -1)]))
            weight = torch.randn(count, generator=generator).softmax(0)
            weights.append(F.pad(weight, (0, longest - count)))
            sentences.append(F.normalize(torch.randn(WIDTH, generator=generator), dim=0))
        features = {"words": words, "word_weight": weights, "sentence": sentences}
        table = SimpleNamespace(cut=np.zeros(len(queries), int))
        return {name: torch.stack(parts).to(self.device) for name, parts in features.items()}, table

    def word_weights(self, queries, table):
        return [[] for _ in queries["sentence"]]


def write_index(folder, memes, full=False):
    """An index of random features; the same seed gives the same ones in both precisions."""
    folder.mkdir(parents=True)
    settings = {"model": {"path": "random", "sha256": ""}, "images": str(folder)}
    writer = Writer(folder, settings | {"precision": "full" if full else "half"})
    generator = torch.Generator().manual_seed(0)
    hashes = np.random.default_rng(0)
    one = np.ones(1, np.float32)
    for start in range(0, memes, WRITTEN):
        count = min(WRITTEN, memes - start)
        tokens, captions = (
            F.normalize(torch.randn(count, WIDTH, generator=generator), dim=1).numpy() for _ in range(2)
        )
        rows = []
        for index, phash in enumerate(hashes.integers(2**63, size=count).tolist()):
            name = f"{start + index}.jpg"
            meme = Meme(name, name, (f"a caption of {name}",), (), f"text {name}")
            features = {"tokens": tokens[index : index + 1], "token_weight": one, "caption": captions[index]}
            rows.append(
                Row(meme, name.encode().ljust(16), name.encode().ljust(32), (1, 1), phash, b"", [], 1, features)
            )
        writer.append(rows)
    writer.finish(np.arange(memes), {"memes": memes, "has_text": True})
    return folder


def own_memory():
    """Bytes in this process's memory that are no files mapped into it; nan where the system does not say it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("nan")
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), float("nan"))


def memory_held(index):
    """Bytes that this process, which has done nothing else, holds for an opened index after a search."""
    model = RandomModel("cpu")
    with tempfile.TemporaryDirectory() as folder:
        small = Store.open(write_index(Path(folder) / "small", 5000))
        Recommender(small, model).search(
            "0 12", duplicates=True
        )  # what searching itself takes, threads and their buffers
    before = own_memory()
    recommender = Recommender(Store.open(index), model)
    recommender.search("1 12", duplicates=True)
    return own_memory() - before


def plain_product(rows, memes, device):
    """Seconds of torch.mm: (rows, 512) and the transpose of (memes, 512), single precision."""
    count = min(memes, IN_ONE_PRODUCT)
    a, b = torch.randn(rows, WIDTH, device=device), torch.randn(count, WIDTH, device=device)
    return seconds_of(lambda: torch.mm(a, b.T), 5, synchroniser(device)) * memes / count


def measure(options):
    """The benchmark's Figures."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        yield from measure_in(Path(folder), options)


def measure_in(folder, options):
    device = options.device
    model = RandomModel(device)
    synchronise = synchroniser(device)
    for memes in options.memes:
        index = write_index(folder / str(memes), memes)
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            held = alone.apply(memory_held, (str(index),))
        recommender = Recommender(Store.open(index), model)
        for words in (12, 32):
            request = Request(f"1 {words}", duplicates=options.duplicates)
            seconds = seconds_of(lambda r=recommender, q=request: r.search(q), options.repeats, synchronise)
            plain = plain_product(words, memes, device)
            yield Figure(
                f"{memes:,} memes, a query of {words} words",
                f"{1000 * seconds:.1f} ms",
                f"torch.mm {words} x {memes:,}: {1000 * plain:.1f} ms",
                f"{seconds / plain:.1f} times as long",
            )
        for words in (12, 32):
            requests = [Request(f"{n} {words}", duplicates=options.duplicates) for n in range(options.queries)]
            before_it = gemm_rate(device=device)
            seconds = seconds_of(lambda r=recommender, q=requests: r.search_many(q), options.repeats_many, synchronise)
            rate = max(before_it, gemm_rate(device=device))
            flop = 2.0 * options.queries * (words + 2) * memes * WIDTH  # words and tokens, their mean, QC
            yield Figure(
                f"{memes:,} memes, {options.queries} queries of {words} words at once",
                f"{seconds:.3f} s, {flop / seconds / 1e9:,.1f} GFLOP/s of its matrix products",
                f"torch.mm {rate / 1e9:,.1f} GFLOP/s",
                f"{flop / seconds / rate:.0%}",
            )
        size = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
        yield Figure(
            f"{memes:,} memes, memory of an opened index after a search",
            f"{held / 2**20:.1f} MiB, {held / memes:.0f} bytes a meme",
            f"on disk {size / 2**20:,.0f} MiB, {size / memes:,.0f} bytes a meme",
        )
        if memes == options.memes[min(1, len(options.memes) - 1)]:
            yield agreement(recommender, write_index(folder / "full", memes, full=True), options.queries)
    yield Figure("peak memory, with the plain products and the random features", peak_memory(device))


def agreement(half, full_index, queries):
    """How many of the first ten memes are the same in half and in single precision."""
    requests = [Request(f"{number} 12", duplicates=True) for number in range(queries)]
    full = Recommender(Store.open(full_index), half.model)
    answers = [
        [{meme.id for meme in answer} for answer in recommender.search_many(requests)] for recommender in (half, full)
    ]
    same = sum(len(one & other) for one, other in zip(*answers, strict=True))
    of = sum(map(len, answers[1]))
    return Figure(
        f"{len(half):,} memes, first ten of {queries} queries in half precision",
        f"{same / of:.4f} are those of single precision",
        f"{same} of {of}",
    )


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--memes", type=int, nargs="+", default=[10_000, 150_000, 600_000])
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--repeats_many", type=int, default=3)
    parser.add_argument("--duplicates", action="store_true", help="show near-duplicates: needs no rapidfuzz")
    parser.add_argument("--folder", help="where the index is written, for a while; the default is the system's")
    options = options_of(parser, argv)
    show(describe(options.device), list(measure(options)), options.json)


if __name__ == "__main__":
    main()
