"""Pairs of towers against timm's, transformers' and sentence-transformers' own features; what is refused; restoring."""

import functools
import json
import socket
import sys

import pytest
import torch
import torch.nn.functional as F

from engine.arguments import parse_arguments
from engine.build_model import build_model
from modules.backbones import timm_tower
from modules.backbones.pair import load, parse
from modules.backbones.protocol import ImageInput, Needs
from modules.backbones.sources import empty_backbone, load_backbone, restore_backbone
from modules.emotion_encoder import EmotionChannel, EmotionToken, clip_vectors
from tests.model_parts import import_transformers
from tests.pair_models import (
    CONTEXT,
    IMAGES,
    TEXTS,
    WIDTH,
    import_timm,
    padded,
    random_network,
    write_image,
    write_pair,
    write_pooling,
    write_text,
)
from tests.tower_protocol import check_towers
from util import InputError

POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def loaded(name, needs=None, embed_dim=16, notes=None):
    torch.manual_seed(0)
    needs = (needs or Needs())._replace(embed_dim=embed_dim)
    return load_backbone(name, needs, [] if notes is None else notes)[0]


def pixels_of(backbone, number=3, seed=0):
    size = backbone.image_input.size
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def names(folder):
    return {image: write_pair(folder / image, image) for image in IMAGES}


@pytest.fixture(scope="module")
def pairs(names):
    return {image: loaded(name) for image, name in names.items()}


@pytest.mark.parametrize("image", IMAGES)
def test_they_keep_to_the_protocol(pairs, image):
    check_towers(pairs[image])


# --- features


