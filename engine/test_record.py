"""The end of a run: α by a grid on val, the test split scored once, the table, metrics.json."""

import argparse
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import metrics
from dataloaders.meme_dataset import SplitData
from engine import checkpoint, distributed, run_record
from engine.train_loop import Trainer, stages
from evaluation.eval_loop import (
    EncodedSplit,
    alpha_of_queries,
    alpha_summary,
    encode_split,
    grid_alpha,
    rank_split,
    summarise,
)
from evaluation.query_record import BestMemes, QueryRecord
from modules.ief_model import IEF
from util import write_json


def choose_alpha(
    args: argparse.Namespace,
    model: IEF,
    data: SplitData,
    device: torch.device,
    logger: logging.Logger,
    trainer: Trainer | None,
) -> dict[str, float]:
    """The α that a grid on val would choose: {"alpha", "val_mAP"}, the same in every process.

    In staged training it becomes the model's own (step 3 of the recipe), also in checkpoint_best.pt, unless --fusion
    is fixed.
    """
    encoded = encode_split(model, data, args, device, distributed.is_main())
    chosen: dict[str, float] = {}
    if encoded is not None:  # in the first process
        alpha, value = grid_alpha(model, encoded, args)
        chosen = {"alpha": alpha, "val_mAP": value}
    chosen = distributed.from_main(chosen)
    if trainer is not None and args.co_train == "staged" and args.fusion == "learned":
        assert model.fusion is not None  # staged training is of both branches
        model.fusion.choose(chosen["alpha"])
        logger.info(f"staged training, step 3: α = {chosen['alpha']:.2f} has the best mAP on val")
        if distributed.is_main():
            path = Path(args.output_dir) / "checkpoint_best.pt"
            state = checkpoint.load(path)
            checkpoint.save(path, state | checkpoint.model_state(model, args))
    return chosen


def score_test(
    args: argparse.Namespace, model: IEF, data: SplitData, device: torch.device, val_alpha: dict[str, float] | None
) -> dict[str, Any] | None:
    """Everything that is measured on the test split; None but in the first process. Writes test_queries.npz."""
    encoded = encode_split(model, data, args, device, distributed.is_main())
    if encoded is None:  # in another process than the first
        return None
    relevance = encoded.relevance
    best = BestMemes(relevance)
    ranks = rank_split(
        model,
        encoded,
        args,
        val_alpha=None if val_alpha is None else val_alpha["alpha"],
        best=best,
        save_to=args.output_dir if args.save_similarity else None,
    )
    alpha, words = alpha_of_queries(model, encoded), word_weights(model, encoded, data)
    QueryRecord.of(data.split, relevance, ranks, best, alpha, words).save(args.output_dir)
    return test_results(ranks, relevance, args.seed, alpha_summary(model, encoded))


def test_results(
    ranks: dict[str, tuple[np.ndarray, np.ndarray]],
    relevance: metrics.Relevance,
    seed: int,
    alpha: dict[str, float] | None = None,
) -> dict[str, Any]:
    """What metrics.json says of the test split. ranks: of eval_loop.rank_tiles; alpha: of eval_loop.alpha_summary."""
    return {
        "scores": summarise(ranks, relevance, seed),
        "random": {
            "query_to_meme": {"metrics": metrics.random_expectation(relevance)},
            "meme_to_query": {"metrics": metrics.random_expectation(relevance.transposed())},
        },
        "alpha": alpha,
        "queries": relevance.shape[0],
        "memes": relevance.shape[1],
        "relevant pairs": len(relevance.query),
    }


def word_weights(model: IEF, encoded: EncodedSplit, data: SplitData) -> list[list[tuple[str, float]]]:
    """WTI's weight of each word of each query: a list of (text, weight) per query, empty without `--interaction wti`.

    The weights of a query add up to 1; a character that is cut into several tokens has the sum of theirs.
    """
    if getattr(model.image_similarity, "word_weights", None) is None:
        return [[] for _ in range(len(data.queries))]
    tokenizer, weights = model.backbone.tokenizer, encoded.queries["word_weight"].float().cpu().numpy()
    words = []
    for query in range(len(data.queries)):
        start = 0
        of_query: list[tuple[str, float]] = []
        for text, tokens in tokenizer.pieces(data.queries[query].tolist()):
            of_query.append((text, float(weights[query, start : start + tokens].sum())))
            start += tokens
        words.append(of_query)
    return words


