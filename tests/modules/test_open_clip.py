"""Towers of open_clip against the library itself: tiny random ones of each of its families, without a network."""

import copy
import io
import json
import shutil
import socket
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.arguments import parse_arguments
from engine.build_model import build_model
from modules.backbones import open_clip
from modules.backbones.protocol import START_LOGIT_SCALE, Needs
from modules.backbones.sources import empty_backbone, load_backbone, restore_backbone
from modules.emotion_encoder import EmotionChannel
from tests.model_parts import padded_ids, write_archive
from tests.open_clip_towers import ARCHITECTURES, import_open_clip, theirs, write_towers
from util import InputError

library = import_open_clip()
TEXTS = [
    "a red picture of WE",
    "Life is!",
    "memes, for when life is red &amp; nothing helps; and nothing helps " * 3,
    "我们 周一",
    "",
    "we  aren't\thappy_sad",
]
ENCODERS = ("xlm-roberta", "bert", "mt5", "m2m")
every_kind = pytest.mark.parametrize("kind", ARCHITECTURES)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """By kind: (Backbone, the library's model, its tokenizer), made once."""
    made = {}

    def of(kind):
        if kind not in made:
            config, weights, name = write_towers(tmp_path_factory.mktemp("towers"), kind)
            made[kind] = load_backbone(name, Needs(), [])[0], *theirs(config, weights)
        return made[kind]

    return of


def batch(backbone, texts, more=0, garbage=None):
    ids = [backbone.tokenizer.tokenize(text, backbone.context_length)[0] for text in texts]
    return padded_ids(ids, min(backbone.context_length, more + max(map(len, ids))), garbage)


def pixels_for(backbone, number=2):
    size = backbone.image_input.size
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1))


def assert_close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


# features


@every_kind
@torch.no_grad()
def test_features_are_the_library_s_own(kind, towers):
    backbone, model, tokenizer = towers(kind)
    words, sentence = backbone.encode_text(*batch(backbone, TEXTS))
    expected = model.encode_text(tokenizer(TEXTS), normalize=False)
    assert_close(sentence, expected)
    assert words.shape == (len(TEXTS), batch(backbone, TEXTS)[0].shape[1], backbone.embed_dim)
    assert expected.std(dim=0).mean() > 0.003  # the texts can be told apart
    pixels = pixels_for(backbone)
    pooled, patches = backbone.encode_image(pixels)
    expected = model.encode_image(pixels, normalize=False)
    assert_close(pooled, expected)
    assert (expected[0] - expected[1]).abs().max() > 0.003
    assert (0 if patches is None else patches.shape[1]) == backbone.patches
    assert torch.equal(backbone.logit_scale, model.logit_scale) and backbone.logit_scale.ndim == 0


@every_kind
@torch.no_grad()
def test_words_are_the_tokens_before_the_pooling_normed_and_projected(kind, towers):
    backbone, model, tokenizer = towers(kind)
    seen = []
    text = model if isinstance(model, library.CLIP) else model.text
    last = text.transformer if kind in ENCODERS else text.ln_final
    handle = last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.encode_text(tokenizer(TEXTS))
    handle.remove()
    [tokens] = seen
    if kind in ENCODERS:
        expected = text.proj(tokens.last_hidden_state)
    elif isinstance(text.text_projection, nn.Linear):
        expected = text.text_projection(tokens)
    else:
        expected = tokens @ text.text_projection
    ids, mask = batch(backbone, TEXTS)
    words, _ = backbone.encode_text(ids, mask)
    assert_close(words[mask], expected[:, : ids.shape[1]][mask])


