"""The command line: every flag explained, senseless combinations refused, every shell script parsed for real."""

import re
import shlex
import subprocess
import sys

import pytest

from engine.arguments import SLUGS, build_parser, parse_arguments
from engine.foreign_flags import FOREIGN, foreign_lines
from tests.conftest import ROOT

TRAIN = ["--do_train", "--output_dir", "runs/x"]
SCRIPTS = sorted(ROOT.glob("co_train_*.sh"))


def flags_of_script(script):
    """The words of a script's command from `--do_train` on, its variables replaced and `"$@"` left out."""
    text = script.read_text().replace("\\\n", " ")
    line = next(line for line in text.splitlines() if "--do_train" in line)
    line = re.sub(r"\$\{?OUTPUT_DIR:-([^}]*)\}", r"\1", line)
    line = line.replace('"$@"', "").replace("$DATA_PATH", "some folder").replace("$fresh", "--overwrite")
    return shlex.split(line[line.index("--do_train") :].partition("||")[0])


def test_there_is_a_script_for_every_community_of_the_benchmark_and_the_demo():
    assert {script.stem.removeprefix("co_train_") for script in SCRIPTS} == set(SLUGS) - {"custom"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_scripts_flags_are_understood(script):
    args, _ = parse_arguments(flags_of_script(script))
    assert args.datatype == script.stem.removeprefix("co_train_")
    assert args.output_dir == f"runs/{args.datatype}"
    if args.datatype != "demo":
        published = (args.pretrained_clip_name, args.batch_size, args.epochs, args.lr, args.max_words)
        assert published == ("ViT-B/32", 128, 4, 1e-4, 32)


def test_slugs_are_those_of_the_registry():
    from dataloaders.communities import COMMUNITIES

    assert tuple(COMMUNITIES) == SLUGS


def test_help_explains_every_flag_and_needs_nothing_heavy():
    code = (
        "import sys\n"
        "from main_task_retrieval import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    assert not {'torch', 'cv2', 'pandas', 'numpy'} & set(sys.modules), 'heavy import'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for action in build_parser()._actions:
        assert action.option_strings[-1] in done.stdout


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--output_dir", "x"], "one of --do_train and --do_eval"),
        ([*TRAIN, "--do_eval"], "one of --do_train and --do_eval"),
        (["--do_eval", "--output_dir", "x", "--method", "ief"], "--do_eval needs its checkpoint"),
        (["--do_eval", "--init_model", "m.pt", "--output_dir", "x", "--lr", "1"], "--lr has no effect with --do_eval"),
        ([*TRAIN, "--init_model", "a", "--resume_model", "b"], "exclude each other"),
        ([*TRAIN, "--resume_model", "b", "--overwrite"], "--overwrite would delete"),
        ([*TRAIN, "--fusion_weight", "0.3"], "without --fusion fixed"),
        ([*TRAIN, "--bert_name", "x"], "without --emotion_encoder bert"),
        ([*TRAIN, "--emotion_fusion", "none", "--emotion_encoder", "clip"], "--emotion_encoder has no effect"),
        ([*TRAIN, "--branches", "qi", "--text_pool_type", "avg"], "without the branch qc"),
        ([*TRAIN, "--branches", "qc", "--interaction", "dp"], "without the branch qi"),
        ([*TRAIN, "--branches", "qi", "--fusion", "query"], "both branches"),
        ([*TRAIN, "--branches", "qi", "--caption_fusion", "none", "--caption_source", "text"], "reads captions"),
        ([*TRAIN, "--sim_header", "tightTransf", "--visual_tokens", "patch"], "needs --visual_tokens cls"),
        ([*TRAIN, "--sim_header", "tightTransf", "--interaction", "dp"], "replaces --interaction"),
        ([*TRAIN, "--rerank_top", "5"], "without --sim_header tightTransf"),
        ([*TRAIN, "--sim_header", "meanP", "--cross_num_hidden_layers", "2"], "without a transformer aggregator"),
        ([*TRAIN, "--interaction", "dp", "--wti_arch", "1"], "without --interaction wti"),
        ([*TRAIN, "--co_train", "staged", "--fusion", "query"], "needs --co_train joint"),
        ([*TRAIN, "--co_train", "staged", "--branches", "qi"], "needs --branches qi_qc"),
        ([*TRAIN, "--co_train", "staged", "--loss_weights", "1", "1", "1"], "belong to --co_train joint"),
        (
            [*TRAIN, "--fusion_data", "train", "--loss_weights", "0", "1", "1"],
            "trained through the fused loss, whose weight is 0",
        ),
        ([*TRAIN, "--fusion", "fixed", "--fusion_data", "val"], "without --fusion learned or query"),
        ([*TRAIN, "--branches", "qc", "--fusion_data", "train"], "without both branches"),
        ([*TRAIN, "--co_train", "staged", "--fusion_data", "train"], "belongs to --co_train joint"),
        ([*TRAIN, "--fusion_data", "test"], "invalid choice"),
        (
            ["--do_eval", "--init_model", "m.pt", "--output_dir", "x", "--fusion_data", "val"],
            "no effect with --do_eval",
        ),
        (["--do_eval", "--init_model", "m.pt", "--output_dir", "x", "--val_csv", "v"], "no effect with --do_eval"),
        ([*TRAIN, "--fusion", "fixed", "--fusion_lr", "0.1"], "without --fusion learned or query"),
        ([*TRAIN, "--branches", "qc", "--fusion_lr", "0.1"], "or --text_pool_type weight_l"),
        ([*TRAIN, "--co_train", "staged", "--fusion_lr", "0.1"], "belongs to --co_train joint"),
        ([*TRAIN, "--branches", "qc", "--wti_arch", "1"], "without the branch qi"),
        ([*TRAIN, "--branches", "qc", "--image_cache", "cache"], "without the branch qi"),
        ([*TRAIN, "--sim_header", "tightTransf", "--wti_arch", "1"], "without --interaction wti"),
        ([*TRAIN, "--caption_augmentation", "--loss_weights", "1", "0", "1"], "the QI loss's weight is 0"),
        (
            [*TRAIN, "--cdcr_lambda", "1", "--fusion", "fixed", "--loss_weights", "0", "0", "1"],
            "no loss reads the image",
        ),
        (["--do_eval", "--init_model", "m.pt", "--output_dir", "x", "--train_csv", "t"], "--train_csv has no effect"),
        ([*TRAIN, "--device", "mps", "--precision", "bf16"], "--device mps goes with --precision fp32"),
        ([*TRAIN, "--max_words", "2"], "no word between start and end"),
        ([*TRAIN, "--lr", "-1"], "must be 0 or more"),
        ([*TRAIN, "--batch_size", "0"], "at least 1"),
        ([*TRAIN, "--fusion", "fixed", "--fusion_weight", "1.5"], "between 0 and 1"),
    ],
)
def test_senseless_combinations_are_refused_with_the_reason(flags, reason, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(flags)
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err


def error_of(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(flags)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--branches", "qc"], ["--fusion", "fixed"], ["--co_train", "staged"]])
def test_fusion_lr_moves_the_captions_weights_without_a_learned_fusion(flags):
    args, _ = parse_arguments([*TRAIN, *flags, "--text_pool_type", "weight_l", "--fusion_lr", "0.1"])
    assert args.fusion_lr == 0.1


def test_answers_name_no_flag_of_this_program_and_lead_to_such_flags():
    ours = {option for action in build_parser()._actions for option in action.option_strings}
    assert not {f"--{name}" for name in FOREIGN} & ours
    for name, sentence in FOREIGN.items():
        assert re.match(r"(gone|renamed|not needed): ", sentence), name
        for flag in re.findall(r"(?<!`)--\w+", sentence):
            assert flag in ours, f"--{name} is answered by {flag}, which is no flag"


@pytest.mark.parametrize("words", [["--{}", "1"], ["--{}=1"], ["--{}"]])
def test_a_flag_of_another_program_gets_its_line(words, capsys):
    for name, key in (("margin", "margin"), ("train-data", "train_data"), ("batch-size", "batch-size")):
        error = error_of([*TRAIN, *(word.format(name) for word in words), "--lr", "1e-4"], capsys)
        assert error == f"main_task_retrieval.py: error: --{name}: {FOREIGN[key]} (--help lists the flags)\n"


def test_every_answer_is_given_with_dashes_as_with_underscores():
    for name in FOREIGN:
        assert foreign_lines([f"--{name}"]) == [f"--{name}: {FOREIGN[name]}"]
        dashed = name.replace("_", "-")
        assert foreign_lines([f"--{dashed}"]) == [f"--{dashed}: {FOREIGN[name]}"]


def test_all_flags_of_other_programs_are_named_at_once(capsys):
    lines = error_of([*TRAIN, "--fp16", "--margin", "0.1", "--no_such_flag"], capsys).splitlines()
    assert len(lines) == 2 and "--fp16: renamed" in lines[0] and "--margin: gone" in lines[1]


@pytest.mark.parametrize("flags", [[*TRAIN, "--no_such_flag"], [*TRAIN, "--lr", "fast"], ["--do_train"], TRAIN[1:]])
def test_an_error_is_one_line_that_points_to_help(flags, capsys):
    error = error_of(flags, capsys)
    assert error.count("\n") == 1 and error.startswith("main_task_retrieval.py: error: ")
    assert error.endswith("(--help lists the flags)\n")


def test_every_flag_is_read_by_the_program():
    """No flag without effect: each name occurs as `args.<name>` (or by name) outside the parser."""
    code = "".join(
        path.read_text()
        for folder in ("engine", "evaluation", "dataloaders", ".")
        for path in (ROOT / folder).glob("*.py")
        if path.name not in ("arguments.py", "foreign_flags.py")
    )
    for action in build_parser()._actions:
        if action.dest != "help":
            assert re.search(rf"args\.{action.dest}\b", code), f"--{action.dest} is read nowhere"
