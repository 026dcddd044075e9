"""The whole model: its wiring against loops, padding, batch sizes, absent captions, what is built and computed."""

import itertools

import numpy as np
import pytest
import torch

from engine.build_model import build_model
from engine.checkpoint import model_state
from engine.train_loop import SCORES, Stage
from engine.training_step import TrainingStep
from modules.backbones.openai import CLIP
from modules.image_similarity import TightSimilarity
from modules.interaction import uniform_weights
from tests import slow_formulas as slow
from tests.model_parts import (
    SMALL,
    WORDS,
    batch_of,
    encoded,
    random_records,
    randomised,
    scores_of,
    small_model,
    words_of,
)

POOLS = ("transf_avg", "avg", "clip_top1", "weight_l", "max")
EMOTIONS = ("channel", "token", "none")


def settings():
    """Every header x interaction x visual tokens, and tightTransf; the other flags take turns through them."""
    others = list(itertools.product(POOLS, EMOTIONS, (1, 2, 3), ("learned", "query", "fixed")))
    kinds = list(itertools.product(("meanP", "seqLSTM", "seqTransf"), ("dp", "ti", "wti"), ("cls", "patch")))
    lists = []
    for number, (header, interaction, visual) in enumerate([*kinds, *[("tightTransf", None, "cls")] * 3]):
        # 7 has no common factor with any of the four numbers of values
        pool, emotion, arch, fusion = others[7 * number % len(others)]
        flags = ["--sim_header", header, "--visual_tokens", visual, "--text_pool_type", pool]
        flags += ["--emotion_fusion", emotion, "--fusion", fusion]
        flags += ["--interaction", interaction] if interaction else []
        flags += ["--wti_arch", str(arch)] if interaction == "wti" else []
        flags += ["--linear_patch", "3d"] if number % 4 == 3 else []
        lists.append(flags)
    return lists


SETTINGS = settings()
every_setting = pytest.mark.parametrize("flags", SETTINGS, ids=lambda flags: " ".join(flags[1::2]))


def test_the_settings_below_hold_every_value():
    said = {value for flags in SETTINGS for value in flags}
    assert {*POOLS, *EMOTIONS, "1", "2", "3", "learned", "query", "fixed", "3d", "tightTransf"} <= said


def trained_model(flags, seed=0):
    """A model none of whose parameters stands at zero any more."""
    model, _ = small_model(*flags, seed=seed)
    return randomised(model)


# padding and batches


@torch.no_grad()
@every_setting
def test_contents_of_padding_change_nothing_to_the_last_bit(flags):
    model, records = trained_model(flags), random_records()
    for more in (0, 2):
        plain = scores_of(model, batch_of(records, more))
        for seed in (1, 2):
            other = batch_of(records, more, garbage=torch.Generator().manual_seed(seed))
            ours = scores_of(model, other)
            assert ours.keys() == {"qi", "qc", "fused"}
            for name in ours:
                assert ours[name].isfinite().all() and torch.equal(ours[name], plain[name]), name


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["fp32", "float64"])
@every_setting
def test_other_padding_and_batch_sizes_change_next_to_nothing(flags, dtype, bound):
    model, records = trained_model(flags).to(dtype), random_records()
    plain = scores_of(model, batch_of(records))
    longer = scores_of(model, batch_of(records, more=3, garbage=torch.Generator().manual_seed(1)))
    single = [encoded(model, batch_of([record])) for record in records]
    alone = {name: torch.empty_like(scores) for name, scores in plain.items()}
    for i, (query, _) in enumerate(single):
        for j, (_, meme) in enumerate(single):
            for name, score in model.similarities(query, meme).items():
                alone[name][i, j] = score
    for name, scores in plain.items():
        assert scores.dtype == dtype and scores.std() > 100 * bound
        assert (longer[name] - scores).abs().max() < bound, name
        assert (alone[name] - scores).abs().max() < bound, name


