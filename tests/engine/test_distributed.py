"""Two processes and one, at the same global batch, take the same step and see the same evaluation."""

import copy
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import checkpoint, distributed, train_loop
from evaluation.eval_loop import encode_split, rank_split
from tests.conftest import ROOT
from tests.engine.test_resume import run_and_die, run_and_signal
from tests.processes import finish, program, ranks_environment, start_process
from tests.tiny_community import (
    Place,
    comparable,
    prepared,
    read_csv,
    read_json,
    run,
    same_tensors,
    write_csv,
)
from util import STOPPED

SETTINGS = {
    "channel": [],
    "token": ["--emotion_fusion", "token"],
    "no emotions": ["--emotion_fusion", "none"],
    "learned emotions": ["--emotion_encoder", "learned"],
    "instance": ["--positives", "instance"],
    "cdcr": ["--cdcr_lambda", "0.1"],
    "cdcr, dp": ["--cdcr_lambda", "0.1", "--interaction", "dp", "--sim_header", "meanP"],
    "augmentation": ["--caption_augmentation"],
    "augmentation, instance": ["--caption_augmentation", "--positives", "instance"],
    "augmentation, some memes without captions": ["--caption_augmentation", "--caption_source", "text"],
    "few captions": [
        *("--caption_augmentation", "--caption_source", "text", "--train_csv", "few_texts.csv"),
        *("--text_pool_type", "max"),
    ],
    "stills": ["--max_frames", "1", "--wti_arch", "1"],
    "pieces": ["--gradient_accumulation_steps", "2"],
    "pieces, cdcr, augmentation": [
        *("--gradient_accumulation_steps", "2", "--cdcr_lambda", "0.1", "--caption_augmentation"),
        *("--positives", "instance"),
    ],
    "patch tokens": ["--visual_tokens", "patch", "--wti_arch", "3", "--text_pool_type", "max"],
    "ti, seqLSTM": ["--interaction", "ti", "--sim_header", "seqLSTM"],
    "tightTransf": ["--sim_header", "tightTransf", "--cross_num_hidden_layers", "1"],
    "query fusion": ["--fusion", "query", "--text_pool_type", "weight_l"],
    "loss weights": ["--fusion", "fixed", "--loss_weights", "0", "1", "2"],
    "neighbouring frames, frozen layers": ["--linear_patch", "3d", "--freeze_layer_num", "1"],
    "qi": ["--branches", "qi"],
    "qc": ["--branches", "qc"],
    "staged, qc": ["--co_train", "staged"],
}
# an epoch of 3 steps, unclipped; in evaluation each process takes 3 of a batch of 7
BATCHES = ["--batch_size", "16", "--epochs", "1", "--max_grad_norm", "1e9", "--batch_size_val", "7"]
IN_PIECES = (  # of --memory_batch 3, and compared with the plain step
    "instance",
    "few captions",
    "pieces, cdcr, augmentation",
    "tightTransf",
    "query fusion",
    "staged, qc",
)
EVALUATED = ("channel", "patch tokens", "tightTransf", "qc")


class Enough(Exception):
    """The first gradient is known."""


def work(folder, names, processes):
    """What each process does: save steps and evaluations of the settings under `folder`."""
    distributed.setup("cpu")
    place = Place.__new__(Place)
    place.folder, place.data, place.clip = folder, folder / "community", folder / "tiny_clip.pt"
    found = {}
    for name in names:
        flags = [str(folder / flag) if flag.endswith(".csv") else flag for flag in SETTINGS[name]]
        args, data, model = prepared(place.flags("unused", *BATCHES, *flags))
        found[name, torch.float32] = take_steps(args, data, copied(model), 1)
        if name in EVALUATED:
            found[name, "evaluation"] = evaluation(args, data, model)
        if name in IN_PIECES:
            args.memory_batch = 3
            found[name, "in pieces"] = take_steps(args, data, copied(model).double(), 1)
            args.memory_batch = None
        found[name, torch.float64] = take_steps(args, data, model.double(), 3)
    torch.save(found, folder / f"found_{processes}_{distributed.rank()}.pt")
    distributed.tear_down()


def copied(model):
    """A copy that shares the tokenizer: its merge table alone takes half a second."""
    tokenizer = model.backbone.tokenizer
    return copy.deepcopy(model, {id(tokenizer): tokenizer})


