"""A run that is killed anywhere and resumed ends as the one that ran through, to the last bit."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

import util
from engine import checkpoint, final_fit, test_record, train_loop
from tests.processes import program, run_chains
from tests.tiny_community import (
    Place,
    comparable,
    read_json,
    run,
    same_tensors,
)

COMMON = ["--save_steps", "2", "--cross_num_hidden_layers", "1"]
KINDS = {
    "joint": [*COMMON, "--caption_augmentation", "--cdcr_lambda", "0.01"],
    "staged": [*COMMON, "--co_train", "staged", "--gradient_accumulation_steps", "2"],
    "query": [*COMMON, "--fusion", "query"],
}
LOADERS = ["--num_thread_reader", "1"]
# Where a run kills itself, by kind: (place, which time). An epoch has 3 steps, a stage 2 epochs.
DEATHS = {
    "joint": [
        [("step", 1)],
        [("step", 5)],
        [("evaluation", 1)],
        [("evaluation", 2)],
        [("fit after the epoch", 2)],
        [("replaced metrics.jsonl", 1)],
        [("replacing checkpoint_best.pt", 1)],
        [("replaced checkpoint_best.pt", 1)],
        [("half of checkpoint_best.pt", 1)],
        [("half of checkpoint_last.pt", 2)],
        [("half of checkpoint_last.pt", 3)],
        [("replaced checkpoint_last.pt", 4)],
        [("replacing metrics.json", 1)],
        [("replaced metrics.json", 1)],
        [("step", 2), ("half of checkpoint_last.pt", 2), ("evaluation", 1), ("step", 2), ("test", 1)],
    ],
    "staged": [
        [("step", 4)],
        [("evaluation", 2)],
        [("replacing checkpoint_last.pt", 8)],
        [("replaced checkpoint_last.pt", 8)],
        [("step", 8)],
        [("evaluation", 3)],
        [("step", 10)],
        [("fit at the end", 1)],
        [("half of checkpoint_best.pt of the fit", 1)],
        [("replaced checkpoint_best.pt of the fit", 1)],
        [("test", 1)],
    ],
    "query": [[("step", 5)], [("fit at the end", 1)], [("replaced checkpoint_best.pt of the fit", 1)]],
}


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(argv, place, time):
    """main(argv), killed at a place, the `time`-th time that it gets there."""
    passed = 0

    def arrived():
        nonlocal passed
        passed += 1
        return passed == time

    def wrap(owner, name, before=False, condition=lambda *_: True, instead=None):
        original = getattr(owner, name)

        def wrapper(*arguments, **keywords):
            now = condition(*arguments) and arrived()
            if now and before:
                die()
            if now and instead:
                instead(*arguments)
                die()
            result = original(*arguments, **keywords)
            if now:
                die()
            return result

        setattr(owner, name, wrapper)

    def is_file(name):
        return lambda _, path: Path(path).name.strip(".").removesuffix(".partial") == name

    def write_half(state, path):
        torch_save(state, path)
        os.truncate(path, Path(path).stat().st_size // 2)

    torch_save = torch.save
    if place.endswith(" of the fit"):  # the write that puts the weight fitted at the end into the best checkpoint
        place = place.removesuffix(" of the fit")
        encode, fitting = final_fit.encode_split, []
        final_fit.encode_split = lambda *arguments: (fitting.append(1), encode(*arguments))[1]
        file = is_file("checkpoint_best.pt")

        def condition(*arguments):
            return fitting and file(*arguments)
    else:
        condition = is_file(place.split(" ")[-1])
    if place.startswith("half of"):
        wrap(torch, "save", condition=condition, instead=write_half)
    elif place.startswith("replac"):
        wrap(util.os, "replace", before=place.startswith("replacing"), condition=condition)
    else:
        owner, name = {
            "step": (train_loop.Trainer, "_step"),
            "evaluation": (train_loop, "encode_split"),
            "fit after the epoch": (train_loop, "fit_and_rank"),
            "fit at the end": (final_fit, "encode_split"),
            "test": (test_record, "rank_split"),
        }[place]
        wrap(owner, name, before=place != "step")
    program(argv)
    return 77  # it got through without dying


def run_and_press_ctrl_c(argv, owner_name, name, time):
    """main(argv), interrupted as Ctrl-C does it."""
    import dataloaders.meme_images

    signal.signal(signal.SIGINT, signal.default_int_handler)
    owner = {"Trainer": train_loop.Trainer, "MemeImages": dataloaders.meme_images.MemeImages}[owner_name]
    original, calls = getattr(owner, name), []

    def wrapper(*arguments):
        calls.append(1)
        if len(calls) == time:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments)

    setattr(owner, name, wrapper)
    return program(argv)


def run_and_signal(argv, place, time, number, family=False):
    """main(argv), sent a signal at a place, the `time`-th time that it gets there; then prints its checkpoint's step.

    family: its loader processes are sent it too, as where a system ends all processes of a job.
    """
    import dataloaders.meme_images

    owner, name = {
        "step": (train_loop.Trainer, "_step"),
        "evaluation": (train_loop, "encode_split"),
        "check": (dataloaders.meme_images.MemeImages, "check"),
        "save": (torch, "save"),
    }[place]
    original, calls = getattr(owner, name), []

    def wrapper(*arguments, **keywords):
        calls.append(1)
        if len(calls) == time:
            if family:
                children = multiprocessing.active_children()
                assert children
                subprocess.run(["kill", f"-{number}", *(str(child.pid) for child in children)], check=True)
            signal.raise_signal(number)
            signal.raise_signal(number)  # the second one changes nothing
        return original(*arguments, **keywords)

    setattr(owner, name, wrapper)
    code = program(argv)
    last = Path(argv[argv.index("--output_dir") + 1]) / "checkpoint_last.pt"
    print(f"step {checkpoint.load(last)['progress']['step']}" if last.is_file() else "no checkpoint")
    return code


SIGNALS = {  # (place, which time, signal, loader processes too): the step that is saved, of 3 an epoch
    ("step", 5, signal.SIGTERM, True): 5,  # no checkpoint is due there
    ("evaluation", 2, signal.SIGUSR1, False): 6,
    ("save", 5, signal.SIGTERM, False): 3,  # of checkpoint_last.pt after the evaluation, which is written
}


def signalled(place, time, number, family):
    return f"{number.name} at {place} {time}{' and to loaders' * family}"


def scenario(kind, deaths):
    return f"{kind}: " + ", then ".join(f"{place} {time}" for place, time in deaths)


SCENARIOS = [(kind, deaths) for kind, all_deaths in DEATHS.items() for deaths in all_deaths]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("resume"), train=2, val=1, test=1)
    yield place
    shutil.rmtree(place.folder)  # hundreds of MiB, of which pytest would keep three


@pytest.fixture(scope="module")
def results(place):
    """Every scenario's exit codes and output: deaths, then the resumed run; and the runs that ran through."""
    chains = {kind: [(program, place.flags(kind, *flags))] for kind, flags in KINDS.items()}

    def flags(name, kind, more=()):
        return place.flags(name, *KINDS[kind], *more)

    def resumed(name, kind, more=()):
        return [*flags(name, kind, more), "--resume_model", str(place.folder / name / "checkpoint_last.pt")]

    for kind, deaths in SCENARIOS:
        name = scenario(kind, deaths)
        steps = [(run_and_die, flags(name, kind), *deaths[0])]
        steps += [(run_and_die, resumed(name, kind), *death) for death in deaths[1:]]
        chains[name] = [*steps, (program, resumed(name, kind))]
    for name, kind, more in (("with loader processes", "joint", LOADERS),):
        chains[name] = [
            (run_and_die, flags(name, kind, more), "step", 5),
            (program, resumed(name, kind, more)),
        ]
    spilled = ["--feature_cache_gb", "0"]
    chains["features on disk"] = [
        (run_and_die, flags("features on disk", "joint", spilled), "evaluation", 1),
        (program, resumed("features on disk", "joint", spilled)),
    ]
    chains["ctrl-c"] = [
        (run_and_press_ctrl_c, flags("ctrl-c", "joint"), "Trainer", "_step", 4),
        (program, resumed("ctrl-c", "joint")),
    ]
    for place_and_time in SIGNALS:
        name = signalled(*place_and_time)
        more = LOADERS if place_and_time[-1] else []
        chains[name] = [
            (run_and_signal, flags(name, "joint", more), *place_and_time),
            (program, resumed(name, "joint", more)),
        ]
    chains["early signal"] = [(run_and_signal, flags("early signal", "joint"), "check", 1, signal.SIGTERM)]
    chains["early ctrl-c"] = [(run_and_press_ctrl_c, flags("early ctrl-c", "joint"), "MemeImages", "check", 1)]
    return run_chains(chains, place.folder)


