"""docs/COMING_FROM.md: its tables agree with the parser and the answers to foreign flags, and what it shows runs."""

import json
import re
import shlex

import pandas
import pytest
import torch

from dataloaders.meme_records import read_splits
from engine import checkpoint
from engine.arguments import build_parser, default_values, parse_arguments
from engine.foreign_flags import answer_to
from modules.backbones.openai import CLIP, build_clip
from preprocess import build_community
from tests.conftest import ROOT
from tests.engine.test_arguments import flags_of_script
from tests.preprocess.build_inputs import Built, write_csv, write_picture
from tests.tiny_community import TINY
from util import InputError

# The flags of the programs, as their parsers have them.
CLIP4CLIP = """
do_pretrain do_train do_eval train_csv val_csv data_path features_path num_thread_reader lr epochs batch_size
batch_size_val lr_decay n_display video_dim seed max_words max_frames feature_framerate margin hard_negative_rate
negative_weighting n_pair output_dir cross_model init_model resume_model do_lower_case warmup_proportion
gradient_accumulation_steps n_gpu cache_dir fp16 fp16_opt_level task_type datatype world_size local_rank rank coef_lr
use_mil sampled_use_mil text_num_hidden_layers visual_num_hidden_layers cross_num_hidden_layers loose_type
expand_msrvtt_sentences train_frame_order eval_frame_order freeze_layer_num slice_framepos linear_patch sim_header
pretrained_clip_name
"""
DRL = """
do_train do_eval datatype anno_path video_path seed workers lr coef_lr warmup_proportion weight_decay epochs
batch_size batch_size_val max_words max_frames video_framerate device world_size local_rank distributed n_display
output_dir base_encoder agg_module interaction wti_arch cdcr cdcr_alpha1 cdcr_alpha2 cdcr_lambda init_model
"""
CAP4VIDEO = (
    "do_eval_zero_shot do_test strategy interaction wti_arch text_pool_type k generate_images freeze_text_encoder"
)
OPEN_CLIP = """
train-data train-data-upsampling-factors val-data train-num-samples val-num-samples dataset-type audio-ext
pretrained-audio audio-fill audio-trunc audio-fusion audio-int16-normalize audio-zeroshot-dataset audio-zeroshot-split
audio-zeroshot-audio-key audio-zeroshot-target-key audio-zeroshot-class-key audio-zeroshot-template
audio-zeroshot-workers audio-zeroshot-multiprocessing-context audio-multiprocessing-context dataset-resampled
csv-separator csv-img-key csv-caption-key image-key max-image-pixels text-key json-text-key json-text-key-probs
imagenet-val imagenet-v2 cache-dir logs log-local name workers batch-size epochs epochs-cooldown lr beta1 beta2 eps wd
momentum warmup opt opt-kwargs opt-fallback-list text-layer-decay image-layer-decay visual-layer-decay
audio-layer-decay wd-exclude text-pooler-own-group use-bn-sync skip-scheduler lr-scheduler lr-cooldown-end
lr-cooldown-power save-frequency save-most-recent zeroshot-frequency val-frequency val-retrieval-chunk-size
val-retrieval-precision resume precision model pretrained pretrained-image lock-image lock-image-unlocked-groups
lock-image-freeze-bn-stats image-mean image-std image-interpolation image-resize-mode aug-cfg grad-checkpointing
local-loss gather-with-grad force-context-length force-image-size force-quick-gelu force-patch-dropout
force-custom-text torchcompile torchcompile-strategy torchcompile-backend torchcompile-mode accum-freq device dist-url
dist-backend report-to wandb-notes wandb-project-name debug copy-codebase ddp-static-graph fsdp
fsdp-no-reshard-after-forward fsdp-offload-cpu fsdp-checkpoint no-set-device-rank seed grad-clip-norm lock-text
lock-text-unlocked-layers lock-text-freeze-layer-norm log-every-n-steps log-metric-every-n-steps
train-loss-ema-samples coca-caption-loss-weight coca-contrastive-loss-weight remote-sync remote-sync-frequency
remote-sync-protocol delete-previous-checkpoint distill-model distill-pretrained use-bnb-linear siglip loss-dist-impl
use-naflex force-naflex-vision naflex-num-train-image-tokens naflex-patch-sizes naflex-patch-size-probs
naflex-seq-lens naflex-seq-len-probs naflex-max-tokens-per-batch naflex-max-text-tokens naflex-batch-divisor
naflex-loss-scale length-bucketing bucket-pool bucket-chunk bucket-prefetch-pools naflex-pad-multiple
text-pad-multiple horovod trace torchscript
"""
THEIRS = {
    "CLIP4Clip": CLIP4CLIP.split(),
    "DRL": DRL.split(),
    "Cap4Video": [*CLIP4CLIP.split(), *CAP4VIDEO.split()],
    "open_clip": OPEN_CLIP.split(),
}
OURS = {option.removeprefix("--") for action in build_parser()._actions for option in action.option_strings}
HERE, ANSWERED = ("kept", "differs"), ("renamed", "gone", "not needed")
PAGE = (ROOT / "docs" / "COMING_FROM.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", PAGE, re.MULTILINE))