def take_steps(args, data, model, steps):
    """Run the training loop for an epoch of 3 steps, or for the first: gradients of the first, parameters, losses."""
    trainer = train_loop.Trainer(
        args, model, data["train"], data["val"], torch.device("cpu"), logging.Logger("quiet", logging.ERROR)
    )
    gradients, shapes = {}, []
    words = torch.from_numpy(np.unique(np.concatenate([data["train"].queries.ids, data["train"].captions.ids])))

    def kept(name, tensor):
        """A copy, of the word table only the rows that the community uses: the others have no gradient."""
        return tensor[words].clone() if name == "backbone.token_embedding.weight" else tensor.clone()

    def make_optimizer(groups):
        optimizer = original["make_optimizer"](groups)
        optimizer.register_step_pre_hook(look)
        return optimizer

    def look(*_):
        if not gradients:
            gradients.update({n: kept(n, p.grad) for n, p in model.named_parameters() if p.grad is not None})
            if steps == 1:
                raise Enough

    def to_device(batch, device):
        shapes.append({name: tuple(tensor.shape) for name, tensor in batch.items()})
        if "caption_mask" in batch:
            shapes[-1]["captions"] = int(batch["caption_mask"].any(dim=2).sum())
        return original["to_device"](batch, device)

    original = {"make_optimizer": train_loop.make_optimizer, "to_device": train_loop.to_device}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_loop, "make_optimizer", make_optimizer)
        patch.setattr(train_loop, "to_device", to_device)
        patch.setattr(trainer, "_save_progress", lambda *_: None)
        patch.setattr(trainer, "_keep_displayed", lambda *_: None)
        patch.setattr(trainer, "_evaluate_if_due", lambda *_: None)
        try:
            trainer.run_stage(0, train_loop.stages(args)[-1])
        except Enough:
            return {"gradients": gradients}
    parameters = {name: kept(name, parameter.detach()) for name, parameter in model.named_parameters()}
    return {"gradients": gradients, "parameters": parameters, "losses": trainer.progress.losses, "shapes": shapes}


def evaluation(args, data, model):
    """Features and ranks of the val split."""
    encoded = encode_split(model, data["val"], args, torch.device("cpu"), progress=False)
    ranks = rank_split(model, encoded, args, progress=False)
    memes = encoded.memes.read(np.arange(len(encoded.memes)), torch.device("cpu"), torch.float32)
    return {"memes": memes, "queries": encoded.queries, "ranks": {k: [r.tolist() for r in v] for k, v in ranks.items()}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("two_processes"))
    rows = read_csv(place.data / "train.csv")
    keep = [row | {"text": row["text"] if "red" in row["image_id"] else ""} for row in rows]
    write_csv(place.folder / "few_texts.csv", keep)
    yield place
    shutil.rmtree(place.folder)  # hundreds of MiB, of which pytest would keep three


@pytest.fixture(scope="module")
def found(place):
    """{(processes, rank): what that process saved}"""
    started = []
    for processes in (2, 1):
        environments = ranks_environment(2) if processes == 2 else [{}]
        for rank, environment in enumerate(environments):
            log = place.folder / f"log_{processes}_{rank}.txt"
            arguments = (place.folder, list(SETTINGS), processes)
            started.append((start_process(work, *arguments, log=log, environment=environment), log))
    for process, log in started:
        code, printed = finish(process, log)
        assert code == 0, printed
    return {
        (processes, rank): torch.load(place.folder / f"found_{processes}_{rank}.pt", weights_only=False)
        for processes, rank in ((1, 0), (2, 0), (2, 1))
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_three_steps_in_float64_end_at_the_same_parameters(found, name):
    one, two, other = (found[key][name, torch.float64] for key in ((1, 0), (2, 0), (2, 1)))
    assert one["gradients"].keys() == two["gradients"].keys()
    for parameter, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][parameter], gradient, rtol=1e-9, atol=1e-10)
    for parameter, values in one["parameters"].items():
        assert (two["parameters"][parameter] - values).abs().max() <= 1e-9, parameter
        assert torch.equal(two["parameters"][parameter], other["parameters"][parameter])
    moved = [n for n, gradient in one["gradients"].items() if gradient.abs().max() > 1e-9]
    assert len(moved) > len(one["gradients"]) / 2
    assert two["losses"] == pytest.approx(one["losses"], abs=2e-6)  # they are rounded to six digits


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", IN_PIECES)
def test_in_pieces_each_gradient_is_that_of_the_whole_batch(found, name, processes):
    whole, pieces = found[1, 0][name, torch.float64], found[processes, 0][name, "in pieces"]
    assert pieces["gradients"].keys() == whole["gradients"].keys()
    for parameter, gradient in whole["gradients"].items():
        torch.testing.assert_close(pieces["gradients"][parameter], gradient, rtol=1e-9, atol=1e-9, msg=parameter)


