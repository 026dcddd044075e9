"""One run, one folder, one writer; and nothing of an older run is lost before the new one can go on by itself."""

import argparse
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import metrics
from engine import output_folder, train_loop
from evaluation import eval_loop, fitted_weights
from evaluation.eval_loop import rank_blocks
from evaluation.feature_store import FeatureStore
from tests.conftest import ROOT
from tests.engine.test_resume import run_and_die
from tests.processes import finish, program, start_process
from tests.tiny_community import Place, read_json, run
from util import LOCK_VARIABLE, InputError, NotFinite, NotWritten, make_logger, reserve, take_lock, write_json

TRAINING = ("--epochs", "1", "--branches", "qi", "--caption_fusion", "none")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A place with a finished run in the folder `run`."""
    place = Place(tmp_path_factory.mktemp("original"), train=2, val=1, test=1)
    code, printed = run(place.flags("run", *TRAINING))
    assert code == 0, printed
    yield place
    shutil.rmtree(place.folder)


@pytest.fixture
def place(original, tmp_path):
    place = Place.__new__(Place)
    place.folder, place.data, place.clip = tmp_path, original.data, original.clip
    shutil.copytree(original.folder / "run", tmp_path / "run")
    yield place
    shutil.rmtree(tmp_path / "run")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


# --overwrite


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch_size", "128"], "--batch_size 128 is more than the 24 records"),
        (["--data_path", "nowhere"], "nowhere"),
        (["--max_words", "78"], "--max_words 78"),
    ],
)
def test_a_new_run_that_cannot_start_leaves_the_old_one_as_it_was(place, more, message):
    before = content(place.folder / "run")
    code, printed = run(place.flags("run", *TRAINING, "--overwrite", *more))
    assert code == 2 and message in printed
    assert content(place.folder / "run") == before


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_new_run_that_ends_before_its_first_checkpoint_gives_the_old_one_back(place, monkeypatch, kind):
    def stop(*_):
        raise kind

    before = content(place.folder / "run")
    monkeypatch.setattr(train_loop.checkpoint, "save", stop)
    code, printed = run(place.flags("run", *TRAINING, "--overwrite", "--seed", "1"))
    assert code in (2, 130) and "holds the earlier run as before" in printed and "--resume_model" not in printed
    assert content(place.folder / "run") == before


def test_after_the_first_checkpoint_the_old_run_is_gone_and_the_new_one_goes_on(place, monkeypatch):
    def stop(*_):
        assert not list((place.folder / "run").glob(".repla*"))
        raise KeyboardInterrupt

    monkeypatch.setattr(train_loop.Trainer, "_step", stop)
    code, printed = run(place.flags("run", *TRAINING, "--overwrite", "--seed", "1"))
    assert code == 130 and "go on with --resume_model" in printed
    assert read_json(place.folder / "run" / "args.json")["seed"] == 1
    assert not (place.folder / "run" / "metrics.json").exists()
    monkeypatch.undo()
    last = place.folder / "run" / "checkpoint_last.pt"
    code, printed = run(place.flags("run", *TRAINING, "--seed", "1", "--resume_model", str(last)))
    assert code == 0 and (place.folder / "run" / "metrics.json").exists()


class Killed(BaseException):
    """Nothing that the program does after it counts: the test looks at what was on the disk."""


def moments(folder, monkeypatch):
    """Has every rename and removal in output_folder leave a copy of the folder before it; returns the list."""
    copies = []

    def noted(function):
        def wrapper(*arguments, **keywords):
            copies.append(folder.parent / f"moment_{len(copies)}")
            shutil.copytree(folder, copies[-1])
            return function(*arguments, **keywords)

        return wrapper

    for name in ("rename", "unlink", "mkdir", "rmdir"):
        monkeypatch.setattr(output_folder.Path, name, noted(getattr(Path, name)))
    return copies


def test_a_kill_at_any_moment_loses_nothing(tmp_path, monkeypatch):
    """The old run is whole after the next start, until there is the new one's first checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    old = {name: f"old {name}".encode() for name in ("args.json", "log.txt", "metrics.json", "checkpoint_last.pt")}
    for name, text in old.items():
        (folder / name).write_bytes(text)
    with monkeypatch.context() as patch:
        copies = moments(folder, patch)
        output_folder.set_aside(folder)
        (folder / "args.json").write_bytes(b"new")
        assert output_folder.settle(folder)  # no checkpoint: the old one comes back
        output_folder.set_aside(folder)
    (folder / "args.json").write_bytes(b"new")
    assert len(copies) > 3 * len(old)
    for copy in copies:
        output_folder.settle(copy)
        assert content(copy) == old, copy
    (folder / "checkpoint_last.pt").write_bytes(b"new")
    assert not output_folder.settle(folder)
    assert content(folder) == {"args.json": b"new", "checkpoint_last.pt": b"new"}


