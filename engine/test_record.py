"""The end of a run: the test split scored once, what fusing gained, the table, metrics.json."""

import argparse
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import metrics
from dataloaders.data_dataloaders import csv_paths
from dataloaders.meme_dataset import SplitData
from dataloaders.meme_records import Split
from engine import distributed, ir_metadata, run_record
from engine.train_loop import Trainer, stages, trained_alpha
from evaluation import trec_runs
from evaluation.eval_loop import (
    EncodedSplit,
    alpha_of_queries,
    alpha_summary,
    encode_split,
    rank_split,
    summarise,
)
from evaluation.query_record import BEST_KEPT, BestMemes, QueryRecord
from evaluation.significance import paired_bootstrap
from modules.backbones.protocol import TextTokenizer
from modules.ief_model import IEF
from util import read_json, write_json

PARTS = {"qi": "QI", "qc": "QC"}


def score_test(
    args: argparse.Namespace, model: IEF, data: SplitData, device: torch.device, better_part: str | None
) -> dict[str, Any] | None:
    """Everything that is measured on the test split; None but in the first process. Writes test_queries.npz.

    better_part: which of QI and QC was better on val; None where there is one part, or nobody knows.
    """
    encoded = encode_split(model, data, args, device, distributed.is_main())
    relevance = encoded.relevance
    best = BestMemes(relevance, trec_runs.DEPTH if args.save_run else BEST_KEPT)
    ranks = rank_split(
        model,
        encoded,
        args,
        best=best,
        save_to=args.output_dir if args.save_similarity else None,
    )
    if not distributed.is_main():
        return None
    alpha, words = alpha_of_queries(model, encoded), word_weights(model, encoded, data)
    QueryRecord.of(data.split, relevance, ranks, best, alpha, words).save(args.output_dir)
    if args.save_run:
        more = {"weight": round(float(alpha.mean()), 6)} if len(alpha) else {}
        save_run(args, data.split, best, ir_metadata.steps(args, **more), device)
    gain = None if better_part is None else gain_of_fusing(ranks, relevance, better_part, args.select_metric, args.seed)
    return test_results(ranks, relevance, args.seed, alpha_summary(model, encoded), gain)


def save_run(
    args: argparse.Namespace,
    split: Split,
    best: BestMemes,
    retrieval: list[dict[str, Any]],
    device: torch.device,
) -> None:
    """Write test.trec, what was found for each query of a test split, and test.trec.json, how.

    best: filled, with trec_runs.DEPTH memes a query; retrieval: the method's steps, as in ir_metadata.
    """
    path, ids = Path(args.output_dir) / run_record.TEST_RUN, [meme.image_id for meme in split.memes]
    found = (
        (topic, zip((ids[meme] for meme in memes), scores, strict=True))
        for topic, memes, scores in zip(split.topic_ids, best.meme.tolist(), best.scores["fused"], strict=True)
    )
    trec_runs.write_run(path, found, args.method or trec_runs.TAG)
    origin = read_json(Path(args.output_dir) / "run.json")
    used = {
        name: {"name": f"{args.datatype} {name}", "source": str(source), "sha256": origin["data"][name]["csv"]}
        for name, source in csv_paths(args, list(origin["data"])).items()
    }
    data = {"test collection": used.pop("test"), "training data": list(used.values())}
    ties = "memes that are not relevant first, then as in the CSV"
    ir_metadata.write_beside(path, device, retrieval, ties, data, origin)


def gain_of_fusing(
    ranks: Mapping[str, tuple[np.ndarray, np.ndarray]],
    relevance: metrics.Relevance,
    part: str,
    select_metric: str,
    seed: int,
) -> dict[str, Any]:
    """Fused minus one part, query to meme: {"part", "chosen_by", "metrics": {name: {"gain", "interval"}}}.

    The part was chosen on val by `select_metric`; R@1 and mAP are compared too. The intervals are those of the paired
    bootstrap over queries, 95 %.
    """
    names, fused = metrics.per_query_metrics(ranks["fused"][0], relevance.query, *relevance.shape)
    alone = metrics.per_query_metrics(ranks[part][0], relevance.query, *relevance.shape)[1]
    gains = {}
    for name in dict.fromkeys((select_metric, "mAP", "R@1")):
        column = names.index(name)
        gain, low, high, _ = paired_bootstrap(fused[:, column], alone[:, column], seed)
        gains[name] = {"gain": gain, "interval": [low, high]}
    return {"part": part, "chosen_by": select_metric, "metrics": gains}


