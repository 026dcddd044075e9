"""CLIP against transformers' and OpenAI's own; reading weights files, good and bad ones."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modules.backbones import openai
from modules.backbones.openai import CLIP, ClipSizes, build_clip, published_note
from modules.backbones.published import Published
from modules.backbones.weights_file import read_weights
from modules.transformer import take_last_word
from tests.model_parts import SMALL, import_transformers, openai_clip, padded_ids, random_text, words_of, write_archive
from util import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:Detected pickle protocol")

FILED = dataclasses.replace(SMALL, vocab_size=49408)  # what a weights file may hold
KNOWN = {"activation": "quick_gelu", "heads": (1, 1)}  # of a plain state dict of these sizes
# Two heads in either tower, and widths and lengths that all differ: a swapped axis cannot hide.
WIDE = dataclasses.replace(SMALL, image_size=24, vision_width=128, text_width=192, embed_dim=48, text_layers=3)
PUBLISHED = {
    "ViT-B/32": ClipSizes(512, 224, 32, 768, 12, 512, 12),
    "ViT-B/16": ClipSizes(512, 224, 16, 768, 12, 512, 12),
    "ViT-L/14": ClipSizes(768, 224, 14, 1024, 24, 768, 12),
}


def shaken(clip, seed=0):
    """Biases, norms and positions away from their starting values of 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if parameter.ndim == 1 or "positional" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return clip.eval()