@torch.no_grad()
@pytest.mark.parametrize("image", IMAGES)
def test_images_features_are_timms_before_its_classifier(pairs, names, image):
    backbone = pairs[image].train()
    network = random_network(image)
    pixels = pixels_of(backbone)
    features = network.forward_features(pixels)
    expected = network.forward_head(features, pre_logits=True)
    pooled, patches = backbone.image_features(pixels)
    assert (pooled - expected).abs().max() < 1e-5 * expected.abs().max()
    places = features[:, 1:] if features.ndim == 3 else features.flatten(2).transpose(1, 2)
    if image == "test_convnext":
        places = network.head.norm(places.flatten(0, 1)[:, :, None, None]).view(places.shape)
    assert (patches - places).abs().max() < 1e-5 * places.abs().max()
    assert patches.shape[1] == backbone.patches == places.shape[1]
    projected = backbone.encode_image(pixels)
    weight = backbone.image_projection.weight
    assert torch.allclose(projected[0], expected @ weight.T, atol=1e-4)
    assert torch.allclose(projected[1], patches @ weight.T, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("image", ["test_efficientnet", "test_resnet"])
def test_where_the_mean_of_places_is_pooled_the_patches_have_that_mean(pairs, image):
    pooled, patches = pairs[image].image_features(pixels_of(pairs[image]))
    assert (patches.mean(dim=1) - pooled).abs().max() < 1e-5 * pooled.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("pool", ["token", "avg", "map"])
@pytest.mark.parametrize("registers", [0, 2])
def test_a_patch_is_what_an_image_of_that_place_alone_would_pool_to(pool, registers):
    network = random_network("test_vit", global_pool=pool, reg_tokens=registers, class_token=pool != "map")
    network.reset_classifier(0, pool)
    features = network.forward_features(torch.randn(2, 3, 160, 160))
    before = network.num_prefix_tokens
    tower = timm_tower.TimmTower(network, True)
    patches = timm_tower.patches_of(network, features, tower.pooled)
    assert patches.shape == (2, 100, 64)
    for place in (0, 57, 99):
        here = features[:, before + place][:, None]
        alone = here if pool == "token" else torch.cat([features[:, :before], here], dim=1)
        assert torch.allclose(patches[:, place], network.forward_head(alone, pre_logits=True), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("mode", POOLINGS)
def test_sentences_are_those_of_sentence_transformers(tmp_path, names, mode, unit):
    import_transformers()
    library = pytest.importorskip("sentence_transformers")
    write_text(tmp_path)
    write_pooling(tmp_path, mode, unit)
    image, _, _ = names["test_resnet"].rpartition("+")
    backbone = loaded(f"{image}+{tmp_path}").train()
    expected = torch.tensor(library.SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS))
    for number, more in ((2, 5), (3, 0)):  # the third fills the context
        ids, mask = padded(backbone.tokenizer, TEXTS[:number], backbone.context_length, more)
        words, sentences = backbone.text_features(ids, mask)
        assert words.shape == (number, ids.shape[1], WIDTH)
        assert (sentences - expected[:number]).abs().max() < 1e-5
    assert (sentences.norm(dim=1) - 1).abs().max() < 1e-5 or not unit
    projected = backbone.encode_text(ids, mask)
    assert torch.allclose(projected[1], expected @ backbone.text_projection.weight.T, atol=1e-5)
    assert torch.allclose(projected[0], words @ backbone.text_projection.weight.T, atol=1e-5)


@torch.no_grad()
def test_poolings_by_the_names_of_later_versions(tmp_path, names):
    import_transformers()
    library = pytest.importorskip("sentence_transformers")
    write_text(tmp_path / "plain")
    plain = library.SentenceTransformer(str(tmp_path / "plain"), device="cpu")
    width = plain.get_embedding_dimension()
    pooling = library.models.Pooling(width, pooling_mode="lasttoken")
    whole = library.SentenceTransformer(modules=[plain[0], pooling, library.models.Normalize()], device="cpu")
    whole.save(str(tmp_path / "whole"))
    image, _, _ = names["test_resnet"].rpartition("+")
    notes = []
    backbone = loaded(f"{image}+{tmp_path / 'whole'}", notes=notes)
    ids, mask = padded(backbone.tokenizer, TEXTS, backbone.context_length)
    assert (backbone.text_features(ids, mask)[1] - torch.tensor(whole.encode(TEXTS))).abs().max() < 1e-5
    assert not notes


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "mpnet", "electra", "distilbert", "deberta-v2"])
def test_words_are_the_last_hidden_states_however_far_they_are_padded(tmp_path, names, kind):
    more = {"dim": WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 48} if kind == "distilbert" else {}
    theirs = write_text(tmp_path, kind, pad_token_id=0, **more)
    image, _, _ = names["test_resnet"].rpartition("+")
    notes = []
    backbone = loaded(f"{image}+{tmp_path}", notes=notes)
    assert "by their mean" in notes[0]
    ids, mask = padded(backbone.tokenizer, TEXTS, backbone.context_length - 5, more=5)
    ids[~mask] = 7
    words, sentences = backbone.text_features(ids, mask)
    for row, sentence, own, there in zip(words, sentences, ids, mask, strict=True):
        expected = theirs(input_ids=own[there][None]).last_hidden_state[0]
        assert (row[there] - expected).abs().max() < 1e-5
        assert (sentence - expected.mean(dim=0)).abs().max() < 1e-5
    backbone.freeze_unreached(patches=False)
    assert all(parameter.requires_grad for parameter in backbone.parameters())  # no pooler that nothing reads


def test_towers_have_no_dropout_and_their_own_statistics_in_training(pairs):
    for image in ("test_resnet", "test_vit"):
        backbone = pairs[image]
        backbone.train()
        assert backbone.text.encoder.config.hidden_dropout_prob == 0.1
        before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
        ids, mask = padded(backbone.tokenizer, TEXTS, CONTEXT)
        first = [*backbone.encode_text(ids, mask), *backbone.encode_image(pixels_of(backbone))]
        again = [*backbone.encode_text(ids, mask), *backbone.encode_image(pixels_of(backbone))]
        assert all(map(torch.equal, first, again))
        assert all(torch.equal(buffer, before[name]) for name, buffer in backbone.named_buffers())


def test_the_context_is_the_least_that_is_said_of_it(tmp_path, names):
    image, _, _ = names["test_resnet"].rpartition("+")
    for kind, settings, expected in [
        ("bert", {}, CONTEXT),
        ("bert", {"max_seq_length": 10}, 10),
        ("roberta", {"max_seq_length": 100}, CONTEXT - 2),  # its positions begin behind that of padding
        ("bert", {"max_seq_length": None}, CONTEXT),
    ]:
        write_text(tmp_path, kind, pad_token_id=1 if kind == "roberta" else 0)
        write_pooling(tmp_path, "pooling_mode_mean_tokens", False, **settings)
        backbone = loaded(f"{image}+{tmp_path}")
        assert backbone.context_length == expected
        ids, mask = padded(backbone.tokenizer, ["red " * 50], expected)
        assert ids.shape[1] == expected and backbone.text_features(ids, mask)[1].isfinite().all()


