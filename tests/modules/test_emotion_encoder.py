"""Emotion words -> vectors -> the image: against transformers' BERT, a four-channel convolution, and hand values."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import modules.emotion_encoder
from dataloaders.meme_records import emotion_ids
from engine.build_model import build_model
from engine.checkpoint import model_state
from engine.optimizer import make_optimizer, parameter_groups, set_learning_rate
from engine.training_step import TrainingStep
from modules.backbones import openai
from modules.backbones.openai import CLIP
from modules.choices import EMOTION_ENCODERS
from modules.emotion_encoder import (
    EmotionChannel,
    EmotionToken,
    EmotionVectors,
    bert_vectors,
    clip_vectors,
)
from tests.conftest import ROOT
from tests.model_parts import (
    SMALL,
    WORDS,
    LetterTokenizer,
    batch_of,
    import_transformers,
    letters_for_tokens,
    random_records,
    randomised,
    small_model,
    words_of,
)
from util import InputError

ONLY_IMAGE = ("--branches", "qi", "--caption_fusion", "none")


# vectors


def test_words_outside_the_vocabulary_are_unknown_and_no_words_are_none():
    index = EmotionVectors(WORDS, dim=4).index_of
    assert index == {"none": 0, "unknown": 1, "angry": 2, "happy": 3, "sad": 4}
    assert emotion_ids(["sad", "puzzled", "angry"], index) == [4, 1, 2]
    assert emotion_ids([], index) == [0]


@pytest.mark.parametrize("kind", ["frozen", "learned"])
def test_a_memes_emotion_is_the_mean_over_its_persons(kind):
    rows = torch.tensor([[10.0, 0.0], [1.0, 2.0], [3.0, 5.0], [8.0, -1.0]], dtype=torch.float64)  # none, then WORDS
    vectors = EmotionVectors(WORDS, rows) if kind == "frozen" else EmotionVectors(WORDS, dim=2).double()
    if kind == "learned":
        vectors.rows.data.copy_(rows)
    ids = torch.tensor([[0, -1, -1], [1, -1, -1], [3, -1, -1], [2, 4, -1], [3, 3, 4], [1, 2, -1]])
    expected = [
        [10, 0],
        [4, 2],
        [3, 5],
        [4.5, 0.5],
        [14 / 3, 3],
        [2.5, 2],
    ]  # unknown: the mean of the words, not of none
    torch.testing.assert_close(vectors(ids), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(vectors(ids[:, :2])[:4], torch.tensor(expected[:4], dtype=torch.float64))


def test_a_frozen_encoders_vectors_are_stored_but_not_trained_and_learned_ones_are():
    frozen, learned = EmotionVectors(WORDS, torch.randn(4, 8)), EmotionVectors(WORDS, dim=8)
    assert list(frozen.state_dict()) == list(learned.state_dict()) == ["rows"]
    assert [len(list(vectors.parameters())) for vectors in (frozen, learned)] == [0, 1]


def test_a_train_split_without_emotions_has_vectors_too():
    vectors = EmotionVectors([], torch.tensor([[1.0, 2.0]]))
    assert vectors(torch.tensor([[0], [1]])).tolist() == [[1, 2], [1, 2]]


# encoders


@torch.no_grad()
def test_clip_vectors_are_the_end_of_text_features_of_each_word_alone():
    clip, tokenizer = randomised(CLIP(SMALL)), LetterTokenizer()
    clip.tokenizer = tokenizer
    vectors = clip_vectors(WORDS, clip)
    for word, vector in zip(["none", *WORDS], vectors, strict=True):
        ids, _ = tokenizer.tokenize(word, SMALL.context_length)
        torch.testing.assert_close(vector, words_of(clip, torch.tensor([ids]))[0, -1], rtol=0, atol=1e-5)


def test_clips_vectors_are_those_of_the_tower_as_loaded_and_it_runs_once_per_word(monkeypatch):
    seen = []
    original = CLIP.text_features

    def counted(self, ids, mask):
        seen.append(len(ids))
        return original(self, ids, mask)

    monkeypatch.setattr(CLIP, "text_features", counted)
    model, _ = small_model("--emotion_encoder", "clip", *ONLY_IMAGE)
    assert seen == [1 + len(WORDS)]
    before = model.emotion_vectors.rows.clone()
    torch.testing.assert_close(before, clip_vectors(WORDS, model.backbone))
    seen.clear()
    randomised(model.backbone)
    model.encode_memes(batch_of(random_records()))
    assert seen == [] and torch.equal(model.emotion_vectors.rows, before)


def test_published_weights_bring_clips_vectors_and_a_start_from_scratch_learned_ones(tmp_path, monkeypatch):
    model, args = small_model(*ONLY_IMAGE)
    assert isinstance(model.emotion_vectors.rows, torch.nn.Parameter)
    torch.save(model.backbone.state_dict(), tmp_path / "clip.pt")
    args.pretrained_clip_name = str(tmp_path / "clip.pt")
    args.clip_activation, args.clip_heads = "quick_gelu", [1, 1]
    monkeypatch.setattr(openai, "VOCABULARY", SMALL.vocab_size)
    with letters_for_tokens():
        loaded, _, _ = build_model(args, WORDS)
    torch.testing.assert_close(loaded.emotion_vectors.rows, clip_vectors(WORDS, model.backbone))
    assert "emotion_vectors.rows" not in dict(loaded.named_parameters())


@pytest.fixture
def tiny_bert(tmp_path):
    """A folder with a small random BERT; of two words the second is cut into two pieces."""
    transformers = import_transformers()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "none", "angry", "hap", "##py", "sad"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(pieces),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=16,
    )
    bert = transformers.BertModel(config)
    randomised(bert)
    bert.save_pretrained(tmp_path)
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    return tmp_path, bert.eval()


@torch.no_grad()
def test_bert_vectors_are_the_cls_output_of_each_word_alone(tiny_bert):
    folder, bert = tiny_bert
    vectors = bert_vectors(WORDS, None, str(folder))
    pieces = [[2, 5, 3], [2, 6, 3], [2, 7, 8, 3], [2, 9, 3]]  # [CLS] ... [SEP]
    for ids, vector in zip(pieces, vectors, strict=True):
        torch.testing.assert_close(vector, bert(torch.tensor([ids])).last_hidden_state[0, 0], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name, function in EMOTION_ENCODERS.items() if function])
def test_an_encoder_gives_none_and_each_word_a_vector_of_its_own(name, request):
    bert = str(request.getfixturevalue("tiny_bert")[0]) if name == "bert" else "unused"
    clip = randomised(CLIP(SMALL))
    clip.tokenizer = LetterTokenizer()
    encoder = getattr(modules.emotion_encoder, EMOTION_ENCODERS[name])
    vectors, backwards = (encoder(words, clip, bert) for words in (WORDS, WORDS[::-1]))
    assert vectors.shape == (1 + len(WORDS), vectors.shape[1]) and vectors.dtype == torch.float32
    torch.testing.assert_close(backwards, vectors[[0, 3, 2, 1]], rtol=0, atol=1e-5)
    assert torch.pdist(vectors).min() > 1e-3


def test_bert_runs_in_a_fresh_process(tiny_bert):
    """Where nothing else has imported torchvision, which transformers looks for, beforehand."""
    call = f"bert_vectors({WORDS}, None, {str(tiny_bert[0])!r})"
    code = f"from modules.emotion_encoder import bert_vectors; print({call}.shape)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "[4, 24]" in done.stdout, done.stderr


def test_a_bert_stored_in_half_precision_gives_vectors_for_a_model_in_fp32(tiny_bert):
    folder, bert = tiny_bert
    bert.half().save_pretrained(folder)
    assert bert_vectors(WORDS, None, str(folder)).dtype == torch.float32


def test_a_bert_that_is_not_there_is_named_with_the_places_looked_at(tmp_path):
    import_transformers()
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="--bert_name") as error:
            bert_vectors(WORDS, None, str(folder))
        assert str(folder) in str(error.value) and "HF_HOME" in str(error.value)


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"requirements-hf\.txt"):
        bert_vectors(WORDS, None, "bert-base-uncased")


def test_a_model_from_a_checkpoint_needs_no_bert(tiny_bert, monkeypatch):
    folder, _ = tiny_bert
    model, args = small_model("--emotion_encoder", "bert", "--bert_name", str(folder), *ONLY_IMAGE)
    randomised(model)
    saved = model_state(model, args)
    monkeypatch.setitem(sys.modules, "transformers", None)
    again, _, _ = build_model(args, ["other words"], saved)
    assert again.emotion_vectors.index_of == model.emotion_vectors.index_of
    batch = batch_of(random_records())
    ours, expected = again.eval().encode_memes(batch), model.encode_memes(batch)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


# into the image


def test_the_channel_is_a_fourth_channel_of_the_patch_embedding():
    conv1 = torch.nn.Conv2d(3, SMALL.vision_width, 8, stride=8, bias=False).double()
    channel = randomised(EmotionChannel(6, SMALL.image_size, conv1).double())
    u, rgb = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 3, 16, 16, dtype=torch.float64)
    ours = conv1(rgb) + channel(u)
    W, b = channel.to_plane.weight, channel.to_plane.bias
    A = torch.stack(
        [torch.stack([(W[16 * y + x] * u).sum(1) + b[16 * y + x] for x in range(16)], 1) for y in range(16)], 1
    )
    four, kernel = torch.cat([rgb, A[:, None]], 1), torch.cat([conv1.weight, channel.conv_e.weight], 1)
    torch.testing.assert_close(ours, F.conv2d(four, kernel, stride=8))


def test_a_coarse_channel_is_the_channel_whose_plane_has_one_value_a_patch():
    model, _ = small_model("--emotion_fusion", "coarse_channel", *ONLY_IMAGE)
    coarse, first = randomised(model.emotion_fusion.double()), model.backbone.first_convolution()
    assert coarse.to_plane.weight.shape == (4, model.emotion_vectors.dim)  # 16 pixels, patches of 8
    fine = EmotionChannel(model.emotion_vectors.dim, 16, first).double()
    patch_of = (torch.arange(16)[:, None] // 8 * 2 + torch.arange(16) // 8).flatten()
    fine.to_plane.weight.data = coarse.to_plane.weight.data[patch_of]
    fine.to_plane.bias.data = coarse.to_plane.bias.data[patch_of]
    fine.conv_e.load_state_dict(coarse.conv_e.state_dict())
    u = torch.randn(5, model.emotion_vectors.dim, dtype=torch.float64)
    torch.testing.assert_close(coarse(u), fine(u))


@torch.no_grad()
def test_a_new_channel_gives_exactly_clips_features():
    model, _ = small_model(*ONLY_IMAGE)
    assert model.emotion_fusion.conv_e.weight.abs().max() == 0 < model.emotion_fusion.to_plane.weight.abs().min()
    pixels, u = torch.randn(3, 3, 16, 16), torch.randn(3, model.emotion_vectors.dim)
    assert torch.equal(model.backbone.visual(pixels, model.emotion_fusion(u)), model.backbone.visual(pixels))


@torch.no_grad()
@pytest.mark.parametrize("visual_tokens", ["cls", "patch"])
def test_at_the_start_channel_and_none_give_the_same_memes_to_the_last_bit(visual_tokens):
    batch = batch_of(random_records())
    flags = ("--visual_tokens", visual_tokens)
    channel, _ = small_model(*flags, "--emotion_fusion", "channel")
    none, _ = small_model(*flags, "--emotion_fusion", "none")
    none.load_state_dict({name: t for name, t in channel.state_dict().items() if not name.startswith("emotion")})
    ours, expected = channel.encode_memes(batch), none.encode_memes(batch)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in ours)


def test_in_the_first_step_conv_e_is_alive_and_w_is_not_and_from_the_second_both_are():
    model, _ = small_model("--freeze_layer_num", "2")
    model.train()
    step = TrainingStep(model, (1.0, 1.0, 1.0))
    optimizer = make_optimizer(parameter_groups(model, 1e-3, 1.0, 1e-2, 0.2))
    parts = model.emotion_fusion
    batch = batch_of(random_records())
    for number in range(3):
        set_learning_rate(optimizer, number, 10, 0.1)
        optimizer.zero_grad()
        step(batch)[0].backward()
        largest = [p.grad.abs().max().item() for p in (parts.to_plane.weight, parts.to_plane.bias, parts.conv_e.weight)]
        assert largest[2] > 0
        assert largest[:2] == [0, 0] if number == 0 else min(largest[:2]) > 0
        optimizer.step()


@pytest.mark.parametrize("fusion", ["channel", "coarse_channel", "token"])
def test_the_emotion_parts_are_never_frozen_with_clip(fusion):
    model, _ = small_model("--emotion_fusion", fusion, "--freeze_layer_num", "2")
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and all(name.startswith("backbone.") for name in frozen)


@torch.no_grad()
def test_the_emotion_token_is_one_more_token_of_the_sequence_and_its_output_is_dropped():
    model, _ = small_model("--emotion_fusion", "token", *ONLY_IMAGE)
    visual = randomised(model.backbone.visual)
    lengths = []
    visual.transformer.register_forward_hook(lambda module, inputs, out: lengths.append((inputs[0], out)))
    fusion = EmotionToken(8, SMALL.vision_width)
    pixels, u = torch.randn(2, 3, 16, 16), torch.randn(2, 8)
    out = visual(pixels, extra_token=fusion(u))
    entered, left = lengths[0]
    assert entered.shape[1] == left.shape[1] == 1 + 4 + 1 and out.shape == (2, 1 + 4, SMALL.embed_dim)
    torch.testing.assert_close(entered[:, -1], visual.ln_pre(u @ fusion.weight.T + fusion.bias))
    torch.testing.assert_close(out, visual.ln_post(left[:, :5]) @ visual.proj)
    assert not torch.allclose(out, visual(pixels))


@pytest.mark.parametrize("fusion", ["channel", "coarse_channel", "token"])
def test_the_emotion_reaches_every_token_once_trained(fusion):
    model, _ = small_model("--emotion_fusion", fusion, "--visual_tokens", "patch", *ONLY_IMAGE)
    randomised(model)
    batch = batch_of(random_records(frames=(2, 1), captions=(0, 0)))
    tokens = [model.encode_memes(batch | {"emotions": torch.tensor([[k], [k]])})["tokens"] for k in (2, 3)]
    assert ((tokens[0] - tokens[1]).abs().amax(dim=2) > 1e-6).all()