def in_transformers_names(state):
    """A CLIP state dict under the names of transformers' CLIPModel."""
    renamed = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T,
        "visual_projection.weight": state["visual.proj"].T,
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
    }
    norms = {"ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm"}
    norms |= {"visual.ln_post": "vision_model.post_layernorm"}
    for ours, theirs in norms.items():
        renamed |= {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for kind in ("weight", "bias")}
    parts = {"attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    parts |= {"ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    for name, tensor in state.items():
        match = re.match(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name)
        if not match:
            continue
        vision, layer, rest = match.groups()
        prefix = f"{'vision' if vision else 'text'}_model.encoder.layers.{layer}"
        if rest.startswith("attn.in_proj"):
            kind = rest.removeprefix("attn.in_proj_")
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{prefix}.self_attn.{letter}_proj.{kind}"] = third
        else:
            part, kind = rest.rsplit(".", 1)
            renamed[f"{prefix}.{parts[part]}.{kind}"] = tensor
    return renamed


def theirs_of(clip, eos_token_id):
    """transformers' CLIPModel with the same weights, which it shares."""
    transformers = import_transformers()
    sizes = clip.sizes
    config = transformers.CLIPConfig(
        text_config={
            "hidden_size": sizes.text_width,
            "intermediate_size": 4 * sizes.text_width,
            "num_hidden_layers": sizes.text_layers,
            "num_attention_heads": sizes.heads[1],
            "vocab_size": sizes.vocab_size,
            "max_position_embeddings": sizes.context_length,
            "hidden_act": sizes.activation,
            "eos_token_id": eos_token_id,
            "bos_token_id": sizes.vocab_size - 2,
            "pad_token_id": 0,
            "projection_dim": sizes.embed_dim,
        },
        vision_config={
            "hidden_size": sizes.vision_width,
            "intermediate_size": 4 * sizes.vision_width,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.heads[0],
            "image_size": sizes.image_size,
            "patch_size": sizes.patch_size,
            "hidden_act": sizes.activation,
            "projection_dim": sizes.embed_dim,
        },
        projection_dim=sizes.embed_dim,
    )
    with torch.device("meta"):
        model = transformers.CLIPModel(config)
    model.load_state_dict(in_transformers_names(clip.state_dict()), assign=True)
    for part, length in (
        (model.text_model, sizes.context_length),
        (model.vision_model, sizes.grid**2 + 1),
    ):
        part.embeddings.position_ids = torch.arange(length)[None]  # a buffer that no state dict holds
    return model.eval()


@torch.no_grad()
def check_equal_to_transformers(clip, eos_token_id, atol):
    """All outputs of both towers: within `atol` of the outputs' scale."""
    theirs = theirs_of(clip, eos_token_id)
    generator = torch.Generator().manual_seed(1)
    dtype, size = clip.logit_scale.dtype, clip.sizes.image_size
    texts = [random_text(generator, length) for length in (7, clip.sizes.context_length)]
    start, end = clip.sizes.vocab_size - 2, clip.sizes.vocab_size - 1
    texts = [[start, *text[1:-1], end] for text in texts]
    ids, mask = padded_ids(texts, clip.sizes.context_length, None)
    pixels = torch.randn(2, 3, size, size, generator=generator).to(dtype)

    def close(ours, expected):
        torch.testing.assert_close(ours, expected, rtol=0, atol=atol * expected.abs().max().item())

    words = words_of(clip, ids)
    text = theirs.text_model(input_ids=ids)
    close(words, text.last_hidden_state @ clip.text_projection)
    close(take_last_word(words, mask), text.pooler_output @ clip.text_projection)
    tokens = clip.visual(pixels)
    vision = theirs.vision_model(pixel_values=pixels)
    close(tokens, theirs.vision_model.post_layernorm(vision.last_hidden_state) @ clip.visual.proj)
    close(tokens[:, 0], vision.pooler_output @ clip.visual.proj)


@pytest.mark.parametrize("legacy", [False, True], ids=["eos", "legacy eos"])
def test_both_towers_equal_transformers_in_float64(legacy):
    # transformers pools at the largest id where the end token is said to be 2, as in old configurations
    clip = shaken(CLIP(WIDE)).double()
    check_equal_to_transformers(clip, 2 if legacy else WIDE.vocab_size - 1, 1e-12)


def test_activation_and_heads_of_others_equal_transformers_in_float64():
    others = dataclasses.replace(WIDE, activation="gelu", vision_heads=8, text_heads=4)
    check_equal_to_transformers(shaken(CLIP(others)).double(), WIDE.vocab_size - 1, 1e-12)


def test_both_towers_equal_transformers_at_the_real_shapes_of_vit_b_32():
    with torch.device("meta"):
        clip = CLIP(PUBLISHED["ViT-B/32"])
    clip.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            scale = 0.1 if parameter.ndim < 2 else (3 / parameter[0].numel()) ** 0.5
            parameter.uniform_(-scale, scale, generator=generator)
            if name.endswith("weight") and parameter.ndim == 1:
                parameter += 1
    assert sum(parameter.numel() for parameter in clip.parameters()) == 151_277_313  # as published
    check_equal_to_transformers(clip.eval(), 49407, 2e-5)


@torch.no_grad()
def test_both_towers_equal_openais_own_code():
    clip = shaken(CLIP(WIDE))
    s = WIDE
    theirs = openai_clip().CLIP(
        s.embed_dim,
        s.image_size,
        s.vision_layers,
        s.vision_width,
        s.patch_size,
        s.context_length,
        s.vocab_size,
        s.text_width,
        s.text_width // 64,
        s.text_layers,
    )
    theirs.load_state_dict(clip.state_dict(), strict=True)
    generator = torch.Generator().manual_seed(2)
    ids, mask = padded_ids([random_text(generator, length) for length in (5, 20, 2)], s.context_length, None)
    pixels = torch.randn(3, 3, s.image_size, s.image_size, generator=generator)
    torch.testing.assert_close(take_last_word(words_of(clip, ids), mask), theirs.encode_text(ids), rtol=0, atol=1e-5)
    torch.testing.assert_close(clip.visual(pixels)[:, 0], theirs.encode_image(pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_sizes_are_those_of_the_published_models(name):
    s = PUBLISHED[name]
    with torch.device("meta"):
        theirs = (
            openai_clip()
            .CLIP(
                s.embed_dim,
                s.image_size,
                s.vision_layers,
                s.vision_width,
                s.patch_size,
                77,
                49408,
                s.text_width,
                s.text_width // 64,
                12,
            )
            .state_dict()
        )
        ours = CLIP(s).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: tensor.shape for key, tensor in theirs.items()}
    assert ClipSizes.of_state_dict(theirs) == s


def test_pixels_are_normalised_as_clips_were():
    normalise = CLIP(SMALL).normalise
    pixels = torch.randint(0, 256, (2, 4, 3, 5, 6), dtype=torch.uint8)
    mean = np.array([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)
    std = np.array([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)
    expected = (pixels.numpy().astype(np.float64) / 255 - mean) / std
    for dtype, tolerance in (
        (torch.float64, 1e-14),
        (torch.float32, 1e-6),
        (torch.bfloat16, 2**-8),
        (torch.half, 2**-10),
    ):
        got = normalise(pixels, dtype)
        assert got.dtype == dtype and got.shape == pixels.shape
        assert np.abs(got.double().numpy() - expected).max() <= tolerance * np.abs(expected).max()
    assert normalise(pixels[0, 0]).shape == (3, 5, 6)
    with pytest.raises(TypeError, match="uint8"):
        normalise(pixels.float())


def test_a_text_shorter_than_the_context_needs_no_padding():
    clip = shaken(CLIP(WIDE)).double()
    text = random_text(torch.Generator().manual_seed(3), 6)
    long, _ = padded_ids([text], 20, torch.Generator().manual_seed(4))
    torch.testing.assert_close(words_of(clip, torch.tensor([text])), words_of(clip, long)[:, :6])


def test_the_start_is_clips():
    clip = CLIP(SMALL)
    assert clip.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_the_logit_scale_is_clamped_from_above_only():
    clip = CLIP(SMALL)
    for before, after in ((9.0, math.log(100)), (4.5, 4.5), (-3.0, -3.0)):
        clip.logit_scale.data.fill_(before)
        clip.clamp_logit_scale()
        assert clip.logit_scale.item() == pytest.approx(after)


# linear_patch 3d


def test_linear_patch_3d_starts_exactly_as_clip(tmp_path):
    torch.save(shaken(CLIP(FILED)).state_dict(), tmp_path / "clip.pt")
    flat, _ = build_clip(str(tmp_path / "clip.pt"), **KNOWN)
    deep, _ = build_clip(str(tmp_path / "clip.pt"), "3d", **KNOWN)
    pixels = torch.randn(5, 3, 16, 16)
    meme_of_frame = torch.tensor([0, 0, 0, 1, 2])
    assert torch.equal(flat.visual(pixels), deep.visual(pixels, meme_of_frame=meme_of_frame))


def test_linear_patch_3d_is_a_3d_convolution_within_each_meme():
    clip = CLIP(SMALL, "3d").double()
    neighbours = clip.visual.neighbours
    for part in (neighbours.before, neighbours.after):
        torch.nn.init.normal_(part.weight)
    frames = [torch.randn(n, 3, 16, 16, dtype=torch.float64) for n in (3, 1, 2)]
    meme_of_frame = torch.tensor([0, 0, 0, 1, 2, 2])
    pixels = torch.cat(frames)
    ours = clip.visual.conv1(pixels).flatten(2).transpose(1, 2) + neighbours(pixels, meme_of_frame)
    kernel = torch.stack([neighbours.before.weight, clip.visual.conv1.weight, neighbours.after.weight], dim=2)
    expected = torch.cat(
        [
            F.conv3d(meme.transpose(0, 1)[None], kernel, stride=(1, 8, 8), padding=(1, 0, 0))[0].transpose(0, 1)
            for meme in frames
        ]
    )
    torch.testing.assert_close(ours, expected.flatten(2).transpose(1, 2))
    alone = neighbours(frames[1], torch.tensor([1]))
    assert torch.equal(alone, torch.zeros_like(alone))


# freezing


def frozen_names(layers, linear_patch="2d", vision=True):
    clip = CLIP(SMALL, linear_patch, vision)
    clip.freeze_layers(layers)
    return {name for name, parameter in clip.named_parameters() if not parameter.requires_grad}


def test_freezing_takes_the_embeddings_and_the_first_blocks_of_both_towers():
    assert frozen_names(-1) == set()
    text = {"token_embedding.weight", "positional_embedding"}
    image = {"visual.class_embedding", "visual.positional_embedding", "visual.conv1.weight"}
    image |= {"visual.ln_pre.weight", "visual.ln_pre.bias"}
    assert frozen_names(0) == text | image
    names = [name for name, _ in CLIP(SMALL).named_parameters()]
    first_text = {name for name in names if name.startswith("transformer.resblocks.0.")}
    first_image = {name for name in names if name.startswith("visual.transformer.resblocks.0.")}
    assert len(first_text) == len(first_image) == 12
    assert frozen_names(1) == text | image | first_text | first_image
    assert frozen_names(1, "3d") == frozen_names(1)  # the new time steps are IEF's own, not CLIP's
    assert frozen_names(1, vision=False) == text | first_text
    always = {"text_projection", "ln_final.weight", "ln_final.bias", "logit_scale"}
    always |= {"visual.proj", "visual.ln_post.weight", "visual.ln_post.bias"}
    assert frozen_names(2) == set(names) - always


# weights files


@pytest.fixture
def state():
    return shaken(CLIP(FILED)).state_dict()


@pytest.mark.parametrize("vision", [True, False])
def test_an_archive_in_the_published_format_loads(tmp_path, state, vision):
    path = tmp_path / "ViT-B-32.pt"
    write_archive(path, state, FILED)
    archive = torch.jit.load(str(path)).state_dict()
    assert archive.keys() - state.keys() == {"input_resolution", "context_length", "vocab_size"}
    assert archive["visual.conv1.weight"].dtype == torch.float16
    assert {tensor.dtype for tensor in read_weights(path).state.values()} == {torch.float32}
    clip, source = build_clip("ViT-B/32", vision=vision, weights_folder=tmp_path)
    assert source == path and clip.sizes == FILED
    loaded = clip.state_dict()
    assert loaded.keys() == {key for key in state if vision or not key.startswith("visual.")}
    for name, tensor in loaded.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].half().float()), name


def test_a_plain_state_dict_loads_with_and_without_the_entries(tmp_path, state):
    entries = {"input_resolution": torch.tensor(16), "context_length": torch.tensor(20)}
    for name, content in (("plain", state), ("entries", state | entries)):
        torch.save(content, tmp_path / name)
        read = read_weights(tmp_path / name).state
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], state[key]) for key in state)