def rows(program):
    """(flag without dashes, in which way it is here, the row's explanation) of each flag in a program's table."""
    for line in SECTIONS[program].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[1] in HERE + ANSWERED:
            yield from ((flag, *cells[1:]) for flag in re.findall(r"`--([\w-]+)`", cells[0]))


def commands(program):
    """(command there, command here): lists of words, of a section's block."""
    block = re.search(r"```sh\n(# there.*?)```", SECTIONS[program], re.DOTALL)[1].replace("\\\n", " ")
    there, here = (line for line in block.splitlines() if not line.startswith("#"))
    return shlex.split(there), shlex.split(here)


@pytest.mark.parametrize("program", THEIRS)
def test_every_flag_of_the_program_is_one_here_or_is_answered(program):
    assert [name for name in THEIRS[program] if name not in OURS and answer_to(name) is None] == []


@pytest.mark.parametrize("program", THEIRS)
def test_the_table_says_what_the_program_answers(program):
    table = list(rows(program))
    assert len(table) > 8 and len(table) == len({flag for flag, *_ in table})
    for flag, way, text in table:
        assert flag in THEIRS[program], f"--{flag} is no flag of {program}"
        assert set(re.findall(r"(?<![\w-])--([\w-]+)", text)) <= OURS | set(THEIRS[program]), flag
        if way in HERE:
            assert flag in OURS, f"--{flag} does not exist"
        else:
            answer = answer_to(flag)
            assert flag not in OURS and answer.startswith(f"{way}: "), f"--{flag}: {answer}"
        if way == "renamed":
            target = re.search(r"--(\w+)", answer)[1]
            assert target in OURS and f"--{target}" in text, f"--{flag}: {answer}"
    described = {flag for flag, *_ in table} | {flag for flag, *_ in rows("CLIP4Clip")}
    assert program == "open_clip" or set(THEIRS[program]) <= described


def test_defaults_in_the_tables_are_those_of_the_parser():
    defaults = default_values() | {"coef_lr": 1e-3}  # which follows from the weights
    named = [
        (flag, found[1])
        for program in THEIRS
        for flag, way, text in rows(program)
        if way == "kept" and (found := re.match(r"default \S+, here ([\w.-]*\w)", text))
    ]
    assert len(named) > 12
    for flag, default in named:
        assert type(defaults[flag])(default) == defaults[flag], flag


@pytest.mark.parametrize("program", THEIRS)
def test_commands_of_both_sides_are_understood(program):
    there, here = commands(program)
    args, _ = parse_arguments(here[here.index("main_task_retrieval.py") + 1 :])
    assert args.do_train
    words = [word for part in there for word in (part.split("=", 1) if part.startswith("--") else [part])]
    flags = [(word[2:], words[place + 1 : place + 2]) for place, word in enumerate(words) if word.startswith("--")]
    flags = [(name, value) for name, value in flags if not re.match(r"nproc_per_node", name)]
    assert {name for name, _ in flags} <= set(THEIRS[program])
    ways = {flag: way for origin in ("CLIP4Clip", program) for flag, way, _ in rows(origin)}
    kept = [name for name, _ in flags if ways[name] == "kept"]
    assert len(kept) >= 1
    for name, value in flags:
        if name in kept:
            value = value if value and not value[0].startswith("--") else []
            build_parser().parse_args([f"--{name}", *value, "--output_dir", "x"])


def test_the_script_of_the_published_code_takes_its_setting():
    _, here = commands("The published IEF code")
    place = here.index("sh")
    args, _ = parse_arguments([*flags_of_script(ROOT / here[place + 1]), *here[place + 2 :]])
    assert (args.fusion, args.co_train, args.positives, args.emotion_encoder) == ("fixed", "staged", "instance", "bert")