def test_gradients_do_not_see_the_contents_of_padding():
    model, records = trained_model(["--visual_tokens", "patch", "--cdcr_lambda", "0.01"]), random_records()
    for i, record in enumerate(records):
        record.drawn = -1 if not record.captions else i % len(record.captions)
    step = TrainingStep(model, (1.0, 1.0, 1.0), cdcr_lambda=0.01)
    gradients = []
    for seed in (None, 1, 2):
        model.zero_grad()
        garbage = None if seed is None else torch.Generator().manual_seed(seed)
        step(batch_of(records, 1, garbage))[0].backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        before_softmax = name.endswith("_weights.network.2.bias")  # 0 but for rounding
        assert gradient.isfinite().all() and (before_softmax or gradient.abs().max() > 0), name
        for other in gradients[1:]:
            assert torch.equal(gradient, other[name]), name


# wiring


def slow_score(model, flags, record):
    """(QI, QC, fused) of a record's own query and meme, from the towers' outputs by the formulas."""
    value = dict(zip(flags[::2], flags[1::2], strict=True))
    tokens_cls = value.get("--visual_tokens", "cls") == "cls"
    per_frame = 1 if tokens_cls else SMALL.grid**2
    kind = value.get("--sim_header", "seqTransf")
    interaction = value.get("--interaction", "wti")

    def towers(ids):
        return words_of(model.backbone, torch.tensor([ids]))[0].numpy()

    words = towers(record.query)
    captions = np.array([towers(ids)[-1] for ids in record.captions])
    vectors = torch.stack([model.emotion_vectors.table()[e] for e in record.emotions])
    embedded = model.emotion_fusion(vectors.mean(0, keepdim=True))
    placed = {"patch_bias": embedded} if embedded.ndim == 4 else {"extra_token": embedded}
    seen = [model.backbone.normalise(frame[None], torch.float64) for frame in record.frames]
    frames = [model.backbone.visual(pixels, **placed)[0] for pixels in seen]
    tokens = torch.cat([frame[:1] if tokens_cls else frame[1:] for frame in frames]).numpy()
    assert len(tokens) == len(record.frames) * per_frame
    w = slow.numbers_of(model)
    if "--caption_fusion" not in value:
        tokens = slow.caption_attention(tokens, captions, slow.below(w, "caption_attention."))
    aggregator = slow.below(w, "aggregator.")
    if kind == "seqTransf":
        placed = np.stack([t + aggregator["positions.embedding"][n // per_frame] for n, t in enumerate(tokens)])
        tokens = tokens + slow.transformer(placed, slow.below(aggregator, "transformer."), 2, 1)
    elif kind == "seqLSTM":
        tokens = tokens + slow.lstm(tokens, slow.below(aggregator, "lstm."))
    if interaction == "dp":
        qi = slow.cosine(words[-1], sum(tokens) / len(tokens))
    else:
        weights = [[1 / len(rows)] * len(rows) for rows in (words, tokens)]
        if interaction == "wti":
            similarity = slow.below(w, "image_similarity.")
            weights[0] = slow.token_weights(words, slow.below(similarity, "word_weights."))
            weights[1] = slow.token_weights(tokens, slow.below(similarity, "token_weights."))
        qi = slow.interaction(words, weights[0], tokens, weights[1])
    pool = value.get("--text_pool_type", "transf_avg")
    qc = slow.caption_score(words[-1], captions, pool, slow.below(w, "caption_pooling."))
    alpha = slow.sigmoid(float(w["fusion.theta"]))
    return qi, qc, alpha * qi + (1 - alpha) * qc


@torch.no_grad()
@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--visual_tokens", "patch", "--emotion_fusion", "token", "--text_pool_type", "avg", "--interaction", "ti"],
        ["--sim_header", "seqLSTM", "--caption_fusion", "none", "--text_pool_type", "weight_l", "--wti_arch", "3"],
        ["--sim_header", "meanP", "--interaction", "dp", "--text_pool_type", "clip_top1"],
        ["--sim_header", "meanP", "--caption_fusion", "none", "--text_pool_type", "max"],
    ],
    ids=["default", "patch", "seqLSTM", "meanP", "max"],
)
def test_the_parts_are_joined_as_the_design_says(flags):
    model, records = trained_model(flags).double(), random_records()
    ours = scores_of(model, batch_of(records))
    for i, record in enumerate(records):
        expected = dict(zip(("qi", "qc", "fused"), slow_score(model, flags, record), strict=True))
        for name, score in expected.items():
            assert ours[name][i, i].item() == pytest.approx(score, abs=1e-11), (i, name)


@torch.no_grad()
@pytest.mark.parametrize("emotion", EMOTIONS)
def test_patch_tokens_are_frames_times_patches(emotion):
    model = trained_model(["--visual_tokens", "patch", "--interaction", "ti", "--emotion_fusion", emotion])
    memes = model.encode_memes(batch_of(random_records(frames=(1, 3, 2), captions=(1, 1, 1))))
    patches = SMALL.grid**2
    assert patches == 4 and memes["tokens"].shape == (3, 3 * patches, SMALL.embed_dim)
    mask = torch.arange(3 * patches) < torch.tensor([1, 3, 2])[:, None] * patches
    assert torch.equal(memes["token_weight"], uniform_weights(mask, torch.float32))


@torch.no_grad()
def test_decorrelation_reads_the_unit_mean_token_whatever_the_interaction():
    batch = batch_of(random_records())
    dp, wti = (trained_model(["--interaction", kind, "--cdcr_lambda", "0.1"]) for kind in ("dp", "wti"))
    wti.load_state_dict(dp.state_dict(), strict=False)  # dp has all that makes the tokens
    ours, expected = wti.encode_memes(batch), dp.encode_memes(batch)
    torch.testing.assert_close(ours["pooled"], expected["pooled"])
    assert "pooled" not in trained_model(["--interaction", "wti"]).encode_memes(batch)


@torch.no_grad()
def test_one_caption_per_meme_gives_one_vector_per_meme():
    for pool in POOLS:
        model = trained_model(["--text_pool_type", pool])
        memes = model.encode_memes(batch_of(random_records(frames=(1, 1, 1), captions=(1, 1, 1))))
        assert memes["caption"].shape == ((3, 1, SMALL.embed_dim) if pool == "max" else (3, SMALL.embed_dim))


@torch.no_grad()
def test_scores_are_cosines_and_a_meme_without_captions_has_qc_zero():
    model = trained_model([])
    scores = scores_of(model, batch_of(random_records(captions=(2, 0, 3, 1, 1))))
    assert all(score.abs().max() <= 1 + 1e-6 for score in scores.values())
    assert scores["qc"][:, 1].abs().max() == 0 < scores["qc"][:, 0].abs().min()


@torch.no_grad()
def test_swapping_captions_changes_one_caption_models_only():
    """Co-attention, the mean and the maximum do not know the captions' order; positions and clip_top1 do."""
    records, swapped = random_records(captions=(2, 2, 2, 2, 2)), random_records(captions=(2, 2, 2, 2, 2))
    for record in swapped:
        record.captions.reverse()
    for pool in POOLS:
        model = trained_model(["--text_pool_type", pool]).double()
        one, other = (scores_of(model, batch_of(some)) for some in (records, swapped))
        torch.testing.assert_close(one["qi"], other["qi"])
        assert torch.allclose(one["qc"], other["qc"]) == (pool in ("avg", "max"))


# absent captions


@pytest.mark.parametrize("augmentation", [False, True], ids=["", "augmentation"])
@pytest.mark.parametrize("captions", [(2, 0, 0, 1, 0), (0, 0, 0, 0, 0)], ids=["some without", "all without"])
@pytest.mark.parametrize("pool", POOLS)
def test_gradients_are_finite_without_captions(pool, captions, augmentation):
    flags = ["--cdcr_lambda", "0.01", "--text_pool_type", pool, *(["--caption_augmentation"] if augmentation else [])]
    model, records = trained_model(flags).train(), random_records(captions=captions)
    for record in records:
        record.drawn = (len(record.captions) - 1) if augmentation else None
    loss, parts = TrainingStep(model, (1.0, 1.0, 1.0), cdcr_lambda=0.01)(batch_of(records))
    loss.backward()
    assert loss.isfinite() and all(part.isfinite() for part in parts.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


# caption augmentation


@torch.no_grad()
@pytest.mark.parametrize("interaction", ["dp", "wti"])
def test_a_drawn_caption_is_a_query_and_is_hidden_from_its_own_meme_alone(interaction):
    model = trained_model(["--caption_augmentation", "--interaction", interaction]).double()
    records = random_records(captions=(2, 0, 3, 1, 1))
    drawn = [1, -1, 0, 0, -1]
    for record, number in zip(records, drawn, strict=True):
        record.drawn = number
    memes = model.encode_memes(batch_of(records))
    assert memes["drawn_present"].tolist() == [True, False, True, True, False]
    present = [i for i, number in enumerate(drawn) if number >= 0]
    ours = {name.removeprefix("drawn_"): tensor[present] for name, tensor in memes.items() if "drawn_" in name}
    as_queries = random_records(captions=(2, 0, 3, 1, 1))
    for record, number in zip(as_queries, drawn, strict=True):
        record.drawn = None
        if number >= 0:
            record.query = record.captions[number]
    some = batch_of([as_queries[i] for i in present])
    expected = model.encode_queries(some["query_ids"], some["query_mask"])
    hidden = random_records(captions=(2, 0, 3, 1, 1))
    for record, number in zip(hidden, drawn, strict=True):
        if number >= 0:
            del record.captions[number]
    without, whole = model.encode_memes(batch_of(hidden)), model.encode_memes(batch_of(random_records()))
    torch.testing.assert_close(
        model.similarities(ours, memes, ("qi",))["qi"],
        model.similarities(expected, without, ("qi",))["qi"],
        rtol=0,
        atol=1e-12,
    )
    torch.testing.assert_close(memes["caption"], whole["caption"], rtol=0, atol=1e-12)  # QC still reads it
    name = "pooled" if interaction == "dp" else "tokens"
    same = [torch.allclose(a, b, atol=1e-9) for a, b in zip(memes[name], whole[name], strict=True)]
    assert same == [False, True, False, False, True]


# what is built, trained and computed


def parameter_places(*flags):
    model, _ = small_model(*flags)
    names = dict(model.named_parameters())
    return {
        ".".join(name.split(".")[:2]) if name.startswith("backbone.visual") else name.split(".")[0] for name in names
    }


def test_a_branch_that_is_off_is_not_built():
    image = {
        "emotion_vectors",
        "emotion_fusion",
        "caption_attention",
        "aggregator",
        "image_similarity",
        "backbone.visual",
    }
    assert parameter_places() == {"backbone", *image, "caption_pooling", "fusion"}
    assert parameter_places("--branches", "qi") == {"backbone", *image}
    assert parameter_places("--branches", "qc") == {"backbone", "caption_pooling"}
    assert "caption_attention" not in parameter_places("--caption_fusion", "none")
    assert not {"emotion_vectors", "emotion_fusion"} & parameter_places("--emotion_fusion", "none")
    assert "aggregator" not in parameter_places("--sim_header", "meanP", "--interaction", "wti")
    assert "fusion" not in parameter_places("--fusion", "fixed")


@torch.no_grad()
def test_a_single_branch_is_the_fused_score():
    batch = batch_of(random_records())
    for branch in ("qi", "qc"):
        model, _ = small_model("--branches", branch)
        scores = scores_of(model, batch)
        assert scores.keys() == {branch, "fused"} and torch.equal(scores[branch], scores["fused"])


@torch.no_grad()
def test_what_a_setting_does_not_read_may_be_absent_and_no_tower_runs_in_vain(monkeypatch):
    texts = []
    original = CLIP.text_features

    def counted(self, ids, mask):
        texts.append(len(ids))
        return original(self, ids, mask)

    monkeypatch.setattr(CLIP, "text_features", counted)
    batch = batch_of(random_records())
    caption_keys, image_keys = {"caption_ids", "caption_mask"}, {"pixels", "frame_mask", "emotions"}
    model, _ = small_model("--branches", "qi", "--caption_fusion", "none")
    model.encode_memes({key: tensor for key, tensor in batch.items() if key not in caption_keys})
    assert texts == []
    model, _ = small_model("--branches", "qc")
    model.encode_memes({key: tensor for key, tensor in batch.items() if key not in image_keys})
    assert texts == [7]  # the captions that there are
    model, _ = small_model()
    frames = []
    model.backbone.visual.register_forward_hook(lambda module, inputs, out: frames.append(len(out)))
    features = model.encode_memes(batch, image=False)
    assert features.keys() == {"caption"} and frames == []
    features = model.encode_memes(batch, caption=False)
    assert "caption" not in features and frames == [10]  # the frames that there are


STAGES = [
    ("", (1.0, 1.0, 1.0)),
    ("", (1.0, 0.0, 0.0)),
    ("", (0.0, 1.0, 0.0)),
    ("", (0.0, 0.0, 1.0)),
    ("qi", (0.0, 1.0, 0.0)),
    ("qc", (0.0, 0.0, 1.0)),
]


@pytest.mark.parametrize("frames", [(1, 3, 2), (1, 1, 1)], ids=["animated", "stills"])
@pytest.mark.parametrize(("branch", "weights"), STAGES)
def test_a_loss_reaches_every_parameter_that_its_stage_trains(branch, weights, frames):
    """Several processes wait for every trained parameter's gradient in every step."""
    chosen = [flags for flags in SETTINGS if not branch][::3] or [["--branches", branch]]
    for flags in [*chosen, ["--branches", branch]] if branch else chosen:
        model, _ = small_model(*flags)
        stage = Stage("stage", weights, "fused")
        TrainingStep(model, weights, cdcr_lambda=0.0)(batch_of(random_records(frames, (1, 0, 2))))[0].backward()
        reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        trained = {name for name, _ in model.named_parameters() if stage.trains(name)}
        assert trained <= reached, sorted(trained - reached)
        assert reached <= trained, sorted(reached - trained)
    assert SCORES == ("fused", "qi", "qc")


def test_a_seed_gives_one_branch_the_same_start_as_the_whole_model():
    whole, branch = small_model(seed=3)[0].state_dict(), small_model("--branches", "qi", seed=3)[0].state_dict()
    assert branch and all(torch.equal(tensor, whole[name]) for name, tensor in branch.items())


@torch.no_grad()
@every_setting
def test_a_checkpoint_makes_the_same_model(flags):
    model, args = small_model(*flags, layers=3)  # more than CLIP's: a new model would say that it starts afresh
    randomised(model)
    args.pretrained_clip_name = "no such file.pt"  # and needs no weights file
    args.emotion_encoder = "learned"
    again, weights, notes = build_model(args, [], model_state(model, args))
    assert weights == "from a checkpoint" and notes == []
    batch = batch_of(random_records())
    expected = scores_of(model, batch)
    assert all(torch.equal(score, expected[name]) for name, score in scores_of(again.eval(), batch).items())


@torch.no_grad()
def test_half_precision_is_the_towers_alone():
    model, batch = trained_model([]), batch_of(random_records())
    plain = scores_of(model, batch)
    inside, outside = [], []
    model.backbone.transformer.resblocks[1].mlp.register_forward_hook(lambda m, i, out: inside.append(out.dtype))
    model.aggregator.register_forward_hook(lambda m, i, out: outside.append(out.dtype))
    model.tower_dtype = torch.bfloat16
    scores = scores_of(model, batch)
    assert set(inside) == {torch.bfloat16} and set(outside) == {torch.float32}
    for name, score in scores.items():
        assert score.dtype == torch.float32
        assert 0 < (score - plain[name]).abs().max() < 0.05


@torch.no_grad()
def test_reranking_is_tight_transfs_in_evaluation_alone():
    model = trained_model(["--sim_header", "tightTransf"])
    assert isinstance(model.image_similarity, TightSimilarity)
    queries, memes = encoded(model, batch_of(random_records()))
    reranked = model.image_similarity.rerank(queries, memes, 2)
    every = model.similarities(queries, memes)["qi"]
    assert ((reranked > -1).sum(dim=1) == 2).all()
    torch.testing.assert_close(reranked[reranked > -1], every[reranked > -1])


def test_the_vocabulary_of_emotions_is_part_of_the_model():
    model, _ = small_model()
    assert model.emotion_vectors.words == list(WORDS)
    assert model.emotion_vectors.rows.shape == (1 + len(WORDS), SMALL.embed_dim)


def test_only_the_towers_may_round_to_tf32(monkeypatch):
    model, _ = small_model("--precision", "tf32")
    assert model.tower_tf32 and model.tower_dtype is None
    seen = {}

    def note(name, owner):
        function = getattr(owner, name)

        def noted(*inputs):
            seen[name] = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
            return function(*inputs)

        monkeypatch.setattr(owner, name, noted)

    for name in ("text_features", "image_features"):
        note(name, model.backbone)
    note("scores", model.image_similarity)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    scores_of(model, batch_of(random_records()))
    assert seen == {"text_features": (True, True), "image_features": (True, True), "scores": before}
    assert before[0] is False
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