def test_a_loaded_temperature_beyond_the_bound_is_clamped(tmp_path, state):
    torch.save(state | {"logit_scale": torch.tensor(7.0)}, tmp_path / "x.pt")
    clip, _ = build_clip(str(tmp_path / "x.pt"), **KNOWN)
    assert clip.logit_scale.item() == pytest.approx(math.log(100))


def refusal(path, content=None):
    """The message with which `build_clip` refuses a state dict (saved at `path`) or the file at `path`."""
    if content is not None:
        torch.save(content, path)
    with pytest.raises(InputError) as error:
        build_clip(str(path), **KNOWN)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "visual.conv1.weight",
        "visual.positional_embedding",
        "text_projection",
        "ln_final.weight",
        "positional_embedding",
        "token_embedding.weight",
        "logit_scale",
        "visual.transformer.resblocks.0.mlp.c_fc.bias",
        "transformer.resblocks.1.attn.in_proj_weight",
    ],
)
def test_a_missing_key_is_named(tmp_path, state, name):
    del state[name]
    assert name in refusal(tmp_path / "x.pt", state)


def test_all_missing_and_unexpected_keys_and_shapes_are_listed(tmp_path, state):
    del state["ln_final.bias"], state["visual.ln_pre.bias"]
    state["visual.extra"] = torch.zeros(1)
    state["text_projection"] = torch.zeros(33, 32)
    message = refusal(tmp_path / "x.pt", state)
    for part in ("missing ln_final.bias", "missing visual.ln_pre.bias", "unexpected visual.extra", "(33, 32)"):
        assert part in message


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("visual.conv1.weight", (32, 4, 8, 8)),
        ("visual.conv1.weight", (32, 3, 8)),
        ("visual.positional_embedding", ()),
        ("text_projection", (32,)),
        ("visual.transformer.resblocks.1.ln_1.bias", (31,)),
    ],
)
def test_a_wrong_shape_is_named(tmp_path, state, name, shape):
    message = refusal(tmp_path / "x.pt", state | {name: torch.zeros(shape)})
    assert name in message and str(shape) in message


