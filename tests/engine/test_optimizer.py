"""Parameter groups, the schedule and AdamW's step against values by hand."""

import math

import pytest
import torch
from torch import nn

from engine.optimizer import make_optimizer, parameter_groups, set_learning_rate, warmup_then_cosine
from tests.model_parts import small_model

LR, COEF, FUSION_LR, DECAY = 1e-3, 1e-2, 0.05, 0.2
SETTINGS = [
    (),
    ("--fusion", "query", "--text_pool_type", "weight_l", "--sim_header", "seqLSTM"),
    ("--sim_header", "tightTransf", "--emotion_fusion", "token", "--linear_patch", "3d"),
    ("--fusion", "fixed", "--emotion_encoder", "clip", "--interaction", "dp"),
    ("--branches", "qc",),
]  # fmt: skip


def groups_of(model):
    """{parameter's name: (peak rate, weight decay)}."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, LR, COEF, FUSION_LR, DECAY)
    listed = [(names[id(p)], (group["peak_lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(listed) == len(dict(listed)), "a parameter in two groups"
    return dict(listed)


@pytest.mark.parametrize("flags", SETTINGS, ids=lambda flags: " ".join(flags) or "default")
def test_rates_and_decay_of_every_parameter(flags):
    model, _ = small_model(*flags)
    norms = {
        f"{path}.{kind}"
        for path, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for kind in ("weight", "bias")
    }
    found = groups_of(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, (rate, decay) in found.items():
        leaf = name.rsplit(".", 1)[-1]
        if name.startswith("fusion.") or name == "caption_pooling.logits":
            assert (rate, decay) == (FUSION_LR, 0), name
            continue
        own = name.startswith("backbone.") and "neighbours" not in name
        assert rate == (LR * COEF if own else LR), name
        undecayed = name in norms or "bias" in leaf or leaf == "logit_scale"
        assert decay == (0 if undecayed else DECAY), name


def test_some_places_by_name():
    found = groups_of(small_model("--linear_patch", "3d")[0])
    assert found["backbone.visual.conv1.weight"] == (LR * COEF, DECAY)
    assert found["backbone.visual.neighbours.before.weight"] == (LR, DECAY)
    assert found["emotion_fusion.conv_e.weight"] == found["emotion_fusion.to_plane.weight"] == (LR, DECAY)
    assert found["backbone.logit_scale"] == (LR * COEF, 0)
    assert found["backbone.transformer.resblocks.0.attn.in_proj_bias"] == (LR * COEF, 0)
    assert found["caption_attention.norm_attention.weight"] == (LR, 0)
    assert found["fusion.theta"] == (FUSION_LR, 0)


def test_frozen_parameters_are_in_no_group():
    model, _ = small_model("--freeze_layer_num", "1")
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and groups_of(model).keys() == dict(model.named_parameters()).keys() - frozen


def test_the_schedule_by_hand():
    cosine = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert [warmup_then_cosine(step, 10, 0.2) for step in range(10)] == pytest.approx([0.5, 1.0, *cosine])
    assert cosine[0] == 1 and cosine[4] == pytest.approx(0.5) and cosine[-1] == pytest.approx(0.0380602)
    assert [warmup_then_cosine(step, 4, 0.0) for step in range(4)] == pytest.approx([1, 0.8535534, 0.5, 0.1464466])
    assert [warmup_then_cosine(step, 4, 1.0) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1])
    assert warmup_then_cosine(0, 1, 0.1) == 1


def test_each_group_follows_the_schedule_from_its_own_peak():
    model, _ = small_model()
    optimizer = make_optimizer(parameter_groups(model, LR, COEF, FUSION_LR, DECAY))
    for step, factor in ((0, 0.5), (1, 1.0), (6, 0.5)):
        set_learning_rate(optimizer, step, 10, 0.2)
        rates = {(group["name"].split()[0], group["lr"]) for group in optimizer.param_groups}
        expected = {"clip": LR * COEF * factor, "new": LR * factor, "fusion": FUSION_LR * factor}
        assert dict(rates) == pytest.approx(expected) and len(rates) == 3


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_adamw_takes_the_step_of_the_formula(decay):
    """Loshchilov & Hutter 2019, algorithm 2, with bias correction: betas 0.9 and 0.98, epsilon 1e-6."""
    start = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    optimizer = make_optimizer([{"name": "x", "params": [parameter], "peak_lr": 0.1, "weight_decay": decay}])
    w, m, v = start.tolist(), [[0.0] * 3 for _ in range(2)], [[0.0] * 3 for _ in range(2)]
    for step in range(4):
        set_learning_rate(optimizer, step, 8, 0.5)
        rate = 0.1 * (step + 1) / 4
        gradient = torch.randn(2, 3, generator=torch.Generator().manual_seed(step + 1), dtype=torch.float64)
        parameter.grad = gradient.clone()
        optimizer.step()
        for i in range(2):
            for j in range(3):
                g = gradient[i, j].item()
                m[i][j] = 0.9 * m[i][j] + 0.1 * g
                v[i][j] = 0.98 * v[i][j] + 0.02 * g * g
                mean, square = m[i][j] / (1 - 0.9 ** (step + 1)), v[i][j] / (1 - 0.98 ** (step + 1))
                w[i][j] -= rate * decay * w[i][j] + rate * mean / (math.sqrt(square) + 1e-6)
        torch.testing.assert_close(parameter.detach(), torch.tensor(w, dtype=torch.float64), rtol=0, atol=1e-12)
