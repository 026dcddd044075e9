"""Processes of the tests' own, forked from one that has imported everything: they start in milliseconds."""

import multiprocessing
import multiprocessing.connection
import os
import socket
import traceback
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT


def program(argv):
    """`run` for processes of `start_process`: the exit code alone."""
    from main_task_retrieval import main

    return main(argv)


def start_process(target, *arguments, log, environment=None):
    """Start `target(*arguments)` in a process; what it prints goes to the file `log`. Returns the Process."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:  # read once, when the fork server starts
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        context.set_forkserver_preload(["tests.preloaded"])
        process = context.Process(target=_enter, args=(target, arguments, str(log), environment or {}))
        process.start()
    return process


def _enter(target, arguments, log, environment):
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # the user's: else loader processes outlive a run that is killed
    try:
        code = target(*arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    raise SystemExit(code or 0)


def ranks_environment(processes):
    """What torchrun tells each of so many processes of this machine, as dicts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def run_chains(chains, folder, at_once=2):
    """Run chains of steps, {name: [(target, *arguments), ...]}, so many side by side, each step in a process.

    Returns {name: [(exit code of each step, negative for a signal; what it printed), ...]}.
    """
    waiting, running = list(chains.items()), []
    results = {name: [] for name in chains}
    while waiting or running:
        while waiting and len(running) < at_once:
            name, steps = waiting.pop(0)
            log = Path(folder) / f"log of {name}, {len(results[name])}.txt"
            running.append((name, steps, start_process(*steps[0], log=log), log))
        ended = multiprocessing.connection.wait([process.sentinel for _, _, process, _ in running], timeout=300)
        assert ended, f"not done in 300 s: {[log.read_text() for _, _, _, log in running]}"
        for entry in [entry for entry in running if entry[2].sentinel in ended]:
            name, steps, process, log = entry
            running.remove(entry)
            results[name].append(finish(process, log))
            if steps[1:]:
                waiting.insert(0, (name, steps[1:]))
    return results


def run_by_one_and_by_two(target, arguments_of, folder):
    """Run `target(*arguments_of(processes))` in one process and, beside it, in two that share the work."""
    started = []
    for processes, environments in ((1, [{}]), (2, ranks_environment(2))):
        arguments = arguments_of(processes)
        for rank, environment in enumerate(environments):
            log = Path(folder) / f"log_{processes}_{rank}.txt"
            started.append((start_process(target, *arguments, log=log, environment=environment), log))
    for process, log in started:
        code, printed = finish(process, log)
        assert code == 0, printed


def finish(process, log, limit=300):
    """Wait for a process: (exit code, negative for a signal; what it printed)."""
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"not done in {limit} s:\n{Path(log).read_text()}")
    return process.exitcode, Path(log).read_text()