def test_a_start_that_is_killed_gives_the_old_run_back_at_the_next_start(place):
    folder, log = place.folder / "run", place.folder / "log.txt"
    before = content(folder)
    argv = place.flags("run", *TRAINING, "--overwrite", "--seed", "1")
    process = start_process(run_and_die, argv, "half of checkpoint_last.pt", 1, log=log)
    assert finish(process, log)[0] == -signal.SIGKILL
    assert read_json(folder / "args.json")["seed"] == 1 and not (folder / "metrics.json").exists()
    code, printed = run(place.flags("run", *TRAINING))
    assert code == 2 and "holds a run (args.json," in printed
    assert content(folder) == before


def test_an_evaluation_that_failed_is_repeated_by_the_same_command(place, monkeypatch):
    from metrics import Relevance

    def full(*_):
        raise OSError(28, "No space left on device")

    argv = place.eval_flags("scores", "run/checkpoint_best.pt", "--save_similarity")
    with monkeypatch.context() as patch:
        patch.setattr(Relevance, "save", full)
        code, printed = run(argv)
        assert code == 2 and "No space left on device" in printed and "Traceback" not in printed
    code, printed = run(argv)
    assert code == 0, printed
    code, printed = run(argv)
    assert code == 2 and "holds a run" in printed


# The lock


def hold(argv, folder):
    """A live run: main(argv), which stops in its first step until it is killed."""
    train_loop.Trainer._step = lambda *_: ((folder / ".metrics.json.partial").touch(), time.sleep(300))
    return program(argv)


@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--resume_model"]])
def test_a_second_command_is_refused_and_touches_nothing(place, more):
    folder, log = place.folder / "live", place.folder / "log.txt"
    process = start_process(hold, place.flags("live", *TRAINING), folder, log=log)
    try:
        wait_for(folder / ".metrics.json.partial", process, log)
        before = content(folder)
        argv = place.flags("live", *TRAINING, *more)
        argv += [str(folder / "checkpoint_last.pt")] if more == ["--resume_model"] else []
        code, printed = run(argv)
        assert code == 2
        assert f"--output_dir {folder} is in use: process {process.pid} on {os.uname().nodename}, since 20" in printed
        assert content(folder) == before
    finally:
        process.kill()
        process.join()
    code, printed = run(place.flags("live", *TRAINING, "--overwrite"))
    assert code == 0, printed
    assert not (folder / ".metrics.json.partial").exists()


def wait_for(path, process, log):
    for _ in range(1200):
        if path.exists():
            return
        assert process.is_alive(), Path(log).read_text()
        time.sleep(0.05)
    raise AssertionError(Path(log).read_text())


def start_both(argv, start):
    time.sleep(max(0, start - time.time()))
    return program(argv)


def test_of_two_that_start_at_once_one_makes_the_run(place):
    """As `srun -n 2 python main_task_retrieval.py ...` starts them."""
    start, started = time.time() + 0.5, []
    for task in range(2):
        log = place.folder / f"log_{task}.txt"
        environment = {"SLURM_NTASKS": "2", "SLURM_PROCID": str(task)}
        argv = place.flags("both", *TRAINING, "--seed", str(task))
        started.append((start_process(start_both, argv, start, log=log, environment=environment), log))
    ends = [finish(process, log) for process, log in started]
    assert sorted(code for code, _ in ends) == [0, 2], ends
    [winner] = [task for task, (code, _) in enumerate(ends) if code == 0]
    [refusal] = [printed for code, printed in ends if code == 2]
    assert "is in use: process" in refusal and "torchrun" in refusal and "Traceback" not in refusal
    assert read_json(place.folder / "both" / "args.json")["seed"] == winner
    assert read_json(place.folder / "both" / "metrics.json")["seed"] == winner