def parameters(args: argparse.Namespace, model: nn.Module, trainer: Trainer | None) -> dict[str, int]:
    """How many parameters the model has, and how many of them a stage of the training changes."""
    trained = stages(args) if trainer is not None else []
    own = {name: parameter.numel() for name, parameter in model.named_parameters()}
    changed = [
        own[name]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and any(stage.trains(name) for stage in trained)
    ]
    return {"all": sum(own.values()), "trained": sum(changed)}


def run_facts(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What metrics.json says of any run."""
    return {
        "method": args.method,
        "command": run_record.command_line(),
        "seed": args.seed,
        "device": run_record.device_name(device),
        "processes": distributed.world_size(),
        "versions": run_record.versions(),
        "peak memory (MiB)": run_record.peak_memory_mb(device),
    }


def write(
    args: argparse.Namespace,
    model: IEF,
    counts: Mapping[str, dict[str, Any]],
    results: Mapping[str, Any],
    val_alpha: dict[str, float] | None,
    device: torch.device,
    logger: logging.Logger,
    trainer: Trainer | None,
    seconds: float,
) -> None:
    """Print the table and write metrics.json."""
    record = run_facts(args, device) | {
        "best epoch": trainer.best if trainer is not None else None,
        "alpha": results["alpha"],
        "alpha by a grid on val": val_alpha,
        "test": results,
        "counts": counts,
        "parameters": parameters(args, model, trainer),
        "seconds": {
            "training": round(trainer.progress.seconds, 1) if trainer is not None else None,
            "evaluation on val": round(trainer.progress.evaluating, 1) if trainer is not None else None,
            "all": round(seconds, 1),
        },
        "records/s": round(trainer.progress.records_per_second, 2) if trainer is not None else None,
    }
    if trainer is not None:
        line = {"split": "test", **record["best epoch"], "alpha": results["alpha"], "scores": results["scores"]}
        run_record.write_lines(args, "metrics.jsonl", [*trainer.progress.history, line])
    write_json(Path(args.output_dir) / "metrics.json", record)  # last: a run that has it is finished
    for text in table_lines(args, results, val_alpha):
        logger.info(text)
    logger.info(f"written to {Path(args.output_dir).resolve()}: {', '.join(run_record.written(args))}")


def table_lines(
    args: argparse.Namespace, results: Mapping[str, Any], val_alpha: dict[str, float] | None
) -> Iterator[str]:
    """The table of the test split, query to meme, with its heading."""
    titles = {"qi": "QI", "qc": "QC", "fused": "fused", "fused_val_alpha": "fused, α by val"}
    rows = []
    for name, title in titles.items():
        if name in results["scores"] and not (name == "fused" and len(results["scores"]) == 2):
            entry = results["scores"][name]["query_to_meme"]
            rows.append((title, entry["metrics"], entry["intervals"]))
    rows.append(("random ranking", results["random"]["query_to_meme"]["metrics"], None))
    yield ""
    yield (
        f"test split, query to meme: {results['queries']} queries, {results['memes']} memes, "
        f"{results['relevant pairs']} relevant pairs; % but MdR and MnR; 95 % bootstrap intervals over queries"
    )
    yield metrics.format_table(rows)
    if results["alpha"] is not None:
        alpha = results["alpha"]
        spread = f" (from {alpha['min']:.3f} to {alpha['max']:.3f} by query)" if args.fusion == "query" else ""
        kind = {"learned": "learned", "query": "per query, mean", "fixed": "fixed"}[args.fusion]
        yield f"score = α QI + (1 - α) QC: α {kind} {alpha['mean']:.3f}{spread}"
    if val_alpha is not None:
        yield f"a grid on val would choose α = {val_alpha['alpha']:.2f} (mAP on val {val_alpha['val_mAP']:.2f})"