# --- emotions


@pytest.mark.parametrize("image", [*IMAGES, "tf_efficientnet_lite0"])
def test_the_emotion_channel_is_one_of_the_first_convolution(folder, names, pairs, image):
    if image not in pairs:  # its padding is not the same on both sides
        write_image(folder / "lite.safetensors", image)
        pairs[image] = loaded(f"pair:{image}@{folder / 'lite.safetensors'}+{folder / 'test_vit' / 'text'}")
    backbone = pairs[image]
    first = backbone.first_convolution()
    channel = EmotionChannel(5, backbone.image_input.size, first)
    assert type(channel.conv_e) is type(first)
    pixels = pixels_of(backbone, 2)
    plain, places = backbone.image_features(pixels)
    bias = channel(torch.randn(2, 5))
    assert torch.equal(backbone.image_features(pixels, patch_bias=bias)[0], plain)
    torch.nn.init.normal_(channel.conv_e.weight, std=0.1)
    u = torch.randn(2, 5)
    with torch.no_grad():
        changed, places = backbone.image_features(pixels, patch_bias=channel(u))
        plane = channel.to_plane(u).view(2, 1, *pixels.shape[2:])
        joined = type(first)(4, first.out_channels, first.kernel_size, first.stride, first.padding, bias=True)
        joined.weight.copy_(torch.cat([first.weight, channel.conv_e.weight], dim=1))
        joined.bias.copy_(torch.zeros(first.out_channels) if first.bias is None else first.bias)
        trunk = backbone.visual.trunk
        [name] = [name for name, module in trunk.named_modules() if module is first]
        parent = trunk.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], joined)
        try:
            x = trunk.forward_features(torch.cat([pixels, plane], dim=1))
            expected = trunk.forward_head(x, pre_logits=True)
        finally:
            setattr(parent, name.rpartition(".")[2], first)
    assert (changed - plain).abs().max() > 1e-4
    assert (changed - expected).abs().max() < 5e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("pool", ["token", "avg", "map"])
def test_an_emotion_token_joins_the_sequence_and_is_dropped(pool):
    network = random_network("test_vit", global_pool=pool, class_token=pool != "map")
    network.reset_classifier(0, pool)
    tower = timm_tower.TimmTower(network, True)
    pixels, token = torch.randn(2, 3, 160, 160), torch.randn(2, 64)
    plain = tower(pixels)
    assert tower.token_width == 64
    pooled, patches = tower(pixels, token)
    x = network._pos_embed(network.patch_embed(pixels))
    x = network.norm_pre(torch.cat([x, token[:, None]], dim=1))
    x = network.norm(network.blocks(x)[:, :-1])
    assert torch.allclose(pooled, network.forward_head(x, pre_logits=True), atol=1e-5)
    assert patches.shape == plain[1].shape and (pooled - plain[0]).abs().max() > 1e-3
    assert all(map(torch.equal, tower(pixels), plain))  # nothing of it is left


def test_emotion_words_are_the_encoders_own_features(pairs):
    backbone = pairs["test_vit"]
    vectors = clip_vectors(["angry", "happy"], backbone)
    ids, mask = padded(backbone.tokenizer, ["none", "angry", "happy"], CONTEXT)
    with torch.no_grad():
        assert torch.equal(vectors, backbone.text_features(ids, mask)[1]) and vectors.shape == (3, WIDTH)


