"""Towers of transformers against the library's own calls, on tiny random models of each kind."""

import json
import shutil
import socket
from unittest import mock

import pytest
import torch
from torch import nn

from modules.backbones import hf
from modules.backbones.protocol import MAX_LOGIT_SCALE, Needs
from modules.backbones.sources import empty_backbone, load_backbone, restore_backbone
from modules.emotion_encoder import clip_vectors
from tests import tower_models
from tests.tower_models import KINDS, PATCH, SIZE, TEXTS, WIDTH
from tests.tower_protocol import check_towers
from util import InputError

tower_models.import_transformers()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """(the backbone, the library's model, the folder of both), their configuration with dropout."""
    folder = tmp_path_factory.mktemp("towers") / "model"
    library = tower_models.write_model(folder, request.param, dropout=0.3)
    backbone, where = load_backbone(f"hf:{folder}", Needs(), [])
    assert type(library).__name__ in where
    return backbone.train(), library, folder


@pytest.fixture
def clip(tmp_path):
    """(folder, the library's model) of a CLIP that a test may damage."""
    folder = tmp_path / "model"
    return folder, tower_models.write_model(folder, "clip")


def ids_and_mask(backbone, texts=TEXTS, more=0):
    """As the data path makes them: padded with 0 to the longest text and `more`."""
    rows = [backbone.tokenizer.tokenize(text, backbone.context_length)[0] for text in texts]
    length = max(map(len, rows)) + more
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return ids, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]


