"""Encode each query and meme of a split once -> blocks of scores, shared out to all processes -> metrics.py."""

import argparse
import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import metrics
from dataloaders.data_dataloaders import meme_loader, query_batches
from dataloaders.meme_dataset import SplitData
from engine import distributed
from evaluation.feature_store import FeatureStore
from evaluation.frozen_features import FrozenFeatures
from evaluation.query_record import BestMemes
from modules.caption_similarity import caption_scores
from modules.ief_model import IEF, known_text
from modules.image_similarity import TightSimilarity
from util import progress_bar, replaced_atomically, reserve

TILE_MEMES = 8192  # memes of one token and caption that queries meet at once; of several, fewer
# A block of queries: there are about so many, for several processes to share, each a multiple of so many queries high,
# but at most so many, and of at most so many bytes in three matrices.
BLOCKS, STEP_QUERIES, TILE_QUERIES, BLOCK_BYTES = 24, 16, 512, 3 * 2**27
EXPECTED_QUERIES = 32  # their relevant memes are scored together, before all
CHUNK_ELEMENTS = {"cpu": 2**21, "cuda": 2**28}  # of the words x tokens product; a CPU should keep it in its cache
KEPT_BYTES = 2**30  # blocks that are needed twice are kept up to here, else they are computed a second time