@every_kind
@torch.no_grad()
def test_neither_padding_nor_neighbours_change_a_text(kind, towers):
    backbone, *_ = towers(kind)
    ids, mask = batch(backbone, TEXTS, more=3, garbage=torch.Generator().manual_seed(0))
    words, sentence = backbone.encode_text(ids, mask)
    for row, text in enumerate(TEXTS):
        alone_ids, alone_mask = batch(backbone, [text])
        alone_words, alone = backbone.encode_text(alone_ids, alone_mask)
        assert_close(sentence[row : row + 1], alone)
        assert_close(words[row : row + 1, : alone_ids.shape[1]], alone_words)


@torch.no_grad()
def test_patches_are_in_the_space_of_what_is_pooled(towers):
    backbone, model, _ = towers("CLIP")
    seen = []
    handle = model.visual.ln_post.register_forward_hook(lambda module, inputs, output: seen.append(output))
    pixels = pixels_for(backbone)
    model.encode_image(pixels)
    handle.remove()
    assert_close(backbone.encode_image(pixels)[1], seen[0][:, 1:] @ model.visual.proj)

    backbone, model, _ = towers("CLIPA")
    handle = model.visual.transformer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.encode_image(pixels)
    handle.remove()
    expected = model.visual.ln_post(seen[1][:, 1:]) @ model.visual.proj
    assert_close(backbone.encode_image(pixels)[1], expected)

    for kind, norm in (("EVA", "fc_norm"), ("gap", "fc_norm")):
        backbone, model, _ = towers(kind)
        pixels, trunk = pixels_for(backbone), model.visual.trunk
        places = trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :]
        expected = model.visual.head(trunk.head(getattr(trunk, norm)(places)))
        assert_close(backbone.encode_image(pixels)[1], expected)

    backbone, model, _ = towers("ConvNeXt")
    pixels, trunk = pixels_for(backbone), model.visual.trunk
    places, norm = trunk.forward_features(pixels).flatten(2).transpose(1, 2), trunk.head.norm
    normed = F.layer_norm(places, places.shape[-1:], norm.weight, norm.bias, norm.eps)
    expected = normed @ model.visual.head.proj.weight.T
    assert_close(backbone.encode_image(pixels)[1], expected)

    backbone, model, _ = towers("SigLIP")
    pixels, trunk = pixels_for(backbone), model.visual.trunk
    places = trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :]
    pool = trunk.attn_pool  # of a single place it takes the value, whatever it asks for
    values = pool.proj(pool.kv(places)[..., places.shape[-1] :])
    expected = trunk.fc_norm(values + pool.mlp(pool.norm(values)))
    assert_close(backbone.encode_image(pixels)[1], expected)

    backbone, *_ = towers("MobileCLIP")  # it pools a mean and projects it: the mean of the patches
    pooled, patches = backbone.encode_image(pixels_for(backbone))
    assert_close(patches.mean(dim=1), pooled)


def test_half_precision_and_other_wrappings_of_the_same_weights(tmp_path):
    config, weights, name = write_towers(tmp_path, "ResNet", half=True)
    model, _ = theirs(config, weights)
    backbone, source = load_backbone(name, Needs(), [])
    assert source == name and {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    pixels = pixels_for(backbone)
    assert_close(backbone.encode_image(pixels)[0], model.encode_image(pixels))
    sizes = SimpleNamespace(image_size=64, context_length=20, vocab_size=49408)
    write_archive(tmp_path / "archive.pt", model.state_dict(), sizes)  # as OpenAI published its ResNets, in fp16
    other, _ = load_backbone(f"open_clip:{config}@{tmp_path / 'archive.pt'}", Needs(), [])
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), other.parameters(), strict=True))
    state = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
    optimizer = {"state": {0: {"step": torch.tensor(9.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]}
    run = {"epoch": 3, "name": "a run of open_clip's", "state_dict": state, "optimizer": optimizer, "global_step": 9}
    torch.save(run | {"scaler": {"scale": 65536.0}, "samples_seen": 576}, tmp_path / "epoch_3.pt")
    other, _ = load_backbone(f"open_clip:{config}@{tmp_path / 'epoch_3.pt'}", Needs(), [])
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), other.parameters(), strict=True))


