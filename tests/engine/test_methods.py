"""The methods' flags: the program takes each of them, and they build what the method is."""

import pytest

from engine.arguments import METHOD_NAMES, build_parser, parse_arguments, without_effect
from engine.methods import GROUPS, METHODS

TRAIN, EVAL = ["--do_train", "--output_dir", "x"], ["--do_eval", "--output_dir", "x"]


def arguments(name, *more):
    return parse_arguments([*(TRAIN if METHODS[name].trained else EVAL), "--method", name, *more])


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_program_takes_a_method_s_flags(name):
    args, given = arguments(name)
    assert args.method == name
    written = {flag.removeprefix("--") for flag in METHODS[name].flags if flag.startswith("--")}
    assert written <= given
    assert list(without_effect(args, given)) == []


def test_methods_differ_and_have_a_place_in_the_tables():
    trained = [name for name in METHOD_NAMES if METHODS[name].trained]
    settings = {name: {**vars(arguments(name)[0]), "method": None} for name in trained}
    for name in trained:
        assert [other for other in trained if settings[other] == settings[name]] == [name]
    assert {method.group for method in METHODS.values()} == set(GROUPS)
    assert all(bool(method.changes) == (method.group == "ablation") for method in METHODS.values())
    assert len({(method.group, method.changes, method.title) for method in METHODS.values()}) == len(METHODS)


def test_ief_is_the_default_and_an_ablation_changes_one_part():
    defaults = vars(parse_arguments(TRAIN)[0])
    assert {**vars(arguments("ief")[0]), "method": None} == defaults
    for name in METHOD_NAMES:
        if METHODS[name].group == "ablation":
            own = {**vars(arguments(name)[0]), "method": None}
            changed = {flag for flag in own if own[flag] != defaults[flag]}
            assert len(changed - {"fusion_weight"}) == 1, name


def test_further_flags_override_the_method_s():
    args, given = arguments("drl_wti", "--interaction", "dp", "--positives", "topic")
    assert (args.interaction, args.positives, args.branches) == ("dp", "topic", "qi")
    assert {"interaction", "branches"} <= given


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([*TRAIN, "--method", "zero_shot_clip"], "is not trained: it goes with --do_eval"),
        ([*EVAL, "--method", "drl_wti"], "is trained: --do_eval needs its checkpoint"),
        ([*EVAL, "--method", "zero_shot_clip", "--init_model", "m.pt"], "the checkpoint brings its flags"),
        ([*EVAL, "--method", "zero_shot_clip", "--epochs", "3"], "--epochs has no effect with --do_eval"),
        ([*TRAIN, "--method", "bm25"], "invalid choice: 'bm25'"),
        ([*TRAIN, "--method", "ief_qc", "--resize", "pad"], "--resize has no effect without the branch qi"),
        ([*TRAIN, "--metho", "drl_wti"], "unrecognized arguments: --metho"),
    ],
)
def test_a_method_that_does_not_fit_is_refused_with_the_reason(flags, reason, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(flags)
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_flags_without_effect_are_told_apart(name):
    """Left out, the rest is accepted; put back one by one, each of them is refused."""
    common = {
        "epochs": "3",
        "lr": "0.001",
        "resize": "pad",
        "bert_name": "x",
        "fusion_lr": "0.1",
        "caption_source": "both",
        "rerank_top": "7",
        "wti_arch": "1",
        "text_pool_type": "avg",
        "seed": "4",
    }
    method = METHODS[name]
    task = TRAIN if method.trained else EVAL
    command = [*task, *method.flags, *(part for flag, value in common.items() for part in (f"--{flag}", value))]
    args = build_parser().parse_args(command)
    useless = {flag for flag, _ in without_effect(args, set(common))}
    useful = [part for flag in common.keys() - useless for part in (f"--{flag}", common[flag])]
    parse_arguments([*task, "--method", name, *useful])
    for flag in useless:
        with pytest.raises(SystemExit):
            parse_arguments([*task, "--method", name, *useful, f"--{flag}", common[flag]])