def test_a_clip_with_a_resnet_is_refused(tmp_path):
    resnet = {"visual.layer1.0.conv1.weight": torch.zeros(1), "visual.attnpool.c_proj.weight": torch.zeros(1)}
    assert "open_clip:RN50@FILE" in refusal(tmp_path / "RN50.pt", resnet)


@pytest.mark.parametrize("kind", ["archive", "state dict"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(tmp_path, state, kind, share):
    whole, path = tmp_path / "whole.pt", tmp_path / "x.pt"
    if kind == "archive":
        write_archive(whole, state, FILED)
    else:
        torch.save(state, whole)
    content = whole.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": 1}}, torch.zeros(2)], ids=["list", "nested", "tensor"])
def test_something_else_than_tensors_by_name_is_refused(tmp_path, content):
    assert "state dict" in refusal(tmp_path / "x.pt", content)


def test_a_missing_file_says_how_to_get_it(tmp_path):
    message = refusal(tmp_path / "ViT-B-32.pt")
    assert "preprocess.download clip" in message
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "ViT-B-32.pt"))):
        build_clip("ViT-B/32", weights_folder=tmp_path)


def test_loading_says_whether_the_file_is_the_published_one(tmp_path, monkeypatch):
    path = tmp_path / "ViT-B-32.pt"
    path.write_bytes(b"abc")
    assert "not one of the published" in published_note(path)
    of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    monkeypatch.setitem(openai.PUBLISHED, "ViT-L/14", Published("ViT-L-14.pt", of_abc))
    assert published_note(path) == f"{path} (the published file of ViT-L/14)"


def test_the_tiny_clip_starts_from_scratch_with_a_few_million_parameters():
    clip, source = build_clip("ViT-tiny/8")
    assert source is None and clip.sizes.image_size == 64
    assert 2e6 < sum(parameter.numel() for parameter in clip.parameters()) < 10e6
