"""Scoring and ranking at the benchmark's full size, from random cached features: time and peak memory.

    python -m benchmarks.full_size [--queries 3630] [--memes 148886] [--words 32] [--device cpu]

Everything that an evaluation does once queries and memes are encoded: QI (WTI), QC and the fused score in tiles, exact
ranks in both directions, metrics with intervals. For comparison: what the three score matrices would take in memory.
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F

import metrics
from benchmarks.machine import describe, peak_memory_mib
from benchmarks.train_step import make_model
from evaluation.eval_loop import EncodedSplit, rank_split, summarise
from evaluation.feature_store import FeatureStore
from modules.interaction import unit_tokens


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=3630)
    parser.add_argument("--memes", type=int, default=148886)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    args, model = make_model([])
    model.to(options.device).eval()
    before = peak_memory_mib()
    encoded = random_split(options.queries, options.memes, options.words, options.device, args.feature_cache_gb)
    print(f"{describe(options.device)}; {options.queries} queries x {options.memes} memes, {options.words} words")
    print(f"peak memory before: {before:.0f} MiB (the model), with the features: {peak_memory_mib():.0f} MiB")
    started = time.perf_counter()
    ranks = rank_split(model, encoded, args)
    ranked = time.perf_counter()
    summarise(ranks, encoded.relevance, seed=0)
    print(f"scores and ranks: {ranked - started:.0f} s; metrics and intervals: {time.perf_counter() - ranked:.0f} s")
    held = 3 * 4 * options.queries * options.memes / 2**20
    print(f"peak memory: {peak_memory_mib():.0f} MiB; the three matrices alone would take {held:.0f} MiB")


if __name__ == "__main__":
    main()