def test_a_forked_process_does_not_keep_the_lock_of_a_killed_one(tmp_path):
    """Loader processes outlive a run that is killed by some seconds."""
    program = (
        "import os, sys, time\nfrom util import take_lock\nlock = take_lock(sys.argv[1], 'x')\n"
        "if os.fork() == 0:\n    print('ready', flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / ".lock"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    try:
        take_lock(tmp_path / ".lock", "another").close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.parametrize(("passed_on", "end"), [(True, "taken\n"), (False, "process ")])
def test_the_lock_of_scripts_reproduce_is_its_runs_too(tmp_path, passed_on, end):
    """One lock for both: it keeps out a run that is started by hand, and not the one that it was taken for."""
    program = "import sys\nfrom util import take_lock\ntake_lock(sys.argv[1], 'x')\nprint('taken')"
    with take_lock(tmp_path / ".lock", "scripts.reproduce") as lock:
        passing = {"pass_fds": [lock.fileno()], "env": os.environ | {LOCK_VARIABLE: str(lock.fileno())}}
        argv = [sys.executable, "-c", program, tmp_path / ".lock"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, **(passing if passed_on else {}))
        with pytest.raises(InputError):
            take_lock(tmp_path / ".lock", "after the run")
    printed = done.stdout or done.stderr.splitlines()[-1].removeprefix("util.InputError: ")
    assert printed.startswith(end), done.stderr
    take_lock(tmp_path / ".lock", "after all").close()


# What the system refuses


def with_little_room(argv, room):
    """main(argv) in a process that may write no file beyond so many bytes, as a quota has it (EFBIG)."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    return program(argv)


@pytest.fixture
def small_disk(tmp_path):
    """mounted(name, MiB): a folder on a file system of that size."""
    mounts = []

    def mounted(name, size):
        folder = tmp_path / name
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("no file system can be mounted here")
        mounts.append(folder)
        return folder

    yield mounted
    for folder in mounts:
        subprocess.run(["umount", "-l", folder], check=False)


def test_a_checkpoint_that_finds_no_room_is_one_sentence(place):
    """torch.save says "unexpected pos 5954112 vs 5954000" there."""
    log = place.folder / "log.txt"
    first = start_process(with_little_room, place.flags("new", *TRAINING), 2**20, log=log)
    code, printed = finish(first, log)
    path = place.folder / "new" / "checkpoint_last.pt"
    assert code == 2 and "Traceback" not in printed
    assert f"error: {path}: cannot be written (File too large); nothing of it is left; then give the same" in printed
    assert not list((place.folder / "new").glob("*.pt*"))
    before = content(place.folder / "run")
    argv = place.flags("run", *TRAINING, "--overwrite")
    code, printed = finish(start_process(with_little_room, argv, 2**20, log=log), log)
    assert code == 2 and "holds the earlier run as before" in printed
    assert content(place.folder / "run") == before


def test_a_later_checkpoint_that_finds_no_room_names_the_one_before(place, monkeypatch):
    save, calls = torch.save, []

    def second_fails(state, path):
        calls.append(path)
        if len(calls) == 2:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5954112 vs 5954000")
        save(state, path)

    monkeypatch.setattr(torch, "save", second_fails)
    code, printed = run(place.flags("new", *TRAINING))
    last = place.folder / "new" / "checkpoint_last.pt"
    assert code == 2 and "the earlier one is whole" in printed
    assert printed.splitlines()[-1].endswith(f"; go on with --resume_model {last}")
    code, printed = run(place.flags("new", *TRAINING, "--resume_model", str(last)))
    assert code == 0, printed


def rank_large(folder):
    """Score a matrix of 4 MiB, as an evaluation with --save_similarity does."""
    relevance = metrics.Relevance([0, 1], [0, 1], (1024, 1024))
    scores = np.ones((1024, 1024), np.float32)
    try:
        rank_blocks(lambda _: {"fused": scores}, [slice(0, 1024)], relevance, save_to=folder)
    except InputError as error:
        print(error)
        return 2


def spill(folder):
    store = FeatureStore(0, folder)
    try:
        store.append({"image": torch.ones(1024, 2048)}, {"token": torch.ones(1024, dtype=torch.long)})
        store.finish()
        return int(store.arrays["image"].sum())
    except InputError as error:
        print(error)
        return 2


def fit(folder):
    encoded = argparse.Namespace(relevance=metrics.Relevance([0, 1], [0, 1], (1024, 1024)))
    try:
        fitted_weights.row_blocks = lambda *_: []
        with fitted_weights.part_scores(None, encoded, argparse.Namespace(output_dir=folder)) as scores:
            scores.fill(1)
    except InputError as error:
        print(error)
        return 2


@pytest.mark.parametrize(
    ("work", "name"), [(rank_large, "fused.npy"), (spill, ".features-"), (fit, "the scores on val")]
)
def test_a_full_disk_in_evaluation_is_one_sentence_and_no_sigbus(tmp_path, small_disk, work, name):
    folder, log = small_disk("disk", 1), tmp_path / "log.txt"
    code, printed = finish(start_process(work, folder, log=log), log)
    assert code == 2, printed  # -7 is SIGBUS
    assert f"{folder}/{name}" in printed and "cannot be written (No space left on device)" in printed
    assert "Traceback" not in printed and not list(folder.iterdir())


@pytest.mark.parametrize("kind", ["posix_fallocate", "none", "not on this file system"])
def test_the_room_is_taken_before_it_is_mapped_and_the_matrix_is_right(tmp_path, monkeypatch, kind):
    """st_blocks: what of a file is on the disk and no hole."""

    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    if kind == "none":  # macOS, Windows
        monkeypatch.delattr(os, "posix_fallocate")
    elif kind == "not on this file system":
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    scores = np.random.default_rng(0).random((700, 900), np.float32)
    relevance = metrics.Relevance([0, 1], [0, 1], scores.shape)
    found = []

    def score(rows):
        found.append([os.stat(path).st_blocks * 512 for path in tmp_path.glob(".*.partial")])
        return {"fused": scores[rows]}

    monkeypatch.setattr(eval_loop, "KEPT_BYTES", 0)
    rank_blocks(score, [slice(0, 350), slice(350, 700)], relevance, save_to=tmp_path)
    assert found[:3] == [[], [], []] and found[3][0] >= scores.nbytes
    np.testing.assert_array_equal(np.load(tmp_path / "fused.npy"), scores)
    with open(tmp_path / "file", "w+b") as file:
        reserve(file, 10**6)
        assert os.stat(file.fileno()).st_blocks * 512 >= 10**6 == os.stat(file.fileno()).st_size


def test_a_log_on_a_full_disk_ends_no_run(tmp_path, small_disk, capsys):
    folder = small_disk("disk", 1)
    (folder / "filler").write_bytes(bytes(2**20 - 4096))
    logger = make_logger(folder / "log.txt")
    for _ in range(50):
        logger.info("x" * 1000)
    printed = capsys.readouterr()
    assert printed.err == f"{folder / 'log.txt'}: cannot be written (No space left on device); the run goes on\n"
    assert printed.out.count("\n") == 50


def test_a_read_only_folder_is_one_sentence(place, small_disk):
    folder = small_disk("disk", 40)
    shutil.copytree(place.folder / "run", folder / "run")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    for output in ("run", "new"):
        code, printed = run(place.flags("new", *TRAINING, "--overwrite", "--output_dir", str(folder / output)))
        assert code == 2 and "Read-only file system" in printed and str(folder / output) in printed
        assert "Traceback" not in printed and len(printed.splitlines()) == 1
    assert content(folder / "run") == content(place.folder / "run")


# Links, devices, pipes


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file.json").write_text("old")
    for name, target in (("link.json", "elsewhere/file.json"), ("dangling.json", "elsewhere/new.json")):
        (tmp_path / name).symlink_to(target)
        write_json(tmp_path / name, {"a": 1})
        assert (tmp_path / name).is_symlink() and read_json(tmp_path / target) == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_to_stdout_it_is_written_through(tmp_path, kind):
    """By a link of the test's own, as /dev/stdout is one: a program that replaces it would spoil the machine."""
    np.save(tmp_path / "scores.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    argv = [sys.executable, ROOT / "metrics.py", tmp_path / "scores.npy", "--json", tmp_path / "stdout"]
    with open(tmp_path / "out.txt", "wb") as out:
        stdout = out if kind == "file" else subprocess.PIPE
        done = subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, check=True)
    printed = (tmp_path / "out.txt").read_text() if kind == "file" else done.stdout.decode()
    table, _, rest = printed.partition("{\n")
    assert "query to meme: 3 queries" in table
    assert json.loads("{" + rest)["query_to_meme"]["queries"] == 3
    assert (tmp_path / "stdout").is_symlink()


def test_a_device_and_a_pipe_are_written_through(tmp_path):
    (tmp_path / "null").symlink_to("/dev/null")
    write_json(tmp_path / "null", {"a": 1})
    assert (tmp_path / "null").is_symlink() and not Path("/dev/null").is_file()
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    write_json(tmp_path / "pipe", {"a": 1})
    assert json.loads(reader.communicate()[0]) == {"a": 1}
    assert (tmp_path / "pipe").is_fifo()


def test_a_process_whose_disk_is_full_says_so_itself():
    """The first process sees a connection that closes, no more."""
    from main_task_retrieval import trouble_of_one_process

    assert trouble_of_one_process(NotWritten("features: no space left on device"))
    assert trouble_of_one_process(NotFinite("the score of a query that this process has"))
    assert not trouble_of_one_process(InputError("--lr: what all processes see"))
