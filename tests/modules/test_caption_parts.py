"""Captions: co-attention and pooling against loops over one meme at a time, padding, absent captions."""

import numpy as np
import pytest
import torch

from modules.caption_attention import CaptionAttention, CrossAttention, mask_drawn_caption
from modules.caption_similarity import CaptionPooling, caption_scores
from modules.row_dropout import RowDropout
from tests import slow_formulas as slow
from tests.model_parts import randomised

DIM, CAPTIONS = 128, 5  # a width at which pooling's transformer has two heads
KINDS = ("transf_avg", "avg", "clip_top1", "weight_l")  # that give one vector per meme
COUNTS = (2, 0, 4, 1)  # of captions per meme


def padded_captions(counts=COUNTS, length=4, fill=0.0, dim=DIM):
    """Captions (B, length, dim) float64 with padding of size `fill`, their mask."""
    generator = torch.Generator().manual_seed(1)
    captions = fill * torch.randn(len(counts), length, dim, generator=generator, dtype=torch.float64)
    mask = torch.arange(length) < torch.tensor(counts)[:, None]
    generator = torch.Generator().manual_seed(2)
    for i, count in enumerate(counts):
        captions[i, :count] = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return captions, mask


def visual_tokens(memes=4, dim=DIM):
    return torch.randn(memes, 3, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def attention_part(dim=DIM):
    return randomised(CaptionAttention(dim).double().eval())


def pooling_part(kind, dim=DIM):
    return randomised(CaptionPooling(kind, dim, CAPTIONS).double().eval())


# co-attention


@torch.no_grad()
def test_co_attention_equals_the_formula():
    part, tokens, (captions, mask) = attention_part(), visual_tokens(), padded_captions(fill=5.0)
    w = slow.numbers_of(part)
    ours = part(tokens, captions, mask)
    for i, count in enumerate(COUNTS):
        expected = slow.caption_attention(tokens[i].numpy(), captions[i, :count].numpy(), w)
        np.testing.assert_allclose(ours[i].numpy(), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_co_attention_drops_a_tenth_in_training():
    part = attention_part()
    dropouts = [module for module in part.modules() if isinstance(module, RowDropout)]
    assert [module.p for module in dropouts] == [pytest.approx(0.1, abs=1e-5)] * 4 and part.attention.heads == 8
    assert len({module.site for module in dropouts}) == 4
    tokens, (captions, mask) = visual_tokens(), padded_captions()
    plain = part(tokens, captions, mask)
    assert torch.equal(part(tokens, captions, mask, torch.arange(4)), plain)
    part.train()
    first, again, other = (part(tokens, captions, mask, torch.arange(4) + start) for start in (0, 0, 4))
    assert torch.equal(first, again)
    for one, two in ((first, plain), (first, other)):
        assert ((one - two).abs().amax(dim=(1, 2)) > 0.1).all()  # in each row, also in that without captions
    with pytest.raises(ValueError, match="needs a key for each row"):
        part(tokens, captions, mask)


@torch.no_grad()
def test_what_a_row_drops_depends_on_its_key_alone():
    """Not on the other rows, nor on how far the batch is padded: processes hold other rows, padded otherwise."""
    part, keys, order = attention_part().train(), torch.tensor([5, -6, 7, 2**62]), [2, 0, 3, 1]
    tokens, (captions, mask) = visual_tokens(), padded_captions()
    whole = part(tokens, captions, mask, keys)
    torch.testing.assert_close(part(tokens[order], captions[order], mask[order], keys[order]), whole[order])
    longer = torch.cat([tokens, torch.ones_like(tokens)], dim=1)
    padded = part(longer, *padded_captions(length=7, fill=3.0), keys)[:, : tokens.shape[1]]
    torch.testing.assert_close(padded, whole, rtol=0, atol=1e-12)
    for i, count in enumerate(COUNTS):
        row = slice(i, i + 1)
        alone = part(tokens[row], captions[row, : max(count, 1)], mask[row, : max(count, 1)], keys[row])
        torch.testing.assert_close(alone, whole[row], rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_attention_is_torchs_own_by_name_start_and_value():
    """But for its dropout: checkpoints of the time when it was nn.MultiheadAttention load."""
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(DIM, 8, batch_first=True)
    torch.manual_seed(0)
    ours = CrossAttention(DIM, 8, RowDropout(0.0, site=0))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
    theirs.double().load_state_dict(randomised(ours.double()).state_dict())
    tokens, (captions, mask) = visual_tokens(), padded_captions(counts=(2, 3, 4, 1), fill=5.0)
    expected, _ = theirs(tokens, captions, captions, key_padding_mask=~mask, need_weights=False)
    for part in (ours.train(), ours.eval()):
        torch.testing.assert_close(part(tokens, captions, mask, None), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_in_training_the_attention_has_the_mean_that_it_has_without_dropout():
    draws = 4000
    part = randomised(CrossAttention(DIM, 8, RowDropout(0.1, site=0)).double())
    tokens, (captions, mask) = visual_tokens(1), padded_captions(counts=(3,))
    expected = part.eval()(tokens, captions, mask, None)[0]
    many = (tensor.expand(draws, *tensor.shape[1:]) for tensor in (tokens, captions, mask))
    found = part.train()(*many, torch.arange(draws))
    off = (found.mean(dim=0) - expected) / (found.std(dim=0) / draws**0.5)
    assert off.abs().max() < 5
    assert off.square().mean().sqrt() == pytest.approx(1, abs=0.3)


@torch.no_grad()
def test_contents_of_absent_captions_do_not_reach_co_attention():
    part, tokens, (captions, mask) = attention_part(), visual_tokens(), padded_captions()
    plain = part(tokens, captions, mask)
    for fill in (1.0, 1e6):
        assert torch.equal(part(tokens, padded_captions(fill=fill)[0], mask), plain)
    longer = part(tokens, *padded_captions(length=7, fill=3.0))
    torch.testing.assert_close(longer, plain, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_meme_without_captions_has_no_attention_term_and_others_do():
    part, tokens, (captions, mask) = attention_part(), visual_tokens(), padded_captions(fill=1.0)
    part.feed_forward[-1].weight.zero_()
    part.feed_forward[-1].bias.zero_()
    ours = part(tokens, captions, mask)
    passed = part.norm_feed_forward(part.norm_attention(tokens))
    assert [torch.allclose(a, b) for a, b in zip(ours, passed, strict=True)] == [False, True, False, False]


@torch.no_grad()
def test_a_new_co_attention_only_normalises():
    part, tokens, (captions, mask) = CaptionAttention(DIM).double().eval(), visual_tokens(), padded_captions()
    normed = torch.nn.functional.layer_norm(tokens, (DIM,))
    torch.testing.assert_close(part(tokens, captions, mask), torch.nn.functional.layer_norm(normed, (DIM,)))


def test_the_drawn_caption_is_left_out_of_its_own_meme_only():
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False], [False, False, False]])
    expected = [[False, True, False], [True, True, True], [False, False, False], [False, False, False]]
    assert mask_drawn_caption(mask, torch.tensor([0, -1, 0, -1])).tolist() == expected
    assert mask.tolist()[0] == [True, True, False]


# pooling


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_pooling_equals_the_formula(kind):
    part, (captions, mask) = pooling_part(kind), padded_captions(fill=5.0)
    w = slow.numbers_of(part)
    ours = part(captions, mask)
    assert ours.shape == (len(COUNTS), DIM)
    for i, count in enumerate(COUNTS):
        expected = np.zeros(DIM)
        if count:
            expected = slow.unit(slow.pooled_captions(captions[i, :count].numpy(), kind, w, heads=2))
        np.testing.assert_allclose(ours[i].numpy(), expected, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_contents_of_absent_captions_do_not_reach_pooling(kind):
    part, (captions, mask) = pooling_part(kind), padded_captions()
    plain = part(captions, mask)
    for fill in (1.0, 1e6):
        assert torch.equal(part(padded_captions(fill=fill)[0], mask), plain)
    torch.testing.assert_close(part(*padded_captions(length=5, fill=3.0)), plain, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_one_caption_per_meme_gives_one_vector_per_meme(kind):
    captions, mask = padded_captions((1, 1, 1), length=1)
    assert pooling_part(kind)(captions, mask).shape == (3, DIM)


def test_learned_weights_start_as_the_mean():
    captions, mask = padded_captions()
    start = CaptionPooling("weight_l", DIM, CAPTIONS).double()
    torch.testing.assert_close(start(captions, mask), CaptionPooling("avg", DIM, CAPTIONS)(captions, mask))


@pytest.mark.parametrize("kind", [*KINDS, "max"])
def test_which_poolings_have_parameters(kind):
    shapes = {name: tuple(p.shape) for name, p in CaptionPooling(kind, DIM, CAPTIONS).named_parameters()}
    if kind == "transf_avg":
        assert shapes["positions"] == (CAPTIONS, DIM)
        assert {name.split(".")[2] for name in shapes if name.startswith("transformer.resblocks")} == {"0", "1"}
    else:
        assert shapes == ({"logits": (CAPTIONS,)} if kind == "weight_l" else {})


# the nearest caption


def sentences_of(captions, number=5):
    """Queries (Q, d) of length 1; all captions of the meme 2 point away from the first one."""
    generator = torch.Generator().manual_seed(4)
    sentences = torch.randn(number, captions.shape[-1], generator=generator, dtype=captions.dtype)
    sentences[0] = -captions[2, : COUNTS[2]].sum(dim=0)
    return torch.nn.functional.normalize(sentences, dim=1)


@torch.no_grad()
def test_the_nearest_caption_alone_counts_however_far_it_is():
    part, (captions, _) = pooling_part("max"), padded_captions()
    sentences = sentences_of(captions)
    expected = np.array(
        [
            [slow.caption_score(x.numpy(), captions[i, :count].numpy(), "max", {}) for i, count in enumerate(COUNTS)]
            for x in sentences
        ]
    )
    assert expected[0, 2] < -0.1 and (expected[:, 1] == 0).all()
    for length, fill in ((4, 0.0), (4, 1e6), (7, 3.0)):
        found = caption_scores(sentences, part(*padded_captions(length=length, fill=fill)))
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
        assert (found[:, 1] == 0).all()


@torch.no_grad()
def test_of_one_caption_the_nearest_is_the_mean():
    captions, mask = padded_captions((1, 0, 1), length=1)
    sentences = sentences_of(padded_captions()[0])
    of_max, of_mean = (caption_scores(sentences, pooling_part(kind)(captions, mask)) for kind in ("max", "avg"))
    assert torch.equal(of_max, of_mean) and of_max.abs().max() > 0


def test_the_gradient_is_that_of_the_nearest_caption():
    part, (captions, mask) = pooling_part("max"), padded_captions(length=6, fill=5.0)
    sentences, weight = sentences_of(captions).requires_grad_(), torch.arange(20.0, dtype=torch.float64).view(5, 4)
    captions.requires_grad_()
    found = torch.autograd.grad((weight * caption_scores(sentences, part(captions, mask))).sum(), (sentences, captions))
    plain = 0.0
    for q, x in enumerate(sentences):
        for i, count in enumerate(COUNTS):
            if count:
                plain += weight[q, i] * max(x @ c / c.norm() for c in captions[i, :count])
    for ours, expected in zip(found, torch.autograd.grad(plain, (sentences, captions)), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


# gradients


@pytest.mark.parametrize("counts", [COUNTS, (0, 0)], ids=["one without", "all without"])
@pytest.mark.parametrize("kind", ["co_attention", *KINDS, "max"])
def test_gradients_are_finite_where_captions_are_absent(kind, counts):
    captions, mask = padded_captions(counts)
    captions.requires_grad_()
    tokens = visual_tokens(len(counts)).requires_grad_()
    if kind == "co_attention":
        part = attention_part()
        out = part(tokens, captions, mask)
    else:
        part = pooling_part(kind)
        out = part(captions, mask)
    (out * torch.arange(1.0, DIM + 1)).sum().backward()
    assert captions.grad.isfinite().all()
    assert captions.grad[~mask].abs().max() == 0
    assert any(counts) == (captions.grad.abs().max() > 0)
    for name, parameter in part.named_parameters():
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", ["co_attention", *KINDS, "max"])
def test_the_gradient_by_numbers(kind):
    captions, mask = padded_captions((2, 0, 1), length=2, dim=8)
    tokens = visual_tokens(3, 8).requires_grad_()
    present = captions[mask].requires_grad_()

    def fill(present):
        return torch.zeros_like(captions).masked_scatter(mask[..., None], present)

    if kind == "co_attention":
        part = attention_part(8)
        torch.autograd.gradcheck(lambda t, p: part(t, fill(p), mask), (tokens, present))
    else:
        part = pooling_part(kind, 8)
        torch.autograd.gradcheck(lambda p: part(fill(p), mask), (present,))
