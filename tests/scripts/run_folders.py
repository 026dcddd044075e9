"""Folders of finished runs with made-up scores, as main_task_retrieval.py leaves them, but in no time.

`write_run` is for tests that compare methods, of whose scores the size of the noise matters; `write_run_on` for those
of the report, which has a community with texts and images and scores that a test chooses.
"""

import json
from pathlib import Path

import cv2
import numpy as np

import metrics
from engine.arguments import build_parser, with_method
from engine.methods import METHODS
from engine.test_record import gain_of_fusing
from evaluation.query_record import QueryRecord
from tests.tiny_community import read_csv, write_csv
from util import sha256_of

QUERIES, MEMES = 30, 90
SETTINGS = {
    **{"epochs": 12, "batch_size": 64, "lr": 1e-3, "coef_lr": 1.0, "pretrained_clip_name": "ViT-tiny/8"},
    "emotion_encoder": "learned",
}
PATHS = {"data_path": None, "test_csv": None, "features_path": None, "output_dir": "elsewhere"}
DEFAULTS = {
    **{"seed": 0, "datatype": "custom", "fusion": "learned", "co_train": "joint", "branches": "qi_qc"},
    **{"emotion_fusion": "channel", "emotion_encoder": "clip", "interaction": "wti", "epochs": 4, "lr": 1e-4},
    **{"method": None, "skip_bad_images": False, "do_train": True, "do_eval": False, "loss_weights": [1.0, 1.0, 1.0]},
}


# --- runs of methods ---------------------------------------------------------------------------------------------


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

    scores: (QUERIES, MEMES), instead of drawn ones, or {score: ...}; with QI and QC among them metrics.json says that
    QI was the better part on val. more: keys of metrics.json; settings, code and data: updates of
    args.json and of what run.json says of the code and of the data.
    """
    folder = Path(root) / community / method / f"seed_{seed}"
    settings = settings_of(method, folder, seed) | more.pop("settings", {})
    data = {split: {"csv": f"{split} of {community}", "images": None} for split in ("train", "val", "test")}
    code = {"version": "c0de" * 16, "commit": "abcdef" * 6 + "abcd"}
    start(folder, settings, code | more.pop("code", {}), data | more.pop("data", {}))
    if not finished:
        return folder
    relevance = relevance or relevance_of()
    if scores is None:
        scores = np.random.default_rng([seed, *method.encode()]).normal(size=relevance.shape)
        scores[relevance.query, relevance.meme] += quality
    training = {
        "best_epoch": {"stage": "joint", "epoch": 3 + seed, "val": {"mAP": 40.0}},
        "alpha": {"mean": 0.6 + 0.1 * seed, "min": 0.6 + 0.1 * seed, "max": 0.6 + 0.1 * seed},
        "seconds": {"training": 1000.0 + 500 * seed, "evaluation_on_val": 40.0, "all": 1100.0},
        "records_per_second": 250.5,
        "parameters": {"all": 12_345_678, "trained": 10_000_000},
        "peak_memory_mib": {"host": 2048},
    }
    matrices = scores if isinstance(scores, dict) else {"fused": scores}
    finish(folder, relevance, matrices, {"seed": seed} | training | more, intervals=False)
    return folder


# --- communities, and runs on them -------------------------------------------------------------------------------


def write_community(folder, queries, memes, pairs):
    """A folder with test.csv and images/. queries: texts; memes: dicts with some of the columns captions, emotions
    (lists) and text; pairs: (query, meme), sorted by the first appearance of both. Returns the folder.
    """
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(len(memes)):
        picture = np.full((40, 50, 3), rng.integers(0, 256, 3), np.uint8)
        assert cv2.imwrite(str(folder / "images" / f"{number}.png"), picture)
    for query, meme in pairs:
        cells = memes[meme]
        rows.append(
            {
                **{"image_id": cells.get("image_id", f"m{meme}"), "image": f"{meme}.png", "topic_id": f"t{query}"},
                **{"query": queries[query], "text": cells.get("text", "")},
                "captions": json.dumps(cells.get("captions", ["a picture"])),
                "emotions": json.dumps(cells.get("emotions", [])),
            }
        )
    write_csv(folder / "test.csv", rows)
    return folder


def community_relevance(community):
    """(topic ids, image ids, metrics.Relevance) of a folder's test.csv, in order of first appearance."""
    rows = read_csv(community / "test.csv")
    topics, images = ([*dict.fromkeys(row[column] for row in rows)] for column in ("topic_id", "image_id"))
    pairs = [(topics.index(row["topic_id"]), images.index(row["image_id"])) for row in rows]
    return topics, images, metrics.Relevance(*np.array(pairs).T, (len(topics), len(images)))


