"""Training and evaluation through the program, on a tiny community: what a run learns, chooses and leaves behind."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import scipy.stats
import torch

import metrics
from benchmarks.train_step import VIT_B_32
from engine import checkpoint, final_fit, test_record, train_loop
from evaluation.fitted_weights import FoldsResult
from modules.backbones.openai import CLIP
from modules.backbones.weights_file import read_weights
from tests.conftest import names_with_spaces
from tests.model_parts import words_of, write_archive
from tests.tiny_community import Place, comparable, draw_community, read_csv, read_json, run, same_tensors, write_csv

FIXED = ["--fusion", "fixed", "--fusion_weight", "0.3"]
SETTINGS = {
    "joint": [],
    "staged": ["--co_train", "staged"],
    "trained weights": ["--fusion_data", "train"],
    "query": ["--fusion", "query", "--emotion_encoder", "learned", "--precision", "bf16"],
    "query, trained": ["--fusion", "query", "--fusion_data", "train", "--epochs", "1"],
    "fixed, patch": [*FIXED, "--visual_tokens", "patch", "--caption_source", "both", "--resize", "pad"],
    "staged, fixed": [*FIXED, "--co_train", "staged", "--text_pool_type", "avg"],
    "tightTransf": ["--sim_header", "tightTransf", "--cross_num_hidden_layers", "1", "--rerank_top", "5"],
    "qi": ["--branches", "qi", "--sim_header", "seqLSTM", "--linear_patch", "3d"],
    "qc": ["--branches", "qc", "--text_pool_type", "weight_l"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("train"))
    yield place
    shutil.rmtree(place.folder)  # hundreds of MiB, of which pytest would keep three


@pytest.fixture(scope="module")
def trained(place):
    """`trained(name, *flags)`: the folder of a run with these flags (by default the setting's), made once."""
    printed = {}

    def train(name, *flags):
        if name not in printed:
            code, printed[name] = run(place.flags(name, *(flags or SETTINGS[name]), "--save_similarity"))
            assert code == 0, printed[name]
        return place.folder / name

    train.printed = printed
    return train


def history(folder, split="val"):
    """The evaluations on val, in order, or the one on test."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["split"] == split]


def table_of(printed):
    return printed[printed.index("test split, query to meme") : printed.index("written to")]


def scores_on_test(folder):
    return read_json(folder / "metrics.json")["test"]


def test_a_small_set_is_learned_by_heart(place, no_saved_progress):
    small = draw_community(place.folder / "small", train=2, val=1, test=1)
    train_csv = str(small / "train.csv")
    argv = place.flags("by heart", "--epochs", "30", "--lr", "2e-3", "--batch_size", "24")
    argv += ["--cross_num_hidden_layers", "1", "--val_csv", train_csv, "--test_csv", train_csv]
    code, printed = run([*argv, "--data_path", str(small)])
    assert code == 0, printed
    test = scores_on_test(place.folder / "by heart")
    assert test["random"]["query_to_meme"]["metrics"]["mAP"] < 40
    assert test["scores"]["fused"]["query_to_meme"]["metrics"]["mAP"] > 95
    losses = [line["losses"]["total"] for line in history(place.folder / "by heart")]
    assert losses[-1] < losses[0] / 2


def test_unseen_memes_are_found_by_what_was_learned(trained):
    """The topics' colours are the same in all splits, the memes are not."""
    test = scores_on_test(trained("ten epochs", "--epochs", "10"))
    for direction in ("query_to_meme", "meme_to_query"):
        chance = test["random"][direction]["metrics"]["mAP"]
        for name in ("qi", "qc", "fused"):
            assert test["scores"][name][direction]["metrics"]["mAP"] > 1.5 * chance


@pytest.mark.parametrize("name", SETTINGS)
def test_evaluating_the_best_checkpoint_gives_the_same_numbers(trained, place, name):
    folder = trained(name)
    output = f"evaluated {name}"
    code, printed = run(place.eval_flags(output, f"{name}/checkpoint_best.pt", "--save_similarity"))
    assert code == 0, printed
    own, again = (comparable(read_json(path / "metrics.json")) for path in (folder, place.folder / output))
    assert own.pop("best_epoch") is not None and again.pop("best_epoch") is None
    assert own.pop("parameters")["all"] == again.pop("parameters")["all"]
    del own["counts"]["train"], own["counts"]["val"]
    assert own == again
    for matrix in folder.glob("*.np?"):
        assert matrix.read_bytes() == (place.folder / output / matrix.name).read_bytes()
    assert table_of(printed) == table_of(trained.printed[name])


@pytest.mark.parametrize("name", ["joint", "fixed, patch", "tightTransf"])
def test_metrics_py_gives_the_same_numbers_on_the_saved_matrices(trained, name, capsys):
    folder = trained(name)
    record = read_json(folder / "metrics.json")
    alpha = record["alpha"]["mean"]
    argv = [str(folder / "qi.npy"), str(folder / "qc.npy"), "--relevance", str(folder / "relevance.npz")]
    assert metrics.main([*argv, "--weights", str(alpha), str(1 - alpha), "--json", str(folder / "again.json")]) == 0
    again = read_json(folder / "again.json")
    for direction in ("query_to_meme", "meme_to_query"):
        rows = {row["name"]: row for row in again[direction]["rows"]}
        assert rows["random"]["metrics"] == record["test"]["random"][direction]["metrics"]
        for score in ("qi", "qc"):
            assert rows[score]["metrics"] == record["test"]["scores"][score][direction]["metrics"]
            assert rows[score]["intervals"] == record["test"]["scores"][score][direction]["intervals"]
        # the model's own sum is rounded in another order
        fused = record["test"]["scores"]["fused"][direction]["metrics"]
        assert rows["fused"]["metrics"] == pytest.approx(fused, abs=0.5)
    assert metrics.main([str(folder / "fused.npy"), *argv[2:], "--json", str(folder / "again.json")]) == 0
    again = read_json(folder / "again.json")
    for direction in ("query_to_meme", "meme_to_query"):
        assert again[direction]["rows"][1]["metrics"] == record["test"]["scores"]["fused"][direction]["metrics"]
    capsys.readouterr()


def test_the_fused_matrix_is_the_weighted_sum(trained):
    for name, alpha in (("joint", None), ("fixed, patch", 0.3), ("staged", None), ("trained weights", None)):
        folder = trained(name)
        alpha = read_json(folder / "metrics.json")["alpha"]["mean"] if alpha is None else alpha
        qi, qc, fused = (np.load(folder / f"{kind}.npy").astype(np.float64) for kind in ("qi", "qc", "fused"))
        np.testing.assert_allclose(fused, alpha * qi + (1 - alpha) * qc, atol=1e-6)


def test_stage_one_of_staged_is_a_run_of_the_image_branch(trained, place):
    """Same seed, same batches, same dropout: the same weights, to the last bit."""
    alone, staged = trained("image alone", "--branches", "qi"), trained("staged")
    assert "val qi: R@1" in trained.printed["image alone"] and "val fused" not in trained.printed["image alone"]
    lines = [line for line in history(staged) if line["stage"] == "qi"]
    assert [line["losses"]["qi"] for line in lines] == [line["losses"]["qi"] for line in history(alone)]
    assert [line["scores"]["qi"] for line in lines] == [line["scores"]["qi"] for line in history(alone)]
    own, whole = (checkpoint.load(folder / "checkpoint_best.pt")["model"] for folder in (alone, staged))
    assert own.keys() <= whole.keys()
    assert same_tensors(own, {name: whole[name] for name in own})


def test_stage_two_trains_the_caption_pooling_alone(trained):
    folder = trained("staged")
    assert [line["stage"] for line in history(folder)] == ["qi", "qi", "qc", "qc"]
    best = checkpoint.load(folder / "checkpoint_best.pt")
    assert best["stage"] == "qc"
    assert set(history(folder)[-1]["losses"]) == {"total", "qc"}
    first, last = history(folder)[1], history(folder)[3]
    assert last["scores"]["qc"] != first["scores"]["qc"]


def test_a_pooling_without_parameters_skips_stage_two_and_says_so(trained):
    folder = trained("staged, fixed")
    assert "stage qc: nothing to train, skipped" in trained.printed["staged, fixed"]
    assert [line["stage"] for line in history(folder)] == ["qi", "qi"]
    assert read_json(folder / "metrics.json")["best_epoch"]["stage"] == "qi"


def on_val(place, name, *flags):
    """(QI, QC, relevance) of val, scored as a test split with a run's best checkpoint."""
    folder = place.folder / f"val matrices of {name}"
    argv = place.eval_flags(folder.name, f"{name}/checkpoint_best.pt", "--save_similarity", *flags)
    code, printed = run([*argv, "--test_csv", str(place.data / "val.csv")])
    assert code == 0, printed
    return np.load(folder / "qi.npy"), np.load(folder / "qc.npy"), metrics.Relevance.load(folder / "relevance.npz")


@pytest.mark.parametrize("name", ["joint", "staged", "tightTransf"])
def test_the_weight_is_fitted_on_val_with_the_best_epochs_towers(trained, place, name):
    folder = trained(name)
    expected = metrics.share_of_first(*metrics.fit_weights(*on_val(place, name)))
    record, best = read_json(folder / "metrics.json"), checkpoint.load(folder / "checkpoint_best.pt")
    assert best["fitted_alpha"] == pytest.approx(expected, abs=1e-3)
    assert record["alpha"] == pytest.approx(dict.fromkeys(("mean", "min", "max"), best["fitted_alpha"]), abs=1e-6)
    theta = best["model"]["fusion.theta"]
    if name == "staged":
        assert theta == 0 and record["trained_alpha"] is None
    else:
        assert record["trained_alpha"] == pytest.approx(torch.sigmoid(theta).item())
    printed = trained.printed[name]
    assert f"α fitted on val {best['fitted_alpha']:.3f}" in printed
    assert ("staged training, step 3: α = " in printed) == (name == "staged")
    assert ("the trained one 0." in printed) == (name != "staged")


def test_each_epoch_is_judged_by_the_weight_fitted_after_it(trained):
    for line in history(trained("joint")):
        assert line["alpha"]["min"] == line["alpha"]["max"] != pytest.approx(line["trained_alpha"], abs=1e-3)
    kept = trained("trained weights")
    for line in history(kept):
        assert line["alpha"]["mean"] == pytest.approx(line["trained_alpha"], abs=1e-6)
    assert checkpoint.load(kept / "checkpoint_best.pt")["fitted_alpha"] is None
    record = read_json(kept / "metrics.json")
    assert record["alpha"]["mean"] == pytest.approx(record["trained_alpha"], abs=1e-6)
    assert abs(record["trained_alpha"] - 0.5) > 1e-3
    assert f"α trained {record['trained_alpha']:.3f}" in trained.printed["trained weights"]


def test_the_fitted_weight_never_enters_the_training(trained):
    """All that is trained, θ too, is the same to the last bit, whichever weight judges the epochs."""
    one, other = (trained(name) for name in ("joint", "trained weights"))
    assert [line["losses"] for line in history(one)] == [line["losses"] for line in history(other)]
    assert [line["scores"]["qi"] for line in history(one)] == [line["scores"]["qi"] for line in history(other)]
    assert [line["scores"]["fused"] for line in history(one)] != [line["scores"]["fused"] for line in history(other)]
    states = [checkpoint.load(folder / "checkpoint_last.pt") for folder in (one, other)]
    assert same_tensors(states[0]["model"], states[1]["model"])
    assert same_tensors(states[0]["optimizer"], states[1]["optimizer"])


def test_a_fixed_weight_stays(trained):
    for name in ("fixed, patch", "staged, fixed"):
        fixed = read_json(trained(name) / "metrics.json")
        assert fixed["alpha"] == pytest.approx({"mean": 0.3, "min": 0.3, "max": 0.3}) and fixed["trained_alpha"] is None


def test_weights_per_query_need_to_be_better_on_held_out_queries(trained):
    by_query = read_json(trained("query, trained") / "metrics.json")["alpha"]
    assert by_query["min"] < by_query["mean"] < by_query["max"]
    printed, folder = trained.printed, trained("query")
    assert "--fusion query: on held-out queries of val the loss of a network is" in printed["query"]
    own = read_json(folder / "metrics.json")["alpha"]
    network = "the network is used" in printed["query"]
    assert ("one α serves all queries" in printed["query"]) != network
    assert (own["min"] < own["max"]) == network
    assert (checkpoint.load(folder / "checkpoint_best.pt")["fitted_alpha"] is None) == network


def test_a_network_that_wins_is_the_one_in_use(place, monkeypatch):
    """With the verdict turned round: test and the best checkpoint have the network that was fitted on all of val."""
    monkeypatch.setattr(FoldsResult, "network_wins", True)
    code, printed = run(place.flags("network", "--fusion", "query", "--epochs", "1"))
    assert code == 0, printed
    assert "the network is used" in printed and "α per query, mean" in printed
    code, _ = run(place.eval_flags("network again", "network/checkpoint_best.pt"))
    record, again = (read_json(place.folder / name / "metrics.json") for name in ("network", "network again"))
    assert code == 0 and record["alpha"]["min"] < record["alpha"]["max"]
    assert again["alpha"] == record["alpha"] and again["test"] == record["test"]
    last, best = (checkpoint.load(place.folder / "network" / f"checkpoint_{name}.pt") for name in ("last", "best"))
    assert not same_tensors(last["model"]["fusion.network.2.weight"], best["model"]["fusion.network.2.weight"])


@pytest.mark.parametrize("name", ["joint", "staged", "fixed, patch", "trained weights"])
def test_what_fusing_gained_over_the_part_that_was_better_on_val(trained, place, name):
    folder = trained(name)
    best = read_json(folder / "metrics.json")["best_epoch"]
    [line] = [line for line in history(folder) if (line["stage"], line["epoch"]) == (best["stage"], best["epoch"])]
    values = {part: line["scores"][part]["query_to_meme"]["metrics"]["mAP"] for part in ("qi", "qc")}
    test = scores_on_test(folder)
    found = test["fused_minus_the_better_part"]
    assert (found["part"], found["chosen_by"]) == (max(values, key=values.get), "mAP")
    relevance = metrics.Relevance.load(folder / "relevance.npz")
    by_hand = {}
    for part in ("fused", found["part"]):
        ranks = metrics.relevant_ranks(np.load(folder / f"{part}.npy"), relevance)
        by_hand[part] = metrics.per_query_metrics(ranks, relevance.query, *relevance.shape)
    for metric, each in found["metrics"].items():
        fused, alone = (test["scores"][part]["query_to_meme"]["metrics"][metric] for part in by_hand)
        assert each["gain"] == pytest.approx(fused - alone)
        names, of_fused = by_hand["fused"]
        difference = (of_fused - by_hand[found["part"]][1])[:, names.index(metric)]
        interval = scipy.stats.bootstrap(
            (difference,), np.mean, method="percentile", n_resamples=5000
        ).confidence_interval
        slack = 0.15 * (difference.max() - difference.min()) + 1e-9
        assert each["interval"] == pytest.approx([interval.low, interval.high], abs=slack)
    assert list(found["metrics"]) == ["mAP", "R@1"]
    title = found["part"].upper()
    gain = found["metrics"]["mAP"]["gain"]
    assert f"fused minus {title}, the better part on val by mAP: mAP {gain:+.2f} [" in trained.printed[name]


def test_one_part_has_no_other_to_be_compared_with(trained):
    assert scores_on_test(trained("qi"))["fused_minus_the_better_part"] is None
    assert "fused minus" not in trained.printed["qi"]


def test_a_part_without_weight_is_named(place):
    """The captions are the same for all memes: QC can say nothing."""
    data = draw_community(place.folder / "mute", train=4, val=2, test=2)
    for split in ("train", "val", "test"):
        rows = [row | {"captions": json.dumps(["a picture"])} for row in read_csv(data / f"{split}.csv")]
        write_csv(data / f"{split}.csv", rows)
    flags = ["--data_path", str(data), "--caption_fusion", "none", "--select_metric", "R@5"]
    code, printed = run([*place.flags("mute run", *flags)])
    assert code == 0, printed
    record = read_json(place.folder / "mute run" / "metrics.json")
    assert record["alpha"]["mean"] == 1
    assert "QC adds nothing on val: its weight is 0, and the fused score is QI" in printed
    found = record["test"]["fused_minus_the_better_part"]
    assert found["part"] == "qi" and list(found["metrics"]) == ["R@5", "mAP", "R@1"]
    assert found["metrics"]["mAP"] == {"gain": 0, "interval": [0, 0]}


def test_evaluation_needs_no_val_and_a_new_run_does_not_inherit_the_weight(trained, place):
    trained("joint")
    data = place.folder / "without val"
    shutil.copytree(place.data, data)
    (data / "val.csv").unlink()
    argv = place.eval_flags("no val", "joint/checkpoint_best.pt", "--data_path", str(data))
    code, printed = run(argv)
    assert code == 0, printed
    assert scores_on_test(place.folder / "no val") == scores_on_test(place.folder / "joint")
    start = ["--init_model", str(place.folder / "joint" / "checkpoint_best.pt"), "--epochs", "1", "--lr", "0"]
    code, printed = run(place.flags("inherits", *start, "--fusion_data", "train", "--fusion_lr", "0"))
    assert code == 0, printed
    old, new = (read_json(place.folder / name / "metrics.json") for name in ("joint", "inherits"))
    assert new["alpha"]["mean"] == pytest.approx(old["trained_alpha"], abs=1e-6)


def test_a_given_fixed_weight_is_the_one_in_use_in_evaluation(trained, place):
    trained("fixed, patch")
    argv = place.eval_flags("reweighted", "fixed, patch/checkpoint_best.pt", "--save_similarity")
    code, printed = run([*argv, "--fusion", "fixed", "--fusion_weight", "0.9"])
    if code == 2:  # refusing it would do as well
        assert "fusion_weight" in printed
        return
    folder = place.folder / "reweighted"
    qi, qc, fused = (np.load(folder / f"{kind}.npy") for kind in ("qi", "qc", "fused"))
    np.testing.assert_allclose(fused, 0.9 * qi + 0.1 * qc, atol=1e-6)


def test_the_best_epoch_is_the_first_with_the_highest_metric_on_val(trained, place):
    folder = trained("ten epochs", "--epochs", "10")
    values = [line["scores"]["fused"]["query_to_meme"]["metrics"]["mAP"] for line in history(folder)]
    best = read_json(folder / "metrics.json")["best_epoch"]
    assert best == {"stage": "joint", "epoch": 1 + int(np.argmax(values)), "val": {"mAP": max(values)}}
    assert checkpoint.load(folder / "checkpoint_best.pt")["epoch"] == best["epoch"]

    tied = trained("tied", "--lr", "0", "--fusion_lr", "0", "--epochs", "3", "--select_metric", "R@5")
    assert read_json(tied / "metrics.json")["best_epoch"]["epoch"] == 1
    assert list(read_json(tied / "metrics.json")["best_epoch"]["val"]) == ["R@5"]


def test_val_is_seen_after_every_epoch_and_test_once(place, monkeypatch):
    seen = []
    encode_split = train_loop.encode_split

    def noted(model, data, *more):
        seen.append(data.split.name)
        return encode_split(model, data, *more)

    monkeypatch.setattr(train_loop, "encode_split", noted)
    monkeypatch.setattr(final_fit, "encode_split", noted)
    monkeypatch.setattr(test_record, "encode_split", noted)
    code, printed = run(place.flags("order", "--epochs", "3"))
    assert code == 0, printed
    assert seen == ["val"] * 3 + ["test"]
    assert printed.count("test split, query to meme") == 1


def test_equal_seeds_give_equal_runs_and_others_do_not(trained, place):
    """With images from the store as with images that are decoded each time."""
    first = trained("joint")
    second = trained("joint again", "--image_cache", str(place.folder / "cache"), "--n_display", "3")
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    assert comparable(read_json(first / "metrics.json")) == comparable(read_json(second / "metrics.json"))
    other = trained("other seed", "--seed", "1")
    assert history(other)[0]["losses"] != history(first)[0]["losses"]


def test_nothing_of_the_frozen_layers_moves(trained, place):
    folder = trained("frozen", "--freeze_layer_num", "1")
    start = read_weights(place.clip).state
    end = checkpoint.load(folder / "checkpoint_last.pt")["model"]
    for name, tensor in start.items():
        frozen = "embedding" in name or "conv1" in name or "ln_pre" in name or "resblocks.0." in name
        assert torch.equal(end[f"backbone.{name}"], tensor) == frozen, name
    assert end["emotion_fusion.conv_e.weight"].abs().max() > 0


def test_a_model_can_be_the_start_of_another_run(trained, place):
    """--init_model with rates of zero: the new run's val and test scores are the old model's."""
    old = trained("fixed, patch")
    argv = place.flags("started", "--init_model", str(old / "checkpoint_best.pt"), "--epochs", "1", "--lr", "0")
    argv += ["--caption_source", "both", "--resize", "pad"]  # what a model is made of comes with it, these do not
    code, printed = run(argv)
    assert code == 0, printed
    assert "from a checkpoint" in printed
    assert scores_on_test(place.folder / "started")["scores"] == scores_on_test(old)["scores"]


def test_what_the_folder_of_a_run_holds(trained, place):
    folder = trained("joint")
    names = {path.name for path in folder.iterdir()} - {"again.json", ".lock"}
    assert names == {
        *("args.json", "run.json", "log.txt", "losses.jsonl", "metrics.jsonl", "metrics.json", "test_queries.npz"),
        *("checkpoint_last.pt", "checkpoint_best.pt", "qi.npy", "qc.npy", "fused.npy", "relevance.npz"),
    }
    arguments = read_json(folder / "args.json")
    assert (arguments["coef_lr"], arguments["lr"], arguments["epochs"]) == (1.0, 1e-3, 2)
    record = read_json(folder / "metrics.json")
    assert record["counts"]["train"]["records"] == 48 and record["counts"]["test"]["memes"] == 16
    for key in ("seconds", "peak_memory_mib", "versions", "command", "seed", "device", "alpha"):
        assert record[key] is not None
    for path in folder.glob("*.json*"):
        text = path.read_text(encoding="utf-8")
        assert not names_with_spaces(
            [json.loads(t) for t in (text.splitlines() if path.suffix == ".jsonl" else [text])]
        )
    entry = record["test"]["scores"]["fused"]["query_to_meme"]
    assert set(entry["metrics"]) == set(metrics.METRICS) == set(entry["intervals"])
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert "lr 0.001, the towers' own 0.001 (coef_lr 1)" in log
    assert "alpha 0." in log and "test split, query to meme: 8 queries, 16 memes, 24 relevant pairs" in log
    assert len(history(folder)) == 2
    [last] = history(folder, "test")
    assert last["scores"] == record["test"]["scores"] and last["alpha"] == record["alpha"]
    state = checkpoint.load(folder / "checkpoint_best.pt")["model"]
    assert record["parameters"]["all"] == record["parameters"]["trained"]
    assert record["parameters"]["all"] == sum(t.numel() for n, t in state.items() if n != "emotion_vectors.rows")


def test_the_displayed_steps_are_kept(trained, place):
    """losses.jsonl has the numbers of the log, and 96 records trained in the time that was not spent on val."""
    folder = trained("joint, displayed", "--n_display", "2")
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert [line["epoch"] for line in lines] == [0.3333, 0.6667, 1.0, 1.3333, 1.6667, 2.0]
    log = (folder / "log.txt").read_text(encoding="utf-8")
    for line in lines:
        shown = "  ".join(f"{name} {value:.4f}" for name, value in line["losses"].items())
        assert f"joint step {line['step']}/12  {shown}  alpha {line['alpha']:.4f}" in log
    splits = re.findall(r" records/s \(data (\d+)%, forward and backward (\d+)%, optimiser (\d+)%\)\n", log)
    assert len(splits) == 6 and all(98 <= sum(map(int, split)) <= 102 for split in splits)
    record = read_json(folder / "metrics.json")
    stepping = record["seconds"]["training"] - record["seconds"]["evaluation_on_val"]
    rounding = 0.11  # both are rounded to tenths
    assert 96 / (stepping + rounding) <= record["records_per_second"]
    assert stepping <= rounding or record["records_per_second"] <= 96 / (stepping - rounding)


def test_a_resumed_run_counts_the_time_before(trained, place):
    """Resumed at its very end, after the last evaluation: no step follows, and the speed is still that of the steps."""
    folder = trained("timed", "--epochs", "2")
    before = read_json(folder / "metrics.json")
    argv = place.flags("timed", "--epochs", "2", "--save_similarity")
    code, printed = run([*argv, "--resume_model", str(folder / "checkpoint_last.pt")])
    assert code == 0, printed
    after = read_json(folder / "metrics.json")
    assert after["records_per_second"] == pytest.approx(before["records_per_second"], rel=0.2)
    assert after["seconds"]["training"] >= after["seconds"]["evaluation_on_val"]
    assert after["seconds"]["all"] >= after["seconds"]["training"]


def test_a_frozen_or_staged_part_is_not_counted_as_trained(trained):
    staged = read_json(trained("staged") / "metrics.json")["parameters"]
    assert staged["all"] - staged["trained"] == 1  # θ: the weight is fitted on val
    qc = read_json(trained("qc", *SETTINGS["qc"]) / "metrics.json")["parameters"]
    assert qc["all"] == qc["trained"]


def test_tensorboard_has_the_curves_of_a_resumed_run_too(trained, place):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = trained("curves", "--tensorboard", "--n_display", "2", "--epochs", "2")
    for _ in range(2):  # the second time after resuming at its end
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
        for tag, values in {
            "joint/loss/total": [line["losses"]["total"] for line in lines],
            "joint/alpha": [line["alpha"] for line in lines],
            "joint/val alpha": [line["alpha"]["mean"] for line in history(folder)],
            "joint/val fused/mAP": [
                line["scores"]["fused"]["query_to_meme"]["metrics"]["mAP"] for line in history(folder)
            ],
        }.items():
            assert [event.value for event in events.Scalars(tag)] == pytest.approx(values)
        argv = place.flags("curves", "--tensorboard", "--n_display", "2", "--epochs", "2", "--save_similarity")
        code, printed = run([*argv, "--resume_model", str(folder / "checkpoint_last.pt")])
        assert code == 0, printed


def test_clip_is_evaluated_as_it_is_loaded(place):
    """The zero-shot method's scores: cosines of CLIP's own two features, without this program's evaluation."""
    from dataloaders.meme_dataset import MemeDataset, collate
    from tests.tiny_community import prepared

    flags = place.eval_flags("zero-shot", "unused", "--method", "zero_shot_clip", "--save_similarity")
    at = flags.index("--init_model")
    flags = [*flags[:at], *flags[at + 2 :], "--pretrained_clip_name", str(place.clip), "--max_frames", "1"]
    code, printed = run(flags)
    assert code == 0, printed
    folder = place.folder / "zero-shot"
    record = read_json(folder / "metrics.json")
    assert record["method"] == "zero_shot_clip" and record["best_epoch"] is None
    assert record["parameters"]["trained"] == 0 and not list(folder.glob("*.pt"))
    _, data, model = prepared([*place.flags("unused"), "--max_frames", "1"])
    model.backbone.load_state_dict(read_weights(place.clip).state)
    with torch.no_grad():
        memes = collate([MemeDataset(data["test"])[i] for i in range(len(data["test"].split.memes))])
        image = model.backbone.visual(model.backbone.normalise(memes["pixels"]), None, None, None)[:, 0]
        ids = [torch.from_numpy(data["test"].queries[i][None].astype(np.int64)) for i in range(8)]
        text = torch.stack([words_of(model.backbone, row)[0, -1] for row in ids])
        cosines = torch.nn.functional.normalize(text, dim=1) @ torch.nn.functional.normalize(image, dim=1).T
    np.testing.assert_allclose(np.load(folder / "qi.npy"), cosines, atol=1e-5)


def test_what_a_state_dict_does_not_tell_is_in_its_checkpoint(place):
    """A GELU of four heads: trained with the flags, evaluated without them, and not as another network."""
    state = {f"module.clip.{name}": value for name, value in read_weights(place.clip).state.items()}
    torch.save({"state_dict": state}, place.folder / "gelu.pt")
    flags = place.flags("gelu", "--pretrained_clip_name", str(place.folder / "gelu.pt"), "--epochs", "1")
    code, printed = run(flags)
    assert code == 2 and "--clip_activation" in printed and "Traceback" not in printed
    code, printed = run([*flags, "--clip_activation", "gelu", "--clip_heads", "4", "2"])
    assert code == 0, printed
    assert "gelu.pt: the weights are those under 'state_dict'" in printed and "begin with 'clip.'" in printed
    folder = place.folder / "gelu"
    sizes = checkpoint.load(folder / "checkpoint_best.pt")["backbone"]["sizes"]
    assert (sizes["activation"], sizes["vision_heads"], sizes["text_heads"]) == ("gelu", 4, 2)
    code, printed = run(place.eval_flags("gelu evaluated", "gelu/checkpoint_best.pt"))
    assert code == 0, printed
    assert scores_on_test(place.folder / "gelu evaluated") == scores_on_test(folder)
    other = place.eval_flags("as another", "gelu/checkpoint_best.pt", "--clip_activation", "quick_gelu")
    code, printed = run(other)
    assert code == 2
    assert "--clip_activation quick_gelu, but the checkpoint's CLIP has gelu" in printed
    code, printed = run([*flags, "--overwrite", "--clip_activation", "quick_gelu", "--clip_heads", "4", "2"])
    assert code == 0
    assert scores_on_test(folder) != scores_on_test(place.folder / "gelu evaluated"), "the flag has no effect"


@pytest.mark.parametrize(("method", "code"), [("ief", 2), ("drl_wti", 0)])
def test_a_run_from_a_checkpoint_is_the_method_that_it_says(trained, place, method, code):
    old = trained("of a method", "--method", "drl_wti", "--epochs", "1")
    flags = place.flags(f"from it, {method}", "--method", method, "--epochs", "1", "--lr", "0")
    result, printed = run([*flags, "--init_model", str(old / "checkpoint_best.pt")])
    assert result == code, printed
    if code:
        assert "the model was made with --" in printed


def test_clip_from_scratch_is_not_evaluated_as_it_is(place):
    flags = ["--do_eval", "--data_path", str(place.data), "--output_dir", str(place.folder / "scratch")]
    code, printed = run([*flags, "--method", "zero_shot_clip", "--pretrained_clip_name", "ViT-tiny/8"])
    assert code == 2
    assert "ViT-tiny/8 starts from scratch" in printed


def test_parts_that_nothing_has_trained_are_not_evaluated(place):
    flags = ["--do_eval", "--data_path", str(place.data), "--output_dir", str(place.folder / "untrained")]
    code, printed = run([*flags, "--pretrained_clip_name", str(place.clip)])
    assert code == 2
    assert "parts that nothing has trained (aggregator, caption_attention, caption_pooling" in printed


def test_the_default_rate_of_loaded_weights_is_a_thousandth(place):
    argv = place.flags("coef", "--epochs", "1")
    at = argv.index("--coef_lr")
    code, printed = run(argv[:at] + argv[at + 2 :])
    assert code == 0, printed
    assert "lr 0.001, the towers' own 1e-06 (coef_lr 0.001)" in printed
    assert read_json(place.folder / "coef" / "args.json")["coef_lr"] == 1e-3


def test_frozen_random_embeddings_are_told(place):
    flags = place.flags("frozen from scratch", "--method", "clip4clip_meanp", "--epochs", "1", "--batch_size", "48")
    at = flags.index("--pretrained_clip_name")
    code, printed = run([*flags[:at], *flags[at + 2 :], "--pretrained_clip_name", "ViT-tiny/8"])
    assert code == 0, printed
    assert "--freeze_layer_num 0 freezes random embeddings" in printed


def test_cut_texts_are_told_and_stored(place):
    argv = place.flags("cut", "--epochs", "1", "--max_words", "4", "--max_caption_words", "5", "--max_captions", "2")
    code, printed = run(argv)
    assert code == 0, printed
    counts = read_json(place.folder / "cut" / "metrics.json")["counts"]["train"]
    lengths = [len(query.split()) + 2 for query in queries_of(place.data / "train.csv")]  # every word is one token
    lost = [length - 4 for length in lengths if length > 4]
    assert counts["queries_cut"] == {
        **{"texts": 8, "cut": len(lost), "limit": 4, "tokens_lost": sum(lost), "most_lost_by_one": max(lost)},
    }
    assert f"{len(lost)} of 8 queries are longer than 4 tokens and lose their end: {sum(lost)} tokens in all" in printed
    assert counts["captions_left_out"] > 0
    assert "captions beyond --max_captions are left out" in printed


def queries_of(path):
    return {row["topic_id"]: row["query"] for row in read_csv(path)}.values()


def test_a_folder_with_a_run_is_not_overwritten_unawares(trained, place):
    code, printed = run(place.flags("kept", "--epochs", "1", "--save_similarity"))
    assert code == 0, printed
    files = {path.name: path.stat().st_mtime_ns for path in (place.folder / "kept").glob("[!.]*")}
    code, printed = run(place.flags("kept", "--epochs", "2"))
    assert code == 2
    assert "holds a run" in printed and "--overwrite" in printed and "--resume_model" in printed
    assert {path.name: path.stat().st_mtime_ns for path in (place.folder / "kept").glob("[!.]*")} == files
    code, printed = run(place.flags("kept", "--epochs", "1", "--overwrite"))
    assert code == 0, printed
    assert not list((place.folder / "kept").glob("*.npy"))
    assert (place.folder / "kept" / "log.txt").read_text(encoding="utf-8").count("steps an epoch") == 1


def test_evaluation_does_not_spoil_the_record_of_the_training_in_its_folder(trained, place):
    folder = trained("evaluated in place", "--epochs", "1")
    before = {name: (folder / name).read_bytes() for name in ("args.json", "metrics.json", "log.txt")}
    code, printed = run(place.eval_flags("evaluated in place", "evaluated in place/checkpoint_best.pt"))
    assert code == 2
    assert "holds a training run" in printed
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.fixture
def large(tmp_path):
    """A folder for files of gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # the published file is what it is
def test_a_real_vit_b_32_from_an_archive_in_the_published_format(large, no_saved_progress):
    """A training step and an evaluation with the published sizes, weights and file format (random weights)."""
    place = Place.__new__(Place)
    place.folder, place.data = large, draw_community(large / "community", train=2, val=1, test=1, topics=2)
    torch.manual_seed(0)
    clip = CLIP(VIT_B_32)
    place.clip = large / "ViT-B-32.pt"
    write_archive(place.clip, clip.state_dict(), VIT_B_32)
    assert 290e6 < place.clip.stat().st_size < 320e6
    name = "visual.transformer.resblocks.11.mlp.c_proj.weight"
    start = clip.state_dict()[name].half().float()
    del clip
    flags = ["--epochs", "1", "--batch_size", "6", "--coef_lr", "1e-3", "--lr", "1e-4", "--freeze_layer_num", "6"]
    code, printed = run(place.flags("run", *flags))
    assert code == 0, printed
    assert "ViT-B-32.pt (not one of the published files, by its SHA-256)" in printed
    assert "starts afresh" not in printed  # the aggregator has CLIP's width: its layers come from the text tower
    state = checkpoint.load(large / "run" / "checkpoint_best.pt")["model"]
    moved = (state[f"backbone.{name}"] - start).abs().max().item()
    assert 0 < moved < 1e-5  # one step of 1e-7
    assert state["backbone.logit_scale"].item() == pytest.approx(math.log(1 / 0.07), abs=1e-3)
    for row in scores_on_test(large / "run")["scores"].values():
        assert 0 < row["query_to_meme"]["metrics"]["mAP"] <= 100
