"""Features of frozen towers, computed once and joined to batches, against the towers run on each batch."""

import numpy as np
import pytest
import torch

from dataloaders.data_dataloaders import query_batches
from dataloaders.meme_dataset import MemeDataset, RecordDataset, collate
from engine.training_step import TrainingStep
from evaluation import eval_loop
from evaluation.frozen_features import FrozenFeatures
from tests.tiny_community import Place, prepared

CPU = torch.device("cpu")
NO_EMOTIONS = ("--emotion_fusion", "none")
SETTINGS = {
    "no emotions": NO_EMOTIONS,
    "emotions": (),
    "patches": (*NO_EMOTIONS, "--visual_tokens", "patch"),
    "dp": (*NO_EMOTIONS, "--interaction", "dp", "--text_pool_type", "max"),
    "drawn captions": (*NO_EMOTIONS, "--caption_augmentation"),
    "tight": (*NO_EMOTIONS, "--sim_header", "tightTransf", "--cross_num_hidden_layers", "1"),
    "qc": ("--branches", "qc"),
    "qi": (*NO_EMOTIONS, "--branches", "qi", "--caption_fusion", "none"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("frozen"), train=2, val=1, test=1)


def frozen_model(place, *flags):
    """(arguments, data, model) with towers that nothing trains."""
    args, data, model = prepared(place.flags("unused", *flags))
    model.backbone.freeze_towers()
    return args, data, model.eval()


class Counts:
    """How many items each tower is asked for."""

    def __init__(self, model, monkeypatch):
        self.texts = self.images = 0
        text, image = model.backbone.text_features, model.backbone.image_features

        def count_texts(ids, mask):
            self.texts += len(ids)
            return text(ids, mask)

        def count_images(pixels, *others):
            self.images += len(pixels)
            return image(pixels, *others)

        monkeypatch.setattr(model.backbone, "text_features", count_texts)
        monkeypatch.setattr(model.backbone, "image_features", count_images)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_training_step_is_that_of_the_towers_which_are_asked_once(place, name, monkeypatch):
    args, data, model = frozen_model(place, *SETTINGS[name])
    data = data["train"]
    step = TrainingStep(model, {"qc": (0, 0, 1), "qi": (0, 1, 0)}.get(name, (1, 1, 1)))
    records = RecordDataset(data, seed=0, caption_augmentation=args.caption_augmentation)
    whole = collate([records[(1, record)] for record in range(len(records))])

    def loss_and_gradients(batch):
        model.zero_grad()
        loss, _ = step(batch)
        loss.backward()
        return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    expected, gradients = loss_and_gradients(whole)
    counts = Counts(model, monkeypatch)
    features = FrozenFeatures.of(model, data, args, CPU, progress=False)
    if not SETTINGS[name]:
        assert features.frames is None and features.data.images is not None  # emotions enter the image
    else:
        assert features.data.images is None
    texts, frames = counts.texts, counts.images
    assert texts >= len(data.queries) and (frames > 0) == (features.frames is not None)
    batch = collate([RecordDataset(features.data, 0, args.caption_augmentation)[(1, r)] for r in range(len(records))])
    assert ("pixels" in batch) == (not SETTINGS[name])
    found, found_gradients = loss_and_gradients(features.join(batch))
    assert counts.texts == texts and (counts.images == frames or not SETTINGS[name])
    assert found == pytest.approx(expected, abs=1e-5)
    assert found_gradients.keys() == gradients.keys() and len(gradients) > 1
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(found_gradients[parameter], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("limit", [4.0, 0.0], ids=["in memory", "on disk"])
@pytest.mark.parametrize("name", SETTINGS)
def test_an_evaluation_is_that_of_the_towers(place, name, limit):
    args, data, model = frozen_model(place, *SETTINGS[name])
    data = data["val"]
    encoded = eval_loop.encode_split(model, data, args, CPU, progress=False)
    args.feature_cache_gb = limit
    features = FrozenFeatures.of(model, data, args, CPU, progress=False)
    assert (features.queries.store.folder is None) == (limit > 0)
    args.feature_cache_gb = 4.0
    again = eval_loop.encode_split(model, data, args, CPU, False, features)
    everything = slice(None), np.arange(len(data.split.memes)), 100
    expected = eval_loop.score_tile(model, encoded, *everything)
    for score, values in eval_loop.score_tile(model, again, *everything).items():
        np.testing.assert_allclose(values, expected[score], atol=2e-6)
        assert expected[score].std() > 1e-4


def test_words_are_kept_only_where_they_are_read(place):
    for flags, words, of_captions in (
        ((), True, False),
        (("--interaction", "dp"), False, False),
        (("--caption_augmentation",), True, True),
        (("--caption_augmentation", "--interaction", "dp"), False, False),
    ):
        args, data, model = frozen_model(place, *NO_EMOTIONS, *flags)
        features = FrozenFeatures.of(model, data["train"], args, CPU, progress=False)
        kept = [("token_words" in texts.store.arrays) for texts in (features.queries, features.captions)]
        assert kept == [words, of_captions]


def test_nothing_is_kept_of_towers_that_are_trained(place):
    args, data, model = prepared(place.flags("unused", *NO_EMOTIONS))
    features = FrozenFeatures.of(model, data["train"], args, CPU, progress=False)
    assert features.queries is features.captions is features.frames is None
    assert features.data is data["train"] and list(features.lines()) == []
    batch = next(query_batches(data["train"], 4))
    assert features.join(batch).keys() == batch.keys()


def test_a_meme_without_a_caption_and_a_batch_without_any(place):
    args, data, model = frozen_model(place, *NO_EMOTIONS, "--caption_source", "text")
    data = data["train"]
    features = FrozenFeatures.of(model, data, args, CPU, progress=False)
    without = [meme for meme in range(len(data.split.memes)) if not data.captions_of(meme)]
    assert len(without) > 1
    for memes in (without[:1], [*without[:1], 0, 1]):
        expected = model.encode_memes(collate([MemeDataset(data)[meme] for meme in memes]))
        found = model.encode_memes(features.join(collate([MemeDataset(features.data)[meme] for meme in memes])))
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-6)


def test_the_log_says_what_was_kept(place):
    args, data, model = frozen_model(place, *NO_EMOTIONS)
    features = FrozenFeatures.of(model, data["train"], args, CPU, progress=False)
    lines = list(features.lines())
    assert [line.split(" encoded")[0] for line in lines] == [
        f"train: {len(data['train'].queries)} queries",
        f"train: {len(data['train'].captions)} captions",
        f"train: {len(data['train'].split.memes)} memes' images",
    ]
    assert all(line.endswith("MiB in memory") for line in lines)


def test_one_limit_holds_for_all_features_of_all_splits(place):
    args, data, model = frozen_model(place, *NO_EMOTIONS)
    train = FrozenFeatures.of(model, data["train"], args, CPU, progress=False)
    sizes = [sum(array.nbytes for array in texts.store.arrays.values()) for texts in (train.queries, train.captions)]
    assert train.in_memory == sum(sizes) + sum(array.nbytes for array in train.frames.arrays.values())
    args.feature_cache_gb = (sizes[0] + sizes[1] + 100) / 2**30
    train = FrozenFeatures.of(model, data["train"], args, CPU, progress=False)
    kept = [store.folder is None for store in (train.queries.store, train.captions.store, train.frames)]
    assert kept == [True, True, False] and train.in_memory == sum(sizes)
    val = FrozenFeatures.of(model, data["val"], args, CPU, False, train.in_memory)
    assert val.frames.folder is not None and val.in_memory <= args.feature_cache_gb * 2**30


def test_captions_are_drawn_in_training_alone(place):
    args, data, model = frozen_model(place, *NO_EMOTIONS, "--caption_augmentation")
    words = {
        split: "token_words" in FrozenFeatures.of(model, data[split], args, CPU, False).captions.store.arrays
        for split in ("train", "val")
    }
    assert words == {"train": True, "val": False}
