"""Dropout by row: the masks against SplitMix64 in Python's own integers, their shares, and what they depend on."""

import numpy as np
import pytest
import torch

from modules.row_dropout import RowDropout, dropped, splitmix64

WHOLE = 2**64 - 1


def slow_splitmix64(state, number):
    """Output number `number`, from 0, of the generator as its authors write it, unsigned."""
    z = (state + (number + 1) * 0x9E3779B97F4A7C15) & WHOLE
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WHOLE
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WHOLE
    return z ^ (z >> 31)


def slow_dropped(key, site, place, p):
    """Whether the element at `place` (v, k, ..., i) of the row with a key falls."""
    *axes, last = place
    state = slow_splitmix64(key & WHOLE, site)
    for number in axes:
        state = slow_splitmix64(state, number)
    lane = slow_splitmix64(state, last // 4) >> 16 * (last % 4) & 0xFFFF
    return (lane ^ 0x8000) < round(p * 2**16)  # lanes are read as signed numbers


def test_the_hash_is_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    found = splitmix64(torch.tensor([1234567]), torch.arange(4))
    assert [number & WHOLE for number in found[0].tolist()] == published
    states = [0, 1, -1, 2**63 - 1, -(2**63), 12345678901234567]
    found = splitmix64(torch.tensor(states).view(2, 3), torch.arange(7))
    expected = [slow_splitmix64(state & WHOLE, number) for state in states for number in range(7)]
    assert found.shape == (2, 3, 7) and [number & WHOLE for number in found.flatten().tolist()] == expected


@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 8), (3, 2, 3, 6), (3, 2, 0, 8)])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_masks_equal_the_formula(shape, p):
    keys = [7, -3, 2**63 - 1]
    found = dropped(torch.tensor(keys), 2, torch.Size(shape), p)
    assert found.shape == shape and found.dtype == torch.bool
    expected = [slow_dropped(keys[row], 2, place, p) for row, *place in np.ndindex(shape)]
    assert found.flatten().tolist() == expected


def test_an_elements_fate_depends_on_its_rows_key_and_its_own_place():
    keys = torch.tensor([3, 1, 4, 1, 5])
    whole = dropped(keys, 0, torch.Size((5, 6, 7, 16)), 0.3)
    assert torch.equal(dropped(keys, 0, torch.Size((5, 4, 3, 10)), 0.3), whole[:, :4, :3, :10])
    assert torch.equal(dropped(keys[[2, 0]], 0, torch.Size((2, 6, 7, 16)), 0.3), whole[[2, 0]])
    assert torch.equal(whole[1], whole[3])


def correlation(one, other):
    return np.corrcoef(one.flatten().double().numpy(), other.flatten().double().numpy())[0, 1]


@pytest.mark.parametrize("kind", ["neighbouring keys", "drawn keys"])
def test_a_tenth_falls_everywhere_and_independently(kind):
    """Between rows, sites, places and neighbours, within five standard deviations of what chance allows."""
    rows, shape, p = 1000, (6, 5, 16), 0.1
    keys = torch.arange(rows)
    if kind == "drawn keys":
        keys = torch.randint(2**62, (rows,), generator=torch.Generator().manual_seed(0))
    masks = torch.stack([dropped(keys, site, torch.Size((rows, *shape)), p) for site in range(4)])
    masks = masks.flatten(2)  # (sites, rows, places)
    for axes, name in (((0, 1, 2), "all"), ((1, 2), "a site"), ((0, 2), "a row"), ((0, 1), "a place")):
        shares = masks.double().mean(dim=axes)
        deviation = (p * (1 - p) * shares.numel() / masks.numel()) ** 0.5
        assert (shares - p).abs().max() < 5 * deviation, name
        if shares.numel() > 100:  # and they vary as chance has them vary, neither more nor less
            assert ((shares - p) / deviation).std() == pytest.approx(1, abs=5 / (2 * shares.numel()) ** 0.5), name
    pairs = {
        "sites": (masks[0], masks[1]),
        "rows": (masks[:, :-1], masks[:, 1:]),
        "half the rows": (masks[:, : rows // 2], masks[:, rows // 2 :]),
        **{f"places {step} apart": (masks[..., :-step], masks[..., step:]) for step in (1, 2, 3, 4, 16, 80)},
    }
    for name, (one, other) in pairs.items():
        assert abs(correlation(one, other)) < 5 / one.numel() ** 0.5, name


def test_what_is_kept_is_scaled_and_what_falls_has_no_gradient():
    part, keys = RowDropout(0.1, site=1), torch.arange(50)
    x = (torch.rand(50, 3, 8, dtype=torch.float64) + 1).requires_grad_()
    out = part(x, keys)
    out.sum().backward()
    falls = dropped(keys, 1, x.shape, 0.1)
    scale = 1 / (1 - round(0.1 * 2**16) / 2**16)
    assert scale == pytest.approx(1 / 0.9, rel=1e-5)
    expected = torch.where(falls, 0, torch.tensor(scale, dtype=torch.float64))
    torch.testing.assert_close(out, x * expected, rtol=1e-15, atol=0)
    torch.testing.assert_close(x.grad, expected, rtol=1e-15, atol=0)
    assert torch.equal(part(x.detach().float(), keys) == 0, falls)  # whatever the precision


def test_the_mean_stays():
    out = RowDropout(0.1, site=0)(torch.ones(2000, 100), torch.arange(2000))
    assert out.mean().item() == pytest.approx(1, abs=5 * (1 / 9 / out.numel()) ** 0.5)


def test_nothing_falls_in_evaluation_and_keys_are_needed_in_training_alone():
    x, part = torch.randn(4, 8), RowDropout(0.1, site=0)
    assert part.eval()(x, None) is x and RowDropout(0.0, site=0)(x, None) is x
    with pytest.raises(ValueError, match="`row_key`"):
        part.train()(x, None)


def test_no_generator_is_used():
    before = torch.get_rng_state()
    RowDropout(0.1, site=0)(torch.ones(4, 8), torch.arange(4))
    assert torch.equal(torch.get_rng_state(), before)