@every_kind
def test_the_towers_stay_as_in_evaluation(kind, towers):
    backbone = copy.deepcopy(towers(kind)[0]).train()
    pixels, (ids, mask) = pixels_for(backbone), batch(backbone, TEXTS)
    before = {name: tensor.clone() for name, tensor in backbone.named_buffers()}
    first, second = ([*backbone.encode_text(ids, mask), backbone.encode_image(pixels)[0]] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.named_buffers())


@every_kind
def test_all_that_is_trained_is_read(kind, towers):
    backbone = copy.deepcopy(towers(kind)[0])
    backbone.freeze_unreached(patches=False)
    pooled, _ = backbone.encode_image(pixels_for(backbone))
    words, sentence = backbone.encode_text(*batch(backbone, TEXTS))
    (pooled.square().sum() + words.square().sum() + sentence.square().sum()).backward()
    trained = {name: p.grad for name, p in backbone.named_parameters() if p.requires_grad and name != "logit_scale"}
    assert len(trained) > 30 and all(gradient is not None for gradient in trained.values())
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert not any("logit" in name for name in frozen) and len(frozen) <= 4  # such as fixed positions


# emotions


@pytest.mark.parametrize("kind", ["CLIP", "ResNet", "SigLIP", "MobileCLIP", "ConvNeXt"])
@torch.no_grad()
def test_a_channel_joins_the_first_convolution(kind, towers):
    backbone, model, _ = towers(kind)
    first = backbone.first_convolution()
    channel = EmotionChannel(8, backbone.image_input.size, first)
    pixels, vectors = pixels_for(backbone), torch.randn(2, 8, generator=torch.Generator().manual_seed(2))
    plain = backbone.encode_image(pixels)
    for ours, expected in zip(backbone.encode_image(pixels, channel(vectors)), plain, strict=True):
        assert ours is expected is None or torch.equal(ours, expected)
    nn.init.normal_(channel.conv_e.weight, std=0.3)
    planes = channel.to_plane(vectors).view(2, 1, *pixels.shape[2:])
    their_first = next(m for m in model.visual.modules() if isinstance(m, nn.Conv2d))
    wide = copy.deepcopy(their_first)
    wide.in_channels, wide.weight = 4, nn.Parameter(torch.cat([their_first.weight, channel.conv_e.weight], dim=1))
    handle = their_first.register_forward_hook(lambda module, inputs, output: wide(torch.cat([inputs[0], planes], 1)))
    expected = model.encode_image(pixels)
    handle.remove()
    assert_close(backbone.encode_image(pixels, channel(vectors))[0], expected)
    assert (expected - plain[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["CLIP", "CLIPA", "EVA", "gap", "SigLIP"])
@torch.no_grad()
def test_a_token_stands_behind_the_patches_and_is_not_pooled(kind, towers):
    backbone, model, _ = towers(kind)
    pixels = pixels_for(backbone)
    token = torch.randn(2, backbone.token_width, generator=torch.Generator().manual_seed(3))
    if kind in ("CLIP", "CLIPA"):
        visual = model.visual
        x = visual.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(2, 1, -1), x], dim=1) + visual.positional_embedding
        x = visual.transformer(visual.ln_pre(torch.cat([x, token[:, None]], dim=1)))[:, :-1]
        expected = visual._pool(x)[0] @ visual.proj
    else:
        trunk = model.visual.trunk
        x = torch.cat([trunk._pos_embed(trunk.patch_embed(pixels)), token[:, None]], dim=1)
        x = trunk.norm(trunk.blocks(trunk.norm_pre(x))[:, :-1])
        expected = model.visual.head(trunk.forward_head(x))
    pooled, patches = backbone.encode_image(pixels, extra_token=token)
    assert_close(pooled, expected)
    plain = backbone.encode_image(pixels)
    assert (pooled - plain[0]).abs().max() > 1e-3
    assert patches is plain[1] is None or patches.shape == plain[1].shape