def pixels(number=2, seed=0):
    return torch.randn(number, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def librarys_batch(library, backbone, folder, texts=TEXTS):
    """The texts as the library's own processors make them."""
    from transformers import AutoTokenizer

    padding = "max_length" if library.config.model_type == "siglip" else True
    settings = {"padding": padding, "truncation": True, "max_length": backbone.context_length}
    return AutoTokenizer.from_pretrained(folder)(texts, return_tensors="pt", **settings)


# --- features


@torch.no_grad()
def test_sentences_are_the_librarys_for_texts_of_any_length_in_one_batch(pair):
    backbone, library, folder = pair
    batch = librarys_batch(library, backbone, folder)
    if library.config.model_type == "siglip":  # its authors' padding is read like words
        batch.pop("attention_mask", None)
    close(backbone.text_features(*ids_and_mask(backbone))[1], library.get_text_features(**batch).pooler_output)


@torch.no_grad()
def test_words_are_the_librarys_hidden_states_projected_as_the_sentence_is(pair):
    backbone, library, folder = pair
    words, sentence = backbone.text_features(*ids_and_mask(backbone))
    project = library.text_model.head if library.config.model_type == "siglip" else library.text_projection
    for text, row in zip(TEXTS, words, strict=True):
        batch = librarys_batch(library, backbone, folder, [text])
        real = batch.pop("attention_mask") if "attention_mask" in batch else torch.ones_like(batch["input_ids"])
        length = len(backbone.tokenizer.tokenize(text, backbone.context_length)[0])
        if library.config.model_type != "siglip":
            batch["attention_mask"] = real
        hidden = library.text_model(**batch).last_hidden_state[0]
        hidden = hidden[-length:] if backbone.tokenizer.pads_left else hidden[:length]
        close(row[:length], project(hidden))
    kind = hf.FAMILIES[library.config.model_type].sentence
    if kind == "first":
        close(sentence, words[:, 0])
    if kind == "end":
        ends = ids_and_mask(backbone)[1].sum(dim=1) - 1
        close(sentence, words[torch.arange(len(words)), ends])


@torch.no_grad()
def test_a_texts_features_depend_on_neither_its_padding_nor_its_neighbours(pair):
    backbone, *_ = pair
    ids, mask = ids_and_mask(backbone, TEXTS[:4])
    words, sentence = backbone.text_features(ids, mask)
    longer = backbone.text_features(*ids_and_mask(backbone, TEXTS[:4], more=3))
    noise = backbone.text_features(ids.masked_fill(~mask, 7), mask)
    for other_words, other_sentence in (longer, noise):
        close(other_sentence, sentence)
        close(other_words[:, : ids.shape[1]][mask], words[mask])
    for number, text in enumerate(TEXTS[:4]):
        own_words, own_sentence = backbone.text_features(*ids_and_mask(backbone, [text]))
        close(own_sentence[0], sentence[number])
        close(own_words[0], words[number, : own_words.shape[1]])


@torch.no_grad()
def test_images_are_the_librarys(pair):
    backbone, library, _ = pair
    pooled, patches = backbone.image_features(pixels())
    close(pooled, library.get_image_features(pixel_values=pixels()).pooler_output)
    assert patches.shape == (2, backbone.patches, backbone.embed_dim) == (2, (SIZE // PATCH) ** 2, pooled.shape[1])


@torch.no_grad()
def test_patches_lie_in_the_space_of_the_pooled_feature(pair):
    backbone, library, _ = pair
    hidden = library.vision_model(pixel_values=pixels()).last_hidden_state
    patches = backbone.image_features(pixels())[1]
    if library.config.model_type == "siglip":  # what the pooling gives of an image whose patches are all like this one
        for number in range(backbone.patches):
            same = hidden[:, number : number + 1].expand(-1, backbone.patches, -1)
            close(patches[:, number], library.vision_model.head(same))
    else:
        close(patches, library.visual_projection(library.vision_model.post_layernorm(hidden[:, 1:])))


@torch.no_grad()
def test_zeros_as_a_bias_change_nothing_at_all(pair):
    backbone, *_ = pair
    zeros = torch.zeros(2, WIDTH, SIZE // PATCH, SIZE // PATCH)
    for found, expected in zip(
        backbone.image_features(pixels(), zeros), backbone.image_features(pixels()), strict=True
    ):
        assert torch.equal(found, expected)


@torch.no_grad()
def test_a_bias_of_the_patches_is_a_bias_of_the_librarys_positions(pair):
    backbone, library, _ = pair
    bias = torch.randn(WIDTH, SIZE // PATCH, SIZE // PATCH)
    positions = library.vision_model.embeddings.position_embedding.weight
    kept = positions.clone()
    positions[-backbone.patches :] += bias.flatten(1).T
    expected = library.get_image_features(pixel_values=pixels()).pooler_output
    positions.copy_(kept)
    close(backbone.image_features(pixels(), bias.expand(2, -1, -1, -1))[0], expected)
    assert backbone.first_convolution().weight.shape == (WIDTH, 3, PATCH, PATCH)


@torch.no_grad()
def test_a_further_token_is_attended_to_and_its_own_output_dropped(pair):
    backbone, library, _ = pair
    token = torch.randn(2, backbone.token_width)
    image = library.vision_model
    embeddings = image.embeddings.forward
    with mock.patch.object(
        image.embeddings, "forward", lambda *args, **kwargs: torch.cat([embeddings(*args, **kwargs), token[:, None]], 1)
    ):
        out = image(pixel_values=pixels())
    if library.config.model_type == "siglip":
        expected = image.head(out.last_hidden_state[:, :-1])
    else:
        expected = library.visual_projection(out.pooler_output)
    pooled, patches = backbone.image_features(pixels(), extra_token=token)
    close(pooled, expected)
    assert patches.shape[1] == backbone.patches
    assert (pooled - backbone.image_features(pixels())[0]).abs().max() > 1e-3


@torch.no_grad()
def test_pixels_are_normalised_as_the_librarys_processor_does_it(pair):
    backbone, _, folder = pair
    transformers = tower_models.import_transformers()
    kind = {"siglip": "Siglip", "chinese_clip": "ChineseCLIP"}.get(backbone.config["model_type"], "CLIP")
    processor = getattr(transformers, f"{kind}ImageProcessorPil").from_pretrained(folder)
    image = torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = processor(images=image.permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
    close(backbone.normalise(image[None]), expected)
    assert backbone.image_input.size == SIZE and backbone.image_input.interpolation == "bicubic"


@torch.no_grad()
def test_emotion_words_are_sentences(pair):
    backbone, library, folder = pair
    batch = librarys_batch(library, backbone, folder, ["none", "happy", "sad"])
    if library.config.model_type == "siglip":
        batch.pop("attention_mask", None)
    close(clip_vectors(["happy", "sad"], backbone), library.get_text_features(**batch).pooler_output)


# --- training


@pytest.mark.parametrize("kind", [0, 1])
def test_every_parameter_is_reached_by_the_pooled_feature_and_by_the_patches(pair, kind):
    backbone, *_ = pair
    words, sentence = backbone.encode_text(*ids_and_mask(backbone, TEXTS[:2]))
    (words.square().sum() + sentence.square().sum() + backbone.encode_image(pixels())[kind].square().sum()).backward()
    unread = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    backbone.zero_grad()
    assert unread == ["logit_scale"]


def test_the_first_blocks_and_the_embeddings_are_frozen(pair):
    backbone, _, folder = pair
    backbone, _ = load_backbone(f"hf:{folder}", Needs(), [])
    backbone.freeze_layers(1)
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    for name in {name for name, _ in backbone.named_parameters()}:
        frozen = "embeddings." in name or ".pre_layrnorm." in name or ".layers.0." in name or ".layer.0." in name
        assert (name in trained) != frozen, name
    assert any(".1." in name for name in trained)


def test_the_towers_have_no_dropout_in_training(pair):
    backbone, *_ = pair
    assert not any(module.training for module in backbone.train().modules())


# --- weights


def test_without_an_image_tower_there_is_nothing_of_it(pair):
    whole, _, folder = pair
    backbone, _ = load_backbone(f"hf:{folder}", Needs(vision=False), [])
    assert not hasattr(backbone, "visual")
    assert not [name for name in backbone.state_dict() if "vision" in name or "visual" in name]
    for found, expected in zip(
        backbone.text_features(*ids_and_mask(backbone)), whole.text_features(*ids_and_mask(backbone)), strict=True
    ):
        assert torch.equal(found, expected)


def test_weights_stored_in_half_precision_run_in_fp32(clip):
    folder, library = clip
    library.half().save_pretrained(folder)
    backbone, _ = load_backbone(f"hf:{folder}", Needs(), [])
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    close(
        backbone.image_features(pixels())[0],
        library.float().get_image_features(pixel_values=pixels()).pooler_output,
    )


def test_the_logit_scale_is_the_models_own_within_clips_bound(clip):
    folder, library = clip
    assert load_backbone(f"hf:{folder}", Needs(), [])[0].logit_scale.item() == 3.0
    nn.init.constant_(library.logit_scale, 4.77)
    library.save_pretrained(folder)
    assert load_backbone(f"hf:{folder}", Needs(), [])[0].logit_scale.item() == pytest.approx(MAX_LOGIT_SCALE)


def test_a_bin_file_is_read_where_there_is_no_safetensors(clip):
    folder, library = clip
    (folder / "model.safetensors").unlink()
    torch.save(library.state_dict(), folder / "pytorch_model.bin")
    backbone, _ = load_backbone(f"hf:{folder}", Needs(), [])
    close(backbone.image_features(pixels())[0], library.get_image_features(pixel_values=pixels()).pooler_output)


class Code:
    def __reduce__(self):
        return print, ("code of a weights file was run",)


def test_code_in_a_bin_file_is_not_run(clip, capsys):
    folder, library = clip
    (folder / "model.safetensors").unlink()
    torch.save(library.state_dict() | {"more": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="weights cannot be read"):
        load_backbone(f"hf:{folder}", Needs(), [])
    assert "was run" not in capsys.readouterr().out


def rewritten(folder, change):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_do_not_fit_are_listed(clip):
    folder, library = clip
    norm = "vision_model.post_layernorm.weight"

    def change(state):
        del state["text_projection.weight"]
        state["classifier.weight"] = torch.zeros(3)
        state[norm] = torch.zeros(5)
        state["text_model.embeddings.position_ids"] = torch.zeros(1, 3, dtype=torch.long)  # harmless

    rewritten(folder, change)
    with pytest.raises(InputError) as error:
        load_backbone(f"hf:{folder}", Needs(), [])
    lines = str(error.value).splitlines()[1:]
    assert sorted(line.strip() for line in lines) == [
        "missing text_projection.weight",
        "unexpected classifier.weight",
        f"{norm}: (5,) in the file, ({WIDTH},) in the model",
    ]


def test_weights_that_are_not_finite_are_an_error(clip):
    folder, _ = clip
    rewritten(folder, lambda state: state["text_projection.weight"].fill_(float("nan")))
    with pytest.raises(InputError, match="NaN"):
        load_backbone(f"hf:{folder}", Needs(), [])


def test_a_folder_without_weights_is_an_error(clip):
    folder, _ = clip
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="weights cannot be read"):
        load_backbone(f"hf:{folder}", Needs(), [])


# --- configurations


def edit(path, **changes):
    found = json.loads(path.read_text())
    for name, value in changes.items():
        place, *inner = name.split("__")
        if inner:
            found[place][inner[0]] = value
        else:
            found[place] = value
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "siglip2"}, "NaFlex"),
        ({"model_type": "xclip"}, "videos"),
        ({"model_type": "bert"}, "'bert'.*Those that fit: CLIPModel"),
        ({"model_type": None}, "None"),
        ({"vision_config__num_channels": 4}, "channels"),
        ({"vision_config__image_size": [16, 16]}, "image_size|sizes"),
        ({"vision_config__hidden_size": -3}, "sizes|configuration"),
        ({"text_config__num_hidden_layers": 10**9}, "layers"),
        ({"text_config__vocab_size": 30}, "words"),
        ({"text_config__eos_token_id": 7}, "token 7"),
        ({"text_config__max_position_embeddings": 2}, "too few"),
        ({"text_config": 3}, "configuration"),
        ({"vision_config__image_size": 32}, "32 x 32"),
    ],
)
def test_a_configuration_that_does_not_fit_is_an_error_before_weights_are_read(clip, changes, message):
    folder, _ = clip
    edit(folder / "config.json", **changes)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=message) as error:
        load_backbone(f"hf:{folder}", Needs(), [])
    assert f"hf:{folder}" in str(error.value)


@torch.no_grad()
def test_an_early_clip_whose_configuration_names_another_end_token(clip):
    """As most that are published: the library then takes the highest id for the end."""
    transformers = tower_models.import_transformers()
    folder, _ = clip
    edit(folder / "config.json", text_config__eos_token_id=2, text_config__bos_token_id=0, text_config__pad_token_id=1)
    library = transformers.CLIPModel.from_pretrained(folder).eval()
    backbone, _ = load_backbone(f"hf:{folder}", Needs(), [])
    batch = librarys_batch(library, backbone, folder)
    close(backbone.text_features(*ids_and_mask(backbone))[1], library.get_text_features(**batch).pooler_output)


@torch.no_grad()
def test_a_vocab_txt_is_enough_of_a_tokenizer(tmp_path):
    """As in most of Chinese-CLIP's folders."""
    folder = tmp_path / "model"
    library = tower_models.write_model(folder, "chinese_clip")
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(words, key=words.get)))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    backbone, _ = load_backbone(f"hf:{folder}", Needs(), [])
    ids = torch.tensor([[words[word] for word in ("[CLS]", "今", "天", "angry", "[SEP]")]])
    assert backbone.tokenizer.encode("今天 ANGRY") == ids[0].tolist()
    found = backbone.text_features(ids, torch.ones_like(ids, dtype=torch.bool))[1]
    close(found, library.get_text_features(input_ids=ids).pooler_output)


