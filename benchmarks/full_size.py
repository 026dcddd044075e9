"""Scoring and ranking at the benchmark's full size, from random cached features: time and peak memory.

    python -m benchmarks.full_size [--queries 3630] [--memes 148886] [--words 32] [--processes 1] [--device cpu]

Everything that an evaluation does once queries and memes are encoded: QI (WTI), QC and the fused score in blocks of
rows, exact ranks in both directions, metrics with intervals. For comparison: the plain way and computing every score
twice, timed on a few queries; one process beside several, each with as many threads (cores / processes); and what the
three score matrices would take in memory.
"""

import dataclasses
import functools
import time

import numpy as np
import torch
import torch.nn.functional as F

import metrics
from benchmarks import train_step
from benchmarks.machine import Figure, describe, in_processes, options_of, peak_memory, show
from benchmarks.similarity import masked_formula
from engine import distributed
from evaluation import eval_loop
from evaluation.eval_loop import EncodedSplit, rank_blocks, rank_split, row_blocks, score_rows, summarise
from evaluation.feature_store import FeatureStore
from modules.caption_similarity import caption_scores
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
        store.append(batch, {"token": torch.ones(size, dtype=torch.long)})
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
        qc = caption_scores(one["sentence"], features["caption"])
        for scores in (qi, qc, (qi + qc) / 2):
            order = np.argsort(-scores.cpu().numpy()[0], kind="stable")
            np.flatnonzero(np.isin(order, encoded.relevance.meme[encoded.relevance.query == query]))
    return time.perf_counter() - started


@dataclasses.dataclass
class Found:
    """Of a process: seconds of scoring and ranking, of them on the processor, of the metrics, peak memory as text."""

    ranking: float
    processor: float
    metrics: float
    memory: str


def score_and_rank(options, sizes):
    """Found. sizes: of the CLIP that the model has; its towers encode nothing here."""
    device = distributed.setup(options.device)
    torch.manual_seed(0)
    args, model = train_step.make_model([], sizes)
    model.to(device).eval()
    encoded = random_split(options.queries, options.memes, options.words, device, args.feature_cache_gb)
    distributed.barrier()
    started, processor = time.perf_counter(), time.process_time()
    ranks = rank_split(model, encoded, args)
    ranked, processor = time.perf_counter(), time.process_time() - processor
    if distributed.is_main():
        summarise(ranks, encoded.relevance, seed=0)
    found = Found(ranked - started, processor, time.perf_counter() - ranked, peak_memory(device))
    distributed.tear_down()
    return found


def both_ways(args, model, encoded, queries):
    """Seconds for the first so many queries: (as rank_split does it, with all computed twice); of a CPU, on it."""
    clock = time.process_time if encoded.queries["sentence"].device.type == "cpu" else time.perf_counter
    few = {name: tensor[:queries] for name, tensor in encoded.queries.items()}
    part = EncodedSplit(few, encoded.memes, encoded.relevance.queries(0, queries))
    seconds = [clock()]
    rank_split(model, part, args)
    seconds.append(clock())
    eval_loop.KEPT_BYTES = 0
    rank_blocks(functools.partial(score_rows, model, part, args), row_blocks(model, part), part.relevance)
    seconds.append(clock())
    return seconds[1] - seconds[0], seconds[2] - seconds[1]


def measure(options):
    """The benchmark's Figures."""
    number = options.processes
    threads = max(1, torch.get_num_threads() // number)
    [one] = in_processes(score_and_rank, 1, threads, options, train_step.VIT_B_32)
    of_all = in_processes(score_and_rank, number, threads, options, train_step.VIT_B_32) if number > 1 else []
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    args, model = train_step.make_model([])
    model.to(options.device).eval()
    encoded = random_split(options.queries, options.memes, options.words, options.device, args.feature_cache_gb)
    with torch.no_grad():
        plain = plain_way(encoded, options.plain_queries) / options.plain_queries * options.queries
    few = min(options.twice_queries, options.queries)
    once, twice = both_ways(args, model, encoded, few)
    size = f"{options.queries} x {options.memes}, {options.words} words"
    threads = f"{threads} thread{'s' if threads > 1 else ''}"
    yield Figure(
        f"QI, QC and the fused score with exact ranks in both directions, {size}, {threads}",
        f"{one.ranking:.1f} s ({one.processor:.1f} on the processor)",
        f"whole rows, sorted, from query to meme alone: {plain:.1f} s ({options.plain_queries} queries timed)",
        f"{plain / one.ranking:.1f} times as fast",
    )
    yield Figure(
        f"the same, the first {few} queries{', seconds on the processor' if options.device == 'cpu' else ''}",
        f"{once:.1f} s",
        f"with every score computed twice {twice:.1f} s",
        f"{once / twice:.0%} of the time",
    )
    if of_all:
        shared, processor = (max(getattr(each, kind) for each in of_all) for kind in ("ranking", "processor"))
        yield Figure(
            f"the same in {number} processes of {threads}",
            f"{shared:.1f} s ({processor:.1f} on the processor)",
            f"in one {one.ranking:.1f} s ({one.processor:.1f} on the processor)",
            f"{one.ranking / shared:.2f} times as fast ({one.processor / processor:.2f} by the processor's time)",
        )
        yield Figure(f"scoring, peak memory of each of {number} processes", "; ".join(each.memory for each in of_all))
    yield Figure("metrics and intervals of these", f"{one.metrics:.1f} s")
    held = 3 * 4 * options.queries * options.memes / 2**20
    yield Figure("scoring, peak memory", one.memory, f"the three matrices alone {held:,.0f} MiB")


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=3630)
    parser.add_argument("--memes", type=int, default=148886)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--plain_queries", type=int, default=16, help="queries that the plain way is timed on")
    parser.add_argument("--twice_queries", type=int, default=320, help="queries that computing twice is timed on")
    parser.add_argument("--processes", type=int, default=1, help="also time so many processes that share the work")
    options = options_of(parser, argv)
    show(describe(options.device), list(measure(options)), options.json)


if __name__ == "__main__":
    main()