def write_run_on(folder, community, scores, alpha=None, words=None, evaluations=(), losses=(), changes=None, **args):
    """A finished run's folder. scores: {score: (Q, M)}, `fused` among them. alpha: (Q,); words: as in QueryRecord;
    changes: of metrics.json; args: of args.json.
    """
    topics, images, relevance = community_relevance(community)
    data = {"test": {"csv": sha256_of(community / "test.csv"), "images": "of the images"}}
    code = {"version": "0123456789abcdef" * 4, "commit": None}
    start(folder, DEFAULTS | PATHS | {"data_path": str(community)} | args, code, data)
    if evaluations:
        write_lines(folder / "metrics.jsonl", evaluations)
        write_lines(folder / "losses.jsonl", losses)
    own = {"seed": args.get("seed", 0)}
    if alpha is not None:
        own["alpha"] = {"mean": np.mean(alpha), "min": min(alpha), "max": max(alpha)}
    finish(folder, relevance, scores, own | (changes or {}), topics, images, alpha, words)
    return folder


def evaluation(stage, epoch, step, alpha=None, **mean_precision):
    """A line of metrics.jsonl; mean_precision: {score: mAP}, of which the other metrics are made."""

    def of(value):
        others = dict.fromkeys(metrics.METRICS, value / 2)
        return {direction: {"metrics": others | {"mAP": value}} for direction in ("query_to_meme", "meme_to_query")}

    spread = None if alpha is None else {"mean": alpha, "min": alpha - 0.1, "max": alpha + 0.2}
    place = {"split": "val", "stage": stage, "epoch": epoch, "step": step}
    return place | {
        "losses": {},
        "alpha": spread,
        "scores": {name: of(value) for name, value in mean_precision.items()},
    }


def loss(stage, epoch, step, alpha=None, **losses):
    """A line of losses.jsonl."""
    place = {"stage": stage, "epoch": epoch, "step": step}
    return place | {"losses": losses, "alpha": alpha, "lr": {"new": 1e-4}, "records_per_second": 10.0}


# --- what both have ----------------------------------------------------------------------------------------------


def slow_ranks(scores, relevance):
    """((Q, M) ranks, (P,) ranks of the relevant pairs): a plain sort; in a tie what is not relevant comes first."""
    relevant = np.zeros(relevance.shape, bool)
    relevant[relevance.query, relevance.meme] = True
    ranks = np.zeros(relevance.shape, np.int64)
    for query, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda meme: (-row[meme], relevant[query, meme], meme))
        ranks[query, order] = np.arange(1, len(row) + 1)
    return ranks, ranks[relevance.query, relevance.meme]


def start(folder, settings, code, data):
    """What a run writes before it trains."""
    folder.mkdir(parents=True, exist_ok=True)
    write_object(folder / "args.json", settings)
    write_object(folder / "run.json", {"command": "python", "code": code, "data": data})


def finish(folder, relevance, scores, changes, topics=None, images=None, alpha=None, words=None, intervals=True):
    """What a run leaves in the end; changes: of metrics.json."""
    ranks = {score: slow_ranks(matrix, relevance) for score, matrix in scores.items()}
    best = np.argsort(ranks["fused"][0], axis=1)[:, :10]
    record = QueryRecord(
        topic_ids=np.array(topics or [f"t{i}" for i in range(relevance.shape[0])]),
        image_ids=np.array(images or [f"m{i}" for i in range(relevance.shape[1])]),
        relevance=relevance,
        ranks={score: of_pairs for score, (_, of_pairs) in ranks.items()},
        best_meme=best,
        best_scores={score: np.take_along_axis(matrix, best, axis=1) for score, matrix in scores.items()},
        best_ranks={score: np.take_along_axis(of_all, best, axis=1) for score, (of_all, _) in ranks.items()},
        alpha=np.array([] if alpha is None else alpha),
        words=words or [[] for _ in range(relevance.shape[0])],
    )
    record.save(folder)
    results = results_of(record, relevance, intervals) | changes
    if {"qi", "qc"} <= scores.keys():
        results["test"]["fused_minus_the_better_part"] = gain_of_fusing(
            {score: (of_pairs, None) for score, (_, of_pairs) in ranks.items()}, relevance, "qi", "mAP", 0
        )
    write_object(folder / "metrics.json", results)


def results_of(record, relevance, intervals):
    """metrics.json; the numbers of the direction meme to query are the other one's, which no test minds."""
    entries = {}
    for score in record.ranks:
        names, values = record.values(score)
        entry = {"metrics": metrics.average(names, values), "intervals": {}}
        if intervals:
            entry["intervals"] = metrics.bootstrap_intervals(names, values)
        entries[score] = {"query_to_meme": entry, "meme_to_query": entry}
    chance = {"metrics": metrics.random_expectation(relevance)}
    return {
        **{"command": "python main_task_retrieval.py", "seed": 0, "device": "CPU, 2 threads", "processes": 1},
        **{"versions": {"python": "3.11.7", "numpy": "2.4.6"}, "counts": {}},
        **{"best_epoch": None, "alpha": None, "trained_alpha": None, "records_per_second": None},
        "test": {
            **{"scores": entries, "random": {"query_to_meme": chance, "meme_to_query": chance}, "alpha": None},
            **{"queries": relevance.shape[0], "memes": relevance.shape[1], "relevant_pairs": len(relevance.query)},
        },
        "seconds": {"training": None, "evaluation_on_val": None, "all": 65.0},
        "parameters": {"all": 1234567, "trained": 1000000},
        "peak_memory_mib": {"host": 512},
    }


def write_object(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
