"""Scores that 1, 2 and 3 processes share out, of the same features: the same to the last bit, whoever computes them."""

import math

import numpy as np
import pytest
import torch

import metrics
from engine import distributed
from evaluation import eval_loop, fitted_weights
from evaluation.query_record import BestMemes
from tests.evaluation.test_eval_loop import CPU
from tests.processes import finish, ranks_environment, start_process
from tests.tiny_community import Place, prepared

# flags, queries in a block (of 8: 3 blocks, or 2, so that the third process has none), the margin (-1: no score is as
# expected, and all is computed twice)
NEAREST = ("--text_pool_type", "max")
SETTINGS = {
    "wti": ([], 3, 1e-5),
    "two passes": ([*NEAREST], 3, -1.0),
    "cross encoder": (
        [*("--sim_header", "tightTransf", "--cross_num_hidden_layers", "1", "--rerank_top", "6"), *NEAREST],
        4,
        1e-5,
    ),
}


def found_of(args, model, encoded, name, folder):
    """All that a process knows of a split's scores, and the first one's files."""
    _, eval_loop.TILE_QUERIES, metrics.MARGIN = SETTINGS[name]
    folder.mkdir(exist_ok=True)
    args.output_dir = folder
    best = BestMemes(encoded.relevance)
    found = {"ranks": eval_loop.rank_split(model, encoded, args, best, folder, progress=False)}
    found["best"] = {"meme": best.meme, **best.scores, **{f"above {name}": each for name, each in best.above.items()}}
    found["fitted"] = fitted_weights.fit_and_rank(model, encoded, args)
    return found


def work(folder, processes):
    distributed.setup("cpu")
    found = {}
    for name in SETTINGS:
        args, model, encoded = torch.load(folder / f"{name}.pt", weights_only=False)
        found[name] = found_of(args, model, encoded, name, folder / f"{name} by {processes}")
    torch.save(found, folder / f"{processes} {distributed.rank()}.pt")
    distributed.tear_down()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(folder, {(processes, rank): {setting: found}})"""
    folder = tmp_path_factory.mktemp("shared")
    place = Place(folder / "place", train=1, val=1, test=4)
    before = eval_loop.TILE_QUERIES, metrics.MARGIN
    one = {}
    for name, (flags, _, _) in SETTINGS.items():
        args, data, model = prepared(place.flags("unused", *flags))
        encoded = eval_loop.encode_split(model.eval(), data["test"], args, CPU, progress=False)
        torch.save((args, model, encoded), folder / f"{name}.pt")
        one[name] = found_of(args, model, encoded, name, folder / f"{name} by 1")
    eval_loop.TILE_QUERIES, metrics.MARGIN = before
    started = []
    for processes in (2, 3):
        for rank, environment in enumerate(ranks_environment(processes)):
            log = folder / f"log {processes} {rank}.txt"
            started.append((start_process(work, folder, processes, log=log, environment=environment), log))
    for process, log in started:
        code, printed = finish(process, log)
        assert code == 0, printed
    of_others = [(processes, rank) for processes in (2, 3) for rank in range(processes)]
    loaded = {key: torch.load(folder / f"{key[0]} {key[1]}.pt", weights_only=False) for key in of_others}
    return folder, {(1, 0): one} | loaded


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return np.array_equal(one, other)


@pytest.mark.parametrize("name", SETTINGS)
def test_any_number_of_processes_finds_the_same(found, name):
    folder, of = found
    expected = of[1, 0][name]
    for (_, rank), results in of.items():
        assert same(expected["ranks"], results[name]["ranks"]) and same(expected["best"], results[name]["best"])
        alpha, ranks = results[name]["fitted"]
        assert math.isnan(alpha) and not ranks if rank else same((alpha, ranks), expected["fitted"])
    for path in (folder / f"{name} by 1").iterdir():
        for processes in (2, 3):
            assert path.read_bytes() == (folder / f"{name} by {processes}" / path.name).read_bytes()
    for score, (by_query, _) in expected["ranks"].items():
        matrix = np.load(folder / f"{name} by 1" / f"{score}.npy")
        relevance = metrics.Relevance.load(folder / f"{name} by 1" / "relevance.npz")
        assert by_query.tolist() == metrics.relevant_ranks(matrix, relevance).tolist()
