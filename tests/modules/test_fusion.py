"""The weights of QI and QC against hand values."""

import math

import pytest
import torch

from modules.fusion import Fusion
from tests import slow_formulas as slow
from tests.model_parts import randomised

Q, M, DIM = 3, 4, 32


@pytest.fixture
def scores():
    generator = torch.Generator().manual_seed(0)
    qi, qc = (torch.rand(Q, M, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2))
    sentence = torch.randn(Q, DIM, generator=generator, dtype=torch.float64)
    return qi, qc, torch.nn.functional.normalize(sentence, dim=-1)


@pytest.mark.parametrize("kind", ["learned", "query", "fixed"])
def test_every_fusion_starts_at_a_half(kind, scores):
    qi, qc, sentence = scores
    fusion = Fusion(kind, DIM).double()
    torch.testing.assert_close(fusion(qi, qc, sentence), (qi + qc) / 2, rtol=0, atol=0)
    assert fusion.alpha(sentence).unique().tolist() == [0.5]


def test_learned_weights_are_the_sigmoid_of_one_number(scores):
    qi, qc, sentence = scores
    fusion = Fusion("learned", DIM).double()
    assert [tuple(parameter.shape) for parameter in fusion.parameters()] == [()]
    with torch.no_grad():
        fusion.theta.fill_(0.8)
    alpha = 1 / (1 + math.exp(-0.8))
    ours = fusion(qi, qc, sentence)
    for q in range(Q):
        for m in range(M):
            assert ours[q, m].item() == pytest.approx(
                alpha * qi[q, m].item() + (1 - alpha) * qc[q, m].item(), abs=1e-14
            )
    ours.sum().backward()
    by_hand = alpha * (1 - alpha) * (qi - qc).sum().item()  # dσ/dθ = σ (1 - σ)
    assert fusion.theta.grad.item() == pytest.approx(by_hand, abs=1e-12)


def test_query_weights_differ_between_queries_and_not_between_memes(scores):
    qi, qc, sentence = scores
    fusion = randomised(Fusion("query", DIM).double(), std=1.0)
    w = slow.numbers_of(fusion)
    ours = fusion(qi, qc, sentence)
    alphas = []
    for q in range(Q):
        hidden = slow.linear(sentence[q].numpy(), w, "network.0")
        alpha = slow.sigmoid(float(slow.linear([max(0.0, value) for value in hidden], w, "network.2")[0]))
        alphas.append(alpha)
        for m in range(M):
            assert ours[q, m].item() == pytest.approx(
                alpha * qi[q, m].item() + (1 - alpha) * qc[q, m].item(), abs=1e-12
            )
    assert max(alphas) - min(alphas) > 0.05
    ours.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in fusion.parameters())


def test_query_weights_move_from_the_start(scores):
    qi, qc, sentence = scores
    fusion = Fusion("query", DIM).double()
    optimizer = torch.optim.SGD(fusion.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        fusion(qi, qc, sentence).sum().backward()
        optimizer.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in fusion.parameters())


@pytest.mark.parametrize("weight", [0.0, 0.73, 1.0])
def test_a_fixed_weight_is_stored_and_never_trained(weight, scores):
    qi, qc, sentence = scores
    fusion = Fusion("fixed", DIM, weight).double()
    assert not list(fusion.parameters()) and list(fusion.state_dict()) == ["weight"]
    ours = fusion(qi, qc, sentence)
    torch.testing.assert_close(ours, weight * qi + (1 - weight) * qc, rtol=0, atol=1e-7)
    if weight in (0.0, 1.0):
        assert torch.equal(ours, qi if weight else qc)


@pytest.mark.parametrize("kind", ["learned", "query"])
@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.37, 0.5, 1.0])
def test_a_fitted_alpha_is_the_alpha_in_use_in_evaluation(kind, alpha, scores):
    qi, qc, sentence = scores
    fusion = randomised(Fusion(kind, DIM).double())
    fusion.fitted = alpha
    trained = fusion.train()(qi, qc, sentence)
    ours = fusion.eval()(qi, qc, sentence)
    torch.testing.assert_close(ours, alpha * qi + (1 - alpha) * qc, rtol=0, atol=1e-12)
    if alpha in (0.0, 1.0):
        assert torch.equal(ours, qi if alpha else qc)
    fusion.fitted = None
    assert torch.equal(trained, fusion(qi, qc, sentence)), "training reads the fitted weight"
    assert not torch.equal(trained, ours)


def test_a_fitted_alpha_is_no_part_of_the_trained_state(scores):
    fusion = randomised(Fusion("learned", DIM))
    before = fusion.theta_alpha
    fusion.fitted = 0.25
    assert list(fusion.state_dict()) == ["theta"] and fusion.theta_alpha == before
    assert before == pytest.approx(1 / (1 + math.exp(-fusion.theta.item())))
    assert Fusion("query", DIM).theta_alpha is None and Fusion("fixed", DIM).theta_alpha is None