@torch.no_grad()
@pytest.mark.parametrize("image", IMAGES)
def test_ief_with_unused_emotions_is_the_towers_exactly(names, image):
    flags = ["--do_train", "--output_dir", "unused", "--pretrained_clip_name", names[image], "--embed_dim", "16"]
    flags += ["--sim_header", "meanP", "--interaction", "dp", "--caption_fusion", "none", "--branches", "qi"]
    args, _ = parse_arguments(flags)
    model, source, _ = build_model(args, ["angry", "happy"])
    model.train()
    backbone = model.backbone
    assert "the projections start afresh" in source
    ids, mask = padded(backbone.tokenizer, TEXTS, CONTEXT)
    size = backbone.image_input.size
    pixels = torch.randint(256, (3, 3, size, size), dtype=torch.uint8)
    batch = {"pixels": pixels, "frame_mask": torch.ones(3, 1, dtype=torch.bool)}
    batch["emotions"] = torch.tensor([[2], [3], [0]])
    seen = model.frame_features(pixels, batch["frame_mask"], batch["emotions"])
    assert torch.equal(seen[:, 0], backbone.image_features(backbone.normalise(pixels))[0])
    assert torch.equal(model.text_features(ids, mask)[1], backbone.text_features(ids, mask)[1])
    ours = model.similarities(model.encode_queries(ids, mask), model.encode_memes(batch))["qi"]
    text = F.normalize(backbone.encode_text(ids, mask)[1], dim=-1)
    pooled = backbone.encode_image(backbone.normalise(pixels))[0]
    assert torch.allclose(ours, text @ F.normalize(pooled, dim=-1).T, atol=1e-6)
    trained = {name.split(".")[0] for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert trained == {"text_projection", "image_projection", "logit_scale"}


@torch.no_grad()
def test_projections_start_as_rotations_that_keep_likeness(names):
    backbone = loaded(names["test_vit"], embed_dim=48)  # wider than the text tower, narrower than the image tower
    image = backbone.image_projection.weight
    assert torch.allclose(image @ image.T, torch.eye(48), atol=1e-5)
    ids, mask = padded(backbone.tokenizer, TEXTS, CONTEXT)
    own, sentence = backbone.text_features(ids, mask)[1], backbone.encode_text(ids, mask)[1]
    assert torch.allclose(own.norm(dim=1), torch.ones(len(TEXTS)))  # its authors bring it to length 1
    assert torch.allclose(sentence.square().mean(dim=1), torch.ones(len(TEXTS)), atol=1e-5)
    unit = F.normalize(sentence, dim=1)
    assert torch.allclose(unit @ unit.T, own @ own.T, atol=1e-5)


@torch.no_grad()
def test_beside_a_pair_the_new_layers_start_as_the_identity(names):
    """So that what two pretrained towers know is there at the start: beside CLIP they start as CLIP's own layers do."""
    args, _ = parse_arguments(
        ["--do_train", "--output_dir", "unused", "--pretrained_clip_name", names["test_vit"], "--embed_dim", "64"]
    )
    model = build_model(args, [])[0].eval()
    captions, mask = torch.randn(3, 4, 64), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    mean = torch.stack([row[present].mean(dim=0) for row, present in zip(captions, mask, strict=True)])
    positions = 0.01  # the scale of the position embeddings
    assert torch.allclose(model.caption_pooling(captions, mask), F.normalize(mean, dim=1), atol=positions)
    tokens = torch.randn(3, 2, 64)
    out = model.aggregator(tokens, torch.ones(3, 2, dtype=torch.bool))
    assert torch.allclose(out, 2 * tokens, atol=6 * positions)


@pytest.mark.parametrize(("image", "kind"), [("test_vit", EmotionToken), ("test_resnet", EmotionChannel)])
def test_token_or_channel_is_a_token_where_the_tower_takes_one(names, image, kind):
    flags = ["--do_train", "--output_dir", "unused", "--pretrained_clip_name", names[image], "--embed_dim", "16"]
    args, _ = parse_arguments([*flags, "--emotion_fusion", "token_or_channel"])
    assert isinstance(build_model(args, ["angry", "happy"])[0].emotion_fusion, kind)


# --- what is trained


@pytest.mark.parametrize(
    ("image", "blocks", "first"),
    [
        ("test_vit", 6, {"cls_token", "pos_embed", "patch_embed"}),
        ("test_efficientnet", 5, {"conv_stem", "bn1"}),
        ("test_resnet", 4, {"conv1", "bn1"}),
        ("test_convnext", 10, {"stem"}),  # the norm before the classifier is one too
    ],
)
def test_freezing_the_first_layers(pairs, names, image, blocks, first):
    backbone = loaded(names[image])
    _, (text, visual) = backbone.layers()
    assert len(text) == 2
    names_of = {id(parameter): name for name, parameter in backbone.named_parameters()}
    backbone.freeze_layers(0)
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert {name.split(".")[2] for name in frozen if name.startswith("visual.")} == first
    assert {name.split(".")[2] for name in frozen if name.startswith("text.")} == {"embeddings"}
    backbone.freeze_layers(1)
    more = {name for name, p in backbone.named_parameters() if not p.requires_grad} - frozen
    assert {name for name in more if name.startswith("text.")} == {
        name for name, _ in backbone.named_parameters() if name.startswith("text.encoder.encoder.layer.0.")
    }
    assert {name for name in more if name.startswith("visual.")} == {names_of[id(p)] for p in visual[0].parameters()}
    backbone.freeze_layers(100)
    left = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert left == {"text_projection.weight", "image_projection.weight", "logit_scale"}
    assert len(visual) == blocks


def test_a_network_whose_blocks_are_unknown_cannot_be_frozen_in_part():
    import_timm()
    with torch.device("meta"):
        tower = timm_tower.TimmTower(timm_tower.make_trunk("pit_ti_224"), False)
    with pytest.raises(InputError, match="--freeze_layer_num: timm does not tell the blocks of Pooling"):
        tower.layers()


def test_only_the_projections_and_the_scale_are_new(pairs):
    backbone = pairs["test_vit"]
    new = {name for name, _ in backbone.named_parameters() if backbone.is_new(name)}
    assert new == {"text_projection.weight", "image_projection.weight", "logit_scale"}
    assert backbone.frozen_by_default
    number = sum(1 for tower in ("image", "text") for _ in backbone.tower_parameters(tower))
    assert number == len(list(backbone.parameters())) - 3


def test_without_images_there_is_no_image_tower(names):
    backbone = loaded(names["test_vit"], Needs(vision=False))
    assert not hasattr(backbone, "visual") and not hasattr(backbone, "image_projection")
    assert backbone.image_input.size == 160 and len(backbone.layers()[1]) == 1
    backbone.freeze_unreached(patches=False)
    again = restore_backbone(backbone.recipe(), vision=False)
    again.load_state_dict(backbone.state_dict())


# --- what is refused


NOTHING = Needs(vision=True)


@pytest.mark.parametrize(
    ("image", "needs", "message"),
    [
        ("test_resnet", Needs(emotion="token"), "--emotion_fusion token: .* takes no further token"),
        ("test_convnext", Needs(emotion="token"), "--emotion_fusion token"),
        ("deit_tiny_distilled_patch16_224", Needs(emotion="token"), "--emotion_fusion token"),
        ("eva02_tiny_patch14_224", Needs(emotion="token"), "--emotion_fusion token"),
        (
            "resnetv2_50x1_bit",
            Needs(emotion="channel"),
            "channel: .* standardises the weights of its first convolution",
        ),
        ("dm_nfnet_f0", Needs(emotion="channel"), r"over all channels \(ScaledStdConv2dSame\)"),
        ("tresnet_m", Needs(emotion="channel"), "channel: .* no convolution over the pixels"),  # they are folded first
        ("tresnet_m", Needs(emotion="token_or_channel"), "token_or_channel: .* no convolution over the pixels"),
        ("volo_d1_224", Needs(emotion="coarse_channel"), "coarse_channel: .* has no patches"),
        ("volo_d1_224", Needs(patches=True), "--visual_tokens patch"),
        ("crossvit_9_240", Needs(patches=True), "--visual_tokens patch"),
        ("resnet50_clip", Needs(patches=True), "--visual_tokens patch"),  # its pooling reads the places
        ("test_vt", NOTHING, "timm has no image tower 'test_vt'; there are .*test_vit"),
        ("hf-hub:timm/test_vit", NOTHING, "timm has no image tower"),
        ("test_vit.none", NOTHING, "cannot be made: Invalid pretrained tag"),
    ],
)
def test_what_a_network_cannot_do_is_said_before_weights_are_read(tmp_path, image, needs, message):
    import_timm()
    write_text(tmp_path / "text")
    (tmp_path / "text" / "model.safetensors").write_bytes(b"no weights")
    (tmp_path / "image.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match=message):
        loaded(f"pair:{image}@{tmp_path / 'image.pth'}+{tmp_path / 'text'}", needs)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("patch_embed.proj.weight"), "missing patch_embed.proj.weight"),
        (lambda state: state.update(other=torch.ones(1)), "unexpected other"),
        (lambda state: state.update({"norm.bias": torch.ones(3)}), r"norm.bias: \(3,\) in the file, \(64,\)"),
        (lambda state: state["norm.bias"].fill_(torch.nan), "norm.bias: 64 of its numbers are NaN"),
    ],
)
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_image_weights_fit_strictly_but_for_the_classifier(tmp_path, kind, spoil, message):
    from safetensors.torch import save_file

    write_text(tmp_path / "text")
    file = tmp_path / f"image.{kind}"
    name = f"pair:test_vit@{file}+{tmp_path / 'text'}"
    write = save_file if kind == "safetensors" else functools.partial(torch.save)

    def state_dict(**classes):
        return dict(random_network("test_vit").state_dict())

    state = state_dict()
    write({key: tensor for key, tensor in state.items() if not key.startswith("head.")}, file)
    loaded(name)
    write(state | {"head.weight": torch.ones(7, 64), "head.bias": torch.ones(7)}, file)
    loaded(name)
    if kind == "pth":
        write({"state_dict": {f"module.{key}": tensor.half() for key, tensor in state.items()}}, file)
        assert loaded(name).visual.trunk.norm.weight.dtype == torch.float32
    spoil(state)
    write(state, file)
    with pytest.raises(InputError, match=message):
        loaded(name)


