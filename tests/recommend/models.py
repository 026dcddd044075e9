"""Small random models as checkpoints, and communities to index, for the tests of `recommend`."""

import csv
import shutil

from engine import checkpoint
from recommend.gallery import Gallery
from recommend.indexing import update
from recommend.model import ModelInUse
from recommend.recommender import Recommender
from tests.tiny_community import prepared


def save_model(place, name, *flags):
    """(checkpoint, arguments, test split's data, model) of a random model that the flags describe."""
    args, data, model = prepared(place.flags("unused", *flags))
    path = place.folder / f"{name}.pt"
    checkpoint.save(path, checkpoint.model_state(model, args))
    return path, args, data["test"], model.eval()


def only_test_split(place, folder):
    """A community with the memes of the test split alone."""
    (folder / "images").mkdir(parents=True)
    shutil.copy(place.data / "test.csv", folder / "test.csv")
    with open(folder / "test.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            shutil.copy(place.data / "images" / row["image"], folder / "images" / row["image"])
    return folder


def indexed(checkpoint_file, folder, images=None, full=True, device="cpu", image_cache=None, **gallery):
    """Bring the index in a folder up to date: (Summary, Recommender)."""
    model, gallery = ModelInUse(checkpoint_file, device), Gallery(images, **gallery)
    summary = update(folder, model, gallery, full, progress=False, image_cache=image_cache)
    return summary, Recommender.open(folder, device=device)