def test_siglip_without_a_pooling_is_an_error(tmp_path):
    tower_models.write_model(tmp_path / "model", "siglip")
    edit(tmp_path / "model" / "config.json", vision_config__vision_use_head=False)
    with pytest.raises(InputError, match="pooling"):
        load_backbone(f"hf:{tmp_path / 'model'}", Needs(), [])


def test_nothing_that_a_configuration_names_is_followed(clip, monkeypatch):
    """Neither an attention from elsewhere nor code, nor a number format."""
    folder, library = clip
    edit(
        folder / "config.json",
        _attn_implementation="someone/kernels",
        attn_implementation="someone/kernels",
        text_config___attn_implementation_internal="someone/kernels",
        auto_map={"AutoModel": "code.Code"},
        dtype="float16",
        quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True},
    )
    monkeypatch.setattr(socket, "socket", None)
    backbone, _ = load_backbone(f"hf:{folder}", Needs(), [])
    close(backbone.image_features(pixels())[0], library.get_image_features(pixel_values=pixels()).pooler_output)
    assert "someone" not in str(backbone.recipe()["config"])
    assert backbone.text.tower.config._attn_implementation == "sdpa"


def test_no_folder_and_no_network_is_an_error_that_says_where_was_looked(tmp_path):
    with mock.patch("time.sleep"), mock.patch("socket.socket", None):
        for name in ("someone/some-clip", str(tmp_path / "none"), "a//b"):
            with pytest.raises(InputError, match=r"config\.json") as error:
                load_backbone(f"hf:{name}", Needs(), [])
            assert name in str(error.value)
    with pytest.raises(InputError, match=r"no config\.json"):
        load_backbone(f"hf:{tmp_path}", Needs(), [])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install -r requirements-hf\.txt"):
        load_backbone("hf:someone/some-clip", Needs(), [])