class Code:
    def __reduce__(self):
        return print, ("never run",)


@pytest.mark.parametrize("content", ["nothing", "text", "code", "cut"])
def test_files_of_other_kinds_are_no_image_weights(tmp_path, capsys, content):
    write_text(tmp_path / "text")
    file = tmp_path / "image.bin"
    if content == "code":
        torch.save({"a": Code()}, file)
    elif content == "cut":
        write_image(file)
        file.write_bytes(file.read_bytes()[:-100])
    else:
        file.write_bytes(b"" if content == "nothing" else b"<html>no such page</html>")
    with pytest.raises(InputError, match=r"image.bin: (cannot be read|this is|it holds)"):
        loaded(f"pair:test_vit@{file}+{tmp_path / 'text'}")
    assert "never run" not in capsys.readouterr().out


def test_text_weights_fit_strictly_but_for_heads(tmp_path, names):
    from safetensors.torch import load_file, save_file

    image, _, _ = names["test_resnet"].rpartition("+")
    name = f"{image}+{tmp_path}"
    theirs = write_text(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    assert any(key.startswith("pooler.") for key in state)
    head = {"cls.predictions.bias": torch.ones(5)}

    def renamed(prefix="", leave_out="none"):
        return {prefix + key: tensor for key, tensor in state.items() if leave_out not in key}

    for good in (renamed(), renamed(leave_out="pooler"), renamed("bert.") | head, renamed() | head):
        save_file(good, file, {"format": "pt"})
        backbone = loaded(name)
        assert torch.equal(
            backbone.text.encoder.embeddings.word_embeddings.weight, state["embeddings.word_embeddings.weight"]
        )
    layer = "encoder.layer.1.output.dense.bias"
    for bad, message in [
        (renamed(leave_out=layer), f"missing {layer}"),
        (renamed() | {"encoder.layer.2.output.dense.bias": torch.ones(3)}, "unexpected encoder.layer.2"),
        (
            renamed("bert.") | {"bert.encoder.layer.2.output.dense.bias": torch.ones(3)},
            "unexpected bert.encoder.layer.2",
        ),
        (renamed() | {layer: torch.ones(3)}, layer),
        (renamed() | {layer: torch.full((WIDTH,), torch.nan)}, f"{layer}: some of its numbers are NaN"),
    ]:
        save_file(bad, file, {"format": "pt"})
        with pytest.raises(InputError, match=f"weights of the text encoder .*(\n.*)*{message}"):
            loaded(name)
    file.unlink()
    with pytest.raises(InputError, match="weights of the text encoder"):
        loaded(name)
    assert theirs is not None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"model_type": "clip"}, "cannot be made"),
        ({"model_type": "vit"}, "cannot be made: it reads no words"),
        ({"model_type": "nonsense"}, "cannot be read"),
        ({"num_hidden_layers": 10**9}, "no text encoder that is read"),
        ({"vocab_size": 5}, "has 5 rows for words, and its tokenizer ids up to 111"),
        ({"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "custom"}, "cannot be read"),
    ],
)
def test_configurations_that_are_refused(tmp_path, names, spoil, message):
    image, _, _ = names["test_resnet"].rpartition("+")
    write_text(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | spoil))
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(InputError, match=message):
        loaded(f"{image}+{tmp_path}")


