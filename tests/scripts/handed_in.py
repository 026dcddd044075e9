"""Exported communities and submissions in a folder, for the tests of the leaderboard and of what checks submissions."""

import json

import numpy as np

from evaluation.trec_runs import write_run
from scripts import export_benchmark
from tests.scripts.run_folders import write_community

RECORD = {name: {"said": "all"} for name in ("platform", "implementation", "method", "data")}
ABOUT = {"method": "A method", "authors": ["A. Author"], "link": "https://example.org/a", "trained_on": []}


def export(root, name, queries=12, memes=20):
    """root/communities/<name>: queries t0, t1, ..., to each of which two memes are relevant, exported."""
    pairs = [(query, 2 * query % memes + place) for query in range(queries) for place in range(2)]
    texts = [f"query {number}" for number in range(queries)]
    source = write_community(root / "sources" / name, texts, [{"captions": ["a picture"]}] * memes, pairs)
    export_benchmark.main(["--data_path", str(source), "--out", str(root / "communities" / name)])


def scores(seed, queries=12, memes=20, quality=2.0):
    """{query: {meme: score}} of a whole run: noise, and `quality` more for a query's first two memes."""
    drawn = np.random.default_rng(seed).normal(size=(queries, memes)).astype(np.float32)
    for query in range(queries):
        drawn[query, [2 * query % memes, 2 * query % memes + 1]] += quality
    return {f"t{query}": {f"m{meme}": score for meme, score in enumerate(row)} for query, row in enumerate(drawn)}


def hand_in(root, name, runs, record=RECORD, **about):
    """root/submissions/<name>; runs: {community: {query: {meme: score}}}; about: changes of ABOUT."""
    folder = root / "submissions" / name
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(json.dumps(ABOUT | about), encoding="utf-8")
    for community, run in runs.items():
        write_run(folder / f"{community}.trec", ((query, found.items()) for query, found in run.items()))
        (folder / f"{community}.trec.json").write_text(json.dumps(record), encoding="utf-8")
    return folder