# --- how images come in


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": {"height": 24, "width": 24}}, "24"),
        ({"crop_size": {"height": SIZE, "width": 2 * SIZE}}, "16 x 16"),
        ({"do_center_crop": False, "size": {"height": SIZE, "width": 20}}, "20"),
        ({"image_mean": [0.5]}, "mean"),
        ({"image_std": [0.5, 0.5, 0.0]}, "deviation"),
        ({"image_mean": "none"}, "mean"),
        ({"do_rescale": False}, r"0\.\.1"),
        ({"rescale_factor": 1 / 127.5}, r"0\.\.1"),
        ({"rescale_factor": "x"}, r"0\.\.1"),
        ({"crop_size": {"height": [], "width": 3}}, "preprocessor"),
    ],
)
def test_a_preprocessor_that_the_tower_does_not_fit_is_an_error(clip, changes, message):
    folder, _ = clip
    edit(folder / "preprocessor_config.json", **changes)
    with pytest.raises(InputError, match=message):
        load_backbone(f"hf:{folder}", Needs(), [])


def test_a_damaged_preprocessor_is_named_once(clip):
    folder, _ = clip
    (folder / "preprocessor_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"preprocessor_config\.json: found a JSON list") as error:
        load_backbone(f"hf:{folder}", Needs(), [])
    assert str(error.value).count("--pretrained_clip_name") == 1


def test_a_preprocessor_may_be_written_in_several_ways(clip):
    folder, _ = clip
    path = folder / "preprocessor_config.json"
    edit(path, crop_size=SIZE, size=SIZE, resample=2)
    notes = []
    assert load_backbone(f"hf:{folder}", Needs(), notes)[0].image_input.interpolation == "bilinear"
    edit(path, do_normalize=False, resample=0)
    found = load_backbone(f"hf:{folder}", Needs(), notes)[0].image_input
    assert (found.mean, found.std, found.interpolation) == ((0, 0, 0), (1, 1, 1), "bilinear")
    assert len(notes) == 1 and "number 0" in notes[0]
    edit(path, do_normalize=True, image_mean=[0.1, 0.2, 0.3])
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(path.read_text())}))
    path.unlink()
    assert load_backbone(f"hf:{folder}", Needs(), [])[0].image_input.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(("kind", "mean"), [("clip", tower_models.CLIP_MEAN), ("siglip", [0.5, 0.5, 0.5])])