def to_device(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


class EncodedSplit:
    """A split's queries (tensors on the device) and memes, in every process."""

    def __init__(self, queries: dict[str, torch.Tensor], memes: FeatureStore, relevance: metrics.Relevance) -> None:
        self.queries = queries
        self.memes = memes
        self.relevance = relevance


@torch.no_grad()
def encode_split(
    model: IEF,
    data: SplitData,
    args: argparse.Namespace,
    device: torch.device,
    progress: bool = True,
    frozen: FrozenFeatures | None = None,
) -> EncodedSplit:
    """Encode a split, its memes and queries shared out to all processes, each of which gets all features.

    `frozen`: what is known of the split's features already.
    """
    model.eval()
    data = frozen.data if frozen is not None else data
    relevance = metrics.Relevance(
        data.split.record_topic, data.split.record_meme, (len(data.queries), len(data.split.memes))
    )
    store = FeatureStore(args.feature_cache_gb, args.output_dir)
    rounds = distributed.shares(len(data.split.memes), args.batch_size_val)
    loader = meme_loader(args, data, [own for own, _ in rounds], pin_memory=device.type == "cuda")
    bar = progress_bar(loader, desc=f"encoding {data.split.name}", unit="batch", leave=False, disable=not progress)
    for (_, real), batch in zip(rounds, bar, strict=True):
        batch = frozen.join(batch) if frozen is not None else batch
        batch = to_device(batch, device)
        features = model.encode_memes(batch)
        features, valid = (
            {name: tensor[:real] for name, tensor in distributed.gather(part).items()}
            for part in (features, valid_rows(batch, features))
        )
        store.append(features, valid)
    store.finish()
    return EncodedSplit(_encode_queries(model, data, args, device, frozen), store, relevance)


def valid_rows(batch: Mapping[str, torch.Tensor], features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """How many rows of a meme's features are real, by kind (B,): visual tokens and, where each has a vector, captions.

    Not read off the tokens' weights, which may underflow to 0. A meme without captions has one vector, which is 0.
    """
    valid = {"token": torch.ones_like(batch["meme"])}
    if "tokens" in features:
        frame_mask = batch["frame_mask"]
        valid["token"] = frame_mask.sum(dim=1) * (features["tokens"].shape[1] // frame_mask.shape[1])
    if "caption" in features and features["caption"].ndim == 3:
        valid["caption"] = batch["caption_mask"].any(dim=2).sum(dim=1).clamp(min=1)
    return valid


def _encode_queries(
    model: IEF, data: SplitData, args: argparse.Namespace, device: torch.device, frozen: FrozenFeatures | None
) -> dict[str, torch.Tensor]:
    own = {}
    for number, batch in enumerate(query_batches(data, args.batch_size_val)):
        if number % distributed.world_size() == distributed.rank():
            batch = to_device(frozen.join(batch) if frozen is not None else batch, device)
            features = model.encode_queries(batch["query_ids"], batch["query_mask"], known_text(batch, "query"))
            own[number] = {name: tensor.cpu() for name, tensor in features.items()}
    of_all = {number: features for part in distributed.from_all(own) for number, features in part.items()}
    encoded = [to_device(of_all[number], device) for number in sorted(of_all)]
    longest = max(features["words"].shape[1] for features in encoded) if "words" in encoded[0] else 0
    joined = {}
    for name in encoded[0]:
        parts = [features[name] for features in encoded]
        if name == "words":
            parts = [torch.cat([p, p[:, :1].expand(-1, longest - p.shape[1], -1)], dim=1) for p in parts]
        elif name == "word_weight":
            parts = [torch.nn.functional.pad(p, (0, longest - p.shape[1])) for p in parts]
        joined[name] = torch.cat(parts)
    return joined


@torch.no_grad()
def score_tile(
    model: IEF, encoded: EncodedSplit, rows: slice, memes: np.ndarray, rerank_top: int
) -> dict[str, np.ndarray]:
    """Scores of the queries `rows` and the memes with the indices `memes`: {name: (R, len(memes)) float32}."""
    queries = {name: tensor[rows] for name, tensor in encoded.queries.items()}
    reference = queries["sentence"]
    if isinstance(model.image_similarity, TightSimilarity):
        return _reranked_tile(model, encoded, queries, memes, rerank_top)
    tile: dict[str, np.ndarray] = {}
    words = queries["words"].shape[1] if "words" in queries else 1
    for group in encoded.memes.groups(memes):
        for some_memes in _in_pieces(encoded.memes, group):
            features = encoded.memes.read(some_memes, reference.device, reference.dtype)
            tokens = features["tokens"].shape[1] if "tokens" in features else 1
            chunk = chunk_of_queries(words, tokens, len(some_memes), reference.device)
            columns = np.searchsorted(memes, some_memes)
            for start in range(0, len(reference), chunk):
                some = {name: tensor[start : start + chunk] for name, tensor in queries.items()}
                for name, scores in model.similarities(some, features).items():
                    out = tile.setdefault(name, np.empty((len(reference), len(memes)), np.float32))
                    out[start : start + chunk, columns] = scores.float().cpu().numpy()
    return tile


def _in_pieces(store: FeatureStore, memes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield so many of the memes as queries meet at once."""
    wide = max(1, TILE_MEMES // store.most_rows(memes))
    for first in range(0, len(memes), wide):
        yield memes[first : first + wide]


def chunk_of_queries(words: int, tokens: int, memes: int, device: torch.device) -> int:
    """How many queries of so many words meet so many memes at once."""
    return max(1, CHUNK_ELEMENTS.get(device.type, 2**21) // (words * tokens * memes))


def _reranked_tile(
    model: IEF, encoded: EncodedSplit, queries: dict[str, torch.Tensor], memes: np.ndarray, top: int
) -> dict[str, np.ndarray]:
    assert isinstance(model.image_similarity, TightSimilarity)
    device, dtype = queries["sentence"].device, queries["sentence"].dtype

    def read(some: np.ndarray, name: str) -> dict[str, torch.Tensor]:
        return encoded.memes.read(some, device, dtype, [name])

    def read_tokens(chosen: torch.Tensor) -> dict[str, torch.Tensor]:
        return encoded.memes.read(memes[chosen.cpu().numpy()], device, dtype)

    scores = {"qi": model.image_similarity.rerank(queries, read(memes, "pooled"), top, read_tokens)}
    if model.fusion is not None:
        of_pieces = (read(some, "caption")["caption"] for some in _in_pieces(encoded.memes, memes))
        scores["qc"] = torch.cat([caption_scores(queries["sentence"], each) for each in of_pieces], dim=1)
        scores["fused"] = model.fusion(scores["qi"], scores["qc"], queries["sentence"])
    else:
        scores["fused"] = scores["qi"]
    return {name: tensor.float().cpu().numpy() for name, tensor in scores.items()}


def row_blocks(model: IEF, encoded: EncodedSplit) -> list[slice]:
    """The blocks of queries whose whole rows are scored at once.

    They do not depend on the number of processes, which would change the scores' last bits: only whose they are does.
    """
    queries, memes = encoded.relevance.shape
    high = min(TILE_QUERIES, STEP_QUERIES * math.ceil(queries / (STEP_QUERIES * BLOCKS)))
    high = min(high, max(1, BLOCK_BYTES // (3 * 4 * memes)))
    if isinstance(model.image_similarity, TightSimilarity):
        high = min(high, 64)  # the cross encoder reads the tokens of all memes that one of them has in its first ones
    return [slice(row, min(row + high, queries)) for row in range(0, queries, high)]


def score_rows(model: IEF, encoded: EncodedSplit, args: argparse.Namespace, rows: slice) -> dict[str, np.ndarray]:
    """Scores of the queries `rows` and all memes: {name: (R, M) float32}."""
    return score_tile(model, encoded, rows, np.arange(encoded.relevance.shape[1]), args.rerank_top)


def rank_split(
    model: IEF,
    encoded: EncodedSplit,
    args: argparse.Namespace,
    best: BestMemes | None = None,
    save_to: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{score name: (query->meme ranks, meme->query ranks)} of an encoded split, in bounded memory.

    Every process calls it, scores its share of the rows, and gets all ranks. best, save_to: as in `rank_blocks`.
    """
    blocks = distributed.dealt(row_blocks(model, encoded))
    expected = None
    if not isinstance(model.image_similarity, TightSimilarity):  # whose scores depend on the whole gallery
        expected = _joined(distributed.from_all(_expected_scores(model, encoded, args, blocks)))
    return rank_blocks(
        functools.partial(score_rows, model, encoded, args),
        blocks,
        encoded.relevance,
        expected,
        best,
        save_to,
        progress,
        distributed.from_all,
    )


def _expected_scores(
    model: IEF, encoded: EncodedSplit, args: argparse.Namespace, blocks: Iterable[slice | None]
) -> dict[str, np.ndarray]:
    """What the relevant pairs of some blocks score, up to rounding: {name: (P,)}, NaN in other rows."""
    expected: dict[str, np.ndarray] = {}
    for block in filter(None, blocks):
        for start in range(block.start, block.stop, EXPECTED_QUERIES):
            rows = slice(start, min(start + EXPECTED_QUERIES, block.stop))
            pairs, line, meme = encoded.relevance.within(rows)
            if not len(meme):
                continue
            memes = np.unique(meme)
            for name, scores in score_tile(model, encoded, rows, memes, args.rerank_top).items():
                found = expected.setdefault(name, np.full(len(encoded.relevance.query), np.nan))
                found[pairs] = scores[line, np.searchsorted(memes, meme)]
    return expected


def _joined(parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What several processes know of the pairs' scores, each of its own rows and NaN of the others."""
    joined: dict[str, np.ndarray] = {}
    for part in parts:
        for name, scores in part.items():
            joined[name] = np.where(np.isnan(scores), joined.get(name, np.nan), scores)
    return joined


def rank_blocks(
    score: Callable[[slice], dict[str, np.ndarray]],
    blocks: Sequence[slice | None],
    relevance: metrics.Relevance,
    expected: Mapping[str, np.ndarray] | None = None,
    best: BestMemes | None = None,
    save_to: str | os.PathLike[str] | None = None,
    progress: bool = True,
    from_all: Callable[[Any], list[Any]] = lambda found: [found],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{score name: (query->meme ranks, meme->query ranks)} of a matrix whose rows are computed in blocks.

    score(rows): {name: (R, M) float32}, for the slices in `blocks`, each once. It is called a second time where
    `expected`, the relevant pairs' scores {name: (P,)} as in metrics.RankCounter, is None or was not right, but for the
    blocks that could be kept. best: a query_record.BestMemes, to be filled. save_to: a folder for the matrices as .npy
    files, written as they are computed and renamed when whole. from_all: distributed.from_all where several processes
    have a share of the blocks each (`distributed.dealt`).
    """
    margin = metrics.MARGIN
    kept: dict[int, dict[str, np.ndarray]] = {}  # by their first row
    if expected is None:
        expected, margin = _joined(from_all(_observed(score, blocks, relevance, kept, progress))), 0.0

    def score_once(rows: slice) -> dict[str, np.ndarray]:
        return kept.pop(rows.start) if rows.start in kept else score(rows)

    counters = _counted(score_once, blocks, relevance, expected, margin, best, save_to, progress, from_all)
    if not all(counter.settled for counter in counters.values()):
        expected = {name: counter.scores for name, counter in counters.items()}
        counters = _counted(score, blocks, relevance, expected, 0.0, best, save_to, progress, from_all)
    if save_to is not None and distributed.is_main():
        relevance.save(Path(save_to) / "relevance.npz")
    return {name: counter.ranks() for name, counter in counters.items()}


def _observed(
    score: Callable[[slice], dict[str, np.ndarray]],
    blocks: Sequence[slice | None],
    relevance: metrics.Relevance,
    kept: dict[int, dict[str, np.ndarray]],
    progress: bool,
) -> dict[str, np.ndarray]:
    """The relevant pairs' scores in these blocks: {name: (P,)}, NaN in other rows. `kept` gets what may be kept."""
    found: dict[str, np.ndarray] = {}
    kept_bytes = 0
    for rows in filter(None, _bar("scoring, relevant pairs", blocks, progress)):
        block = score(rows)
        pairs, line, meme = relevance.within(rows)
        for name, scores in block.items():
            found.setdefault(name, np.full(len(relevance.query), np.nan))[pairs] = scores[line, meme]
        size = sum(scores.nbytes for scores in block.values())
        if kept_bytes + size <= KEPT_BYTES:
            kept[rows.start] = block
            kept_bytes += size
    return found


def _counted(
    score: Callable[[slice], dict[str, np.ndarray]],
    blocks: Sequence[slice | None],
    relevance: metrics.Relevance,
    expected: Mapping[str, np.ndarray],
    margin: float,
    best: BestMemes | None,
    save_to: str | os.PathLike[str] | None,
    progress: bool,
    from_all: Callable[[Any], list[Any]],
) -> dict[str, metrics.RankCounter]:
    """One pass over the blocks, of all processes: {name: RankCounter}."""
    counters = {name: metrics.RankCounter(relevance, scores, margin) for name, scores in expected.items()}
    with contextlib.ExitStack() as stack:
        saved: dict[str, np.memmap] = {}
        for rows in _bar("scoring", blocks, progress):
            block: dict[str, np.ndarray] = {}
            if rows is not None:
                block = score(rows)
                for name, scores in block.items():
                    counters[name].add(rows, scores)
                if best is not None:
                    best.add(rows, block)
            if save_to is not None:
                for place, matrices in distributed.to_main((rows, block)):
                    for name, scores in matrices.items():
                        if name not in saved:
                            saved[name] = _open_matrix(stack, save_to, name, relevance.shape)
                        saved[name][place] = scores
        for matrix in saved.values():
            matrix.flush()
    (merged, _), *others = found = from_all((counters, best))
    for counters, _ in others:
        for name, counter in counters.items():
            merged[name].merge(counter)
    if best is not None:
        for _, each in found:
            best.merge(each)
    return merged


def _bar(what: str, blocks: Sequence[slice | None], progress: bool) -> Iterable[slice | None]:
    return progress_bar(blocks, desc=what, unit="block", leave=False, disable=not (progress and distributed.is_main()))


def _open_matrix(
    stack: contextlib.ExitStack, folder: str | os.PathLike[str], name: str, shape: tuple[int, int]
) -> np.memmap:
    temporary = stack.enter_context(replaced_atomically(Path(folder) / f"{name}.npy"))
    matrix = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)  # a header and a hole
    with open(temporary, "r+b") as file:
        reserve(file, os.path.getsize(temporary), matrix.offset)
    return matrix


def summarise(
    ranks: Mapping[str, tuple[np.ndarray, np.ndarray]], relevance: metrics.Relevance, seed: int, intervals: bool = True
) -> dict[str, dict[str, dict[str, Any]]]:
    """Ranks of `rank_split` -> {score: {direction: {"metrics": ..., "intervals": ...}}}."""
    queries, memes = relevance.shape
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for name, (by_query, by_meme) in ranks.items():
        directions = {
            "query_to_meme": (by_query, relevance.query, queries, memes),
            "meme_to_query": (by_meme, relevance.meme, memes, queries),
        }
        result[name] = {}
        for direction, arguments in directions.items():
            names, values = metrics.per_query_metrics(*arguments)
            entry: dict[str, Any] = {"metrics": metrics.average(names, values)}
            if intervals:
                entry["intervals"] = metrics.bootstrap_intervals(names, values, seed=seed)
            result[name][direction] = entry
    return result


@torch.no_grad()
def alpha_of_queries(model: IEF, encoded: EncodedSplit) -> np.ndarray:
    """The weight of QI for each of the split's queries: (Q,) float64, (0,) where there is one branch only."""
    queries = encoded.queries["sentence"]
    if model.fusion is None:
        return np.zeros(0)
    return model.fusion.alpha(queries).cpu().double().expand(len(queries), 1)[:, 0].numpy()


def alpha_summary(model: IEF, encoded: EncodedSplit) -> dict[str, float] | None:
    """α: {"mean", "min", "max"} over the split's queries, None where there is one branch only."""
    alpha = alpha_of_queries(model, encoded)
    return {"mean": alpha.mean().item(), "min": alpha.min().item(), "max": alpha.max().item()} if len(alpha) else None
