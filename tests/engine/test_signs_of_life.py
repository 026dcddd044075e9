"""A process whose launcher or whose fellows are gone ends, with a sentence; one that waits for a live one waits on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed

from engine import distributed, train_loop
from tests.conftest import ROOT
from tests.processes import finish, program, ranks_environment, start_process
from tests.tiny_community import Place, run
from util import STOPPED, NotWritten

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS")
TRAINING = ("--epochs", "1", "--branches", "qi", "--caption_fusion", "none")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("place"), train=2, val=1, test=1)
    yield place
    shutil.rmtree(place.folder)


# The environment


@pytest.mark.parametrize(
    ("environment", "parts"),
    [
        ({"WORLD_SIZE": "2"}, ["holds WORLD_SIZE=2", "lacks RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: start them"]),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "1", "MASTER_ADDR": "here"},
            ["WORLD_SIZE=2, RANK=0, LOCAL_RANK=1, MASTER_ADDR=here", "lacks MASTER_PORT"],
        ),
        ({"WORLD_SIZE": "two"}, ["holds WORLD_SIZE=two", "lacks RANK"]),
        (
            {"WORLD_SIZE": "2", "RANK": "x", "LOCAL_RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"},
            ["RANK cannot be"],
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"},
            ["RANK=2", "RANK cannot be"],
        ),
        ({"WORLD_SIZE": "", "LOCAL_RANK": ""}, ["nowhere"]),
        ({"LOCAL_RANK": "1"}, ["nowhere"]),
        ({"WORLD_SIZE": "1", "LOCAL_RANK": "1"}, ["nowhere"]),
        ({"SLURM_NTASKS": "2"}, ["nowhere", "note: SLURM_NTASKS=2, but no torchrun"]),
    ],
)
def test_what_is_missing_in_the_environment_is_said_at_once(place, monkeypatch, environment, parts):
    """`nowhere`: as without these variables, where the data folder is the one thing that is missing."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    code, printed = run(place.flags("run", "--data_path", "nowhere"))
    assert code == 2 and "Traceback" not in printed
    assert all(part in printed for part in parts), printed
    assert time.monotonic() - start < 5


def join_alone(seconds):
    distributed.JOIN = seconds
    try:
        distributed.setup("cpu")
    except distributed.InputError as error:
        print(error)
        return 2


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_never_come_are_waited_for_within_a_limit(tmp_path, rank):
    log = tmp_path / "log.txt"
    code, printed = finish(start_process(join_alone, 2, log=log, environment=ranks_environment(2)[rank]), log, 60)
    assert code == 2, printed
    assert f"process {rank} of 2 did not meet the others at 127.0.0.1:" in printed and "Traceback" not in printed


# Those that are gone


def quick(beat, silence):
    distributed.BEAT, distributed.SILENCE = beat, silence


def die_in_step(argv, rank):
    """main(argv); the process of this rank is killed in its second step."""
    original, steps = train_loop.Trainer._step, []

    def step(*arguments):
        steps.append(1)
        if len(steps) == 2 and distributed.rank() == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    train_loop.Trainer._step = step
    quick(0.5, 30)
    return program(argv)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_others_with_a_sentence(place, rank):
    started = []
    for each, environment in enumerate(ranks_environment(2)):
        log = place.folder / f"log_{rank}_{each}.txt"
        argv = place.flags(f"died_{rank}", *TRAINING)
        started.append((start_process(die_in_step, argv, rank, log=log, environment=environment), log))
    ends = [finish(process, log, 60) for process, log in started]
    code, printed = ends[1 - rank]
    assert ends[rank][0] == -signal.SIGKILL
    assert code == 2, printed
    assert f"error in process {1 - rank}: " in printed and "--resume_model" in printed and "Traceback" not in printed


def ends_of_two(place, target, name):
    """Two processes of one run, each of which calls target(argv): the exit code of each and what it printed."""
    started = []
    for each, environment in enumerate(ranks_environment(2)):
        log = place.folder / f"log_{name}_{each}.txt"
        argv = place.flags(name, *TRAINING)
        started.append((start_process(target, argv, log=log, environment=environment), log))
    return [finish(process, log, 60) for process, log in started]


def signal_in_the_evaluation(argv):
    """main(argv); the first process alone is sent SIGTERM, when both begin to score."""
    original = train_loop.fit_and_rank

    def fit(*arguments):
        if distributed.is_main():
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments)

    train_loop.fit_and_rank = train_loop.rank_split = fit
    quick(0.5, 30)
    return program(argv)