def test_poolings_that_are_refused_or_noted(tmp_path, names):
    image, _, _ = names["test_resnet"].rpartition("+")
    name = f"{image}+{tmp_path}"
    write_text(tmp_path)
    write_pooling(tmp_path, "pooling_mode_mean_tokens", True, more=["Dense"], do_lower_case=True)
    prompts = {"prompts": {"query": "query: "}}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    notes = []
    assert loaded(name, notes=notes).text.pooling == ("mean", False)
    assert ["Dense" in notes[0], "lower-cased" in notes[1], "'query: '" in notes[2]] == [True] * 3
    for modules, message in [
        (
            [{"type": "a.Transformer", "path": "0_Transformer"}, {"type": "a.Pooling", "path": "1_Pooling"}],
            "begins with",
        ),
        ([{"type": "a.Transformer", "path": ""}], "begins with"),
        ([{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "../x"}], "outside of its folder"),
        ([1], "no list of modules"),
        ({}, "expected a JSON list"),
    ]:
        (tmp_path / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(InputError, match=message):
            loaded(name)
    write_pooling(tmp_path, "pooling_mode_mean_tokens", True)
    both = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(both))
    with pytest.raises(InputError, match=r"pools by \['cls', 'mean'\]"):
        loaded(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vit", "names no two towers"),
        ("test_vit+", "a name is missing"),
        ("+text", "a name is missing"),
        ("test_vit@+text", "a name is missing"),
        ("test_vit@none.safetensors+text", "none.safetensors: no such file"),
    ],
)
def test_names_that_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        parse(name, [])


