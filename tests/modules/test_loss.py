"""The losses and the training step against plain loops, cross-entropy, and numerical gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.training_step import TrainingStep
from modules.loss import channel_decorrelation, info_nce, topic_positives
from tests import slow_formulas as slow

B, DIM, MEMES = 6, 5, 9
TOPIC, MEME = [0, 0, 1, 2, 3, 1], [0, 1, 2, 2, 5, 8]  # rows of a batch: topics repeat, and so does meme 2
RECORDS = {*zip(TOPIC, MEME, strict=True), (0, 8), (3, 1), (2, 7)}  # of the train split: more than the batch's rows


def record_keys(records=RECORDS):
    return torch.tensor(sorted(topic * MEMES + meme for topic, meme in records))


def random_logits(rows, columns, seed=0):
    return 3 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# functions


def test_info_nce_averages_the_log_probability_over_the_positives():
    logits = random_logits(5, 7)
    positives = torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) < 0.4
    positives[2] = False  # no positive: no loss
    positives[3] = True
    ours = info_nce(logits, positives)
    torch.testing.assert_close(ours.tolist(), slow.info_nce(logits.tolist(), positives.tolist()), rtol=0, atol=1e-12)
    assert ours[2] == 0


def test_with_one_positive_each_it_is_cross_entropy():
    logits, target = random_logits(5, 7), torch.tensor([3, 0, 6, 3, 1])
    ours = info_nce(logits, F.one_hot(target, 7).bool())
    torch.testing.assert_close(ours, F.cross_entropy(logits, target, reduction="none"), rtol=0, atol=1e-12)


def test_a_column_at_minus_infinity_is_left_out():
    logits, positives = random_logits(4, 6), torch.eye(4, 6).bool()
    keep = [0, 1, 2, 3, 5]
    without = logits.clone()
    without[:, 4] = -torch.inf
    without.requires_grad_()
    losses = info_nce(without, positives)
    torch.testing.assert_close(losses, info_nce(logits[:, keep], positives[:, keep]))
    losses.sum().backward()
    assert without.grad.isfinite().all() and without.grad[:, 4].abs().max() == 0


def test_info_nce_is_finite_with_large_logits():
    logits = torch.tensor([[100.0, -100.0], [-100.0, 100.0]], requires_grad=True)
    losses = info_nce(logits, torch.tensor([[False, True], [True, True]]))
    assert losses.tolist() == [200.0, 100.0]
    losses.sum().backward()
    assert logits.grad.isfinite().all()


def test_the_gradient_of_info_nce():
    positives = torch.rand(4, 5, generator=torch.Generator().manual_seed(1)) < 0.4
    positives[0] = False
    torch.autograd.gradcheck(lambda logits: info_nce(logits, positives), (random_logits(4, 5).requires_grad_(),))


def test_positives_are_the_records_of_the_train_split_whether_or_not_their_row_is_in_the_batch():
    ours = topic_positives(torch.tensor(TOPIC), torch.tensor(MEME), record_keys(), MEMES)
    expected = [[(topic, meme) in RECORDS for meme in MEME] for topic in TOPIC]
    assert ours.tolist() == expected
    assert expected[0][5] and expected[4][1], "records without a row of their own"
    assert expected[2] == expected[5] and expected[3][2], "a topic's and a meme's other row"


def test_positives_at_the_ends_of_the_table():
    for records in ({(0, 0)}, {(3, 8)}, {(0, 8), (1, 0)}):
        ours = topic_positives(torch.arange(4), torch.arange(MEMES), record_keys(records), MEMES)
        assert {tuple(pair) for pair in ours.nonzero().tolist()} == records


def slow_decorrelation(queries, memes):
    """DRL's formula: Σ_i (C_ii - 1)² + 0.06 Σ_{i≠j} C_ij², as its code has it (Wang et al. 2022)."""
    n = len(queries)

    def standardised(rows):
        columns = []
        for column in zip(*rows, strict=True):
            mean = sum(column) / n
            deviation = math.sqrt(sum((value - mean) ** 2 for value in column) / (n - 1))
            columns.append([(value - mean) / deviation for value in column])
        return columns

    total = 0.0
    for i, a in enumerate(standardised(queries)):
        for j, b in enumerate(standardised(memes)):
            c = sum(x * y for x, y in zip(a, b, strict=True)) / n
            total += (1 - c) ** 2 if i == j else 0.06 * c**2
    return total


