"""Arguments -> parts -> model. Only here are the parts' sizes chosen, by the arguments and the towers."""

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from engine.arguments import reads_captions
from modules import emotion_encoder
from modules.aggregator import MeanP, SeqLSTM, SeqTransf, TightTransf, start_from_text_tower
from modules.backbones.fit import check_fit, load_strictly
from modules.backbones.names import source_of
from modules.backbones.openai import FROM_SCRATCH
from modules.backbones.protocol import Backbone, Needs
from modules.backbones.sources import empty_backbone, load_backbone, restore_backbone
from modules.caption_attention import CaptionAttention
from modules.caption_similarity import CaptionPooling
from modules.choices import EMOTION_ENCODERS
from modules.emotion_encoder import EmotionChannel, EmotionToken, EmotionVectors
from modules.fusion import Fusion
from modules.ief_model import IEF, Wiring
from modules.image_similarity import PooledSimilarity, TightSimilarity, TokenSimilarity, similarity_of
from modules.transformer import Transformer, heads_for
from util import InputError

PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_model(
    args: argparse.Namespace, emotion_words: Sequence[str], saved: Mapping[str, Any] | None = None
) -> tuple[IEF, str, list[str]]:
    """The model that the arguments describe: (IEF, where the towers' weights come from, lines to tell the user).

    The parts are made in the order qi, qc, fusion, so that a seed gives `--branches qi` the same start as the
    whole model. `saved`: a checkpoint (engine/checkpoint.py) to take sizes, emotion words and vectors and
    all weights from; then neither the towers' files nor an emotion encoder is needed.
    """
    notes: list[str] = []
    image, caption = args.branches != "qc", args.branches != "qi"
    if saved is None:
        backbone, weights = load_towers(args, notes)
    else:
        backbone, weights = _restored(args, saved, image), "from a checkpoint"
        emotion_words = saved["emotion_words"]
    parts: dict[str, Any] = {}  # by the names that IEF gives them, hence of many kinds
    if image:
        if args.emotion_fusion != "none":
            vectors = _emotion_vectors(args, emotion_words, backbone, saved)
            parts["emotion_vectors"] = vectors
            parts["emotion_fusion"] = _emotion_fusion(args, vectors.dim, backbone)
        if args.caption_fusion == "co_attention":
            parts["caption_attention"] = CaptionAttention(backbone.embed_dim)
        parts["aggregator"], parts["image_similarity"] = _aggregator_and_similarity(args, backbone, saved, notes)
    if caption:
        parts["caption_pooling"] = CaptionPooling(args.text_pool_type, backbone.embed_dim, args.max_captions)
    if image and caption:
        parts["fusion"] = Fusion(args.fusion, backbone.embed_dim, args.fusion_weight)
        if saved is not None and not (args.do_train and args.init_model):  # a new run fits its own
            parts["fusion"].fitted = saved.get("fitted_alpha")
    if backbone.frozen_by_default:
        for name in parts.keys() & {"aggregator", "caption_pooling"}:
            if isinstance(transformer := getattr(parts[name], "transformer", None), Transformer):
                transformer.start_as_identity()
    wiring = Wiring(
        visual_tokens=args.visual_tokens,
        reads_captions=reads_captions(args),
        has_image=image,
        has_caption=caption,
        keep_pooled=args.cdcr_lambda > 0,
    )
    model = IEF(wiring, backbone, **parts)
    model.tower_dtype = PRECISIONS[args.precision]
    model.tower_tf32 = args.precision == "tf32"
    if saved is not None:
        load_strictly(model, saved["model"], "the checkpoint")
        if model.fusion is not None and args.fusion == "fixed":
            model.fusion.weight.fill_(args.fusion_weight)  # the flag's, which may be another than the checkpoint's
    if args.do_train:
        _freeze(args, backbone, saved, notes)
    return model, weights, notes


def load_towers(args: argparse.Namespace, notes: list[str]) -> tuple[Backbone, str]:
    """The towers that the arguments name, with their weights: as `load_backbone`."""
    image = args.branches != "qc"
    return load_backbone(
        args.pretrained_clip_name,
        Needs(image, args.emotion_fusion if image else "none", image and args.visual_tokens == "patch", args.embed_dim),
        notes,
        args.linear_patch,
        args.clip_activation,
        args.clip_heads,
    )


def _restored(args: argparse.Namespace, saved: Mapping[str, Any], image: bool) -> Backbone:
    """The towers of a checkpoint, their weights still to come. InputError where they are not those of its weights."""
    own = {
        name.removeprefix("backbone."): tensor
        for name, tensor in saved["model"].items()
        if name.startswith("backbone.")
    }
    check_fit(empty_backbone(saved["backbone"], image, args.linear_patch), own, "the checkpoint")
    return restore_backbone(saved["backbone"], image, args.linear_patch, args.clip_activation, args.clip_heads)


def _freeze(args: argparse.Namespace, backbone: Backbone, saved: Mapping[str, Any] | None, notes: list[str]) -> None:
    """Leave of the towers trainable what the setting trains."""
    backbone.freeze_unreached(args.visual_tokens == "patch")
    if backbone.frozen_by_default and not args.tune_towers:
        backbone.freeze_towers()
        if args.freeze_layer_num >= 0:
            notes.append(
                f"--freeze_layer_num {args.freeze_layer_num} has no effect: the towers are frozen as a whole "
                "(--tune_towers trains them)"
            )
    else:
        backbone.freeze_layers(args.freeze_layer_num)
    if saved is None and starts_from_scratch(args) and args.freeze_layer_num >= 0:
        notes.append(
            f"--freeze_layer_num {args.freeze_layer_num} freezes random embeddings: {args.pretrained_clip_name} starts "
            "from scratch, which needs --freeze_layer_num -1"
        )