def test_names_are_parted_where_a_file_is_left(tmp_path):
    import_timm()
    file = tmp_path / "a+b.pth"
    file.touch()
    for name, expected in [
        ("test_vit+text", ("test_vit", None, "text")),
        ("test_vit+folder+with@more", ("test_vit", None, "folder+with@more")),
        (f"test_vit@{file}+c+d", ("test_vit", file, "c+d")),
    ]:
        image, text = parse(name, [])
        assert (image.name, image.file, text) == expected


def test_how_images_are_seen_is_timms_configuration(monkeypatch):
    timm = import_timm()
    notes = []
    assert timm_tower.image_input("test_resnet", notes) == ImageInput(160, (0.5,) * 3, (0.5,) * 3, "bilinear")
    found = timm.data.resolve_model_data_config
    for change, message in [({"input_size": (3, 160, 128)}, "3 x 160 x 128"), ({"input_size": (1, 160, 160)}, "1 x")]:
        monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda model, c=change: found(model) | c)
        with pytest.raises(InputError, match=message):
            timm_tower.image_input("test_vit", notes)
    monkeypatch.setattr(
        timm.data, "resolve_model_data_config", lambda model: found(model) | {"interpolation": "lanczos"}
    )
    assert timm_tower.image_input("test_vit", notes).interpolation == "bicubic" and "'lanczos'" in notes[0]


def test_timms_own_weights_are_taken_where_no_file_is_named(tmp_path, monkeypatch):
    timm = import_timm()
    network, make = random_network("test_vit"), timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **o: network if o["pretrained"] else make(name, **o))
    write_text(tmp_path)
    backbone, source = load(f"test_vit+{tmp_path}", Needs(embed_dim=16), [])
    assert f"timm/test_vit.r160_in1k and {tmp_path}" in source
    with torch.no_grad():
        pixels = pixels_of(backbone)
        expected = network.forward_head(network.forward_features(pixels), pre_logits=True)
        assert torch.equal(backbone.image_features(pixels, patches=False)[0], expected)
    assert backbone.image_features(pixels, patches=False)[1] is None


@pytest.mark.parametrize(
    ("package", "file"), [("timm", "requirements-pair.txt"), ("transformers", "requirements-hf.txt")]
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, file):
    write_text(tmp_path)
    (tmp_path / "image.pth").touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"{package}: pip install -r {file}"):
        loaded(f"pair:test_vit@{tmp_path / 'image.pth'}+{tmp_path}")