def test_channel_decorrelation_equals_the_formula():
    queries, memes = random_logits(B, DIM, 1), random_logits(B, DIM, 2)
    ours = channel_decorrelation(queries, memes).item()
    assert ours == pytest.approx(slow_decorrelation(queries.tolist(), memes.tolist()), rel=1e-12)
    inputs = (queries.requires_grad_(), memes.requires_grad_())
    torch.autograd.gradcheck(channel_decorrelation, inputs)


def test_channel_decorrelation_survives_a_constant_channel():
    queries, memes = random_logits(B, DIM, 1), random_logits(B, DIM, 2)
    queries[:, 2] = 0.25
    queries.requires_grad_()
    loss = channel_decorrelation(queries, memes)
    loss.backward()
    assert loss.isfinite() and queries.grad.isfinite().all()


# the step


class FeaturesOnly(nn.Module):
    """A model whose features are parameters; `asked` records what a step had it compute."""

    def __init__(self, drawn_present=None):
        super().__init__()
        self.sentence, self.pooled, self.caption, self.drawn = (
            nn.Parameter(F.normalize(random_logits(B, DIM, seed), dim=-1)) for seed in (1, 2, 3, 4)
        )
        self.backbone = nn.Module()
        self.backbone.logit_scale = nn.Parameter(torch.tensor(math.log(7.0), dtype=torch.float64))
        self.drawn_present = drawn_present
        self.asked = set()

    def encode_texts(self, batch):
        return {}

    def encode_queries(self, ids, mask, known):
        return {"sentence": self.sentence}

    def encode_memes(self, batch, image=True, caption=True):
        self.asked |= {name for name, asked in (("image", image), ("caption", caption)) if asked}
        features = {"caption": self.caption} if caption else {}
        if image:
            features["pooled"] = self.pooled
            if self.drawn_present is not None:
                features |= {"drawn_sentence": self.drawn, "drawn_present": torch.tensor(self.drawn_present)}
        return features

    def similarities(self, queries, memes, names):
        self.asked |= set(names)
        q = queries["sentence"]
        scores = {"qi": lambda: q @ memes["pooled"].T, "qc": lambda: q @ memes["caption"].T}
        scores["fused"] = lambda: 0.3 * scores["qi"]() + 0.7 * scores["qc"]()
        return {name: scores[name]() for name in names}


BATCH = {"query_ids": None, "query_mask": None, "topic": torch.tensor(TOPIC), "meme": torch.tensor(MEME)}


def step_of(model, weights=(1.0, 1.0, 1.0), positives="topic", cdcr_lambda=0.0):
    keys = record_keys() if positives == "topic" else None
    return TrainingStep(model, weights, keys, MEMES, cdcr_lambda)


def slow_scores(model):
    """{name: (B, B) nested lists}, scaled."""
    lists = {name: getattr(model, name).tolist() for name in ("sentence", "pooled", "caption", "drawn")}

    def logits(queries, memes):
        return [[7.0 * sum(a * b for a, b in zip(q, m, strict=True)) for m in lists[memes]] for q in lists[queries]]

    qi, qc = logits("sentence", "pooled"), logits("sentence", "caption")
    fused = [[0.3 * a + 0.7 * b for a, b in zip(*rows, strict=True)] for rows in zip(qi, qc, strict=True)]
    return {"fused": fused, "qi": qi, "qc": qc, "drawn": logits("drawn", "pooled")}


def slow_positives(kind):
    if kind == "instance":
        return [[i == j for j in range(B)] for i in range(B)]
    return [[(topic, meme) in RECORDS for meme in MEME] for topic in TOPIC]


def transposed(rows):
    return [list(column) for column in zip(*rows, strict=True)]


def slow_loss(logits, positives):
    rows = slow.info_nce(logits, positives)
    columns = slow.info_nce(transposed(logits), transposed(positives))
    return (sum(rows) / len(rows) + sum(columns) / len(columns)) / 2


@pytest.mark.parametrize("positives", ["topic", "instance"])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.0), (0.0, 0.0, 3.0)])
def test_the_loss_is_the_weighted_sum_of_the_symmetric_losses(weights, positives):
    model = FeaturesOnly()
    total, parts = step_of(model, weights, positives)(BATCH)
    scores = slow_scores(model)
    expected = {name: slow_loss(scores[name], slow_positives(positives)) for name in ("fused", "qi", "qc")}
    kept = {name: value for name, value in zip(expected, weights, strict=True) if value}
    assert parts.keys() == kept.keys()
    for name in kept:
        assert parts[name].item() == pytest.approx(expected[name], abs=1e-12)
    assert total.item() == pytest.approx(sum(weight * expected[name] for name, weight in kept.items()), abs=1e-12)