def _emotion_fusion(args: argparse.Namespace, dim: int, backbone: Backbone) -> EmotionChannel | EmotionToken:
    way = backbone.emotion_way(args.emotion_fusion)
    if way == "token":
        assert backbone.token_width is not None, "the needs were checked when the towers were loaded"
        return EmotionToken(dim, backbone.token_width)
    first = backbone.first_convolution()
    assert first is not None, "the needs were checked when the towers were loaded"
    side = math.isqrt(backbone.patches) if way == "coarse_channel" else None
    return EmotionChannel(dim, backbone.image_input.size, first, side)


def complete_arguments(args: argparse.Namespace) -> None:
    """Derive, for training, what the flags leave open, so that args.json says what was used."""
    if args.emotion_fusion != "none":
        args.emotion_encoder = emotion_encoder_name(args)
    if args.coef_lr is None:
        args.coef_lr = 1.0 if starts_from_scratch(args) else 1e-3


def check_nothing_is_untrained(args: argparse.Namespace, model: nn.Module) -> None:
    """InputError where a model without a checkpoint has random parameters, in its towers or beside them."""
    if not has_common_space(args):
        why = "starts from scratch" if starts_from_scratch(args) else "has projections that are to be trained"
        raise InputError(
            f"--do_eval without --init_model scores towers as they are loaded, but {args.pretrained_clip_name} {why}: "
            "give the checkpoint to evaluate (--init_model), or other towers"
        )
    parts = sorted({name.partition(".")[0] for name, _ in model.named_parameters()} - {"backbone"})
    if parts:
        raise InputError(
            f"--do_eval without --init_model scores towers as they are, but these flags add parts that nothing has "
            f"trained ({', '.join(parts)}): give the checkpoint to evaluate (--init_model), or --method zero_shot_clip"
        )


def has_common_space(args: argparse.Namespace) -> bool:
    """Whether the towers, as they are loaded, can compare texts with images."""
    return not starts_from_scratch(args) and source_of(args.pretrained_clip_name) != "pair"


def starts_from_scratch(args: argparse.Namespace) -> bool:
    """Whether the towers start from random weights: by default they train at the full rate then."""
    return args.pretrained_clip_name in FROM_SCRATCH


def emotion_encoder_name(args: argparse.Namespace) -> str:
    """The encoder in use: `--emotion_encoder`, else `learned` from scratch and `clip` with loaded weights."""
    return args.emotion_encoder or ("learned" if starts_from_scratch(args) else "clip")


def _emotion_vectors(
    args: argparse.Namespace, words: Sequence[str], backbone: Backbone, saved: Mapping[str, Any] | None
) -> EmotionVectors:
    encoder = EMOTION_ENCODERS[emotion_encoder_name(args)]
    if encoder is None:
        return EmotionVectors(words, dim=backbone.embed_dim)
    if saved is not None:
        rows = saved["model"].get("emotion_vectors.rows")
        if rows is None or rows.ndim != 2 or len(rows) != 1 + len(words) or not rows.is_floating_point():
            found = "none" if rows is None else f"{rows.dtype} {tuple(rows.shape)}"
            raise InputError(
                f"the checkpoint has {len(words)} emotion words, which need {1 + len(words)} rows: {found}"
            )
        return EmotionVectors(words, rows)
    return EmotionVectors(words, getattr(emotion_encoder, encoder)(words, backbone, args.bert_name))


def _aggregator_and_similarity(
    args: argparse.Namespace, backbone: Backbone, saved: Mapping[str, Any] | None, notes: list[str]
) -> tuple[MeanP | SeqLSTM | SeqTransf, PooledSimilarity | TokenSimilarity]:
    dim, layers = backbone.embed_dim, args.cross_num_hidden_layers
    if args.sim_header == "tightTransf":
        cross_encoder = TightTransf(dim, layers, args.max_frames)
        _start_from_text(cross_encoder, args, backbone, saved, notes)
        return MeanP(), TightSimilarity(cross_encoder)
    if args.sim_header == "seqTransf":
        tokens_per_frame = 1 if args.visual_tokens == "cls" else backbone.patches
        transformer = SeqTransf(dim, layers, args.max_frames, tokens_per_frame)
        _start_from_text(transformer, args, backbone, saved, notes)
        aggregator: MeanP | SeqLSTM | SeqTransf = transformer
    else:
        aggregator = SeqLSTM(dim) if args.sim_header == "seqLSTM" else MeanP()
    return aggregator, similarity_of(args.interaction, dim, args.wti_arch)


def _start_from_text(
    part: SeqTransf | TightTransf,
    args: argparse.Namespace,
    backbone: Backbone,
    saved: Mapping[str, Any] | None,
    notes: list[str],
) -> None:
    """Start the aggregator's transformer from the first text layers, or say that it starts afresh."""
    if saved is None and not start_from_text_tower(part.transformer, part.positions, backbone):
        notes.append(
            f"--sim_header {args.sim_header} starts afresh: its {len(part.transformer.resblocks)} layers of width "
            f"{backbone.embed_dim} (quick_gelu, {heads_for(backbone.embed_dim)} heads) are not like the text tower's"
        )