@pytest.mark.parametrize("name", SETTINGS)
def test_in_float32_each_gradient_agrees_to_a_hundred_thousandth_of_its_norm(found, name):
    one, two = (found[key][name, torch.float32]["gradients"] for key in ((1, 0), (2, 0)))
    exact = found[1, 0][name, torch.float64]["gradients"]
    largest = max(gradient.norm() for gradient in one.values())
    for parameter, gradient in one.items():
        # a gradient that is zero but for rounding (of the bias before a softmax) has no norm of its own
        allowed = max(1e-5 * gradient.norm(), 1e-7 * largest)
        assert (two[parameter] - gradient).norm() <= allowed, parameter
        assert (gradient - exact[parameter]).norm() <= 1e-3 * gradient.norm() + 1e-5 * largest


def test_the_two_ranks_had_batches_of_different_lengths(found):
    """Else the tests above would not notice how the gather pads."""
    first, second = (found[2, rank]["channel", torch.float64]["shapes"] for rank in (0, 1))
    for name, axis in (("frame_mask", 1), ("query_ids", 1), ("caption_ids", 1), ("caption_ids", 2), ("emotions", 1)):
        assert any(a[name][axis] != b[name][axis] for a, b in zip(first, second, strict=True)), name
    assert {shapes["topic"] for shapes in first} == {(8,)}
    first, second = (found[2, rank]["few captions", torch.float64]["shapes"] for rank in (0, 1))
    counts = [{a["captions"] > 0, b["captions"] > 0} for a, b in zip(first, second, strict=True)]
    assert {True, False} in counts  # one process has captions in its batch, the other has none


@pytest.mark.parametrize("name", EVALUATED)
def test_two_processes_evaluate_as_one(found, name):
    one, two, other = (found[key][name, "evaluation"] for key in ((1, 0), (2, 0), (2, 1)))
    for side in ("memes", "queries"):
        assert one[side].keys() == two[side].keys()
        for feature, tensor in one[side].items():
            torch.testing.assert_close(two[side][feature], tensor, rtol=1e-4, atol=1e-5)
            assert torch.equal(other[side][feature], two[side][feature])
    assert one["ranks"] == two["ranks"] == other["ranks"]


@pytest.fixture(scope="module")
def trained(place):
    """{name: (folder of one process's run, folder of two processes' run, what the two printed)}"""
    kinds = {
        "joint": ["--save_similarity"],
        "staged": ["--co_train", "staged", "--gradient_accumulation_steps", "2"],
    }
    started = []
    for kind, flags in kinds.items():
        for processes, environments in ((1, [{}]), (2, ranks_environment(2))):
            argv = place.flags(f"{kind}_{processes}", "--lr", "1e-4", *flags)
            for rank, environment in enumerate(environments):
                log = place.folder / f"log_{kind}_{processes}_{rank}.txt"
                started.append((start_process(program, argv, log=log, environment=environment), log))
    for process, log in started:
        code, printed = finish(process, log)
        assert code == 0, printed
    return place.folder


def assert_same_run(one, other):
    """Histories and test metrics of two folders, up to rounding."""
    histories = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (one, other)
    ]
    assert len(histories[0]) == len(histories[1])
    for a, b in zip(*histories, strict=True):
        assert_close(b, a)
    first, second = (comparable(read_json(folder / "metrics.json")) for folder in (one, other))
    assert (first.pop("processes"), second.pop("processes")) == (1, 2)
    assert_close(second, first)