def test_with_one_positive_each_topic_and_instance_are_clips_loss():
    model, batch = FeaturesOnly(), BATCH | {"topic": torch.arange(B), "meme": torch.arange(B)}
    keys = torch.tensor([i * MEMES + i for i in range(B)])
    scores, target = slow_scores(model), torch.arange(B)
    for step in (TrainingStep(model, (1.0, 1.0, 1.0), keys, MEMES), step_of(model, positives="instance")):
        _, parts = step(batch)
        for name, ours in parts.items():
            logits = torch.tensor(scores[name], dtype=torch.float64)
            clips = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
            torch.testing.assert_close(ours, clips, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("weights", "asked"),
    [
        ((1.0, 1.0, 1.0), {"image", "caption", "fused", "qi", "qc"}),
        ((0.0, 1.0, 0.0), {"image", "qi"}),
        ((0.0, 0.0, 1.0), {"caption", "qc"}),
        ((1.0, 0.0, 0.0), {"image", "caption", "fused"}),
    ],
)
def test_what_has_weight_zero_is_not_computed(weights, asked):
    model = FeaturesOnly()
    step_of(model, weights)(BATCH)
    assert model.asked == asked


@pytest.mark.parametrize("present", [[True] * B, [True, False, True, False, True, True], [False] * B])
@pytest.mark.parametrize("positives", ["topic", "instance"])
def test_a_drawn_caption_is_one_more_query_of_the_qi_loss_alone(positives, present):
    model = FeaturesOnly(present)
    total, parts = step_of(model, positives=positives)(BATCH)
    scores, right = slow_scores(model), slow_positives(positives)
    own = [[MEME[i] == MEME[j] if positives == "topic" else i == j for j in range(B)] for i in range(B)]
    drawn = [i for i in range(B) if present[i]]
    expected = {name: slow_loss(scores[name], right) for name in ("fused", "qc")}
    expected["qi"] = slow_loss(
        scores["qi"] + [scores["drawn"][i] for i in drawn],
        right + [own[i] for i in drawn],
    )
    for name in parts:
        assert parts[name].item() == pytest.approx(expected[name], abs=1e-12), name
    assert total.item() == pytest.approx(sum(expected.values()), abs=1e-12)
    total.backward()
    assert model.drawn.grad.isfinite().all()
    assert [bool(row.abs().max() > 0) for row in model.drawn.grad] == present


@pytest.mark.parametrize("cdcr_lambda", [0.25, 2.0])
def test_decorrelation_is_added_with_its_weight(cdcr_lambda):
    model = FeaturesOnly()
    plain, _ = step_of(model)(BATCH)
    total, parts = step_of(model, cdcr_lambda=cdcr_lambda)(BATCH)
    expected = slow_decorrelation(model.sentence.tolist(), model.pooled.tolist())
    assert parts["cdcr"].item() == pytest.approx(expected, rel=1e-12)
    assert total.item() == pytest.approx(plain.item() + cdcr_lambda * expected, rel=1e-12)


def test_decorrelation_belongs_to_qi_and_is_off_where_qc_alone_is_trained():
    """The second stage of --co_train staged."""
    model = FeaturesOnly()
    total, parts = step_of(model, (0.0, 0.0, 1.0), cdcr_lambda=0.5)(BATCH)
    assert parts.keys() == {"qc"} and total.item() == pytest.approx(parts["qc"].item())


@pytest.mark.parametrize("positives", ["topic", "instance"])
def test_the_gradient_of_the_whole_step(positives):
    model = FeaturesOnly([True, False, True, True, False, True])
    step = step_of(model, (0.5, 1.0, 2.0), positives, cdcr_lambda=0.1)
    names = [name for name, _ in step.named_parameters()]

    def loss(*values):
        return torch.func.functional_call(step, dict(zip(names, values, strict=True)), (BATCH,))[0]

    inputs = tuple(parameter.detach().clone().requires_grad_() for parameter in step.parameters())
    torch.autograd.gradcheck(loss, inputs, fast_mode=True)
