"""Aggregators over frames against loops over one meme at a time; padding; the start from CLIP's text layers."""

import dataclasses

import numpy as np
import pytest
import torch

from engine.arguments import build_parser
from modules.aggregator import MeanP, SeqLSTM, SeqTransf, start_from_text_tower
from modules.backbones.openai import CLIP
from modules.caption_attention import CaptionAttention
from tests import slow_formulas as slow
from tests.model_parts import SMALL, randomised, small_model, small_model_and_notes

DIM = 128  # two heads
COUNTS = (3, 1, 2)  # frames per meme
PER_FRAME = {"cls": 1, "patch": 4}


def padded_tokens(per_frame, frames=3, fill=0.0):
    """Tokens (B, frames * per_frame, DIM) float64 with padding of size `fill`, and their mask."""
    generator = torch.Generator().manual_seed(1)
    tokens = fill * torch.randn(len(COUNTS), frames * per_frame, DIM, generator=generator, dtype=torch.float64)
    mask = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    generator = torch.Generator().manual_seed(2)
    for i, count in enumerate(COUNTS):
        n = count * per_frame
        tokens[i, :n] = torch.randn(n, DIM, generator=generator, dtype=torch.float64)
        mask[i, :n] = True
    return tokens, mask


def make(kind, per_frame):
    part = {
        "meanP": lambda: MeanP(),
        "seqLSTM": lambda: SeqLSTM(DIM),
        "seqTransf": lambda: SeqTransf(DIM, 3, 6, per_frame),
    }[kind]()
    return randomised(part.double().eval())


def slow_aggregate(kind, rows, w, per_frame):
    if kind == "meanP":
        return rows
    if kind == "seqLSTM":
        return rows + slow.lstm(rows, slow.below(w, "lstm."))
    placed = np.stack([row + w["positions.embedding"][n // per_frame] for n, row in enumerate(rows)])
    return rows + slow.transformer(placed, slow.below(w, "transformer."), layers=3, heads=2)


@torch.no_grad()
@pytest.mark.parametrize("visual_tokens", PER_FRAME)
@pytest.mark.parametrize("kind", ["meanP", "seqLSTM", "seqTransf"])
def test_an_aggregator_equals_the_formula_and_ignores_absent_frames(kind, visual_tokens):
    per_frame = PER_FRAME[visual_tokens]
    part = make(kind, per_frame)
    w = slow.numbers_of(part)
    tokens, mask = padded_tokens(per_frame)
    ours = part(tokens, mask)
    assert ours.shape == tokens.shape
    for i, count in enumerate(COUNTS):
        n = count * per_frame
        expected = slow_aggregate(kind, tokens[i, :n].numpy(), w, per_frame)
        np.testing.assert_allclose(ours[i, :n].numpy(), expected, rtol=0, atol=1e-12)
    for fill in (1.0, 1e6):
        assert torch.equal(part(padded_tokens(per_frame, fill=fill)[0], mask)[mask], ours[mask])
    longer, longer_mask = padded_tokens(per_frame, frames=5, fill=3.0)
    torch.testing.assert_close(part(longer, longer_mask)[longer_mask], ours[mask], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["seqLSTM", "seqTransf"])
def test_absent_frames_get_no_gradient_and_spoil_none(kind):
    part = make(kind, 1)
    tokens, mask = padded_tokens(1)
    tokens.requires_grad_()
    (part(tokens, mask)[mask] * torch.arange(DIM)).sum().backward()
    assert tokens.grad.isfinite().all() and tokens.grad[~mask].abs().max() == 0
    assert tokens.grad[mask].abs().min() > 0


def test_seq_transf_has_four_layers_by_default():
    assert build_parser().get_default("cross_num_hidden_layers") == 4
    model, _ = small_model(layers=4)
    assert isinstance(model.aggregator, SeqTransf) and len(model.aggregator.transformer.resblocks) == 4


@pytest.mark.parametrize("frames", [6, 20, 25], ids=["few frames", "as many as positions", "more than positions"])
def test_the_start_is_clips_first_text_layers(frames):
    clip = randomised(CLIP(SMALL))
    part = SeqTransf(SMALL.embed_dim, 1, frames, 1)
    assert start_from_text_tower(part.transformer, part.positions, clip)
    clip_state = clip.state_dict()
    for name, tensor in part.transformer.state_dict().items():
        assert torch.equal(tensor, clip_state[f"transformer.{name}"])
    known = min(frames, SMALL.context_length)
    assert torch.equal(part.positions.embedding[:known], clip.positional_embedding[:known])
    with torch.no_grad():  # copies: training the one leaves the other
        clip.positional_embedding.zero_()
        clip.transformer.resblocks[0].ln_1.bias.zero_()
    assert part.positions.embedding.abs().min() > 0
    assert part.transformer.resblocks[0].ln_1.bias.abs().min() > 0


@pytest.mark.parametrize(("header", "layers"), [("seqTransf", 2), ("tightTransf", 2), ("seqTransf", 3)])
@pytest.mark.parametrize("text_width", [32, 64])
def test_a_model_starts_from_clip_where_widths_and_layers_allow_and_else_says_so(header, layers, text_width):
    sizes = dataclasses.replace(SMALL, text_width=text_width)
    model, _, notes = small_model_and_notes("--sim_header", header, sizes=sizes, layers=layers)
    part = model.image_similarity.cross_encoder if header == "tightTransf" else model.aggregator
    ours, clips = (stack.resblocks[0].mlp.c_fc.weight for stack in (part.transformer, model.backbone.transformer))
    same = ours.shape == clips.shape and torch.equal(ours, clips)
    fits = text_width == SMALL.embed_dim and layers <= SMALL.text_layers
    assert same == fits
    assert [header in note and "afresh" in note for note in notes] == ([] if fits else [True])


@pytest.mark.parametrize("dim", [20, 36, 96, 1000])
def test_new_parts_fit_any_width_of_towers(dim):
    tokens, mask = torch.randn(2, 3, dim), torch.ones(2, 3, dtype=torch.bool)
    captions = torch.randn(2, 2, dim)
    assert SeqTransf(dim, 1, 6, 1)(tokens, mask).shape == tokens.shape
    assert CaptionAttention(dim).eval()(tokens, captions, mask[:, :2]).shape == tokens.shape
