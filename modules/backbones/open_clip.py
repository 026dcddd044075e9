"""Towers of open_clip_torch: `open_clip:ARCH/TAG` and `open_clip:ARCH@FILE`.

ARCH is a name that the library knows, or a JSON file of its kind of configuration; TAG names published weights.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modules.backbones.fit import load_strictly
from modules.backbones.hf_tokenizer import HuggingFaceTokenizer
from modules.backbones.hub import import_transformers, kept
from modules.backbones.open_clip_towers import HuggingFaceText, ImageTower, TextTower, image_tower
from modules.backbones.openai import MEAN, STD, VOCABULARY, clip_tokenizer
from modules.backbones.protocol import INTERPOLATIONS, MAX_LAYERS, Backbone, ImageInput, Needs, TextTokenizer
from modules.backbones.text_encoder import read_configuration
from modules.backbones.weights_file import read_state
from modules.torchvision_ops import import_beside_torchvision
from util import InputError, first_line, read_json

REQUIREMENTS = "requirements-open_clip.txt"
CONTEXT = 77  # the library's own default
RESIZES = {"squash": "squash", "longest": "pad"}  # its word for what is done with an oblong image -> --resize
FOLDER_OF_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
MAX_NUMBER = 2**24  # of what a checkpoint may claim
NO_IMAGES = {"layers": 1, "width": 64, "patch_size": 32, "image_size": 32}  # stands in for a tower that is not needed


def import_library() -> Any:
    """The open_clip module. InputError where it, or what it needs, is missing."""
    return import_beside_torchvision(
        "open_clip", f"open_clip: towers need open_clip_torch: pip install -r {REQUIREMENTS}"
    )


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
        model = settings["model"]
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
        self.image_input = ImageInput.of(settings["image"])
        self.patches = 0
        if vision:
            self.visual = image_tower(towers.visual)
        encoder = settings["encoder"] is not None
        self.text = HuggingFaceText(towers.text, self._pad_id) if encoder else TextTower(towers.text)
        self.reads_padding = self.text.reads_padding
        self.logit_scale = nn.Parameter(towers.logit_scale.detach().reshape(()))
        self.eval()
        if vision:
            self.patches = self._count_patches()

    def text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        length = self.context_length if self.reads_padding else ids.shape[1]
        padded = ids.new_full((len(ids), length), self._pad_id)
        padded[:, : ids.shape[1]] = torch.where(mask, ids, self._pad_id)
        words, sentence = self.text(padded)
        return words[:, : ids.shape[1]], sentence

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
    """InputError where settings, which may be a stranger's, are not what `_recipe` gives, or past all reason."""
    if not isinstance(settings, dict) or settings.keys() != {"model", "encoder", "tokenizer", "image"}:
        raise InputError("they are not those of open_clip's towers")
    encoder, vision, text = settings["encoder"], settings["model"]["vision_cfg"], settings["model"]["text_cfg"]
    for name, value in _values(settings):
        limit = MAX_LAYERS if "layers" in name else MAX_NUMBER
        if isinstance(value, int | float) and not -MAX_NUMBER <= value <= limit:
            raise InputError(f"{name} is {value}")
    for name, part in (("hf_model_name", encoder), ("hf_tokenizer_name", settings["tokenizer"])):
        if bool(text.get(name)) != (part is not None):
            raise InputError(f"{name} is {text.get(name)!r}, but what it names is {'' if part else 'not '}there")
    if encoder is not None:
        from open_clip.hf_configs import arch_dict

        if encoder.get("model_type") not in arch_dict:
            raise InputError(f"a text encoder {str(encoder.get('model_type'))[:80]!r}, which is none of open_clip's")
        if kept(encoder) != encoder:
            raise InputError("a text encoder whose configuration names code, a place or a number format")
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
    try:
        recipe = _recipe(model, preprocessing, folder, f"open_clip:{name}", notes)
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"open_clip:{name}: its configuration cannot be read: {first_line(error)}") from error
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
        content = read_json(arch, dict, "a configuration of open_clip")
        model, preprocessing = content.get("model_cfg", content), content.get("preprocess_cfg", {})
        parts = [model, preprocessing]
        if isinstance(model, dict):
            parts += [model.get("vision_cfg"), model.get("text_cfg")]
        if not all(isinstance(part, dict) for part in parts) or "embed_dim" not in model:
            raise InputError(
                f"{arch}: no configuration of open_clip: embed_dim, and vision_cfg and text_cfg as JSON objects, are "
                "expected (in model_cfg, where there is one, whose preprocess_cfg is an object too)"
            )
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
        settings["encoder"] = read_configuration(text["hf_model_name"])
    settings["image"] = _image(model["vision_cfg"], preprocessing, name, notes)
    return {"configuration": json.dumps(settings), "tokenizer": files}


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
    return {"size": size, "mean": mean, "std": std, "interpolation": interpolation}


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

    state = read_state(path, notes)
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
