"""The methods of the tables: each one a name and its flags of main_task_retrieval.py (`--method NAME`).

The only place where a method is defined: main_task_retrieval.py and with it the shell scripts, scripts.reproduce,
scripts.make_tables and docs/MODEL.md go by it. Nothing is imported here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A row of a table.

    group: `main` (a method of the main table), `ablation` (IEF with one thing changed) or `reference` (no model of
    this repository: scripts/reference.py). trained: False where CLIP is evaluated as it was loaded. seeded: whether
    another --seed gives another result. changes: of an ablation, which part it changes.
    """

    name: str
    title: str
    group: str
    flags: tuple[str, ...] = ()
    trained: bool = True
    changes: str = ""

    @property
    def seeded(self) -> bool:
        return self.trained


IMAGE_ONLY = "--branches qi --caption_fusion none --emotion_fusion none"
# What CLIP4Clip, Cap4Video and the published IEF code do: a record's own meme is right, the embeddings are frozen.
THEIRS = "--positives instance --freeze_layer_num 0"


def _main(name: str, title: str, flags: str, trained: bool = True) -> Method:
    return Method(name, title, "main", tuple(flags.split()), trained=trained)


def _ablation(name: str, title: str, flags: str, changes: str) -> Method:
    return Method(name, title, "ablation", tuple(flags.split()), changes=changes)


METHODS = {
    method.name: method
    for method in (
        Method("bm25", "BM25 over captions", "reference", trained=False),
        Method("sentence_encoder", "Sentence encoder over captions", "reference", trained=False),
        Method("sentence_encoder_max", "Sentence encoder, nearest caption", "reference", trained=False),
        _main(
            "zero_shot_clip",
            "CLIP, zero-shot",
            f"{IMAGE_ONLY} --sim_header meanP --interaction dp",
            trained=False,
        ),
        _main(
            "zero_shot_clip_captions",
            "CLIP, zero-shot, captions",
            "--branches qc --text_pool_type avg",
            trained=False,
        ),
        _main("clip4clip_meanp", "CLIP4Clip, meanP", f"{IMAGE_ONLY} {THEIRS} --sim_header meanP --interaction dp"),
        _main(
            "clip4clip_seqlstm",
            "CLIP4Clip, seqLSTM",
            f"{IMAGE_ONLY} {THEIRS} --sim_header seqLSTM --interaction dp",
        ),
        _main(
            "clip4clip_seqtransf",
            "CLIP4Clip, seqTransf",
            f"{IMAGE_ONLY} {THEIRS} --sim_header seqTransf --interaction dp",
        ),
        _main("clip4clip_tighttransf", "CLIP4Clip, tightTransf", f"{IMAGE_ONLY} {THEIRS} --sim_header tightTransf"),
        _main("drl_wti", "DRL, WTI", f"{IMAGE_ONLY} --positives instance --interaction wti"),
        _main(
            "drl_wti_cdcr",
            "DRL, WTI + CDCR",
            f"{IMAGE_ONLY} --positives instance --interaction wti --cdcr_lambda 0.001",
        ),
        _main(
            "cap4video",
            "Cap4Video",
            f"{THEIRS} --emotion_fusion none --max_caption_words 32 --caption_augmentation --co_train staged",
        ),
        _main(
            "ief_published",
            "IEF, published code",
            f"{THEIRS} --emotion_encoder bert --coef_lr 1 --max_caption_words 32 --max_frames 1 "
            "--caption_augmentation --co_train staged --fusion fixed --fusion_weight 0.5",
        ),
        _main("ief_staged", "IEF, staged", "--co_train staged"),
        _main("ief", "IEF", ""),
        _main("ief_plus", "IEF plus", "--emotion_fusion token_or_channel --caption_source both"),
        _ablation("ief_no_emotions", "none", "--emotion_fusion none", "emotions (channel)"),
        _ablation("ief_emotion_coarse", "one value a patch", "--emotion_fusion coarse_channel", "emotions (channel)"),
        _ablation("ief_emotion_token", "a token", "--emotion_fusion token", "emotions (channel)"),
        _ablation("ief_emotion_bert", "BERT", "--emotion_encoder bert", "emotion encoder (CLIP; from scratch learned)"),
        _ablation("ief_emotion_clip", "CLIP", "--emotion_encoder clip", "emotion encoder (CLIP; from scratch learned)"),
        _ablation(
            "ief_emotion_learned",
            "learned",
            "--emotion_encoder learned",
            "emotion encoder (CLIP; from scratch learned)",
        ),
        _ablation("ief_qi", "QI only", "--branches qi", "branches (QI and QC)"),
        _ablation("ief_qc", "QC only", "--branches qc", "branches (QI and QC)"),
        _ablation("ief_no_co_attention", "none", "--caption_fusion none", "captions in the image (co-attention)"),
        _ablation("ief_fixed", "fixed, 0.5", "--fusion fixed --fusion_weight 0.5", "weights (fitted on val)"),
        _ablation("ief_trained_weights", "trained", "--fusion_data train", "weights (fitted on val)"),
        _ablation("ief_per_query", "per query", "--fusion query", "weights (fitted on val)"),
        _ablation("ief_patch", "patches", "--visual_tokens patch", "visual tokens (CLS)"),
        _ablation("ief_instance", "the record's own", "--positives instance", "positives (the topic's)"),
        _ablation("ief_pool_avg", "mean", "--text_pool_type avg", "caption pooling (transformer, mean)"),
        _ablation(
            "ief_pool_clip_top1", "first caption", "--text_pool_type clip_top1", "caption pooling (transformer, mean)"
        ),
        _ablation(
            "ief_pool_weight_l", "weighted mean", "--text_pool_type weight_l", "caption pooling (transformer, mean)"
        ),
        _ablation("ief_pool_max", "the nearest", "--text_pool_type max", "caption pooling (transformer, mean)"),
        _ablation("ief_pad", "pad", "--resize pad", "resize (crop)"),
        _ablation("ief_squash", "squash", "--resize squash", "resize (crop)"),
        _ablation("ief_text", "text on the image", "--caption_source text", "captions (written)"),
        _ablation("ief_caption_and_text", "both", "--caption_source both", "captions (written)"),
    )
}
GROUPS = ("reference", "main", "ablation")