def losses(folder):
    """The lines of losses.jsonl without the speed."""
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "records_per_second"} for line in lines]


def assert_same_end(folder, reference):
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in reference.iterdir())
    assert (folder / "metrics.jsonl").read_bytes() == (reference / "metrics.jsonl").read_bytes()
    assert (folder / "test_queries.npz").read_bytes() == (reference / "test_queries.npz").read_bytes()
    assert losses(folder) == losses(reference)
    assert comparable(read_json(folder / "metrics.json")) == comparable(read_json(reference / "metrics.json"))
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        states = [checkpoint.load(path / name) for path in (folder, reference)]
        for state in states:
            for kind in ("seconds", "evaluating", "displayed"):
                state.get("progress", {}).pop(kind, None)
            for flag in ("resume_model", "output_dir", "image_cache", "num_thread_reader"):
                del state["arguments"][flag]
        for key in states[1]:
            assert same_tensors(states[0][key], states[1][key]), f"{name}: {key}"


@pytest.mark.parametrize(("kind", "deaths"), SCENARIOS, ids=[scenario(*each) for each in SCENARIOS])
def test_a_killed_run_ends_as_the_one_that_ran_through(results, place, kind, deaths):
    codes = results[scenario(kind, deaths)]
    for code, printed in codes[:-1]:
        assert code == -signal.SIGKILL, printed
    code, printed = codes[-1]
    assert code == 0, printed
    assert "dropout" not in printed  # that is for runs which began when it was drawn otherwise
    assert_same_end(place.folder / scenario(kind, deaths), place.folder / kind)