def test_without_a_preprocessor_the_authors_own_is_assumed_and_said(kind, mean, tmp_path):
    folder = tmp_path / "model"
    tower_models.write_model(folder, kind)
    (folder / "preprocessor_config.json").unlink()
    notes = []
    assert list(load_backbone(f"hf:{folder}", Needs(), notes)[0].image_input.mean) == mean
    assert len(notes) == 1 and "preprocessor_config.json" in notes[0]


def test_they_keep_to_the_protocol(pair):
    check_towers(pair[0])


# --- checkpoints


def test_the_towers_are_made_again_without_their_folder_and_a_network(pair, tmp_path, monkeypatch):
    backbone, _, folder = pair
    torch.save({"recipe": backbone.recipe(), "state": backbone.state_dict()}, tmp_path / "saved.pt")
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    hidden = folder.with_name("hidden")
    shutil.move(folder, hidden)
    monkeypatch.setattr(socket, "socket", None)
    try:
        assert {name: tensor.shape for name, tensor in empty_backbone(saved["recipe"]).state_dict().items()} == {
            name: tensor.shape for name, tensor in saved["state"].items()
        }
        again = restore_backbone(saved["recipe"])
        again.load_state_dict(saved["state"])
        text_alone = restore_backbone(saved["recipe"], vision=False)
    finally:
        shutil.move(hidden, folder)
    ids, mask = ids_and_mask(again)
    assert ids.equal(ids_and_mask(backbone)[0])
    for found, expected in zip(again.encode_text(ids, mask), backbone.encode_text(ids, mask), strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(again.encode_image(pixels()), backbone.encode_image(pixels()), strict=True):
        assert torch.equal(found, expected)
    assert again.image_input == backbone.image_input and again.context_length == backbone.context_length
    assert again.recipe()["config"] == saved["recipe"]["config"]
    assert not hasattr(text_alone, "visual")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe") / "model"
    tower_models.write_model(folder, "clip")
    return load_backbone(f"hf:{folder}", Needs(), [])[0].recipe()


@pytest.mark.parametrize(
    "damage",
    [
        {"config": "{"},
        {"config": "[]"},
        {"config": 3},
        {"config": "[" * 100_000},
        {"config": '{"model_type": "bert"}'},
        {"tokenizer": {}},
        {"tokenizer": {"../tokenizer.json": torch.zeros(2, dtype=torch.uint8)}},
        {"image_input": {}},
        {"image_input": {"size": "x", "mean": 1, "std": 2}},
        {"image_input": {"size": SIZE, "mean": [0, 0, 0], "std": [1, 1, float("nan")]}},
        {"image_input": {"size": SIZE, "mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "lanczos"}},
        {"image_input": {"size": 4 * SIZE, "mean": [0, 0, 0], "std": [1, 1, 1]}},
        {"image_input": None},
    ],
)
def test_a_damaged_recipe_is_an_error(recipe, damage):
    for changed in (recipe | damage, {key: value for key, value in recipe.items() if key not in damage}):
        with pytest.raises(InputError, match="checkpoint"):
            restore_backbone(changed)
        with pytest.raises(InputError, match="checkpoint"):
            empty_backbone(changed)


@pytest.mark.parametrize(
    ("kind", "tower", "changes"),
    [
        ("clip", "vision_config", {"num_attention_heads": -1}),
        ("chinese_clip", "text_config", {"chunk_size_feed_forward": 10**12}),
        ("chinese_clip", "text_config", {"chunk_size_feed_forward": "x"}),
        ("siglip2_tokenizer", "text_config", {"output_hidden_states": "x"}),
    ],
)
def test_a_recipe_of_towers_that_do_not_run_is_an_error(tmp_path, kind, tower, changes):
    tower_models.write_model(tmp_path / "model", kind)
    recipe = load_backbone(f"hf:{tmp_path / 'model'}", Needs(), [])[0].recipe()
    config = json.loads(recipe["config"])
    config[tower] |= changes
    with pytest.raises(InputError, match="checkpoint's towers"):
        for restored in (empty_backbone, restore_backbone):  # as a run does
            restored(recipe | {"config": json.dumps(config)})