@pytest.mark.parametrize("kind", ["CLIP", "ResNet", "SigLIP", "bert"])
@torch.no_grad()
def test_ief_with_unused_emotions_is_the_library_s_towers(kind, tmp_path):
    config, weights, name = write_towers(tmp_path, kind)
    model, tokenizer = theirs(config, weights)
    args, _ = parse_arguments(["--do_train", "--output_dir", "unused", "--pretrained_clip_name", name])
    ief, _, _ = build_model(args, ["happy", "sad"])
    backbone = ief.backbone
    size = backbone.image_input.size
    frames = torch.randint(256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frame_mask = torch.tensor([[True, False], [True, True]])
    features = ief.frame_features(frames, frame_mask, torch.tensor([[2, -1], [3, 2]]))[:, 0]
    pixels = backbone.normalise(frames)
    assert torch.equal(features, backbone.encode_image(pixels)[0])
    assert_close(features, model.encode_image(pixels))
    expected = model.encode_text(tokenizer(["none", "happy", "sad"]))
    assert_close(ief.emotion_vectors.rows, expected)


# tokenizers


def test_the_tokenizer_of_clip_s_vocabulary_is_the_one_here():
    backbone_tokenizer, tokenizer = open_clip.clip_tokenizer(), library.get_tokenizer("ViT-B-32")
    texts = [*TEXTS, "caf\u00e9 \u2018quoted\u2019 &lt;b&gt; 1234", "\U0001f602 \u4f60\u597d", "word " * 100]
    for text, expected in zip(texts, tokenizer(texts), strict=True):
        ids, cut = backbone_tokenizer.tokenize(text, 77)
        assert ids == expected[: len(ids)].tolist() and not expected[len(ids) :].any()
        assert cut == (25 if text.startswith("word") else 0)


@pytest.mark.parametrize("kind", ["CLIPA", "SigLIP", "worldwide", "xlm-roberta", "bert"])
def test_other_tokenizers_clean_cut_and_end_a_text_as_the_library_s(kind, towers):
    backbone, _, tokenizer = towers(kind)
    for text, expected in zip(TEXTS, tokenizer(TEXTS).tolist(), strict=True):
        ids, cut = backbone.tokenizer.tokenize(text, backbone.context_length)
        assert ids + [backbone._pad_id] * (len(expected) - len(ids)) == expected
        assert (cut > 0) == (len(text) > 100)
    ids, _ = backbone.tokenizer.tokenize("we are UNHEARD of", 9)
    assert backbone.tokenizer.unreadable(ids) == 3
    words = "".join(text for text, _ in backbone.tokenizer.pieces(ids[1:3]))
    assert words.startswith("we ")


def test_the_words_that_a_text_is_cleaned_of(towers):
    siglip, plain = (towers(kind)[0].tokenizer for kind in ("SigLIP", "worldwide"))
    assert siglip.tokenize("We, 'we'!", 20) == siglip.tokenize("we we", 20)
    assert plain.tokenize("We  we", 20) == plain.tokenize("we we", 20) != plain.tokenize("We, 'we'!", 20)


# names


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A tag of an architecture of the library's, both made by the test; `download_pretrained` finds the file here."""
    config, weights, _ = write_towers(tmp_path, "ResNet")
    model = json.loads(config.read_text())["model_cfg"]
    monkeypatch.setitem(library.factory._MODEL_CONFIGS, "RN-tiny", model | {"quick_gelu": False})
    cfg = {"file": str(weights), "hf_hub": "tiny/resnet/", "quick_gelu": True, "mean": (0.5, 0.4, 0.3)}
    cfg |= {"std": (0.2, 0.2, 0.1), "interpolation": "bilinear", "resize_mode": "squash"}
    monkeypatch.setitem(library.pretrained._PRETRAINED, "RN-tiny", {"made_here": cfg})
    return config, weights, cfg


def test_a_tag_brings_its_weights_its_images_and_its_activation(published):
    config, weights, _ = published
    notes = []
    backbone, source = load_backbone("open_clip:RN-tiny/made_here", Needs(), notes)
    assert source == f"open_clip:RN-tiny/made_here ({weights})"
    assert backbone.image_input == (64, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), "bilinear")
    assert len(notes) == 2 and "QuickGELU" in notes[0] and "--resize squash" in notes[1]
    model, tokenizer = theirs(config, weights)
    assert_close(backbone.encode_text(*batch(backbone, TEXTS))[1], model.encode_text(tokenizer(TEXTS)))
    file, _ = load_backbone(f"open_clip:RN-tiny@{weights}", Needs(), notes)
    assert file.image_input == backbone.image_input  # all the weights of the architecture agree on that