def test_results(
    ranks: dict[str, tuple[np.ndarray, np.ndarray]],
    relevance: metrics.Relevance,
    seed: int,
    alpha: dict[str, float] | None = None,
    gain: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What metrics.json says of the test split. ranks: of eval_loop.rank_blocks; alpha: of eval_loop.alpha_summary;
    gain: of `gain_of_fusing`.
    """
    return {
        "scores": summarise(ranks, relevance, seed),
        "random": {
            "query_to_meme": {"metrics": metrics.random_expectation(relevance)},
            "meme_to_query": {"metrics": metrics.random_expectation(relevance.transposed())},
        },
        "alpha": alpha,
        "fused_minus_the_better_part": gain,
        "queries": relevance.shape[0],
        "memes": relevance.shape[1],
        "relevant_pairs": len(relevance.query),
    }


def word_weights(model: IEF, encoded: EncodedSplit, data: SplitData) -> list[list[tuple[str, float]]]:
    """WTI's weight of each word of each query: a list of (text, weight) per query, empty without `--interaction wti`.

    The weights of a query add up to 1; a character that is cut into several tokens has the sum of theirs.
    """
    if getattr(model.image_similarity, "word_weights", None) is None:
        return [[] for _ in range(len(data.queries))]
    tokenizer, weights = model.backbone.tokenizer, encoded.queries["word_weight"].float().cpu().numpy()
    rows = range(len(data.queries))
    return [weights_of_pieces(tokenizer, data.queries[query].tolist(), weights[query]) for query in rows]


def weights_of_pieces(tokenizer: TextTokenizer, ids: list[int], weights: np.ndarray) -> list[tuple[str, float]]:
    """(text, weight) of each piece of a text with these token ids, of the weights of its tokens."""
    pieces, start = [], 0
    for text, tokens in tokenizer.pieces(ids):
        pieces.append((text, float(weights[start : start + tokens].sum())))
        start += tokens
    return pieces


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
        "peak_memory_mib": run_record.peak_memory_mb(device),
    }


def write(
    args: argparse.Namespace,
    model: IEF,
    counts: Mapping[str, dict[str, Any]],
    results: Mapping[str, Any],
    device: torch.device,
    logger: logging.Logger,
    trainer: Trainer | None,
    seconds: float,
) -> None:
    """Print the table and write metrics.json."""
    record = run_facts(args, device) | {
        "best_epoch": trainer.best if trainer is not None else None,
        "alpha": results["alpha"],
        "trained_alpha": trained_alpha(args, model.fusion),
        "test": results,
        "counts": counts,
        "parameters": parameters(args, model, trainer),
        "seconds": {
            "training": round(trainer.progress.seconds, 1) if trainer is not None else None,
            "evaluation_on_val": round(trainer.progress.evaluating, 1) if trainer is not None else None,
            "all": round(seconds, 1),
        },
        "records_per_second": round(trainer.progress.records_per_second, 2) if trainer is not None else None,
    }
    if trainer is not None:
        line = {"split": "test", **record["best_epoch"], "alpha": results["alpha"], "scores": results["scores"]}
        run_record.write_lines(args, "metrics.jsonl", [*trainer.progress.history, line])
    write_json(Path(args.output_dir) / "metrics.json", record)  # last: a run that has it is finished
    for text in [*table_lines(results), *weights_lines(args, model, results)]:
        logger.info(text)
    logger.info(f"written to {Path(args.output_dir).resolve()}: {', '.join(run_record.written(args))}")


def table_lines(results: Mapping[str, Any]) -> Iterator[str]:
    """The table of the test split, query to meme, with its heading, and what fusing gained."""
    rows = []
    for name, title in {**PARTS, "fused": "fused"}.items():
        if name in results["scores"] and not (name == "fused" and len(results["scores"]) == 2):
            entry = results["scores"][name]["query_to_meme"]
            rows.append((title, entry["metrics"], entry["intervals"]))
    rows.append(("random ranking", results["random"]["query_to_meme"]["metrics"], None))
    yield ""
    yield (
        f"test split, query to meme: {results['queries']} queries, {results['memes']} memes, "
        f"{results['relevant_pairs']} relevant pairs; {metrics.UNITS}; 95 % bootstrap intervals over queries"
    )
    yield metrics.format_table(rows)
    if (found := results["fused_minus_the_better_part"]) is not None:
        gains = "  ".join(
            f"{name} {each['gain']:+.2f} [{each['interval'][0]:+.2f},{each['interval'][1]:+.2f}]"
            for name, each in found["metrics"].items()
        )
        yield f"fused minus {PARTS[found['part']]}, the better part on val by {found['chosen_by']}: {gains}"


def weights_lines(args: argparse.Namespace, model: IEF, results: Mapping[str, Any]) -> Iterator[str]:
    """The weights in use, how they were found, and whether one of the two parts adds nothing."""
    alpha, fusion = results["alpha"], model.fusion
    if fusion is None:
        return
    if fusion.fitted is not None:
        trained = trained_alpha(args, fusion)
        kind = f"fitted on val {fusion.fitted:.3f}" + ("" if trained is None else f", the trained one {trained:.3f}")
    else:
        spread = f" (from {alpha['min']:.3f} to {alpha['max']:.3f} by query)" if args.fusion == "query" else ""
        kind = {"learned": "trained", "query": "per query, mean", "fixed": "fixed"}[args.fusion]
        kind += f" {alpha['mean']:.3f}{spread}"
    yield f"score = α QI + (1 - α) QC: α {kind}"
    if fusion.fitted in (0, 1):
        nothing, all_of_it = ("QC", "QI") if fusion.fitted else ("QI", "QC")
        attends = model.caption_attention is not None
        why = " (which reads the captions too: --caption_fusion co_attention)" if all_of_it == "QI" and attends else ""
        yield f"{nothing} adds nothing on val: its weight is 0, and the fused score is {all_of_it}{why}"
