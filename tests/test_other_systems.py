"""What Windows and macOS lack or do in another way, as far as it can be simulated: no such machine tests this."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import util
from engine import checkpoint, run_record
from main_task_retrieval import chosen_device
from tests.conftest import ROOT
from tests.test_layout import FILES
from tests.tiny_community import Place, parse_arguments, read_json

# Before anything else is imported: what only Unix has is absent, and processes are spawned.
UNLIKE_UNIX = """
import importlib, multiprocessing, os, sys
for name in ("resource", "fcntl", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("killpg", "getpgid", "fork"):
    delattr(os, name)
multiprocessing.set_start_method("spawn")
"""


def test_every_file_can_be_imported_and_a_run_trains_and_is_evaluated(tmp_path):
    """The evaluation with a loader process, which is spawned and gets its data pickled; training has the same one."""
    place = Place(tmp_path, train=2, val=1, test=1, animated=0)
    shared = ["--device", "cpu", "--num_thread_reader"]
    train = place.flags("run", "--branches", "qi", "--epochs", "1", *shared, "0")
    evaluate = place.eval_flags("test", "run/checkpoint_best.pt", *shared, "1")
    names = sorted(name for name in FILES if not name.startswith("benchmarks."))  # these are for Linux
    code = f"{UNLIKE_UNIX}for name in {names}: importlib.import_module(name)\n"
    code += f"from main_task_retrieval import main\nassert main({train}) == 0\nassert main({evaluate}) == 0"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for folder in ("run", "test"):
        found = read_json(tmp_path / folder / "metrics.json")
        assert found["peak_memory_mib"] == {} and found["test"]["queries"] == 8


def test_memory_is_not_said_where_the_system_does_not_say_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert run_record.peak_memory_mb(torch.device("cpu")) == {}


def test_what_is_synced_is_open_for_writing(tmp_path, monkeypatch):
    """Windows' FlushFileBuffers refuses any other handle."""
    fcntl = pytest.importorskip("fcntl")

    def fsync(number):
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(os, "fsync", fsync)
    util.write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    for name, path in FILES.items():  # the others that sync
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        for before, line in zip(lines, lines[1:], strict=False):
            assert "fsync(file.fileno())" not in line or '"rb"' not in before, name


def test_mps_is_asked_for_where_torch_has_it(monkeypatch):
    args, _ = parse_arguments(["--do_train", "--output_dir", "x", "--device", "mps"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(util.InputError, match="--device mps: torch sees no GPU of Apple's here"):
        chosen_device(args)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert chosen_device(args) == "mps"
    drawn = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.tensor([5]))
    monkeypatch.setattr(torch.mps, "set_rng_state", drawn.append)
    states = checkpoint.random_states(torch.device("mps"))
    checkpoint.set_random_states(states, torch.device("mps"))
    assert drawn == [states["mps"]]
