"""Loader processes: as many as /dev/shm has room for, and one that is lost ends a run with a sentence."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import get_worker_info

from dataloaders import data_dataloaders as loaders
from dataloaders import loader_processes, meme_images
from dataloaders.batch_plan import BatchPlan
from dataloaders.image_file import ImageError
from dataloaders.image_transform import load_image
from dataloaders.meme_dataset import RecordDataset
from engine.arguments import parse_arguments
from modules.tokenizer import Tokenizer
from tests.processes import finish, start_process
from tests.tiny_community import Place, draw_community, run

MIB = 2**20
DOCKER = 64 * MIB
STILLS = 128 * 3 * 224 * 224  # bytes of a batch
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="batches are handed over otherwise there")


def shared_memory_of(monkeypatch, free):
    status = SimpleNamespace(f_bavail=free // 4096, f_frsize=4096)
    monkeypatch.setattr(loader_processes.os, "statvfs", lambda path: {"/dev/shm": status}[path])
    monkeypatch.setattr(loader_processes.sys, "platform", "linux")


def largest_batch(args, data):
    plan = BatchPlan(len(data.split), 8, seed=args.seed)
    return loaders.batch_bytes(args, data, map(RecordDataset(data, 0, False).memes_of, plan.shares(0, 0, 4)))


def enough_for(batches, bound):
    """Free bytes, half of which hold so many batches."""
    return 2 * (batches * bound + loader_processes.OWN) + 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_community(tmp_path_factory.mktemp("data") / "community", train=3, val=1, test=1)


def ready(folder, *flags):
    argv = ["--do_train", "--output_dir", "unused", "--data_path", str(folder)]
    args = parse_arguments([*argv, "--batch_size", "8", *flags])[0]
    splits, _ = loaders.read_community(args, ["train", "test"], captions_needed=True)
    images, splits, _ = loaders.check_images(args, splits, 32, progress=False)
    tokenizer, emotions = Tokenizer(), {"none": 0, "unknown": 1}
    data = {name: loaders.tokenise(args, split, tokenizer, emotions, images, True)[0] for name, split in splits.items()}
    return args, data


def loader_of(args, data):
    plan = BatchPlan(len(data["train"].split), 8, seed=args.seed)
    return loaders.train_loader(args, data["train"], plan, 0, 0, 4, False)


@pytest.mark.parametrize("wanted", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 1000, STILLS, 6 * STILLS])
@pytest.mark.parametrize("free", [0, 1, 10_000, DOCKER, 2**30, 2**36])
def test_what_is_in_flight_fits_into_half_of_what_is_free(wanted, batch, free):
    processes, ahead = loader_processes.fitting(wanted, batch, free)
    assert processes <= wanted and ahead <= 2 and (processes > 0) == (ahead > 0)
    if processes:
        assert (processes * ahead + 2) * batch + loader_processes.OWN <= free / 2
    more_fit = (min(processes + 1, wanted) * max(ahead, 1) + 2) * batch + loader_processes.OWN <= free / 2
    assert not more_fit or processes == wanted  # nothing is given up without need


def test_docker_s_default_loads_large_batches_in_the_process_and_all_of_small_ones():
    assert loader_processes.fitting(2, STILLS, DOCKER) == (0, 0)
    assert loader_processes.fitting(2, STILLS, 256 * MIB) == (2, 2)
    assert loader_processes.fitting(2, STILLS, 192 * MIB) == (2, 1)
    assert loader_processes.fitting(2, 3 * 128 * 64 * 64, DOCKER) == (2, 2)
    assert loader_processes.fitting(2, STILLS, None) == (2, 2)


def test_the_loader_is_made_as_the_shared_memory_allows(folder, monkeypatch):
    args, data = ready(folder, "--num_thread_reader", "2")
    bound = largest_batch(args, data["train"])
    sizes = [sum(tensor.nbytes for tensor in batch.values()) for batch in loader_of(args, data)]
    assert bound / 3 < max(sizes) < bound  # a few images of 32 pixels: as much goes to texts and to whole pages
    for batches, made in ((100, (2, 2)), (4, (2, 1)), (3, (1, 1)), (2, (0, None)), (0, (0, None))):
        shared_memory_of(monkeypatch, enough_for(batches, bound))
        loader = loader_of(args, data)
        assert (loader.num_workers, loader.prefetch_factor) == made
        lines = loaders.worker_lines(args, data, 1)
        if made == (2, 2):
            assert lines == []
        else:
            [line] = lines
            assert "/dev/shm" in line and "docker run --shm-size=" in line and "2 loader process(es)" in line


def test_processes_of_one_machine_share_what_is_free(folder, monkeypatch):
    args, data = ready(folder, "--num_thread_reader", "2")
    bound = largest_batch(args, data["train"])
    shared_memory_of(monkeypatch, enough_for(8, bound))
    assert loader_of(args, data).num_workers == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader_of(args, data).num_workers == 0


def test_without_shared_memory_there_are_no_loader_processes(folder, monkeypatch):
    def absent(path):
        raise FileNotFoundError(path)

    args, data = ready(folder, "--num_thread_reader", "2")
    monkeypatch.setattr(loader_processes.os, "statvfs", absent)
    monkeypatch.setattr(loader_processes.sys, "platform", "linux")
    assert loader_of(args, data).num_workers == 0
    monkeypatch.setattr(loader_processes.sys, "platform", "darwin")
    assert loader_processes.free_shared_memory() is None


@linux_only
def test_the_way_to_start_loader_processes_is_named(folder):
    """Python 3.14 takes another one on Linux if none is."""
    args, data = ready(folder, "--num_thread_reader", "1")
    assert loader_of(args, data).multiprocessing_context.get_start_method() == "fork"
    args.num_thread_reader = 0
    assert loader_of(args, data).multiprocessing_context is None


# What becomes of the program when a loader process is lost.


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("lost"), train=2, val=1, test=1)


def in_loader_processes(monkeypatch, act):
    """`act(path)` whenever a loader process reads an image; the check before training reads as ever."""

    def load(path, **settings):
        if get_worker_info() is not None:
            act(path)
        return load_image(path, **settings)

    monkeypatch.setattr(meme_images, "load_image", load)


def flags(place, name):
    return place.flags(name, "--epochs", "1", "--num_thread_reader", "1")


@linux_only
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_killed_loader_process_ends_the_run_with_a_sentence(place, monkeypatch, number):
    last = place.folder / f"killed by {number}" / "checkpoint_last.pt"

    def die(path):
        while not last.is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    in_loader_processes(monkeypatch, die)
    code, printed = run(flags(place, f"killed by {number}"))
    assert code == 2
    *_, line = printed.strip().splitlines()
    assert line.startswith("error: a loader process (pid ") and "is killed by signal: " in line
    assert "--num_thread_reader" in line and "--shm-size" in line and "Traceback" not in printed
    assert line.endswith(f"go on with --resume_model {last}")


@linux_only
def test_an_image_that_vanishes_during_training_is_named_in_a_sentence(place, monkeypatch):
    def vanish(path):
        raise ImageError(f"{path}: cannot be read: No such file or directory")

    in_loader_processes(monkeypatch, vanish)
    code, printed = run(flags(place, "vanished"))
    assert code == 2 and "Traceback" not in printed
    assert printed.strip().splitlines()[-1].startswith(f"error: {place.data / 'images'}")


def in_little_shared_memory(kilobytes, argv, free):
    """The program with a /dev/shm of its own, of so many KiB; `free`: what it believes, None for the truth."""
    from main_task_retrieval import main

    assert ctypes.CDLL(None, use_errno=True).unshare(0x20000) == 0  # CLONE_NEWNS
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", "/dev/shm"], check=True)
    if free is not None:
        loader_processes.free_shared_memory = lambda: free
    return main(argv)


def can_mount():
    if sys.platform != "linux":
        return False
    tried = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    try:
        return subprocess.run(tried, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount")
def test_a_full_dev_shm_is_seen_before_training_and_ends_it_if_not(place):
    """The system's own refusal, in place of one that is made up. A batch takes 24 KiB at least, in pages of 4 KiB."""
    argvs = {None: flags(place, "seen"), 2**40: flags(place, "not seen")}
    started = {
        free: start_process(in_little_shared_memory, 128, argv, free, log=place.folder / f"log {free}")
        for free, argv in argvs.items()
    }
    results = {free: finish(process, place.folder / f"log {free}", 60) for free, process in started.items()}
    code, printed = results[None]
    assert code == 0, printed
    assert "/dev/shm: 0 MiB free" in printed and "none: images are loaded between the steps" in printed
    code, printed = results[2**40]
    assert code == 2, printed
    assert "error: a loader process cannot share its batch" in printed and "No space left" in printed
    assert "Traceback" not in printed


def too_many_open_files(queue):
    loader_processes.enter(0)
    queue.put(torch.zeros(3))  # its sender finds no file descriptor
    time.sleep(20)


@linux_only
def test_a_batch_that_cannot_be_sent_ends_the_loader_process(monkeypatch, capfd):
    """Python's own queue would print a traceback, drop the batch and go on: it would be waited for for ever."""
    context = torch.multiprocessing.get_context("fork")

    def refuse(tensor):
        raise OSError("Too many open files")

    monkeypatch.setattr(torch.multiprocessing.reductions, "fd_id", refuse)
    process = context.Process(target=too_many_open_files, args=(context.Queue(),))
    process.start()
    process.join(15)
    assert process.exitcode == 1
    assert "a loader process cannot hand its batch over: Too many open files" in capfd.readouterr().err
