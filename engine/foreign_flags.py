"""The flags of CLIP4Clip, DRL, Cap4Video, open_clip and earlier versions that main_task_retrieval.py has not, and what
stands for each here. docs/COMING_FROM.md explains the most important ones.
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
_FOLDER = "renamed: --data_path, the folder of train.csv, val.csv and test.csv (docs/DATA.md)"
_LOCKED = "gone: --freeze_layer_num freezes the first blocks of both towers; --tune_towers thaws those of a pair"
_COSINE = "gone: after --warmup_proportion the rate follows a cosine to 0"

_OF_OPEN_CLIP = {  # what stands for flags -> these; open_clip writes them with dashes
    _FOLDER: "train_data val_data",
    "not needed: the rows of the CSV are counted": "train_num_samples val_num_samples",
    "gone: each row of train.csv is taken once an epoch": "train_data_upsampling_factors dataset_resampled",
    "gone: data are CSV files with named columns, and images (docs/DATA.md)": "dataset_type csv_separator csv_img_key "
    "csv_caption_key image_key text_key json_text_key json_text_key_probs",
    "gone: docs/DATA.md says which images are too large": "max_image_pixels",
    "gone: there are no classes to tell apart; val is scored after each epoch": "imagenet_val imagenet_v2 "
    "zeroshot_frequency",
    "renamed: --output_dir, the folder of one run": "logs name",
    "not needed: the first process alone writes the log": "log_local",
    "renamed: --batch_size, of all processes together (there: of each)": "batch-size",
    "renamed: --memory_batch, how many memes at a time; --batch_size is the whole batch": "accum_freq",
    _COSINE: "lr_scheduler skip_scheduler epochs_cooldown lr_cooldown_end lr_cooldown_power",
    "renamed: --warmup_proportion, a share of the steps": "warmup",
    "gone: the optimiser is AdamW with CLIP's betas and eps (docs/TRAIN.md)": "opt opt_kwargs opt_fallback_list beta1 "
    "beta2 eps momentum",
    "renamed: --weight_decay": "wd",
    "not needed: biases, norms and the logit scale are not decayed": "wd_exclude",
    "gone: both towers train at --lr times --coef_lr": "text_layer_decay image_layer_decay visual_layer_decay "
    "text_pooler_own_group",
    "renamed: --max_grad_norm": "grad_clip_norm",
    "not needed: towers run with the batch statistics that are stored in them": "use_bn_sync",
    "not needed: a run keeps its best and its last checkpoint (--save_steps: more often)": "save_frequency "
    "save_most_recent delete_previous_checkpoint",
    "renamed: --resume_model, with the checkpoint_last.pt of the run": "resume",
    "not needed: val is scored after each epoch": "val_frequency",
    "not needed: scores are computed in fp32, in blocks that fit into memory": "val_retrieval_chunk_size "
    "val_retrieval_precision",
    "renamed: --pretrained_clip_name open_clip:MODEL/PRETRAINED, or open_clip:MODEL@FILE": "model pretrained",
    "gone: --pretrained_clip_name pair:IMAGE+TEXT takes an image tower of timm": "pretrained_image",
    _LOCKED: "lock_image lock_image_unlocked_groups lock_image_freeze_bn_stats lock_text lock_text_unlocked_layers "
    "lock_text_freeze_layer_norm",
    "not needed: images are normalised as the towers' weights want it (docs/TOWERS.md)": "image_mean image_std "
    "image_interpolation",
    "renamed: --resize (shortest is crop, longest is pad)": "image_resize_mode",
    "gone: images are not augmented": "aug_cfg",
    "gone: --memory_batch takes the same step in less memory": "grad_checkpointing",
    "not needed: n processes take the step of one, with the whole loss and its whole gradient": "local_loss "
    "gather_with_grad loss_dist_impl",
    "gone: the loss is InfoNCE (docs/MODEL.md)": "siglip",
    "gone: --max_words and --max_caption_words cut texts within the tower's context": "force_context_length",
    "gone: images have the size that the weights were trained with": "force_image_size",
    "not needed: PRETRAINED tells, and of a file MODEL (open_clip:ViT-B-32-quickgelu@FILE)": "force_quick_gelu",
    "gone: towers run without dropout": "force_patch_dropout",
    "not needed: both layouts of the weights are read": "force_custom_text",
    "renamed: --compile": "torchcompile",
    "gone: --compile has no settings": "torchcompile_strategy torchcompile_backend torchcompile_mode",
    "gone: --compile is what speeds the towers up": "torchscript trace",
    _TORCHRUN: "dist_url dist_backend no_set_device_rank horovod",
    "gone: each process holds the whole model": "ddp_static_graph fsdp fsdp_no_reshard_after_forward fsdp_offload_cpu "
    "fsdp_checkpoint",
    "gone: --precision says in which numbers the towers run": "use_bnb_linear",
    "renamed: --tensorboard; the log and the .jsonl files are always written": "report_to",
    "gone: --tensorboard has the curves": "wandb_notes wandb_project_name",
    "renamed: --n_display": "log_every_n_steps log_metric_every_n_steps",
    "gone: losses.jsonl has the losses, a line every --n_display steps": "train_loss_ema_samples",
    "not needed: run.json has the command, and the checksum and the commit of the code": "debug copy_codebase",
    "gone: --output_dir is a folder of this machine": "remote_sync remote_sync_frequency remote_sync_protocol",
    "gone: no model learns from another one": "distill_model distill_pretrained",
    "gone: CoCa's towers are not read (docs/TOWERS.md)": "coca_caption_loss_weight coca_contrastive_loss_weight",
    "not needed: texts of like length run together": "length_bucketing bucket_pool bucket_chunk bucket_prefetch_pools "
    "text_pad_multiple",
    "gone: the towers say how large an image is, and all have one size (docs/TOWERS.md)": "use_naflex "
    "force_naflex_vision naflex_num_train_image_tokens naflex_patch_sizes naflex_patch_size_probs naflex_seq_lens "
    "naflex_seq_len_probs naflex_max_tokens_per_batch naflex_max_text_tokens naflex_batch_divisor naflex_loss_scale "
    "naflex_pad_multiple",
    "gone: memes have no sound": "pretrained_audio audio_ext audio_fill audio_trunc audio_fusion audio_int16_normalize "
    "audio_layer_decay audio_multiprocessing_context audio_zeroshot_dataset audio_zeroshot_split "
    "audio_zeroshot_audio_key audio_zeroshot_target_key audio_zeroshot_class_key audio_zeroshot_template "
    "audio_zeroshot_workers audio_zeroshot_multiprocessing_context",
}

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
    "lr_decay": _COSINE,
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
    "anno_path": _FOLDER,
    "video_path": "renamed: --features_path, the folder of the images",
    "video_framerate": _VIDEO,
    "num_video_frames": "renamed: --max_frames",
    "captions_path": "gone: captions are a column of the CSV, and --caption_source says which",
    "do_eval_zero_shot": "renamed: --do_eval --method zero_shot_clip",
    "do_test": "not needed: --do_train scores the test split at its end, and --do_eval scores it alone",
    "freeze_text_encoder": _LOCKED,
    "generate_images": "gone: the images are those of the CSV",
    "strategy": "renamed: --slice_framepos",
    "k": "gone: --max_captions says how many captions of a meme are read",
    "caption_path": "gone: captions are a column of the CSV, and --caption_source says which",
    **{name: answer for answer, names in _OF_OPEN_CLIP.items() for name in names.split()},
    # this program before
    "image_cache_gb": "gone: --image_cache DIR keeps decoded images on disk, for all runs",
}


def answer_to(name: str) -> str | None:
    """What stands for a flag, named without its two dashes, or None: `train-data` is `train_data`."""
    return FOREIGN.get(name) or FOREIGN.get(name.replace("-", "_"))


def foreign_lines(argv: list[str]) -> list[str]:
    """A line for each flag of a command line that another repository had, or this one before, in their order."""
    given = dict.fromkeys(word[2:].partition("=")[0] for word in argv if word.startswith("--"))
    return [f"--{name}: {answer}" for name in given if (answer := answer_to(name))]
