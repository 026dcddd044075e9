"""--memory_batch: every gradient is that of the plain step, and the towers are never asked for more than a piece."""

import pytest
import torch

from engine.memory_batch import TowersInPieces
from engine.training_step import TrainingStep
from tests.model_parts import batch_of, random_records, randomised, small_model

SETTINGS = {
    "channel": [],
    "coarse channel, learned emotions": ["--emotion_fusion", "coarse_channel", "--emotion_encoder", "learned"],
    "token, query fusion": ["--emotion_fusion", "token", "--fusion", "query", "--text_pool_type", "weight_l"],
    "patches, 3d, no emotions": ["--visual_tokens", "patch", "--linear_patch", "3d", "--emotion_fusion", "none"],
    "seqLSTM, ti, nearest caption": ["--sim_header", "seqLSTM", "--interaction", "ti", "--text_pool_type", "max"],
    "cdcr, dp": ["--cdcr_lambda", "0.1", "--interaction", "dp", "--sim_header", "meanP"],
    "tightTransf, frozen layers": ["--sim_header", "tightTransf", "--freeze_layer_num", "1"],
    "augmentation, cdcr": ["--caption_augmentation", "--cdcr_lambda", "0.1", "--wti_arch", "3"],
    "qi without captions": ["--branches", "qi", "--caption_fusion", "none"],
    "qc": ["--branches", "qc"],
}


def model_and_step(*flags, positives="topic"):
    """(model, its TrainingStep) in float64 and in training, with dropout."""
    model, args = small_model(*flags)
    randomised(model).double().train()
    keys = torch.tensor([0, 6, 7, 12, 18, 24]) if positives == "topic" else None  # topic * 5 + meme
    weights = args.loss_weights if args.branches == "qi_qc" else (0.0, args.branches == "qi", args.branches == "qc")
    return model, TrainingStep(model, weights, keys, 5, args.cdcr_lambda)


def records_of(flags, **options):
    records = random_records(**options)
    for number, record in enumerate(records):
        record.drawn = number % len(record.captions) if record.captions else -1
        record.drawn = record.drawn if "--caption_augmentation" in flags else None
    return records


def gradients(model, step, batch, size=None):
    """(loss, {name: gradient, doubled}) of a step, plain or in pieces of `size`."""
    model.zero_grad()
    towers = None if size is None else TowersInPieces(step, batch, size)
    loss, _ = step(batch if towers is None else batch | towers.features)
    (2 * loss).backward()
    if towers is not None:
        towers.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("positives", ["topic", "instance"])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_gradient_is_that_of_the_plain_step(name, positives):
    model, step = model_and_step(*SETTINGS[name], positives=positives)
    batch = batch_of(records_of(SETTINGS[name]), more=1, garbage=torch.Generator().manual_seed(0))
    loss, expected = gradients(model, step, batch)
    assert len(expected) > 20 and sum(gradient.abs().max() > 1e-6 for gradient in expected.values()) > 20
    for size in (1, 2, 3, 100):
        found_loss, found = gradients(model, step, batch, size)
        assert found_loss == pytest.approx(loss, abs=1e-12)
        assert found.keys() == expected.keys()
        for parameter, gradient in expected.items():
            torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-9, msg=parameter)


def test_dropout_is_on_in_these_steps():
    """Else the test above would not see masks that differ."""
    model, step = model_and_step()
    batch = batch_of(random_records())
    loss, _ = gradients(model, step, batch, 2)
    assert loss != gradients(model, step, batch | {"row_key": batch["row_key"] + 1}, 2)[0]


@pytest.mark.parametrize("captions", [(0, 0, 0, 0, 0), (0, 0, 1, 0, 0)])
def test_memes_without_captions(captions):
    model, step = model_and_step("--caption_augmentation")
    batch = batch_of(records_of(["--caption_augmentation"], captions=captions))
    _, expected = gradients(model, step, batch)
    _, found = gradients(model, step, batch, 2)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-9, msg=parameter)


@pytest.mark.parametrize("frozen", ["text", "image"])
def test_a_frozen_tower_is_asked_once(frozen, monkeypatch):
    model, step = model_and_step("--emotion_fusion", "none")
    for parameter in model.backbone.tower_parameters(frozen):
        parameter.requires_grad_(False)
    batch = batch_of(random_records())
    _, expected = gradients(model, step, batch)
    asked = {"text": [], "image": []}
    for tower, sizes in asked.items():
        function = getattr(model.backbone, f"{tower}_features")
        counted = lambda first, *others, sizes=sizes, ask=function: sizes.append(len(first)) or ask(first, *others)  # noqa: E731
        monkeypatch.setattr(model.backbone, f"{tower}_features", counted)
    _, found = gradients(model, step, batch, 2)
    items = {"text": 5 + 7, "image": 10}
    for tower, sizes in asked.items():
        assert sum(sizes) == items[tower] * (1 if tower == frozen else 2)
    assert max(asked["text"]) == 2 and max(asked["image"]) == 1 + 3  # two memes' frames
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-9, msg=parameter)


def test_in_bfloat16_towers_the_gradient_is_as_close_as_rounding_allows():
    model, step = model_and_step()
    model.float()
    batch = batch_of(random_records())
    _, exact = gradients(model, step, batch)
    model.tower_dtype = torch.bfloat16
    _, plain = gradients(model, step, batch)
    _, found = gradients(model, step, batch, 2)

    def distance(one):
        return sum((one[name] - gradient).square().sum() for name, gradient in exact.items()).sqrt()

    assert found.keys() == plain.keys() == exact.keys()
    assert 0 < distance(found) < 2 * distance(plain)