def assert_close(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    elif isinstance(expected, (float, list)):
        assert found == pytest.approx(expected, abs=1e-3)
    else:
        assert found == expected


@pytest.mark.parametrize("kind", ["joint", "staged"])
def test_whole_runs_agree(trained, kind):
    assert_same_run(trained / f"{kind}_1", trained / f"{kind}_2")


def test_only_the_first_process_writes_and_talks(trained):
    assert not (trained / "log_joint_2_1.txt").read_text()
    assert sorted(path.name for path in (trained / "joint_2").iterdir()) == sorted(
        path.name for path in (trained / "joint_1").iterdir()
    )
    one, two = (np.load(trained / f"joint_{n}" / "fused.npy") for n in (1, 2))
    np.testing.assert_allclose(two, one, atol=1e-4)


def test_resuming_by_another_number_of_processes_is_refused(trained, place):
    argv = place.flags("joint_2", "--lr", "1e-4")
    argv += ["--resume_model", str(trained / "joint_2" / "checkpoint_last.pt")]
    before = (trained / "joint_2" / "args.json").read_bytes()
    code, printed = run(argv)
    assert code == 2
    assert "checkpoint_last.pt: was written by 2 process(es), this run has 1" in printed
    assert (trained / "joint_2" / "args.json").read_bytes() == before


def signal_the_second(argv):
    """main(argv), which goes on from step 2; the second process alone is sent SIGTERM, before step 5."""
    return run_and_signal(argv, "step", 3 if os.environ["RANK"] == "1" else None, signal.SIGTERM)


def test_killed_and_stopped_processes_go_on_as_if_nothing_had_been(place):
    flags = ["--save_steps", "2", "--cross_num_hidden_layers", "1"]
    resumed = [*place.flags("killed", *flags), "--resume_model", str(place.folder / "killed" / "checkpoint_last.pt")]
    for target, *arguments in (
        (program, place.flags("whole", *flags)),
        (run_and_die, place.flags("killed", *flags), "step", 3),
        (signal_the_second, resumed),
        (program, resumed),
    ):
        logs = [place.folder / f"log_killed_{rank}.txt" for rank in range(2)]
        started = [
            start_process(target, *arguments, log=log, environment=environment)
            for log, environment in zip(logs, ranks_environment(2), strict=True)
        ]
        ends = [finish(*each) for each in zip(started, logs, strict=True)]
        if target is signal_the_second:  # both end at the same step, at which no checkpoint is due
            assert [code for code, _ in ends] == [STOPPED, STOPPED], ends
            assert all("step 5" in printed.splitlines() for _, printed in ends)
        else:
            assert (ends[0][0], ends[1][0]) == (0, 0) or (target is run_and_die and ends[0][0] == -9), ends
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        one, other = (checkpoint.load(place.folder / run_name / name) for run_name in ("whole", "killed"))
        for key in ("model", "optimizer", "random_states"):
            assert same_tensors(one.get(key), other.get(key)), (name, key)
    one, other = (place.folder / run_name / "metrics.jsonl" for run_name in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()


def torchrun(argv):
    """torchrun's process, of two, and what it prints, as a path."""
    log = Path(argv[argv.index("--output_dir") + 1] + ".txt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    with open(log, "w") as printed:
        streams = {"stdout": printed, "stderr": printed, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
        return subprocess.Popen([*command, "main_task_retrieval.py", *argv], cwd=ROOT, **streams), log


def test_under_torchrun_as_users_call_it_and_as_clusters_end_it(trained, place):
    argv = place.flags("torchrun", "--lr", "1e-4")
    last = place.folder / "torchrun" / "checkpoint_last.pt"
    stopped, log = torchrun(argv)
    while not last.exists():
        assert stopped.poll() is None, log.read_text()
        time.sleep(0.01)
    stopped.terminate()
    stopped.wait(60)
    printed = log.read_text()
    assert printed.count(f"stopped by SIGTERM; go on with --resume_model {last}\n") == 1, printed
    assert "has ended" not in printed
    assert not (place.folder / "torchrun" / "metrics.json").exists()
    ended, log = torchrun([*argv, "--resume_model", str(last)])
    code, printed = ended.wait(120), log.read_text()
    assert code == 0, printed
    assert printed.count("test split, query to meme: 8 queries") == 1
    assert "2 process(es) on cpu" in printed
    assert_same_run(trained / "joint_1", place.folder / "torchrun")
