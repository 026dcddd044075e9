"""Texts in groups of like length: the best groups by trying all, and features and gradients against one pass."""

import itertools

import numpy as np
import pytest
import torch

from engine.training_step import TrainingStep
from modules import ief_model
from modules.backbones.protocol import Needs
from modules.backbones.sources import load_backbone
from modules.tower_pieces import Texts, groups_of_like_length, lengths_of, put_together, sizes_of, text_pieces
from tests import tower_models
from tests.model_parts import batch_of, random_records, randomised, small_model


def tokens_with(groups, lengths, cost):
    return sum(cost + len(group) * max(lengths[i] for i in group) for group in groups)


def best_by_trying_all(lengths, cost):
    """The fewest tokens of any way to give each text to one of three groups."""
    ways = itertools.product(range(3), repeat=len(lengths))
    numbers = range(len(lengths))
    groups = ([[i for i in numbers if way[i] == group] for group in set(way)] for way in ways)
    return min(tokens_with(each, lengths, cost) for each in groups)


@pytest.mark.parametrize("cost", [0, 3, 10, 1000])
@pytest.mark.parametrize("lengths", [[5], [4, 4, 4], [3, 9], [9, 3, 4, 9, 30, 2, 5], [7, 1, 6, 2, 5, 3, 4]])
def test_the_groups_are_the_best_and_hold_each_text_once(lengths, cost):
    groups = groups_of_like_length(np.array(lengths), cost)
    assert sorted(np.concatenate(groups)) == list(range(len(lengths))) and len(groups) <= 3
    assert tokens_with(groups, lengths, cost) == best_by_trying_all(lengths, cost)
    assert all((np.diff(group) > 0).all() for group in groups)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["fp32", "float64"])
def test_features_and_gradients_are_those_of_one_pass(monkeypatch, dtype, bound):
    """One pass is what a tower gets that reads its padding."""
    monkeypatch.setattr(ief_model, "GROUP_COST", {"cpu": 0})
    model, args = small_model("--caption_augmentation")
    randomised(model).to(dtype).train()
    records = random_records()
    for record in records:
        record.drawn = len(record.captions) - 1
    batch = batch_of(records, more=2, garbage=torch.Generator().manual_seed(0))
    step = TrainingStep(model, args.loss_weights)
    asked, ask, found = [], model.backbone.text_features, []
    monkeypatch.setattr(model.backbone, "text_features", lambda ids, mask: asked.append(ids.shape) or ask(ids, mask))
    for reads_padding in (False, True):
        model.backbone.reads_padding = reads_padding
        model.zero_grad()
        texts = model.encode_texts(batch)
        step(batch)[0].backward()
        gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        assert len(asked) == 2 * (1 if reads_padding else 3)
        asked.clear()
        found.append((texts, gradients))
    (grouped, gradients), (whole, expected) = found
    kept = {"query": batch["query_mask"], "caption": batch["caption_mask"][batch["caption_mask"].any(dim=2)]}
    assert grouped.keys() == whole.keys() == {f"{kind}_{what}" for kind in kept for what in ("words", "sentence")}
    for name, features in whole.items():
        assert grouped[name].shape == features.shape and features.std() > 100 * bound
        where = kept[name.removesuffix("_words")] if name.endswith("_words") else slice(None)
        assert (grouped[name][where] - features[where]).abs().max() < bound
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= bound * gradient.norm() + bound, name


@pytest.mark.parametrize("kind", ["chinese_clip", "siglip2_tokenizer"])
def test_other_towers_in_groups(kind, tmp_path):
    """The second reads its padding: whatever it is given, it fills up to its own length."""
    tower_models.write_model(tmp_path, kind)
    towers, _ = load_backbone(f"hf:{tmp_path}", Needs(), [])
    towers.double()
    assert towers.reads_padding == (kind != "chinese_clip")
    rows = [torch.tensor(towers.tokenizer.tokenize(text, 20)[0]) for text in tower_models.TEXTS]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])
    texts = [Texts("query", ids[:2], mask[:2], True), Texts("caption", ids[2:], mask[2:], True)]
    groups = groups_of_like_length(lengths_of(texts), 0)
    assert len(groups) == 3
    with torch.no_grad():
        found = put_together(text_pieces(towers.text_features, texts, lengths_of(texts), groups), sizes_of(texts, {}))
        words, sentence = towers.text_features(ids, mask)
    assert (torch.cat([found["query_sentence"], found["caption_sentence"]]) - sentence).abs().max() < 1e-12
    assert (torch.cat([found["query_words"], found["caption_words"]]) - words)[mask].abs().max() < 1e-12
