"""The store of decoded images: what it gives is what decoding gives, whoever writes it and whoever is killed."""

import errno
import multiprocessing
import os
import pickle
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dataloaders import growing_files, image_store, meme_images
from dataloaders.image_transform import PAD_COLOUR, load_image
from dataloaders.meme_images import MemeImages
from tests.tiny_community import write_image
from util import InputError, NotWritten, take_lock

SIZE, FRAME = 8, 3 * 8 * 8
SETTINGS = {
    **{"size": SIZE, "resize_mode": "pad", "max_frames": 3, "slice_framepos": 2},
    **{"interpolation": "bicubic", "pad_colour": PAD_COLOUR},
}
STILLS, MOVING = 20, 4  # the latter of 2 to 5 frames, of which 3 are read
NAMES = [f"{number}.png" for number in range(STILLS)] + [f"sub/{number}.gif" for number in range(MOVING)]
FRAMES = STILLS + 2 + 3 + 3 + 3


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("drawn") / "images", np.random.default_rng(0)
    (folder / "sub").mkdir(parents=True)
    for name in NAMES:
        frames = 2 + int(Path(name).stem) if name.endswith(".gif") else 1
        write_image(folder / name, [draw.integers(0, 256, (12, 9, 3)).astype(np.uint8) for _ in range(frames)])
    return folder


@pytest.fixture
def folder(drawn, tmp_path):
    return Path(shutil.copytree(drawn, tmp_path / "images"))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def checked(folder, cache, names=NAMES, **settings):
    """(MemeImages, what it told) after a check in which no image is bad."""
    images, told = MemeImages(folder, SETTINGS | settings, cache), []
    assert images.check(names, progress=False, tell=told.append) == {}
    return images, told


def assert_right(images, names=NAMES):
    assert images.all_stored(names)
    for name in names:
        plain = load_image(images.folder / name, **images.settings)
        assert torch.equal(images[name], plain) and images.frame_counts([name]) == [len(plain)]


def size_of(images, name="frames.bin"):
    return (images.store.folder / name).stat().st_size


def forbid(monkeypatch, *names):
    def forbidden(*arguments, **settings):
        raise AssertionError("not to be called")

    for name in names:
        monkeypatch.setattr(image_store, name, forbidden)


def test_a_second_run_reads_no_file_and_gets_what_decoding_gives(folder, cache, monkeypatch):
    images, [line] = checked(folder, cache)
    assert_right(images)
    assert size_of(images) == FRAMES * FRAME
    assert f"24 images are not in {images.store.folder} yet" in line and "are free" in line
    forbid(monkeypatch, "read_file", "append", "write_json", "take_lock")
    again, told = checked(folder, cache)
    assert_right(again)
    assert told == []
    assert_right(pickle.loads(pickle.dumps(again)))  # as a loader process that is spawned gets it
    assert len(pickle.dumps(again)) < 10_000


def test_another_way_to_read_and_another_folder_have_their_own_frames(folder, cache, tmp_path, monkeypatch):
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    for where, settings in [(folder, {}), (folder, {"resize_mode": "crop"}), (folder, {"max_frames": 2}), (other, {})]:
        assert_right(checked(where, cache, **settings)[0])
    assert len(list(cache.iterdir())) == 4
    monkeypatch.setattr(image_store.cv2, "__version__", "another")
    checked(folder, cache)
    assert len(list(cache.iterdir())) == 5
    assert_right(checked(os.path.relpath(folder), cache)[0])  # the same folder by another path
    assert len(list(cache.iterdir())) == 5


def test_what_was_touched_or_moved_is_read_but_not_decoded_and_what_has_changed_is(folder, cache, monkeypatch):
    images, _ = checked(folder, cache)
    os.utime(folder / NAMES[0], (1, 1))
    (folder / NAMES[1]).rename(folder / "moved.png")
    shutil.copy(folder / NAMES[2], folder / "copy.png")
    names = [NAMES[0], "moved.png", "copy.png", *NAMES[2:]]
    with monkeypatch.context() as patch:
        forbid(patch, "frames_of")
        images, _ = checked(folder, cache, names)
    assert size_of(images) == FRAMES * FRAME
    assert_right(images, names)
    shutil.copyfile(folder / NAMES[4], folder / NAMES[3])
    write_image(folder / NAMES[5], [np.zeros((5, 5, 3), np.uint8)])
    images, _ = checked(folder, cache, names)
    assert size_of(images) == (FRAMES + 1) * FRAME  # only one of the two files has bytes that are new
    assert_right(images, names)


def test_bad_images_are_in_no_store_and_named_each_time(folder, cache):
    (folder / NAMES[7]).write_bytes(b"no image")
    (folder / NAMES[3]).unlink()
    for _ in range(2):
        images = MemeImages(folder, SETTINGS, cache)
        bad = images.check(NAMES, progress=False, tell=lambda line: None)
        assert list(bad) == [NAMES[3], NAMES[7]] and not images.all_stored(NAMES)
        assert "no such file" in bad[NAMES[3]].lower() and "not a JPEG" in bad[NAMES[7]]
        assert_right(images, [name for name in NAMES if name not in bad])


