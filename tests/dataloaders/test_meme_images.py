"""The check of all images before training: what it holds at a time, its order and its end."""

import threading
import time

import pytest
import torch

from dataloaders import meme_images
from dataloaders.image_file import ImageError
from dataloaders.meme_images import MemeImages

SETTINGS = {"size": 2, "resize_mode": "crop", "max_frames": 6, "slice_framepos": 2}


def images_that_load_by(monkeypatch, load, cores=2):
    """MemeImages whose files are read by `load(name)`, on so many cores."""
    monkeypatch.setattr(meme_images, "load_image", lambda path, **settings: load(path.name))
    monkeypatch.setattr(meme_images.os, "cpu_count", lambda: cores)
    return MemeImages("images", SETTINGS)


def test_a_slow_first_image_holds_up_a_bounded_number_of_decoded_ones(monkeypatch):
    """While the first one is decoded, the others go on only as far as the window: memory is not by their number."""
    decoded, go_on = [], threading.Event()

    def load(name):
        if name == "0.jpg":
            assert go_on.wait(30)
        else:
            decoded.append(name)
        return torch.zeros(1, 3, 2, 2, dtype=torch.uint8)

    images = images_that_load_by(monkeypatch, load)
    names = [f"{number}.jpg" for number in range(200)]
    found = {}
    check = threading.Thread(target=lambda: found.update(bad=images.check(names, progress=False)))
    check.start()
    seen = -1
    while len(decoded) != seen:  # until nothing moves any more
        seen = len(decoded)
        time.sleep(0.2)
    assert 0 < seen <= 4 * 2
    go_on.set()
    check.join(30)
    assert found["bad"] == {}
    assert list(images.frames) == names and sorted(decoded) == sorted(names[1:])


def test_bad_images_are_named_in_the_order_of_the_records(monkeypatch):
    def load(name):
        number = int(name.partition(".")[0])
        time.sleep(0.002 * (number % 3))
        if number % 5 == 0:
            raise ImageError(f"{name}: spoiled")
        return torch.full((1 + number % 2, 3, 2, 2), number, dtype=torch.uint8)

    images = images_that_load_by(monkeypatch, load)
    names = [f"{number}.jpg" for number in range(50)]
    bad = images.check(names, progress=False)
    assert list(bad.items()) == [(name, f"{name}: spoiled") for name in names[::5]]
    good = [name for name in names if name not in bad]
    assert images.frame_counts(good).tolist() == [1 + int(name.partition(".")[0]) % 2 for name in good]
    assert images.frame_counts(names[:1]).tolist() == [6]  # as many as it may have


def test_an_interrupted_check_starts_no_further_image(monkeypatch):
    started = []

    def load(name):
        started.append(name)
        if len(started) == 1:
            raise KeyboardInterrupt
        return torch.zeros(1, 3, 2, 2, dtype=torch.uint8)

    images = images_that_load_by(monkeypatch, load)
    with pytest.raises(KeyboardInterrupt):
        images.check([f"{number}.jpg" for number in range(500)], progress=False)
    assert len(started) < 50