def snippet(first_line):
    """A block of Python in the page's last section, by a part of it."""
    (found,) = [code for code in re.findall(r"```python\n(.*?)```", SECTIONS["Data"], re.DOTALL) if first_line in code]
    return found


def test_files_of_msr_vtt_become_a_community(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, test = [f"video{n}" for n in range(8)], ["video9770", "video9771", "video9772"]
    for number, video in enumerate([*train, *test]):
        write_picture(tmp_path / "frames" / (f"{video}/img_00001.jpg" if number % 2 else f"{video}.jpg"), number)
    sentences = [{"video_id": video, "caption": f"{who} at {video}"} for video in train for who in ("cats", "dogs")]
    unused = [{"video_id": "video99", "caption": "in neither split"}]
    source = tmp_path / "msrvtt_data"
    write_csv(source / "MSRVTT_train.9k.csv", [{"video_id": video} for video in train])
    queries = dict(zip(test, ["null", "someone runs, and falls", "men at video9772"], strict=True))
    rows = [{"key": f"ret{video}", "video_id": video, "sentence": query} for video, query in queries.items()]
    write_csv(source / "MSRVTT_JSFUSION_test.csv", rows)
    (source / "MSRVTT_data.json").write_text(json.dumps({"videos": [], "sentences": sentences + unused}))
    exec(snippet("MSRVTT_data.json"), {})
    (command,) = re.findall(r"python -m preprocess\.build_community (--from_json as_published .*)", SECTIONS["Data"])
    build_community.main(shlex.split(command))
    built = Built(tmp_path / "data" / "msrvtt")
    assert {row["image_id"]: row["query"] for row in built.rows["test"]} == queries
    others = [(row["image_id"], row["query"]) for row in built.rows["train"] + built.rows["val"]]
    assert sorted(others) == sorted((each["video_id"], each["caption"]) for each in sentences)
    assert built.rows["val"] and [row["reason"] for row in built.dropped] == ["not in the train CSV: train_id.csv"]


def test_a_csv_of_open_clip_becomes_a_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = [("a/1.jpg", ' a "cat", asleep '), ("a/2.jpg", "NA"), ("a/1.jpg", "NA"), ("a/2.jpg", "NA ")]
    pandas.DataFrame(pairs, columns=["filepath", "title"]).to_csv("train_data.csv", sep="\t", index=False)
    exec(snippet("train_data.csv"), {})
    splits, _ = read_splits({"train": "train.csv"}, tmp_path, read_captions=False)
    found = pandas.read_csv("train.csv", dtype=str, keep_default_na=False)
    assert list(zip(found.image, found["query"], strict=True)) == [
        ("a/1.jpg", 'a "cat", asleep'),
        ("a/2.jpg", "NA"),
        ("a/1.jpg", "NA"),
    ]
    assert len(splits["train"].memes) == 2


def test_towers_of_their_checkpoints_are_read_but_no_other_patch_embedding(tmp_path):
    """A file as CLIP4Clip, DRL and Cap4Video write it: half of it in fp16, and layers of their own beside `clip.`."""
    towers = CLIP(TINY).state_dict()
    beside = {
        "frame_position_embeddings.weight": torch.randn(77, 8),
        "transformerClip.resblocks.0.ln_1.weight": torch.ones(8),
        "text_weight_fc.0.weight": torch.randn(8, 8),
    }
    state = {f"clip.{name}": tensor.half() if "mlp" in name else tensor for name, tensor in towers.items()} | beside
    path, notes = tmp_path / "pytorch_model.bin.4", []
    torch.save(state, path)
    clip, _ = build_clip(str(path), activation="quick_gelu", heads=(2, 1), notes=notes)
    assert all(torch.equal(tensor, state[f"clip.{name}"].float()) for name, tensor in clip.state_dict().items())
    assert len(notes) == 1 and "3 others" in notes[0]
    with pytest.raises(InputError, match="--pretrained_clip_name"):
        checkpoint.load(path)
    torch.save(state | {"clip.visual.conv2.weight": torch.zeros(64, 3, 3, 16, 16)}, path)
    with pytest.raises(InputError, match=r"unexpected visual\.conv2\.weight"):
        build_clip(str(path), activation="quick_gelu", heads=(2, 1))