def in_processes(*targets):
    """Run the functions at the same time in forked processes: their exit codes."""
    context = multiprocessing.get_context("fork")

    def alone(target):
        torch.set_num_threads(1)  # before threads of this process ask for torch's, which the fork has broken
        target()

    processes = [context.Process(target=alone, args=(target,)) for target in targets]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_processes_write_each_image_once(folder, cache, monkeypatch):
    monkeypatch.setattr(meme_images, "BLOCK", 3)
    monkeypatch.setattr(meme_images, "WRITTEN_AT_ONCE", 2 * FRAME)

    def check():
        assert_right(checked(folder, cache)[0])

    assert in_processes(check, check, check) == [0, 0, 0]
    images, told = checked(folder, cache)
    assert told == []
    assert_right(images)
    assert size_of(images) == FRAMES * FRAME
    assert size_of(images, "entries.bin") == len(NAMES) * image_store.ENTRY.itemsize


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_what_a_killed_process_has_begun_to_write_does_not_count(folder, cache, monkeypatch, written):
    """It dies before it writes, amid the frames, amid the entries, or before the record."""
    monkeypatch.setattr(meme_images, "WRITTEN_AT_ONCE", 4 * FRAME)
    whole = checked(folder, cache, NAMES[:9])[0].store.sizes

    def dying():
        def append(path, size, piece):
            begun.append(path)
            if len(begun) == written:
                growing_files.append(path, size, piece[: len(piece) // 2 + 1])
            if len(begun) >= written:
                os.kill(os.getpid(), signal.SIGKILL)
            return growing_files.append(path, size, piece)

        begun = []
        image_store.append = append
        if written == 3:
            image_store.write_json = lambda path, value: os.kill(os.getpid(), signal.SIGKILL)
        checked(folder, cache)

    assert in_processes(dying) == [-signal.SIGKILL]
    store = image_store.ImageStore(cache, folder, SETTINGS)
    assert store.sizes == whole
    images, _ = checked(folder, cache)
    assert_right(images)
    assert size_of(images) == FRAMES * FRAME


def test_what_does_not_fit_is_refused_before_anything_is_decoded(folder, cache, monkeypatch):
    forbid(monkeypatch, "frames_of")
    monkeypatch.setattr(image_store.shutil, "disk_usage", lambda path: SimpleNamespace(free=24 * FRAME - 1))
    with pytest.raises(
        InputError, match=r"24 images .*: 0\.0 MB to 0\.0 MB are to be written.*, or leave --image_cache"
    ):
        checked(folder, cache)
    assert image_store._shown(149_000 * 3 * 224**2) == "22.4 GB"


def test_room_is_told_for_stills_and_for_as_many_frames_as_may_be(folder, cache, monkeypatch):
    monkeypatch.setattr(image_store, "_shown", str)
    [line] = checked(folder, cache)[1]
    assert f": {24 * FRAME} to {(20 + 3 * 4) * FRAME} are to be written" in line
    write_image(folder / "new.png", [np.zeros((5, 5, 3), np.uint8)])
    [line] = checked(folder, cache, [*NAMES, "new.png"])[1]
    assert "1 images are not in" in line and f": {FRAME} are to be written" in line


def test_a_full_disk_is_a_sentence_and_what_was_written_is_whole(folder, cache, monkeypatch):
    checked(folder, cache, NAMES[:5])

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(growing_files.os, "fsync", full)
        with pytest.raises(NotWritten, match=r"frames\.bin: cannot be written \(No space left"):
            checked(folder, cache)
    images, _ = checked(folder, cache)
    assert_right(images)
    assert size_of(images) == FRAMES * FRAME


def test_a_process_that_writes_is_waited_for_but_not_for_ever(folder, cache, monkeypatch):
    store = checked(folder, cache, NAMES[:5])[0].store
    monkeypatch.setattr(image_store, "PATIENCE", 0.1)
    with take_lock(store.folder / ".lock", "another run"), pytest.raises(InputError, match="0.1 seconds.*another run"):
        checked(folder, cache)
    assert_right(checked(folder, cache)[0])


def test_a_store_that_is_damaged_or_removed_in_use_is_said(folder, cache):
    images, _ = checked(folder, cache, NAMES[:5])
    record, frames = images.store.folder / "store.json", images.store.folder / "frames.bin"
    whole = record.read_text(encoding="utf-8")
    for text in (
        whole.replace('"frames.bin"', '"others.bin"'),
        whole.replace('"entries.bin": ', '"entries.bin": -'),
        "{",
    ):
        record.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"store\.json|damaged"):
            MemeImages(folder, SETTINGS, cache)
    record.write_text(whole, encoding="utf-8")
    os.truncate(frames, frames.stat().st_size - 1)
    with pytest.raises(InputError, match="damaged store .*cut off.*: remove this folder"):
        MemeImages(folder, SETTINGS, cache)
    shutil.rmtree(images.store.folder)
    with pytest.raises(InputError, match="was removed while it was in use"):
        images.check(NAMES, progress=False)
    assert_right(checked(folder, cache)[0])
