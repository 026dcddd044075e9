"""Folders of finished runs with made-up scores, as main_task_retrieval.py leaves them, but in no time."""

import json
from pathlib import Path

import numpy as np

import metrics
from engine.arguments import build_parser, with_method
from engine.methods import METHODS
from evaluation.query_record import QueryRecord

QUERIES, MEMES = 30, 90
SETTINGS = {
    **{"epochs": 12, "batch_size": 64, "lr": 1e-3, "coef_lr": 1.0, "pretrained_clip_name": "ViT-tiny/8"},
    "emotion_encoder": "learned",
}


def settings_of(method, folder, seed):
    """What args.json has: every flag of main_task_retrieval.py, those of a method as it sets them; less of a reference.

    A name that is no method's stands for none.
    """
    if method in METHODS and METHODS[method].group == "reference":
        return {"method": method, "output_dir": str(folder), "caption_source": "caption", "seed": seed}
    named = ["--method", method] if method in METHODS else []
    task = "--do_train" if method not in METHODS or METHODS[method].trained else "--do_eval"
    given = [*named, task, "--output_dir", str(folder), "--seed", str(seed)]
    own = {flag[2:] for flag in METHODS[method].flags if flag.startswith("--")} if named else set()
    settings = vars(build_parser().parse_args(with_method(given)))
    return settings | {name: value for name, value in SETTINGS.items() if name not in own}


def relevance_of(seed=0):
    """Relevant pairs of QUERIES x MEMES, a few per query; the last query has none."""
    chosen = np.random.default_rng(seed).random((QUERIES, MEMES)) < 0.06
    chosen[:, 0], chosen[-1] = True, False
    return metrics.Relevance(*np.nonzero(chosen), chosen.shape)


def write_run(root, community, method, seed=0, quality=1.0, relevance=None, finished=True, scores=None, **more):
    """Write a run whose scores are noise, `quality` higher for a relevant meme; returns its folder.

    scores: (QUERIES, MEMES), instead of drawn ones. more: keys of metrics.json; settings, code and data: updates of
    args.json and of what run.json says of the code and of the data.
    """
    folder = Path(root) / community / method / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings_of(method, folder, seed) | more.pop("settings", {})
    code = {"version": "c0de" * 16, "commit": "abcdef" * 6 + "abcd"} | more.pop("code", {})
    data = {split: {"csv": f"{split} of {community}", "images": None} for split in ("train", "val", "test")}
    data |= more.pop("data", {})
    write_object(folder / "args.json", settings)
    write_object(folder / "run.json", {"command": "python", "code": code, "data": data})
    if not finished:
        return folder
    relevance = relevance or relevance_of()
    if scores is None:
        scores = np.random.default_rng([seed, *method.encode()]).normal(size=relevance.shape)
        scores[relevance.query, relevance.meme] += quality
    record = record_of(relevance, scores)
    record.save(folder)
    own = metrics.average(*record.values())
    random = metrics.random_expectation(relevance)
    results = {
        "command": "python",
        "seed": seed,
        "device": "CPU, 2 threads",
        "processes": 1,
        "versions": {},
        "best epoch": {"stage": "joint", "epoch": 3 + seed, "val": {"mAP": 40.0}},
        "alpha": {"mean": 0.6 + 0.1 * seed, "min": 0.6 + 0.1 * seed, "max": 0.6 + 0.1 * seed},
        "alpha by a grid on val": {"alpha": 0.5 + 0.02 * seed, "val_mAP": 41.5},
        "test": {
            "scores": {"fused": {"query_to_meme": {"metrics": own, "intervals": {}}}},
            "random": {"query_to_meme": {"metrics": random}},
            "alpha": None,
            "queries": relevance.shape[0],
            "memes": relevance.shape[1],
            "relevant pairs": len(relevance.query),
        },
        "counts": {},
        "seconds": {"training": 1000.0 + 500 * seed, "evaluation on val": 40.0, "all": 1100.0},
        "records/s": 250.5,
        "parameters": {"all": 12_345_678, "trained": 10_000_000},
        "peak memory (MiB)": {"host": 2048},
    }
    write_object(folder / "metrics.json", results | more)
    return folder


def record_of(relevance, scores):
    best = np.argsort(-scores, axis=1)[:, :10]
    return QueryRecord(
        topic_ids=np.array([f"t{i}" for i in range(relevance.shape[0])]),
        image_ids=np.array([f"m{i}" for i in range(relevance.shape[1])]),
        relevance=relevance,
        ranks={"fused": metrics.relevant_ranks(scores, relevance)},
        best_meme=best,
        best_scores={"fused": np.take_along_axis(scores, best, axis=1)},
        best_ranks={"fused": np.broadcast_to(np.arange(1, 11), best.shape)},
        alpha=np.zeros(0),
        words=[[] for _ in range(relevance.shape[0])],
    )


def write_object(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
