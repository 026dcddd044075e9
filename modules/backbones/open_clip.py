"""Towers of open_clip_torch: `open_clip:ARCH/TAG` and `open_clip:ARCH@FILE`.

ARCH is a name that the library knows, or a JSON file of its kind of configuration; TAG names published weights.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modules.backbones.hf_tokenizer import HuggingFaceTokenizer, import_transformers
from modules.backbones.openai import MEAN, STD, VOCABULARY, clip_tokenizer, load_strictly
from modules.backbones.protocol import Backbone, ImageInput, Needs, TextTokenizer, added
from modules.backbones.weights_file import (
    ARCHIVE_ENTRIES,
    check_tensors,
    is_torchscript,
    load_tensors,
    read_archive,
    unwrapped,
    what_it_is,
)
from util import InputError, first_line

REQUIREMENTS = "requirements-open_clip.txt"
CONTEXT = 77  # the library's own default
RESIZES = {"squash": "squash", "longest": "pad"}  # its word for what is done with an oblong image -> --resize
TOKENIZER_OPTIONS = {"clean", "strip_sep_token"}
FOLDER_OF_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
INTERPOLATIONS = ("bicubic", "bilinear")
MAX_LAYERS, MAX_NUMBER, MAX_PIXELS = 128, 2**24, 2048  # of what a checkpoint may claim
NO_IMAGES = {"layers": 1, "width": 64, "patch_size": 32, "image_size": 32}  # stands in for a tower that is not needed
UNSAFE = ("auto_map", "attn_implementation", "quantization_config")  # keys by which a configuration brings code


def import_library() -> Any:
    """The open_clip module. InputError where it, or what it needs, is missing."""
    from modules.torchvision_ops import import_torchvision

    try:
        import_torchvision()  # open_clip imports it too, and would fail where its library does not load
        import open_clip
    except ImportError as error:
        raise InputError(f"open_clip: towers need open_clip_torch: pip install -r {REQUIREMENTS}") from error
    return open_clip


class CleanTokenizer:
    """A tokenizer of transformers, for texts that are cleaned as the tower's training texts were.

    clean: the library's name of how. strip_sep: whether what ends a text is replaced by 0 (CLIPA).
    """

    def __init__(self, tokenizer: HuggingFaceTokenizer, clean: str, strip_sep: bool) -> None:
        from open_clip.tokenizer import get_clean_fn

        self._tokenizer = tokenizer
        self._clean = get_clean_fn(clean)
        self._stripped = tokenizer.tokenize("", 8)[0][-1] if strip_sep else None
        self.pad_id = tokenizer.pad_id

    def tokenize(self, text: str, max_tokens: int) -> tuple[list[int], int]:
        ids, cut = self._tokenizer.tokenize(self._clean(text), max_tokens)
        return [0 if number == self._stripped else number for number in ids], cut

    def pieces(self, ids: Iterable[int]) -> list[tuple[str, int]]:
        return self._tokenizer.pieces(ids)

    def unreadable(self, ids: Sequence[int]) -> int:
        return self._tokenizer.unreadable(ids)


# --- the text towers ---------------------------------------------------------------------------------------------


class TextTower(nn.Module):
    """The library's TextTransformer. Ids (N, L), padded -> words (N, L, d), sentence (N, d)."""

    tower: Any

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower
        if tower.cls_emb is not None or tower.pool_type == "none":
            raise InputError("its text tower ends with a token of its own, as CoCa's does; such towers are not read")

    @property
    def reads_padding(self) -> bool:
        """Whether what stands behind a text changes its features, so that it is always padded to the full length."""
        return self.tower.attn_mask is None or self.tower.pool_type == "last"

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from open_clip.transformer import text_global_pool

        tower, length = self.tower, ids.shape[1]
        x = tower.token_embedding(ids) + tower.positional_embedding[:length]
        mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
        words = tower.ln_final(tower.transformer(x, attn_mask=mask))
        if isinstance(tower.text_projection, nn.Linear):
            words = tower.text_projection(words)
        elif tower.text_projection is not None:
            words = words @ tower.text_projection
        return words, text_global_pool(words, ids, tower.pool_type, eos_token_id=tower.eos_id)

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        tower = self.tower
        return [tower.token_embedding.weight, tower.positional_embedding], list(tower.transformer.resblocks)