def test_images_and_loader_processes_do_not_matter(results, place):
    (killed, _), (code, printed) = results["with loader processes"]
    assert (killed, code) == (-signal.SIGKILL, 0), printed
    assert_same_end(place.folder / "with loader processes", place.folder / "joint")


def test_features_on_disk_do_not_outlive_the_resumed_run(results, place):
    (killed, _), (code, printed) = results["features on disk"]
    assert (killed, code) == (-signal.SIGKILL, 0), printed
    names = [sorted(path.name for path in (place.folder / name).iterdir()) for name in ("features on disk", "joint")]
    assert names[0] == names[1]


def test_the_runs_that_ran_through_did_train(results, place):
    for kind in KINDS:
        [(code, printed)] = results[kind]
        assert code == 0, printed
        *on_val, on_test = map(json.loads, (place.folder / kind / "metrics.jsonl").read_text().splitlines())
        assert [line["epoch"] for line in on_val] == [1, 2] * (1 + (kind == "staged"))
        assert all(line["losses"] for line in on_val) and on_test["split"] == "test"


def test_ctrl_c_says_how_to_go_on(results, place):
    (code, printed), (resumed, rest) = results["ctrl-c"]
    assert code == 130
    assert printed.splitlines()[-1].endswith(
        f"stopped; go on with --resume_model {place.folder / 'ctrl-c' / 'checkpoint_last.pt'}"
    )
    assert "Traceback" not in printed
    assert resumed == 0, rest
    assert_same_end(place.folder / "ctrl-c", place.folder / "joint")