def test_a_first_process_that_a_signal_ends_in_an_evaluation_ends_the_others_likewise(place):
    (code, printed), (other_code, other) = ends_of_two(place, signal_in_the_evaluation, "signal")
    # the second one meets the closed connection, or hears of the signal first: which one, is chance
    assert code == STOPPED and other_code in (STOPPED, 2), other
    last = place.folder / "signal" / "checkpoint_last.pt"
    assert printed.endswith(f"stopped by SIGTERM; go on with --resume_model {last}\n")
    reasons = ("process 0 was stopped by a signal", "another process has ended or cannot be reached")
    assert any(reason in other for reason in reasons) and "Traceback" not in printed + other


def find_no_room(argv):
    """main(argv); the first process's second checkpoint finds no room."""
    original, times = train_loop.checkpoint.save, []

    def save(path, state):
        times.append(1)
        if len(times) == 2:
            raise NotWritten(f"{path}: cannot be written")
        original(path, state)

    train_loop.checkpoint.save = save
    quick(0.5, 30)
    return program(argv)


def test_a_disk_that_is_full_in_the_first_process_ends_them_all(place):
    (code, printed), (other_code, other) = ends_of_two(place, find_no_room, "room")
    last = place.folder / "room" / "checkpoint_last.pt"
    assert (code, other_code) == (2, 2), other
    assert f"cannot be written; {last} is whole; go on with --resume_model {last}" in printed
    assert "error in process 1: " in other and "Traceback" not in printed + other


def wait_for_the_first(first, *arguments):
    """The first process does `first(*arguments)` while the others wait for it in a broadcast."""
    quick(0.2, 2)
    distributed.setup("cpu")
    if distributed.is_main():
        first(*arguments)
    print(distributed.from_main("all is well" if distributed.is_main() else None))
    distributed.tear_down()


def stop_itself():
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_second():
    """The first process waits for the second, which is stopped."""
    quick(0.2, 2)
    distributed.setup("cpu")
    if not distributed.is_main():
        stop_itself()
    distributed.from_all(1)


def test_any_process_that_is_stopped_is_not_waited_for_for_ever(tmp_path):
    logs = [tmp_path / f"log_{rank}.txt" for rank in range(2)]
    first, second = (
        start_process(stop_second, log=log, environment=environment)
        for log, environment in zip(logs, ranks_environment(2), strict=True)
    )
    try:
        code, printed = finish(first, logs[0], 60)
        assert code == 2
        assert "error in process 0: process 1 has given no sign of life for 2 seconds, so that this one" in printed
    finally:
        second.kill()
        second.join()


def both(tmp_path, *arguments):
    started = []
    for rank, environment in enumerate(ranks_environment(2)):
        log = tmp_path / f"log_{rank}.txt"
        started.append((start_process(wait_for_the_first, *arguments, log=log, environment=environment), log))
    return started


def test_a_first_process_that_is_stopped_is_not_waited_for_for_ever(tmp_path):
    (first, _), second = both(tmp_path, stop_itself)
    try:
        code, printed = finish(*second, 60)
        assert code == 2
        # it holds the store, which does not answer any more
        assert "error in process 1: the process that joins all of them has given no sign of life for 2 sec" in printed
    finally:
        first.kill()
        first.join()


def test_a_first_process_that_works_alone_is_waited_for(tmp_path):
    """Longer than the silence that is allowed."""
    for process, log in both(tmp_path, time.sleep, 5):
        assert finish(process, log, 60) == (0, "all is well\n")


def test_no_total_time_bounds_a_run():
    assert distributed.UNBOUNDED.total_seconds() > 1e7 and distributed.SILENCE <= 300


WORKER = """
import sys, time
from engine import distributed
distributed.BEAT = 0.3
distributed.setup("cpu")
open(f"{sys.argv[1]}/{distributed.rank()}", "w").write(str(__import__("os").getpid()))
time.sleep(120)
"""


def test_workers_do_not_outlive_a_torchrun_that_is_killed(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    with open(tmp_path / "log.txt", "wb") as log:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
            + [tmp_path / "worker.py", tmp_path],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
    files = [tmp_path / "0", tmp_path / "1"]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    workers = [int(file.read_text()) for file in files]
    launcher.kill()
    launcher.wait()
    try:
        wait_until(lambda: not any(runs(worker) for worker in workers))
        printed = (tmp_path / "log.txt").read_text()
        assert printed.count("torchrun, which started it, is gone, so that this one ends too") == 2, printed
    finally:
        for worker in workers:
            if runs(worker):
                os.kill(worker, signal.SIGKILL)


def runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, limit=60):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_only_what_says_that_another_is_gone_counts_as_that(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert distributed.lost_another(RuntimeError("[/gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    assert not distributed.lost_another(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
