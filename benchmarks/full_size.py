"""Scoring and ranking at the benchmark's full size, from random cached features: time and peak memory.

    python -m benchmarks.full_size [--queries 3630] [--memes 148886] [--words 32] [--device cpu]

Everything that an evaluation does once queries and memes are encoded: QI (WTI), QC and the fused score in tiles, exact
ranks in both directions, metrics with intervals. For comparison: the plain way, timed on a few queries, and what the
three score matrices would take in memory.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F

import metrics
from benchmarks.machine import Figure, describe, peak_memory, show
from benchmarks.similarity import masked_formula
from benchmarks.train_step import make_model
from evaluation.eval_loop import EncodedSplit, rank_split, summarise
from evaluation.feature_store import FeatureStore
from modules.interaction import unit_tokens
from util import Parser, program


def random_split(queries, memes, words, device, limit_gb):
    """Random features of a split, each meme relevant to one query."""
    generator = torch.Generator().manual_seed(0)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, generator=generator), dim=-1)

    store = FeatureStore(limit_gb)
    for start in range(0, memes, 4096):
        size = min(4096, memes - start)
        batch = {"tokens": unit(size, 1, 512), "token_weight": torch.ones(size, 1), "caption": unit(size, 512)}
        store.append(batch, torch.ones(size, dtype=torch.long))
    store.finish()
    mask = torch.arange(words) < torch.randint(3, words + 1, (queries, 1), generator=generator)
    encoded = {
        "sentence": unit(queries, 512),
        "words": unit_tokens(torch.randn(queries, words, 512, generator=generator), mask),
        "word_weight": mask / mask.sum(dim=1, keepdim=True),
    }
    relevance = metrics.Relevance(np.arange(memes) % queries, np.arange(memes), (queries, memes))
    return EncodedSplit({name: tensor.to(device) for name, tensor in encoded.items()}, store, relevance)


def plain_way(encoded, queries):
    """Seconds that the plain way takes for the first so many queries: whole rows, sorted, and memes looked up in them.

    WTI as the formula is written (benchmarks/similarity.py), QC, the sum, and the ranks from query to meme alone.
    """
    device = encoded.queries["sentence"].device
    memes = np.arange(len(encoded.memes))
    started = time.perf_counter()
    features = encoded.memes.read(memes, device, torch.float32)
    for query in range(queries):
        one = {name: tensor[query : query + 1] for name, tensor in encoded.queries.items()}
        tokens = features["tokens"]
        token_mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=device)
        qi = masked_formula(
            one["words"], one["word_weight"] > 0, one["word_weight"], tokens, token_mask, features["token_weight"]
        )
        qc = one["sentence"] @ features["caption"].T
        for scores in (qi, qc, (qi + qc) / 2):
            order = np.argsort(-scores.cpu().numpy()[0], kind="stable")
            np.flatnonzero(np.isin(order, encoded.relevance.meme[encoded.relevance.query == query]))
    return time.perf_counter() - started


def measure(options):
    """The benchmark's Figures."""
    torch.manual_seed(0)
    args, model = make_model([])
    model.to(options.device).eval()
    encoded = random_split(options.queries, options.memes, options.words, options.device, args.feature_cache_gb)
    with torch.no_grad():
        plain = plain_way(encoded, options.plain_queries) / options.plain_queries * options.queries
    started = time.perf_counter()
    ranks = rank_split(model, encoded, args)
    ranked = time.perf_counter() - started
    summarise(ranks, encoded.relevance, seed=0)
    size = f"{options.queries} x {options.memes}, {options.words} words"
    yield Figure(
        f"QI, QC and the fused score with exact ranks in both directions, {size}",
        f"{ranked:.1f} s",
        f"whole rows, sorted, from query to meme alone: {plain:.1f} s ({options.plain_queries} queries timed)",
        f"{plain / ranked:.1f} times as fast",
    )
    yield Figure("metrics and intervals of these", f"{time.perf_counter() - started - ranked:.1f} s")
    held = 3 * 4 * options.queries * options.memes / 2**20
    yield Figure("scoring, peak memory", peak_memory(options.device), f"the three matrices alone {held:,.0f} MiB")


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=3630)
    parser.add_argument("--memes", type=int, default=148886)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--plain_queries", type=int, default=16, help="queries that the plain way is timed on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(argv)
    show(describe(options.device), list(measure(options)), options.json)


if __name__ == "__main__":
    main()
