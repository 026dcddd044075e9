"""The flags of CLIP4Clip, DRL, Cap4Video and earlier versions that main_task_retrieval.py has not, and what stands for
each here.
"""

_TORCHRUN = "not needed: `torchrun` says it to each process (`--nproc_per_node` is the number of GPUs)"
_VIDEO = "gone: memes are images, of animated ones --max_frames are taken, as --slice_framepos says"
_HARD = "gone: it belongs to a max-margin loss, and the loss here is InfoNCE (docs/MODEL.md)"
_MIL = "gone: several right memes of a query are --positives topic"
_BERT = "gone: --pretrained_clip_name names both towers"
_LAYERS = "gone: the weights say how many layers the towers have"
_FRAMES = "renamed: --slice_framepos says which frames are taken; their order is kept"
_CDCR = "gone: --cdcr_lambda above 0 turns the regulariser on, and is its only number"
_AMP = "renamed: --precision fp16 (or bf16)"

FOREIGN = {
    # CLIP4Clip, and what took it over
    "do_pretrain": "gone: there is --do_train alone, which begins at the towers' weights or at --init_model",
    "do_lower_case": "not needed: CLIP's tokenizer writes all in lower case",
    "task_type": "gone: retrieval is the only task",
    "loose_type": "gone: --sim_header meanP, seqLSTM and seqTransf are the loose ones, tightTransf is the tight one",
    "use_mil": _MIL,
    "sampled_use_mil": _MIL,
    "expand_msrvtt_sentences": "gone: each query is a row of the CSV, and train.csv holds all of them (docs/DATA.md)",
    "margin": _HARD,
    "hard_negative_rate": _HARD,
    "negative_weighting": _HARD,
    "n_pair": "gone: a row of the CSV is one query with one meme",
    "lr_decay": "gone: after --warmup_proportion the rate follows a cosine to 0",
    "video_dim": "gone: images are read and encoded, not features",
    "feature_framerate": _VIDEO,
    "train_frame_order": _FRAMES,
    "eval_frame_order": _FRAMES,
    "text_num_hidden_layers": _LAYERS,
    "visual_num_hidden_layers": _LAYERS,
    "max_position_embeddings": "gone: CLIP's weights say it; --max_words and --max_caption_words cut the texts",
    "bert_model": _BERT,
    "visual_model": _BERT,
    "cross_model": "gone: --sim_header and --cross_num_hidden_layers describe the aggregator",
    "decoder_model": "gone: nothing is generated here",
    "cache_dir": "gone: CLIP's files are in modules/ (`python -m preprocess.download clip`), Hugging Face's in HF_HOME",
    "fp16": _AMP,
    "fp16_opt_level": _AMP,
    "n_gpu": _TORCHRUN,
    "world_size": _TORCHRUN,
    "rank": _TORCHRUN,
    "local_rank": _TORCHRUN,
    "local-rank": _TORCHRUN,
    # DRL, Cap4Video
    "distributed": _TORCHRUN,
    "base_encoder": "renamed: --pretrained_clip_name",
    "clip_archive": "renamed: --pretrained_clip_name, which takes a file too",
    "agg_module": "renamed: --sim_header (None is meanP)",
    "cdcr": _CDCR,
    "cdcr_alpha1": _CDCR,
    "cdcr_alpha2": _CDCR,
    "workers": "renamed: --num_thread_reader",
    "split_batch": "renamed: --batch_size_val, of encoding; what is scored at once follows from the memory",
    "anno_path": "renamed: --data_path, the folder of train.csv, val.csv and test.csv (docs/DATA.md)",
    "video_path": "renamed: --features_path, the folder of the images",
    "video_framerate": _VIDEO,
    "num_video_frames": "renamed: --max_frames",
    "captions_path": "gone: captions are a column of the CSV, and --caption_source says which",
    "do_eval_zero_shot": "renamed: --do_eval --method zero_shot_clip",
    "do_test": "not needed: --do_train scores the test split at its end, and --do_eval scores it alone",
    "freeze_text_encoder": "gone: --freeze_layer_num freezes the first blocks of both towers",
    "generate_images": "gone: the images are those of the CSV",
    "strategy": "renamed: --slice_framepos",
    "k": "gone: --max_captions says how many captions of a meme are read",
    "caption_path": "gone: captions are a column of the CSV, and --caption_source says which",
    # this program before
    "image_cache_gb": "gone: --image_cache DIR keeps decoded images on disk, for all runs",
}


def foreign_lines(argv: list[str]) -> list[str]:
    """A line for each flag of a command line that another repository had, or this one before, in their order."""
    given = dict.fromkeys(word[2:].partition("=")[0] for word in argv if word.startswith("--"))
    return [f"--{name}: {FOREIGN[name]}" for name in given if name in FOREIGN]