class HuggingFaceText(nn.Module):
    """The library's HFTextEncoder: an encoder of transformers, pooled and projected. As TextTower."""

    tower: Any

    def __init__(self, tower: Any, pad_id: int) -> None:
        super().__init__()
        self.tower = tower
        self.reads_padding = tower.config.pad_token_id != pad_id  # else it is masked

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tower = self.tower
        mask = (ids != tower.config.pad_token_id).long()
        out = tower.transformer(input_ids=ids, attention_mask=mask)
        return tower.proj(out.last_hidden_state), tower.proj(tower.pooler(out, mask))

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        transformer = self.tower.transformer
        encoder = getattr(transformer, "encoder", transformer)
        name = next(name for name in ("layer", "layers", "block") if hasattr(encoder, name))
        blocks = list(getattr(encoder, name))
        return _before(transformer, blocks), blocks


# --- the image towers --------------------------------------------------------------------------------------------


class ImageTower(nn.Module):
    """What is common to the library's image towers. Pixels (N, 3, H, W) -> pooled (N, d), patches (N, P, d) or None."""

    tower: Any
    token_width: int | None = None

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(
        self, pixels: torch.Tensor, extra_token: torch.Tensor | None = None, patches: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.tower(pixels), None

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        blocks = [block for number in range(1, 5) for block in getattr(self.tower, f"layer{number}")]  # of the ResNets
        return _before(self.tower, blocks), blocks


class ImageTransformer(ImageTower):
    """The library's VisionTransformer."""

    def __init__(self, tower: Any) -> None:
        super().__init__(tower)
        if tower.pool_type == "none" or isinstance(tower.attn_pool, nn.Module):
            raise InputError("its image tower ends in CoCa's kind of pooling; such towers are not read")
        tower.output_tokens = True
        self.token_width = tower.conv1.out_channels

    def forward(
        self, pixels: torch.Tensor, extra_token: torch.Tensor | None = None, patches: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tower = self.tower
        with _one_more(extra_token, tower.ln_pre, tower.transformer):
            pooled, tokens = tower(pixels)
        return pooled, (tower.ln_post(tokens) if tower.final_ln_after_pool else tokens) @ tower.proj

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        tower, blocks = self.tower, list(self.tower.transformer.resblocks)
        return [parameter for parameter in _before(tower, blocks) if parameter is not tower.proj], blocks


class TimmTower(ImageTower):
    """The library's TimmModel: a trunk of timm and a head which may project. Its blocks are the trunk's, or its stages.

    Patches are the places of the trunk's last map, each as if it alone were pooled; a pooling that knows the places
    (CLIP's attention in a ResNet of timm) leaves none.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__(tower)
        from timm.models.vision_transformer import VisionTransformer

        trunk = tower.trunk
        attention = getattr(trunk, "attn_pool", None)
        self._pools_places = hasattr(tower.head, "pool") or getattr(attention, "pos_embed", None) is not None
        # whether the pooling itself leaves out what stands before the patches
        self._leaves_out = getattr(trunk, "global_pool", "token") != "token"
        if attention is not None:
            self._leaves_out = not getattr(trunk, "pool_include_prefix", True)
        if type(trunk) is VisionTransformer:  # others turn their tokens by their places
            self.token_width = trunk.embed_dim

    def forward(
        self, pixels: torch.Tensor, extra_token: torch.Tensor | None = None, patches: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        tower, trunk = self.tower, self.tower.trunk
        with _one_more(extra_token, getattr(trunk, "norm_pre", None), getattr(trunk, "blocks", None)):
            features = trunk.forward_features(pixels)
        pooled = tower.head(trunk.forward_head(features))
        if self._pools_places or not patches:
            return pooled, None
        if features.ndim == 4:
            last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
            places = features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
            alone = places.flatten(0, 1)[:, None, None] if last else places.flatten(0, 1)[:, :, None, None]
        else:
            places = features[:, trunk.num_prefix_tokens :]
            alone = places.flatten(0, 1)[:, None]
            if self._leaves_out:
                alone = torch.cat([alone.new_zeros(len(alone), trunk.num_prefix_tokens, alone.shape[2]), alone], dim=1)
        return pooled, tower.head(trunk.forward_head(alone)).unflatten(0, places.shape[:2])

    def layers(self) -> tuple[list[nn.Parameter], list[nn.Module]]:
        trunk = self.tower.trunk
        name = next((name for name in ("blocks", "stages", "layers") if hasattr(trunk, name)), None)
        blocks = list(getattr(trunk, name)) if name else [m for n, m in trunk.named_children() if n.startswith("layer")]
        if not blocks:
            raise InputError(f"--freeze_layer_num: the blocks of a {type(trunk).__name__} are not known; take -1")
        return _before(trunk, blocks), blocks


@contextlib.contextmanager
def _one_more(token: torch.Tensor | None, into: nn.Module | None, within: nn.Module | None) -> Iterator[None]:
    """Within it, the sequence that `into` reads has `token` (N, width) behind it; what `within` gives is without it."""
    if token is None or into is None or within is None:
        yield
        return
    handles = [
        into.register_forward_pre_hook(lambda _, inputs: torch.cat([inputs[0], token[:, None].to(inputs[0].dtype)], 1)),
        within.register_forward_hook(lambda _, inputs, output: output[:, :-1]),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(module: nn.Module, blocks: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The parameters of a module that come before those of its blocks."""
    first = next(blocks[0].parameters())
    return list(itertools.takewhile(lambda parameter: parameter is not first, module.parameters()))


# --- both together -----------------------------------------------------------------------------------------------


class OpenClip(Backbone):
    """Both towers. `visual` is absent without `vision`."""

    visual: ImageTower
    text: TextTower | HuggingFaceText

    def __init__(self, recipe: Mapping[str, Any], vision: bool = True) -> None:
        super().__init__()
        library = import_library()
        settings = json.loads(recipe["configuration"])
        _check(settings)
        model, image = settings["model"], settings["image"]
        self._recipe = {"source": "open_clip"} | {name: recipe[name] for name in ("configuration", "tokenizer")}
        self.tokenizer: TextTokenizer = clip_tokenizer()
        self._pad_id = 0
        if settings["tokenizer"] is not None:
            tokenizer = HuggingFaceTokenizer.of_files(recipe["tokenizer"])
            self.tokenizer = CleanTokenizer(tokenizer, **settings["tokenizer"])
            self._pad_id = tokenizer.pad_id
        with _with_encoder(model["text_cfg"], settings["encoder"]) as text:
            towers = library.CustomTextCLIP(
                embed_dim=model["embed_dim"],
                vision_cfg=model["vision_cfg"] | {"timm_model_pretrained": False} if vision else dict(NO_IMAGES),
                text_cfg=text,
                quick_gelu=model.get("quick_gelu", False),
            ).float()
        self.embed_dim = model["embed_dim"]
        self.context_length = model["text_cfg"].get("context_length", CONTEXT)
        self.image_input = ImageInput(image["size"], tuple(image["mean"]), tuple(image["std"]), image["interpolation"])
        self.patches = 0
        if vision:
            self.visual = _image_tower(towers.visual)
        encoder = settings["encoder"] is not None
        self.text = HuggingFaceText(towers.text, self._pad_id) if encoder else TextTower(towers.text)
        self.logit_scale = nn.Parameter(towers.logit_scale.detach().reshape(()))
        self.eval()
        if vision:
            self.patches = self._count_patches()

    def text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        length = self.context_length if self.text.reads_padding else ids.shape[1]
        padded = ids.new_full((len(ids), length), self._pad_id)
        padded[:, : ids.shape[1]] = torch.where(mask, ids, self._pad_id)
        words, sentence = self.text(padded)
        return words[:, : ids.shape[1]], sentence

    def image_features(
        self,
        pixels: torch.Tensor,
        patch_bias: torch.Tensor | None = None,
        extra_token: torch.Tensor | None = None,
        meme_of_frame: torch.Tensor | None = None,
        patches: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        with added(self.first_convolution() if patch_bias is not None else None, patch_bias):
            return self.visual(pixels, extra_token, patches)

    @property
    def token_width(self) -> int | None:
        return self.visual.token_width

    def layers(self) -> tuple[list[nn.Parameter], list[list[nn.Module]]]:
        embeddings, blocks = self.text.layers()
        if not hasattr(self, "visual"):
            return embeddings, [blocks]
        of_images, image_blocks = self.visual.layers()
        return embeddings + of_images, [blocks, image_blocks]

    def recipe(self) -> dict[str, Any]:
        return self._recipe

    def _count_patches(self) -> int:
        """Found with shapes alone. InputError where the image tower's features are not one vector an image."""
        parts = itertools.chain(self.visual.named_parameters(), self.visual.named_buffers())
        shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in parts}
        pixels = torch.empty(1, 3, self.image_input.size, self.image_input.size, device="meta")
        pooled, patches = torch.func.functional_call(self.visual, shapes, (pixels,))
        if pooled.shape != (1, self.embed_dim):
            raise InputError(f"its image tower gives {tuple(pooled.shape)} of an image, not {(1, self.embed_dim)}")
        return 0 if patches is None else patches.shape[1]


def _image_tower(tower: nn.Module) -> ImageTower:
    kinds: dict[str, type[ImageTower]] = {"VisionTransformer": ImageTransformer, "TimmModel": TimmTower}
    return kinds.get(type(tower).__name__, ImageTower)(tower)


@contextlib.contextmanager
def _with_encoder(text: Mapping[str, Any], encoder: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The text tower's configuration, in which an encoder of transformers is named by a folder with `encoder` in it.

    The library reads it from there: neither a network nor the encoder's own weights are asked for.
    """
    if encoder is None:
        yield dict(text)
        return
    import_transformers()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(encoder), encoding="utf-8")
        yield {**text, "hf_model_name": folder, "hf_model_pretrained": False}


def restore(recipe: Mapping[str, Any], vision: bool = True) -> OpenClip:
    """The towers of a checkpoint, their weights still to come. InputError where the recipe is damaged."""
    return _made(recipe, vision, "the checkpoint")


def _made(recipe: Mapping[str, Any], vision: bool, what: str) -> OpenClip:
    """The towers, or an InputError: a library raises whatever a stranger's settings lead it to."""
    try:
        return OpenClip(recipe, vision)
    except Exception as error:
        if isinstance(error, InputError) and "pip install" in str(error):
            raise
        raise InputError(f"{what}: no towers can be made of its settings: {first_line(error)}") from error


def _check(settings: Any) -> None:
    """InputError where settings, which may be a stranger's, are not what `_settings` gives, or past all reason."""
    if not isinstance(settings, dict) or settings.keys() != {"model", "encoder", "tokenizer", "image"}:
        raise InputError("they are not those of open_clip's towers")
    model, encoder, image = settings["model"], settings["encoder"], settings["image"]
    vision, text = model["vision_cfg"], model["text_cfg"]
    for name, value in _values(settings):
        limit = MAX_LAYERS if "layers" in name else MAX_NUMBER
        if isinstance(value, int | float) and not -MAX_NUMBER <= value <= limit:
            raise InputError(f"{name} is {value}")
    if not isinstance(image["size"], int) or not 0 < image["size"] <= MAX_PIXELS:
        raise InputError(f"images of {image['size']} pixels a side")
    if len(image["mean"]) != 3 or len(image["std"]) != 3 or not all(value > 0 for value in image["std"]):
        raise InputError(f"images normalised by {image['mean']}, {image['std']}")
    if image["interpolation"] not in INTERPOLATIONS:
        raise InputError(f"images resized by {image['interpolation']!r}")
    for name, part in (("hf_model_name", encoder), ("hf_tokenizer_name", settings["tokenizer"])):
        if bool(text.get(name)) != (part is not None):
            raise InputError(f"{name} is {text.get(name)!r}, but what it names is {'' if part else 'not '}there")
    if encoder is not None:
        from open_clip.hf_configs import arch_dict

        if encoder.get("model_type") not in arch_dict:
            raise InputError(f"a text encoder {str(encoder.get('model_type'))[:80]!r}, which is none of open_clip's")
        if unsafe := [key for key in encoder if not _is_safe(key)]:
            raise InputError(f"a text encoder with {unsafe[0]!r}")
    vocabulary = (encoder or text).get("vocab_size", VOCABULARY)
    if settings["tokenizer"] is None and vocabulary != VOCABULARY:
        raise InputError(f"a vocabulary of {vocabulary:,} and no tokenizer; CLIP's has {VOCABULARY:,}")
    if vision.get("timm_model_name") is not None:
        import timm

        if not timm.is_model(vision["timm_model_name"]):
            raise InputError(f"timm has no {str(vision['timm_model_name'])[:80]!r}")


def _values(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields all that a nest of dicts and lists holds, by the key that it stands under."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else ((name, part) for part in value):
            yield from _values(part, str(key))
    else:
        yield name, value


# --- from a name to towers ---------------------------------------------------------------------------------------


def load(name: str, needs: Needs, notes: list[str]) -> tuple[OpenClip, str]:
    """The towers called `name` ("ARCH/TAG" or "ARCH@FILE"): (OpenClip, where the weights come from, for the log).

    `notes` gets lines to tell the user. InputError as `modules.backbones.sources.load_backbone` says.
    """
    library = import_library()
    arch, at, file = name.partition("@")
    tag = ""
    if not at:
        arch, _, tag = name.rpartition("/")
    if not arch or not (tag or file):
        raise InputError(
            f"open_clip:{name}: expected open_clip:ARCH/TAG (weights that open_clip knows, such as "
            "ViT-B-32/laion2b_s34b_b79k) or open_clip:ARCH@FILE (a file of weights)"
        )
    arch = arch if arch.endswith(".json") else arch.replace("/", "-")  # as the library reads ViT-B/32
    if file and not Path(file).is_file():
        raise InputError(f"{file}: no such file of weights (--pretrained_clip_name open_clip:{name})")
    model, preprocessing, folder = _architecture(library, arch)
    published = _published(library, arch, tag) if tag else None
    if published is not None:
        preprocessing = dict(published)
        if published.get("quick_gelu") and not model.get("quick_gelu"):
            model["quick_gelu"] = True
            notes.append(f"open_clip:{name}: with QuickGELU, as these weights were trained, not {arch}'s GELU")
    elif not preprocessing:
        preprocessing = _usual_preprocessing(library, arch, notes)
    recipe = _recipe(model, preprocessing, folder, f"open_clip:{name}", notes)
    with torch.device("meta"):
        _made(recipe, True, f"open_clip:{name}").check(needs, f"open_clip:{name}")
    path = _downloaded(library, name, published) if published is not None else Path(file)
    backbone = _made(recipe, True, f"open_clip:{name}")
    _load_weights(backbone, path, notes)
    if not needs.vision:
        del backbone.visual
        backbone.patches = 0
    backbone.clamp_logit_scale()
    return backbone, f"open_clip:{name}" + ("" if file else f" ({path})")


def _architecture(library: Any, arch: str) -> tuple[dict[str, Any], dict[str, Any], Path | None]:
    """(configuration, preprocessing where it is told, the folder of a configuration that is a file)."""
    if arch.endswith(".json"):
        try:
            content = json.loads(Path(arch).read_text(encoding="utf-8"))
            model, preprocessing = content.get("model_cfg", content), content.get("preprocess_cfg", {})
            if not {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys():
                raise ValueError("embed_dim, vision_cfg and text_cfg are expected")
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{arch}: no configuration of open_clip: {first_line(error)}") from error
        return model, preprocessing, Path(arch).parent
    known = library.list_models()
    if arch not in known:
        raise InputError(f"open_clip:{arch}: open_clip has no such architecture; {_like(arch, known)}")
    return library.get_model_config(arch), {}, None


def _published(library: Any, arch: str, tag: str) -> dict[str, Any]:
    found = library.get_pretrained_cfg(arch, tag)
    if not found:
        tags = library.list_pretrained_tags_by_model(arch)
        what = f"it has {', '.join(tags)}" if tags else "it has none at all: give a file, open_clip:ARCH@FILE"
        raise InputError(f"open_clip:{arch}/{tag}: open_clip knows no weights {tag!r} of {arch}; {what}")
    return found


def _like(name: str, known: Sequence[str]) -> str:
    """What there is, for a message: the names like `name`, else some."""
    folded = {other.lower(): other for other in known}
    close = [folded[other] for other in difflib.get_close_matches(name.lower(), folded, 6, 0.5)]
    return f"like it are {', '.join(close)}" if close else f"it has {', '.join(known[:6])}, ..."


def _usual_preprocessing(library: Any, arch: str, notes: list[str]) -> dict[str, Any]:
    """What all published weights of an architecture agree on, else CLIP's own, with a note."""
    names = ("mean", "std", "interpolation", "resize_mode")
    found = [library.get_pretrained_cfg(arch, tag) for tag in library.list_pretrained_tags_by_model(arch)]
    kinds = {json.dumps({name: one.get(name) for name in names}) for one in found}
    if len(kinds) == 1:
        return json.loads(kinds.pop())
    notes.append(
        f"open_clip:{arch}: nothing tells how these weights' images were normalised, so as OpenAI's CLIP has it (mean "
        f"{MEAN}). A JSON file in the architecture's place can tell: its model_cfg and preprocess_cfg are read"
    )
    return {}


def _recipe(
    model: dict[str, Any], preprocessing: Mapping[str, Any], folder: Path | None, name: str, notes: list[str]
) -> dict[str, Any]:
    """All that makes the towers again but for their weights; the tokenizer and an encoder's configuration are read."""
    if "multimodal_cfg" in model:
        raise InputError(f"{name}: a CoCa, whose text tower is one half of a decoder; such towers are not read")
    text = model["text_cfg"]
    settings: dict[str, Any] = {"model": model, "encoder": None, "tokenizer": None}
    files: dict[str, torch.Tensor] = {}
    options = dict(text.get("tokenizer_kwargs") or {})
    if text.get("hf_tokenizer_name"):
        beside = folder is not None and any((folder / file).is_file() for file in FOLDER_OF_TOKENIZER)
        files = HuggingFaceTokenizer.load(folder if beside and folder else text["hf_tokenizer_name"]).files()
        strip = options.pop("strip_sep_token", False)
        settings["tokenizer"] = {"clean": options.pop("clean", "whitespace"), "strip_sep": strip}
    if options or text.get("tokenizer_mode"):
        raise InputError(f"{name}: its tokenizer has options that are not known here: {options or 'tokenizer_mode'}")
    if text.get("hf_model_name"):
        settings["encoder"] = _encoder(text["hf_model_name"])
    settings["image"] = _image(model["vision_cfg"], preprocessing, name, notes)
    return {"configuration": json.dumps(settings), "tokenizer": files}


def _encoder(name: str) -> dict[str, Any]:
    """The configuration of a text encoder on the hub, or of a folder."""
    transformers = import_transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False).to_dict()
        return json.loads(json.dumps({key: value for key, value in config.items() if _is_safe(key)}, default=str))
    except Exception as error:  # a stranger's file, and the library raises whatever it leads it to
        raise InputError(f"the configuration of the text encoder {name} cannot be read: {first_line(error)}") from error


def _is_safe(key: str) -> bool:
    return not key.startswith("_") and key not in UNSAFE


def _image(vision: Mapping[str, Any], preprocessing: Mapping[str, Any], name: str, notes: list[str]) -> dict[str, Any]:
    size = vision.get("image_size", 224)
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise InputError(f"{name}: images of {size} pixels; square ones are needed")
    interpolation = preprocessing.get("interpolation") or "bicubic"
    if interpolation not in INTERPOLATIONS:
        notes.append(f"{name}: images are resized with bicubic, the nearest to {interpolation}")
        interpolation = "bicubic"
    resize = RESIZES.get(preprocessing.get("resize_mode") or "")
    if resize is not None:
        notes.append(f"{name}: its training images were resized as --resize {resize} does")
    mean, std = preprocessing.get("mean") or MEAN, preprocessing.get("std") or STD
    return {"size": size, "mean": list(mean), "std": list(std), "interpolation": interpolation}


def _downloaded(library: Any, name: str, published: Mapping[str, Any]) -> Path:
    try:
        return Path(library.download_pretrained(published))
    except Exception as error:  # of the hub's client, of urllib, of the disk
        place = published.get("hf_hub") or published.get("url")
        raise InputError(
            f"open_clip:{name}: its weights cannot be fetched from {place}: {first_line(error)}. Where there is no "
            "network, fetch them elsewhere and give the file: open_clip:ARCH@FILE"
        ) from error


def _load_weights(backbone: OpenClip, path: Path, notes: list[str]) -> None:
    """Load a file of the library's weights strictly, but for the bias of SigLIP's loss, which nothing reads."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state, more = _read(path)
    notes += more
    towers = nn.Module()  # the towers by the library's names
    towers.visual, towers.text, towers.logit_scale = backbone.visual.tower, backbone.text.tower, backbone.logit_scale
    try:
        state = convert_to_custom_text_state_dict(convert_state_dict(towers, state))
    except Exception as error:  # of Apple's own files, where they are damaged
        raise InputError(f"{path}: not what its names say: {first_line(error)}") from error
    for unread in ("logit_bias", "text.transformer.embeddings.position_ids"):
        state.pop(unread, None)
    if "logit_scale" in state and state["logit_scale"].numel() == 1:
        state["logit_scale"] = state["logit_scale"].reshape(())
    load_strictly(towers, state, path)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A file of weights, fp32: safetensors, a state dict, or a TorchScript archive; nothing in it is run."""
    try:
        if _is_safetensors(path):
            from safetensors.torch import load_file

            content: Any = load_file(path)
        elif what := what_it_is(path):
            raise InputError(what)
        else:
            content = read_archive(path) if is_torchscript(path) else load_tensors(path)
        state, notes = unwrapped(content)
        check_tensors(state, os.path.getsize(path))
    except Exception as error:  # safetensors' own, which is no kind of another
        raise InputError(f"{path}: cannot be read as weights: {first_line(error)}") from error
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in state.items() if name not in ARCHIVE_ENTRIES}, notes


def _is_safetensors(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(9)
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < os.path.getsize(path)