def test_without_a_network_it_is_said_which_file_to_fetch(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no network")

    import_timm()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    write_text(tmp_path / "text")
    with pytest.raises(InputError, match=r"huggingface.co/timm/test_vit\S* elsewhere .*: test_vit@/path/to/"):
        loaded(f"pair:test_vit+{tmp_path / 'text'}")
    with pytest.raises(InputError, match="the text encoder nobody/nothing cannot be read"):
        loaded("pair:test_vit+nobody/nothing")


# --- of a checkpoint


@torch.no_grad()
@pytest.mark.parametrize("image", IMAGES)
def test_towers_come_back_from_their_recipe(pairs, tmp_path, image):
    backbone = pairs[image]
    torch.save({"recipe": backbone.recipe(), "state": backbone.state_dict()}, tmp_path / "checkpoint.pt")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert str(tmp_path) not in str(saved["recipe"]) and "pairs0" not in str(saved["recipe"])
    shapes = {name: tensor.shape for name, tensor in empty_backbone(saved["recipe"]).state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    assert all(parameter.is_meta for parameter in empty_backbone(saved["recipe"]).parameters())
    again = restore_backbone(saved["recipe"])
    again.load_state_dict(saved["state"])
    for attribute in ("embed_dim", "context_length", "image_input", "patches", "token_width"):
        assert getattr(again, attribute) == getattr(backbone, attribute)
    ids, mask = padded(backbone.tokenizer, TEXTS, CONTEXT)
    assert all(map(torch.equal, (ids, mask), padded(again.tokenizer, TEXTS, CONTEXT)))
    pixels = pixels_of(backbone)
    for one, other in zip(
        [*backbone.encode_text(ids, mask), *backbone.encode_image(pixels)],
        [*again.encode_text(ids, mask), *again.encode_image(pixels)],
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "spoil",
    [
        {"image": "hf-hub:timm/test_vit"},
        {"image": "local-dir:/tmp"},
        {"image": 3},
        {"image_input": None},
        {"image_input": {"size": 10**9, "mean": [0.5] * 3, "std": [0.5] * 3}},
        {"image_input": {"size": 160, "mean": [0.5] * 3, "std": [0.0] * 3}},
        {"image_input": {"size": 160, "mean": [0.5], "std": [0.5] * 3}},
        {"image_input": {"size": 160, "mean": ["x"] * 3, "std": [0.5] * 3}},
        {"image_input": {"size": 160, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "none"}},
        {"image_input": {"size": 30, "mean": [0.5] * 3, "std": [0.5] * 3}},
        {"text": None},
        {"text": "{"},
        {"text": "[" * 100_000},
        {"text": "3"},
        {"text": '{"model_type": "clip"}'},
        {"text": '{"model_type": "nonsense"}'},
        {"text": '{"model_type": "bert", "num_hidden_layers": 1000000000}'},
        {"text": '{"model_type": "bert", "hidden_size": "many"}'},
        {"text": '{"model_type": "bert", "vocab_size": 2}'},
        {"pooling": {"mode": "other"}},
        {"pooling": {"unit": 3}},
        {"pooling": 3},
        {"context_length": 0},
        {"context_length": "8"},
        {"embed_dim": 10**9},
        {"embed_dim": True},
        {"tokenizer": {}},
        {"tokenizer": {"../evil.json": torch.zeros(3, dtype=torch.uint8)}},
        {"tokenizer": {"tokenizer.json": torch.zeros(3, dtype=torch.uint8)}},
    ],
    ids=str,
)
def test_a_damaged_recipe_is_an_error_that_says_so(pairs, spoil):
    recipe = pairs["test_vit"].recipe()
    with pytest.raises(InputError):
        empty_backbone(recipe | spoil)
    for name in spoil:
        with pytest.raises(InputError):
            empty_backbone({key: value for key, value in recipe.items() if key != name})


@pytest.mark.parametrize(
    "spoil",
    [{"num_attention_heads": -1}, {"output_hidden_states": "x"}, {"chunk_size_feed_forward": "x"}],
    ids=str,
)
def test_a_recipe_of_towers_that_do_not_run_is_an_error(pairs, spoil):
    recipe = pairs["test_vit"].recipe()
    with pytest.raises(InputError, match="checkpoint's towers do not run"):
        restore_backbone(recipe | {"text": json.dumps(json.loads(recipe["text"]) | spoil)})


def test_the_source_of_the_weights_is_told(names):
    _, source = load(names["test_vit"].removeprefix("pair:"), Needs(), [])
    image, text = names["test_vit"].removeprefix("pair:test_vit@").split("+")
    assert source == f"{image} and {text}; the projections start afresh"
