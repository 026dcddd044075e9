"""Encode each query and meme of a split once -> tiles of scores -> metrics.py."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import metrics
from dataloaders.data_dataloaders import meme_loader, query_batches
from dataloaders.meme_dataset import SplitData
from engine import distributed
from evaluation.feature_store import FeatureStore
from evaluation.frozen_features import FrozenFeatures
from evaluation.query_record import BestMemes
from modules.ief_model import IEF, known_text
from modules.image_similarity import TightSimilarity
from util import replaced_atomically, reserve

TILE_QUERIES, TILE_MEMES = 512, 8192  # memes of one token; of several, fewer
CHUNK_ELEMENTS = {"cpu": 2**21, "cuda": 2**28}  # of the words x tokens product; a CPU should keep it in its cache
KEPT_BYTES = 2**30  # tiles of the first pass are kept up to here, else they are computed a second time


def to_device(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


class EncodedSplit:
    """A split's queries (tensors on the device) and memes, on the first process."""

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
) -> EncodedSplit | None:
    """Encode a split, its memes shared out to all processes: EncodedSplit on the first process, else None.

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
    bar = tqdm(loader, desc=f"encoding {data.split.name}", unit="batch", leave=False, disable=not progress)
    for (_, real), batch in zip(rounds, bar, strict=True):
        batch = frozen.join(batch) if frozen is not None else batch
        features = model.encode_memes(to_device(batch, device))
        features["valid"] = valid_tokens(batch, features).to(device)
        features = distributed.gather(features)
        if distributed.is_main():
            features = {name: tensor[:real] for name, tensor in features.items()}
            store.append(features, features.pop("valid"))
    if not distributed.is_main():
        return None
    store.finish()
    return EncodedSplit(_encode_queries(model, data, args, device, frozen), store, relevance)


def valid_tokens(batch: Mapping[str, torch.Tensor], features: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """How many of a meme's visual tokens are real: (B,); not read off their weights, which may underflow to 0."""
    if "tokens" not in features:
        return torch.ones(len(batch["meme"]), dtype=torch.long)
    return batch["frame_mask"].sum(dim=1) * (features["tokens"].shape[1] // batch["frame_mask"].shape[1])


def _encode_queries(
    model: IEF, data: SplitData, args: argparse.Namespace, device: torch.device, frozen: FrozenFeatures | None
) -> dict[str, torch.Tensor]:
    encoded = []
    for batch in query_batches(data, args.batch_size_val):
        batch = to_device(frozen.join(batch) if frozen is not None else batch, device)
        encoded.append(model.encode_queries(batch["query_ids"], batch["query_mask"], known_text(batch, "query")))
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
    for group in encoded.memes.groups(memes):
        features = encoded.memes.read(group, reference.device, reference.dtype)
        words = queries["words"].shape[1] if "words" in queries else 1
        tokens = features["tokens"].shape[1] if "tokens" in features else 1
        chunk = chunk_of_queries(words, tokens, len(group), reference.device)
        columns = np.searchsorted(memes, group)
        for start in range(0, len(reference), chunk):
            some = {name: tensor[start : start + chunk] for name, tensor in queries.items()}
            for name, scores in model.similarities(some, features).items():
                out = tile.setdefault(name, np.empty((len(reference), len(memes)), np.float32))
                out[start : start + chunk, columns] = scores.float().cpu().numpy()
    return tile


def chunk_of_queries(words: int, tokens: int, memes: int, device: torch.device) -> int:
    """How many queries of so many words meet so many memes at once."""
    return max(1, CHUNK_ELEMENTS.get(device.type, 2**21) // (words * tokens * memes))


def _reranked_tile(
    model: IEF, encoded: EncodedSplit, queries: dict[str, torch.Tensor], memes: np.ndarray, top: int
) -> dict[str, np.ndarray]:
    assert isinstance(model.image_similarity, TightSimilarity)
    device, dtype = queries["sentence"].device, queries["sentence"].dtype
    per_meme = [name for name in encoded.memes.arrays if not name.startswith("token")]
    features = encoded.memes.read(memes, device, dtype, per_meme)

    def read_tokens(chosen: torch.Tensor) -> dict[str, torch.Tensor]:
        return encoded.memes.read(memes[chosen.cpu().numpy()], device, dtype)

    scores = {"qi": model.image_similarity.rerank(queries, features, top, read_tokens)}
    if model.fusion is not None:
        scores["qc"] = queries["sentence"] @ features["caption"].T
        scores["fused"] = model.fusion(scores["qi"], scores["qc"], queries["sentence"])
    else:
        scores["fused"] = scores["qi"]
    return {name: tensor.float().cpu().numpy() for name, tensor in scores.items()}


def tiles(model: IEF, encoded: EncodedSplit, args: argparse.Namespace) -> Iterator[tuple[slice, slice]]:
    """The places of the tiles: (rows, columns) slices. A cross encoder needs whole rows."""
    queries, memes = encoded.relevance.shape
    high, wide = TILE_QUERIES, max(1, TILE_MEMES // int(encoded.memes.lengths.max()))
    if isinstance(model.image_similarity, TightSimilarity):
        high, wide = 64, memes
    for column in range(0, memes, wide):
        for row in range(0, queries, high):
            yield slice(row, min(row + high, queries)), slice(column, min(column + wide, memes))


def rank_split(
    model: IEF,
    encoded: EncodedSplit,
    args: argparse.Namespace,
    best: BestMemes | None = None,
    save_to: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{score name: (query->meme ranks, meme->query ranks)} of an encoded split, in bounded memory.

    best, save_to: as in `rank_tiles`.
    """

    def score(rows: slice, columns: slice) -> dict[str, np.ndarray]:
        return score_tile(model, encoded, rows, np.arange(columns.start, columns.stop), args.rerank_top)

    return rank_tiles(score, list(tiles(model, encoded, args)), encoded.relevance, best, save_to, progress)


def rank_tiles(
    score: Callable[[slice, slice], dict[str, np.ndarray]],
    places: Sequence[tuple[slice, slice]],
    relevance: metrics.Relevance,
    best: BestMemes | None = None,
    save_to: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{score name: (query->meme ranks, meme->query ranks)} of a matrix that is computed in tiles, each once or twice.

    score(rows, columns): {name: (R, C) float32}, for the slices in `places`. best: a query_record.BestMemes, to be
    filled. save_to: a folder for the matrices as .npy files, written as they are computed and renamed when whole.
    """
    counters: dict[str, metrics.RankCounter] = {}
    kept: dict[int, dict[str, np.ndarray]] = {}  # tiles, by their number
    kept_bytes = 0
    with contextlib.ExitStack() as stack:
        saved: dict[str, np.memmap] = {}
        for turn in ("observe", "count"):
            bar = tqdm(places, desc=f"scoring, pass {turn}", unit="tile", leave=False, disable=not progress)
            for number, (rows, columns) in enumerate(bar):
                tile = kept.get(number)
                if tile is None:
                    tile = score(rows, columns)
                    size = sum(scores.nbytes for scores in tile.values())
                    if turn == "observe" and kept_bytes + size <= KEPT_BYTES:
                        kept[number] = tile
                        kept_bytes += size
                if best is not None:
                    getattr(best, turn)(rows, columns, tile)
                for name, scores in tile.items():
                    counter = counters.setdefault(name, metrics.RankCounter(relevance))
                    getattr(counter, turn)(rows, columns, scores)
                    if save_to is not None and turn == "observe":
                        if name not in saved:
                            saved[name] = _open_matrix(stack, save_to, name, relevance.shape)
                        saved[name][rows, columns] = scores
        for matrix in saved.values():
            matrix.flush()
    if save_to is not None:
        relevance.save(Path(save_to) / "relevance.npz")
    return {name: counter.ranks() for name, counter in counters.items()}


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