def test_ctrl_c_before_the_first_checkpoint_names_none(results):
    [(code, printed)] = results["early ctrl-c"]
    assert code == 130
    assert "stopped" in printed and "--resume_model" not in printed and "Traceback" not in printed


@pytest.mark.parametrize("place_and_time", SIGNALS, ids=[signalled(*each) for each in SIGNALS])
def test_a_signal_ends_a_run_when_its_step_is_saved(results, place, place_and_time):
    name = signalled(*place_and_time)
    (code, printed), (resumed, rest) = results[name]
    assert code == util.STOPPED == 75, printed
    *_, last, step = printed.splitlines()
    way_on = f"go on with --resume_model {place.folder / name / 'checkpoint_last.pt'}"
    assert last.endswith(f"stopped by {place_and_time[2].name}; {way_on}") and "Traceback" not in printed
    assert step == f"step {SIGNALS[place_and_time]}"
    assert resumed == 0, rest
    assert_same_end(place.folder / name, place.folder / "joint")


def test_a_signal_before_training_ends_the_run_at_once(results):
    [(code, printed)] = results["early signal"]
    assert code == util.STOPPED
    assert printed.splitlines()[-2:] == ["stopped by SIGTERM", "no checkpoint"] and "Traceback" not in printed


def resume(place, more=(), kind="joint", model="joint/checkpoint_last.pt", output=None):
    argv = place.flags(output or kind, *KINDS[kind], "--resume_model", str(place.folder / model), *more)
    return run(argv)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"model": "joint/checkpoint_best.pt"},
            "checkpoint_best.pt: holds a model only; resume from checkpoint_last.pt",
        ),
        ({"model": "nowhere/checkpoint_last.pt"}, "nowhere/checkpoint_last.pt: no such checkpoint"),
        ({"more": ["--lr", "0.5"]}, "was written with --lr 0.001, this run has 0.5"),
        ({"more": ["--seed", "3"]}, "was written with --seed 0, this run has 3"),
        ({"more": ["--epochs", "3"]}, "was written with --epochs 2, this run has 3"),
        ({"more": ["--interaction", "dp"]}, "was written with --interaction wti, this run has dp"),
        ({"more": ["--fusion_data", "train"]}, "was written with --fusion_data val, this run has train"),
        ({"more": ["--branches", "qi"]}, "was written with --branches qi_qc, this run has qi"),
    ],
)
def test_what_cannot_be_resumed_is_refused_and_nothing_is_touched(results, place, arguments, message):
    before = {path.name: path.stat().st_mtime_ns for path in (place.folder / "joint").glob("[!.]*")}
    code, printed = resume(place, **arguments)
    assert code == 2
    assert message in printed and "Traceback" not in printed
    assert {path.name: path.stat().st_mtime_ns for path in (place.folder / "joint").glob("[!.]*")} == before


def test_another_train_split_is_refused(results, place):
    code, printed = resume(place, more=["--train_csv", str(place.data / "val.csv")])
    assert code == 2
    assert "the train split is another than the one which the run began with" in printed and "Traceback" not in printed


def test_a_finished_run_resumed_scores_again_and_ends_the_same(results, place):
    code, printed = resume(place, kind="staged", model="staged/checkpoint_last.pt")
    assert code == 0, printed
    assert "step 1/" not in printed


def test_a_run_cannot_go_on_in_a_folder_without_its_best_checkpoint(results, place):
    """Else it would find out after the last epoch, where no later one was better than the best so far."""
    code, printed = resume(place, output="elsewhere")
    assert code == 2
    assert "Traceback" not in printed and "checking images" not in printed
    assert not (place.folder / "elsewhere").exists()