def test_images_of_a_file_are_as_its_configuration_says_or_as_clip_s(tmp_path):
    preprocessing = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    preprocessing |= {"interpolation": "random", "resize_mode": "longest"}
    _, _, name = write_towers(tmp_path / "told", "CLIP", preprocessing=preprocessing)
    notes = []
    backbone, _ = load_backbone(name, Needs(), notes)
    assert backbone.image_input == (32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic")
    assert len(notes) == 2 and "random" in notes[0] and "--resize pad" in notes[1]
    _, _, name = write_towers(tmp_path / "not told", "CLIP")
    backbone, _ = load_backbone(name, Needs(), notes)
    assert backbone.image_input == (32, open_clip.MEAN, open_clip.STD, "bicubic") and "normalised" in notes[-1]


def test_names_that_lead_nowhere(published, tmp_path, monkeypatch):
    _, weights, cfg = published
    for name, message in {
        "ViT-B-32": "expected open_clip:ARCH/TAG",
        "@": "expected open_clip:ARCH/TAG",
        "ViT-B-23/openai": "no such architecture; like it are .*ViT-B-32",
        "hf-hub:org/repository/tag": "no such architecture",
        "RN-tiny/made_there": "no weights 'made_there' of RN-tiny; it has made_here",
        f"RN-tiny@{tmp_path}/nothing.pt": "no such file",
        f"RN-huge@{weights}": "no such architecture",
        f"coca_ViT-B-32@{weights}": "CoCa",
        f"{weights}.json@{weights}": "a configuration of open_clip",
        f"{tmp_path}/towers.json/tag": "no weights 'tag'",
    }.items():
        with pytest.raises(InputError, match=message):
            load_backbone(f"open_clip:{name}", Needs(), [])

    def download(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr(library, "download_pretrained", download)
    with pytest.raises(InputError, match=r"tiny/resnet/: We couldn't connect.*open_clip:ARCH@FILE"):
        load_backbone("open_clip:RN-tiny/made_here", Needs(), [])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match=r"pip install -r requirements-open_clip\.txt"):
        load_backbone("open_clip:ViT-B-32/openai", Needs(), [])


def test_weights_that_do_not_fit(tmp_path):
    from safetensors.torch import load_file, save_file

    config, weights, name = write_towers(tmp_path, "CLIP")
    state = load_file(weights)
    unfit = {
        r"missing text\.ln_final\.bias": {key: tensor for key, tensor in state.items() if key != "ln_final.bias"},
        r"unexpected visual\.extra": state | {"visual.extra": torch.ones(2)},
        r"visual\.proj: \(64, 23\) in the file": state | {"visual.proj": torch.ones(64, 23)},
        r"text\.positional_embedding: \(21, 16\)": state | {"positional_embedding": torch.ones(21, 16)},
        r"visual\.proj: 1 of its numbers": state | {"visual.proj": torch.ones(64, 24)},
    }
    unfit[r"visual\.proj: 1 of its numbers"]["visual.proj"][3, 4] = torch.nan
    for message, content in unfit.items():
        save_file({key: tensor.contiguous() for key, tensor in content.items()}, weights)
        with pytest.raises(InputError, match=message):
            load_backbone(name, Needs(), [])
    for content in (b"", b"<!doctype html>", weights.read_bytes()[:500], b"version https://git-lfs.github.com/spec/v1"):
        weights.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            load_backbone(name, Needs(), [])
    torch.save({"state_dict": Pickled()}, tmp_path / "code.pt")
    with pytest.raises(InputError, match="can run code"):
        load_backbone(f"open_clip:{config}@{tmp_path / 'code.pt'}", Needs(), [])


class Pickled:
    """What no file of weights holds."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_cfg": {"image_size": [32, 48]}}, "square"),
        ({"vision_cfg": {"no_such_option": 3}}, "no_such_option"),
        ({"vision_cfg": {"attentional_pool": True, "attn_pooler_heads": 2}}, "pooling"),
        ({"vision_cfg": {"pool_type": "none"}}, "pooling"),
        ({"vision_cfg": {"timm_model_name": "hf_hub:someone/model"}}, "timm has no"),
        ({"vision_cfg": {"layers": 1000}}, "layers is 1000"),
        ({"text_cfg": {"embed_cls": True}}, "token of its own"),
        ({"text_cfg": {"vocab_size": 100}}, "vocabulary of 100"),
        ({"text_cfg": {"hf_model_name": "/no/such/folder"}}, "text encoder /no/such/folder"),
        ({"text_cfg": {"hf_tokenizer_name": "/no/such/folder"}}, "tokenizer of /no/such/folder"),
        ({"text_cfg": {"tokenizer_kwargs": {"reduction_mask": "random"}}}, "reduction_mask"),
        ({"embed_dim": "many"}, "no towers can be made"),
    ],
)
def test_configurations_that_are_refused(change, message, tmp_path):
    config, _, name = write_towers(tmp_path, "CLIP")
    content = json.loads(config.read_text())
    for key, value in change.items():
        old = content["model_cfg"][key]
        content["model_cfg"][key] = old | value if isinstance(old, dict) else value
    config.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_backbone(name, Needs(), [])


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"model_cfg": []},
        {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": "x"}},
        {"model_cfg": {"embed_dim": 8, "vision_cfg": 3, "text_cfg": {}}},
        {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": [1]},
        {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": {"mean": 0.5}},
        {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": {"std": "x"}},
        {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": {"resize_mode": [1]}},
        {"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": [[1]]}, "text_cfg": {}}},
        {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"tokenizer_kwargs": "x"}}},
    ],
    ids=str,
)
def test_damaged_configurations(content, tmp_path):
    path = tmp_path / "towers.json"
    path.write_text(json.dumps(content))
    (tmp_path / "weights.pt").touch()
    with pytest.raises(InputError, match=r"towers\.json"):
        load_backbone(f"open_clip:{path}@{tmp_path / 'weights.pt'}", Needs(), [])


def test_what_towers_cannot_do_is_said_before_the_weights_are_read(tmp_path):
    config, weights, name = write_towers(tmp_path, "ResNet")
    weights.write_bytes(b"no weights at all")
    with pytest.raises(InputError, match=r"--emotion_fusion token.*takes no further token.*channel or none"):
        load_backbone(name, Needs(emotion="token"), [])
    with pytest.raises(InputError, match="--visual_tokens patch.*take cls"):
        load_backbone(name, Needs(patches=True), [])
    content = json.loads(config.read_text())
    content["model_cfg"] |= {"embed_dim": 512, "vision_cfg": {"timm_model_name": "vit_pe_core_tiny_patch16_384"}}
    content["model_cfg"]["vision_cfg"] |= {"timm_pool": "map", "timm_proj": None, "image_size": 384}
    config.write_text(json.dumps(content))
    with pytest.raises(InputError, match="takes no further token"):  # it turns its tokens by their places
        load_backbone(name, Needs(emotion="token"), [])
    content["model_cfg"] |= {"vision_cfg": {"timm_model_name": "resnetv2_50x1_bit", "timm_pool": "avg"}}
    config.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"standardises the weights .*\(StdConv2d\)"):
        load_backbone(name, Needs(emotion="channel"), [])


# freezing


EMBEDDINGS = "token_embedding positional_embedding"
OF_VIT = "class_embedding positional_embedding conv1 ln_pre"


@pytest.mark.parametrize(
    ("kind", "text", "image"),
    [
        ("CLIP", EMBEDDINGS, OF_VIT),
        ("ResNet", EMBEDDINGS, "conv1 bn1 conv2 bn2 conv3 bn3"),
        ("EVA", EMBEDDINGS, "trunk.cls_token trunk.pos_embed trunk.patch_embed trunk.norm_pre"),
        ("MobileCLIP", EMBEDDINGS, "trunk.conv_stem trunk.bn1"),
        ("ConvNeXt", EMBEDDINGS, "trunk.stem"),
        ("xlm-roberta", "transformer.embeddings", OF_VIT),
        ("mt5", "transformer.embed_tokens", OF_VIT),
        ("m2m", "transformer.embed_tokens", OF_VIT),
    ],
)
def test_freezing_takes_the_embeddings_and_the_first_blocks(kind, text, image, towers):
    backbone = copy.deepcopy(towers(kind)[0])
    starts = [f"text.tower.{name}" for name in text.split()] + [f"visual.tower.{name}" for name in image.split()]
    first = {"ResNet": "layer1.0", "ConvNeXt": "trunk.stages.0"} | dict.fromkeys(
        ("EVA", "MobileCLIP"), "trunk.blocks.0"
    )
    encoders = {"xlm-roberta": "encoder.layer.0", "mt5": "block.0", "m2m": "layers.0"}
    blocks = [f"visual.tower.{first.get(kind, 'transformer.resblocks.0')}"]
    blocks += [f"text.tower.transformer.{encoders.get(kind, 'resblocks.0')}"]
    for number, expected in ((-1, []), (0, starts), (1, [*starts, *blocks])):
        backbone.requires_grad_(True)
        backbone.freeze_layers(number)
        frozen = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
        inside = tuple(f"{name}." for name in expected)
        assert frozen == {n for n, _ in backbone.named_parameters() if n in expected or n.startswith(inside)}
        assert len(frozen) >= len(expected)


# checkpoints


def saved(recipe):
    """A recipe as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(recipe, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_kind
@torch.no_grad()
def test_a_recipe_makes_the_towers_again_without_files_or_a_network(kind, tmp_path, monkeypatch):
    _, _, name = write_towers(tmp_path / "files", kind)
    backbone, _ = load_backbone(name, Needs(), [])
    recipe = saved(backbone.recipe())
    shutil.rmtree(tmp_path / "files")
    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    empty = empty_backbone(recipe)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    assert {n: t.shape for n, t in empty.state_dict().items()} == {n: t.shape for n, t in backbone.state_dict().items()}
    again = restore_backbone(recipe)
    again.load_state_dict(backbone.state_dict())
    ids, mask = batch(again, TEXTS)
    assert torch.equal(ids, batch(backbone, TEXTS)[0])
    for ours, expected in zip(again.encode_text(ids, mask), backbone.encode_text(ids, mask), strict=True):
        assert torch.equal(ours, expected)
    pixels = pixels_for(backbone)
    assert torch.equal(again.encode_image(pixels)[0], backbone.encode_image(pixels)[0])
    for attribute in ("image_input", "context_length", "embed_dim", "patches", "token_width"):
        assert getattr(again, attribute) == getattr(backbone, attribute)
    assert saved(again.recipe())["configuration"] == recipe["configuration"]


@pytest.mark.parametrize("kind", ["CLIP", "MobileCLIP", "bert"])
def test_without_an_image_tower_there_is_none(kind, tmp_path):
    _, _, name = write_towers(tmp_path, kind)
    backbone, _ = load_backbone(name, Needs(vision=False), [])
    again = restore_backbone(saved(backbone.recipe()), vision=False)
    again.load_state_dict(backbone.state_dict())
    whole, _ = load_backbone(name, Needs(), [])
    for made in (backbone, again):
        assert not hasattr(made, "visual") and not any(name.startswith("visual") for name in made.state_dict())
        assert len(made.layers()[1]) == 1
        assert torch.equal(made.encode_text(*batch(made, TEXTS))[1], whole.encode_text(*batch(whole, TEXTS))[1])


def damaged(recipe, **changes):
    """The recipe with parts of its configuration changed: names in it, joined by __."""
    settings = json.loads(recipe["configuration"])
    for path, value in changes.items():
        *folders, last = path.split("__")
        place = settings
        for folder in folders:
            place = place[folder]
        place[last] = value
    return recipe | {"configuration": json.dumps(settings)}


def test_damaged_recipes(tmp_path):
    recipe, other = (
        load_backbone(write_towers(tmp_path / kind, kind)[2], Needs(), [])[0].recipe() for kind in ("bert", "SigLIP")
    )
    file = torch.zeros(3, dtype=torch.uint8)
    for wrong in (
        {"source": "open_clip"},
        recipe | {"configuration": "{"},
        recipe | {"configuration": "[" * 100_000},
        recipe | {"configuration": "[]"},
        recipe | {"configuration": "{}"},
        recipe | {"configuration": 3},
        recipe | {"tokenizer": {"../../outside.json": file}},
        recipe | {"tokenizer": {"tokenizer.json": file}},
        recipe | {"tokenizer": {}},
        recipe | {"tokenizer": {"tokenization.py": file}},
        damaged(recipe, model__embed_dim=-1),
        damaged(recipe, model__embed_dim=2**40),
        damaged(recipe, model__vision_cfg__layers=10**9),
        damaged(recipe, model__vision_cfg__layers=[10**9] * 4),
        damaged(recipe, model__vision_cfg__patch_size=0),
        damaged(recipe, model__vision_cfg=None),
        damaged(recipe, encoder=None),
        damaged(recipe, encoder__num_hidden_layers=10**6),
        damaged(recipe, encoder__model_type="gpt2"),
        damaged(recipe, encoder__auto_map={"AutoModel": "code.Model"}),
        damaged(recipe, encoder___attn_implementation="someone/kernel"),
        damaged(recipe, tokenizer__clean="eval"),
        damaged(recipe, tokenizer=None),
        damaged(recipe, image__size=10**9),
        damaged(recipe, image__size="32"),
        damaged(recipe, image__mean=[0.5]),
        damaged(recipe, image__std=[1, 1, 0]),
        damaged(recipe, image__interpolation=3),
        damaged(other, model__vision_cfg__timm_model_name="hf-hub:someone/model"),
        damaged(other, model__vision_cfg__timm_model_name="vit_tiny_patch16_224"),
        damaged(other, model__text_cfg__pool_type="all"),
        damaged(other, model__text_cfg__norm_kwargs={"eps": None}),
    ):
        with pytest.raises(InputError):
            restore_backbone(wrong)
    assert not (tmp_path.parent / "outside.json").exists()


def test_a_temperature_beyond_the_bound_is_clamped(tmp_path):
    from safetensors.torch import load_file, save_file

    _, weights, name = write_towers(tmp_path, "CLIP")
    state = load_file(weights)
    assert state["logit_scale"].item() == pytest.approx(START_LOGIT_SCALE)
    save_file(state | {"logit_scale": torch.tensor([9.0])}, weights)  # some are stored as an array of one
    backbone, _ = load_backbone(name, Needs(), [])
    assert backbone.logit_scale.exp().item() == pytest.approx(100)
