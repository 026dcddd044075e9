"""scripts.make_tables: runs that are missing, damaged or not comparable; weights, costs; Markdown, LaTeX, CSV."""

import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

import metrics
from scripts.make_tables import main, make_tables
from scripts.reporting.weights import how_set
from scripts.tables.run_tree import COSTS
from tests.scripts.run_folders import relevance_of, write_run
from util import InputError

TABLES = ("main", "ablation", "weights", "cost")
UNTRAINED = {
    **{"best_epoch": None, "alpha": None, "trained_alpha": None, "records_per_second": None},
    "seconds": {"training": None, "evaluation_on_val": None, "all": 3.0},
}


@pytest.fixture
def runs(tmp_path):
    """Three methods on a community; of one a seed is missing, of one no run has finished."""
    root = tmp_path / "runs"
    for seed in (0, 1, 2):
        write_run(root, "demo", "clip4clip_meanp", seed, alpha=None)
        write_run(root, "demo", "ief", seed, quality=2.0, finished=seed != 1)
        write_run(root, "demo", "cap4video", seed, finished=False)
    return root


def page(folder):
    return (folder / "tables.md").read_text(encoding="utf-8")


def read_text(path):
    return " ".join(path.read_text(encoding="utf-8").split())


def read(folder, name):
    return pd.read_csv(folder / f"{name}.csv", dtype={"seeds": str})


def test_what_is_missing_is_a_row_that_says_so(runs, capsys):
    write_run(runs, "english_memes", "bm25", 0, **UNTRAINED)
    write_run(runs, "demo", "another_method", 0)
    write_run(runs, "demo", "another_method", 1)
    out = runs.parent / "out"
    make_tables(runs, out, absent={"douban_memers": "no data: no train.csv in data/douban_memers"})
    printed = capsys.readouterr().out
    assert printed.count("another_method") == 1 and "another_method" not in page(out)
    main_part = page(out).partition("## Ablations")[0]
    assert "| Douban MEMERS | no data: no train.csv in data/douban\\_memers |" in main_part
    english, _, demo = main_part.partition("### English Memes")[2].partition("### Demo")
    assert re.search(r"\| Cap4Video \| not finished \|( +\|)+\n", demo)
    assert re.search(r"\| BM25 over captions \| not run \|", demo)
    assert re.search(r"\| IEF \(2 of 3 seeds\) \| ", demo)
    assert re.search(r"\| CLIP4Clip, meanP \| not run \|", english)
    assert "No significance test here" in english and "No significance test here" not in demo
    table = read(out, "main").fillna({"method": "", "seeds": ""})
    status = table.groupby(["community", "method"]).status.unique().map(list).to_dict()
    assert status["demo", "ief"] == ["2 of 3 seeds"] and status["demo", "cap4video"] == ["not finished"]
    assert status["english_memes", "bm25"] == ["complete"] and status["english_memes", "ief"] == ["not run"]
    assert status["douban_memers", ""] == ["no data: no train.csv in data/douban_memers"]
    assert set(table.query("community == 'demo' and method == 'ief'").seeds) == {"0 2"}
    for name in TABLES:  # once: in the main table
        assert ("Douban MEMERS & " in (out / f"{name}.tex").read_text(encoding="utf-8")) == (name == "main")


def test_communities_methods_and_seeds_can_be_chosen(runs):
    out = runs.parent / "out"
    make_tables(runs, out, communities=["demo", "recent_popular_memes"], methods=["ief", "drl_wti"], seeds=[0, 7])
    table = read(out, "main")
    assert set(table.method.dropna()) == {"random", "ief", "drl_wti"}
    assert table.query("method == 'ief'").status.unique().tolist() == ["1 of 2 seeds"]
    assert table.query("method == 'ief'").sd.isna().all()
    assert "| Recent Popular Memes | no runs |" in page(out) and "Humans Love" not in page(out)
    assert "the baseline is CLIP4Clip, meanP, and it has no finished run" in page(out)
    assert not len(read(out, "significance"))


def untrained_runs(root, seeds):
    """Runs of BM25 with other results under each seed: {seed: mAP}."""
    folders = {seed: write_run(root, "demo", "bm25", seed, **UNTRAINED) for seed in seeds}
    return {seed: own_metrics(folder)["mAP"] for seed, folder in folders.items()}


def own_metrics(folder):
    record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return record["test"]["scores"]["fused"]["query_to_meme"]["metrics"]


def test_an_untrained_method_stands_with_its_one_run(runs):
    untrained_runs(runs, (0, 1))
    out = runs.parent / "out"
    make_tables(runs, out)
    table = read(out, "main").query("method == 'bm25'")
    assert set(table.status) == {"complete"} and table.sd.isna().all() and set(table.seeds) == {"0"}
    assert re.search(r"\| BM25 over captions \| CPU, 2 threads \| 1 \| – \| – \| – \| 2,048 \| – \|", page(out))


@pytest.mark.parametrize(
    ("seeds", "shown"),
    [(None, 0), ([1, 2], 1), ([0, 1], 0), ([1, 0], 1), ([2, 1, 0], 1), ([5], 0)],
)
def test_an_untrained_methods_run_is_that_of_the_first_seed_asked_for(runs, seeds, shown):
    """Where none of these has a run, the one that is there stands: it is of no seed."""
    results = untrained_runs(runs, (0, 1))
    write_run(runs, "demo", "bm25", 2, finished=False)
    make_tables(runs, runs.parent / "out", seeds=seeds)
    row = read(runs.parent / "out", "main").query("method == 'bm25' and metric == 'mAP'").iloc[0]
    assert row.seeds == str(shown) and row["mean"] == results[shown] and results[0] != results[1]


def test_an_untrained_methods_run_is_that_of_the_lowest_seed_where_none_is_asked_for(tmp_path):
    """Whatever seeds the other methods have."""
    write_run(tmp_path / "runs", "demo", "ief", 5)
    untrained_runs(tmp_path / "runs", (5, 1))
    make_tables(tmp_path / "runs", tmp_path / "out")
    assert set(read(tmp_path / "out", "main").query("method == 'bm25'").seeds) == {"1"}


def test_runs_that_are_left_out_are_not_read(runs):
    """Neither their numbers nor anything else of them: their folders hold what is not JSON."""
    left_out = {("demo", "ief", 2): "failed", ("demo", "drl_wti", 0): "failed", ("demo", "drl_wti", 1): "not made"}
    for _, method, seed in left_out:
        folder = write_run(runs, "demo", method, seed)
        (folder / "metrics.json").write_text("{")
        (folder / "args.json").write_text("{")
    write_run(runs, "english_memes", "ief", 0)
    left_out |= {("custom", "ief", 0): "failed", ("english_memes", "ief", 0): "a <strange> reason"}
    out = runs.parent / "out"
    make_tables(runs, out, left_out=left_out)
    table = read(out, "main")
    ief = table.query("community == 'demo' and method == 'ief'")
    assert set(ief.seeds) == {"0"} and set(ief.status) == {"1 of 3 seeds"}
    assert ief.set_index("metric")["mean"]["mAP"] == own_metrics(runs / "demo" / "ief" / "seed_0")["mAP"]
    status = table.set_index(["community", "method"]).status.to_dict()
    assert status["demo", "drl_wti"] == "failed; not made" and status["custom", "ief"] == "failed"
    assert status["custom", "cap4video"] == "not run" and status["demo", "cap4video"] == "not finished"
    assert status["english_memes", "ief"] == "a <strange> reason"
    assert re.search(r"\| DRL, WTI \| failed; not made \|( +\|)+\n", page(out))
    assert "Left out: ief/seed\\_2 (failed)." in page(out) and "drl\\_wti/seed" not in page(out)


@pytest.mark.parametrize("seeds", [None, [0, 1], [1, 0]])
def test_an_untrained_run_that_is_left_out_is_not_replaced_by_an_older_one(runs, seeds):
    untrained_runs(runs, (0, 1))
    first = seeds[0] if seeds else 0
    make_tables(runs, runs.parent / "out", seeds=seeds, left_out={("demo", "bm25", first): "failed"})
    row = read(runs.parent / "out", "main").query("method == 'bm25'")
    assert row.status.tolist() == ["failed"] and row["mean"].isna().all()


def test_all_runs_may_be_left_out(tmp_path):
    write_run(tmp_path / "runs", "demo", "ief", 0)
    make_tables(tmp_path / "runs", tmp_path / "out", left_out={("demo", "ief", 0): "failed"})
    assert re.search(r"\| IEF \| failed \|", page(tmp_path / "out"))


def test_the_program_lists_the_benchmark_and_says_where_everything_is(runs, capsys):
    main([str(runs), "--out", str(runs.parent / "out"), "--baseline", "ief", "--tested", "mAP"])
    printed = capsys.readouterr().out
    for name in ("Douban MEMERS", "English Memes", "Let's exchange Memes"):
        assert f"{name}: no runs" in printed
    sentences = printed.replace("\n", " ")
    for part in ("‡ significantly worse than IEF.", "A difference to IEF in mAP is significant", " 1 comparison "):
        assert part in sentences
    written = printed.rpartition("written to ")[2].partition(": ")[2].strip().split(", ")
    assert sorted(written) == sorted(path.name for path in (runs.parent / "out").iterdir())


def test_the_ablations_are_printed_where_there_are_some(tmp_path, capsys):
    write_run(tmp_path / "runs", "demo", "ief", 0)
    make_tables(tmp_path / "runs", tmp_path / "out")
    assert "QC only" not in capsys.readouterr().out
    write_run(tmp_path / "runs", "demo", "ief_qc", 0)
    make_tables(tmp_path / "runs", tmp_path / "out")
    assert re.search(r"branches \(QI and QC\) +QC only +[0-9.]+", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--methods", "ief", "magic"], "magic"),
        (["--baseline", "ief_qi"], "ief_qi"),
        (["--tested", "MdR"], "median"),
        (["--tested", "map"], "found map"),
        (["--tested", "mAP", "recall@10"], "recall@10"),  # no column of the main table could have its marks
        (["--tested", "R@1000"], "R@1000"),
    ],
)
def test_what_cannot_be_asked_for(runs, flags, said):
    with pytest.raises(SystemExit) as stop:
        main([str(runs), "--out", str(runs.parent / "out"), *flags])
    assert str(stop.value).startswith("error: ") and said in str(stop.value)
    assert not (runs.parent / "out").exists()


def test_no_runs_at_all(tmp_path):
    (tmp_path / "demo" / "ief").mkdir(parents=True)
    for root in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(SystemExit) as stop:
            main([str(root), "--out", str(tmp_path / "out")])
        assert str(root) in str(stop.value) and "seed_<n>" in str(stop.value)


def edit(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "a cut array file": ("test_queries.npz", cut),
    "no array file": ("test_queries.npz", lambda path: path.unlink()),
    "a cut metrics.json": ("metrics.json", cut),
    "a list": ("metrics.json", lambda path: path.write_text("[1]")),
    "no args.json": ("args.json", lambda path: path.unlink()),
    "no score": ("metrics.json", lambda path: edit(path, lambda value: value["test"]["scores"].pop("fused"))),
    "no metrics": (
        "metrics.json",
        lambda path: edit(path, lambda value: value["test"]["random"]["query_to_meme"].pop("metrics")),
    ),
    "not a number": (
        "metrics.json",
        lambda path: edit(path, lambda value: value["alpha"].update(mean=float("nan"))),
    ),
    "another run's number": (
        "metrics.json",
        lambda path: edit(
            path, lambda value: value["test"]["scores"]["fused"]["query_to_meme"]["metrics"].update({"mAP": 99.0})
        ),
    ),
    "another run's method": ("metrics.json", lambda path: edit(path, lambda value: value.update(method="drl_wti"))),
    "another run's seed": ("metrics.json", lambda path: edit(path, lambda value: value.update(seed=5))),
    "no checksum of the data": ("run.json", lambda path: edit(path, lambda value: value["data"].pop("test"))),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_is_named(runs, kind):
    name, damage = DAMAGE[kind]
    path = runs / "demo" / "ief" / "seed_2" / name
    damage(path)
    with pytest.raises(InputError, match=re.escape(str(path))):
        make_tables(runs, runs.parent / "out")
    assert not (runs.parent / "out").exists()


@pytest.mark.parametrize("other", ["relevance", "csv"])
def test_runs_of_different_test_splits_are_not_compared(runs, other):
    more = {"relevance": relevance_of(5)} if other == "relevance" else {"data": {"test": {"csv": "x", "images": None}}}
    folder = write_run(runs, "demo", "drl_wti", 0, **more)
    with pytest.raises(InputError) as error:
        make_tables(runs, runs.parent / "out")
    assert str(folder) in str(error.value) and str(runs / "demo" / "clip4clip_meanp" / "seed_0") in str(error.value)
    write_run(runs, "custom", "drl_wti", 0, **more)  # another community may have another one
    make_tables(runs, runs.parent / "out", methods=["clip4clip_meanp", "ief"])


def test_what_else_differs_is_said_under_the_table(runs):
    make_tables(runs, runs.parent / "out")
    assert "not the same" not in page(runs.parent / "out") and "versions of the code" not in page(runs.parent / "out")
    write_run(
        runs,
        "demo",
        "ief_staged",
        0,
        code={"version": "beef" * 16, "commit": None},
        data={"train": {"csv": "another", "images": None}},
        settings={"epochs": 3, "max_words": 16},
    )
    make_tables(runs, runs.parent / "out")
    found = page(runs.parent / "out").partition("## Ablations")[0]
    assert "The runs are of 2 versions of the code: c0dec0dec0de (commit abcdefabcdef)" in found
    assert "beefbeefbeef (ief\\_staged/seed\\_0)" in found
    for name in ("main", "weights", "cost"):
        for ending in ("tex", "txt"):
            text = read_text(runs.parent / "out" / f"{name}.{ending}")
            assert "The runs are of 2 versions of the code: " in text
    assert "The train split is not the same in all runs: compare clip4clip\\_meanp/seed\\_0, ief\\_staged/seed" in found
    assert "The val split" not in found
    for flag, values in (("epochs", (12, 3)), ("max\\_words", (32, 16))):
        assert (
            f"--{flag} is not the same in all runs: {values[0]} (clip4clip\\_meanp/seed\\_0), "
            f"{values[1]} (ief\\_staged/seed\\_0)." in found
        )
    assert "--lr" not in found


def main_part(folder):
    return page(folder).partition("## Ablations")[0]


def test_settings_that_differ_between_the_seeds_of_a_method_are_said(tmp_path):
    """Whatever the flag, of a method's own as well; not paths, nor what no result depends on."""
    runs, out = tmp_path / "runs", tmp_path / "out"
    for seed in (0, 1):
        elsewhere = {"data_path": f"data{seed}", "num_thread_reader": seed, "save_similarity": bool(seed)}
        write_run(runs, "demo", "clip4clip_meanp", seed, settings=elsewhere)
        write_run(runs, "demo", "ief", seed, settings=elsewhere)
    make_tables(runs, out)
    assert not re.search("--[a-z]", main_part(out))
    write_run(runs, "demo", "ief", 2, settings={"warmup_proportion": 0.5, "cross_num_hidden_layers": 2})
    write_run(runs, "demo", "clip4clip_meanp", 2, settings={"sim_header": "seqTransf"})
    make_tables(runs, out)
    for method, flag, before, after in (
        ("ief", "warmup\\_proportion", 0.1, 0.5),
        ("ief", "cross\\_num\\_hidden\\_layers", 4, 2),
        ("clip4clip\\_meanp", "sim\\_header", "meanP", "seqTransf"),
    ):
        title = {"ief": "IEF"}.get(method, "CLIP4Clip, meanP")
        assert (
            f"The row {title} mixes runs of different settings: --{flag} is {before} in {method}/seed\\_0, "
            f"{after} in {method}/seed\\_2." in main_part(out)
        )
    make_tables(runs, out, seeds=[0, 1])
    assert "mixes" not in page(out)


def test_a_flag_that_has_no_effect_on_a_method_does_not_count_between_methods(tmp_path):
    """scripts.reproduce drops such a flag, and the run then has the default."""
    runs, out = tmp_path / "runs", tmp_path / "out"
    common = {"resize": "pad", "caption_source": "both"}
    write_run(runs, "demo", "bm25", 0, settings={"caption_source": "both"}, **UNTRAINED)
    write_run(runs, "demo", "clip4clip_meanp", 0, settings={"resize": "pad"})  # reads no captions
    write_run(runs, "demo", "ief", 0, settings=common)
    write_run(runs, "demo", "ief_qc", 0, settings={"caption_source": "both"})  # opens no images
    write_run(runs, "demo", "ief_per_query", 0, settings=common)
    make_tables(runs, out)
    assert "not the same" not in page(out)
    write_run(runs, "demo", "sentence_encoder", 0, settings={"caption_source": "caption"}, **UNTRAINED)
    make_tables(runs, out)
    assert "--caption\\_source is not the same in all runs: both (bm25/seed\\_0), caption (sentence" in main_part(out)


def test_a_method_that_was_run_with_other_flags_than_its_own_is_said(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    write_run(runs, "demo", "clip4clip_meanp", 0)
    write_run(runs, "demo", "ief", 0, settings={"freeze_layer_num": -1})
    make_tables(runs, out)
    assert "defines" not in page(out)
    for method in ("clip4clip_meanp", "cap4video"):
        for seed in (0, 1):
            write_run(runs, "demo", method, seed, settings={"freeze_layer_num": -1})
    write_run(runs, "demo", "ief_fixed", 0, settings={"fusion_weight": 0.7})
    make_tables(runs, out)
    assert "Run with --freeze\\_layer\\_num -1, where the method defines 0: CLIP4Clip, meanP; Cap4Video." in main_part(
        out
    )
    ablations = page(out).partition("## Ablations")[2].partition("## Weights")[0]
    assert "Run with --fusion\\_weight 0.7, where the method defines 0.5: IEF, weights: fixed, 0.5." in ablations
    assert "freeze" not in ablations


def test_the_full_model_is_that_of_the_defaults_which_the_ablations_change(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    for method in ("ief", "ief_pad", "ief_fixed"):
        write_run(runs, "demo", method, 0, settings={"resize": "pad", "epochs": 7, "emotion_encoder": "clip"})
    make_tables(runs, out)
    assert "Run with --resize pad, where the method defines crop: IEF." in page(out)
    assert page(out).count("Run with") == page(out).count("Run with --resize")  # 7 epochs are no other method


REFERENCE_CODE = {"version": "4ef0" * 16}  # of a reference more files count


def test_the_versions_of_references_are_compared_among_themselves(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    write_run(runs, "demo", "ief", 0)
    write_run(runs, "demo", "bm25", 0, code=REFERENCE_CODE, **UNTRAINED)
    make_tables(runs, out)
    assert "versions of the code" not in page(out)
    assert "Code version c0dec0dec0de (commit abcdefabcdef)." in page(out)
    assert "Code version of the references 4ef04ef04ef0 (commit abcdefabcdef)." in page(out)
    write_run(runs, "demo", "sentence_encoder", 0, code={"version": "beef" * 16}, **UNTRAINED)
    make_tables(runs, out)
    assert (
        "The references are of 2 versions of the code: 4ef04ef04ef0 (commit abcdefabcdef) (bm25/seed\\_0), "
        "beefbeefbeef (commit abcdefabcdef) (sentence\\_encoder/seed\\_0)." in page(out)
    )
    assert "The runs are of" not in page(out)


def test_a_commit_that_left_the_code_as_it_was_makes_no_other_version(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    for seed, commit in enumerate(("a" * 40, "b" * 40, "a" * 40, None)):
        write_run(runs, "demo", "ief", seed, code={"commit": commit})
    make_tables(runs, out)
    assert "versions of the code" not in page(out)
    assert "Code version c0dec0dec0de (commits aaaaaaaaaaaa, bbbbbbbbbbbb)." in page(out)


def test_weights(runs):
    relevance = relevance_of()
    strong, weak = (np.random.default_rng(seed).normal(size=relevance.shape) for seed in (8, 9))
    strong[relevance.query, relevance.meme] += 3
    for seed, (mean, low, high) in enumerate(((0.5, 0.2, 0.8), (0.6, 0.3, 0.9))):
        write_run(
            *(runs, "demo", "ief_per_query", seed),
            relevance=relevance,
            scores={"qi": weak, "qc": strong, "fused": weak + strong + seed},
            settings={"fusion": "query"},
            alpha={"mean": mean, "min": low, "max": high},
        )
    write_run(runs, "demo", "ief_trained_weights", 0, settings={"fusion_data": "train"})
    staged = {"best_epoch": {"stage": "qc", "epoch": 4, "val": {"mAP": 1.0}}}
    write_run(runs, "demo", "ief_staged", 0, settings={"co_train": "staged"}, **staged)
    write_run(runs, "demo", "ief_published", 0, settings={"co_train": "staged", "fusion": "fixed"}, **staged)
    out = runs.parent / "out"
    make_tables(runs, out, seeds=[0, 1])
    part = page(out).partition("## Weights")[2].partition("## Costs")[0]
    [row] = [line for line in part.splitlines() if line.startswith("| IEF, weights: per query")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:5] == ["fitted on val, per query", "0.550 ± 0.071", "0.200 – 0.900", "QI"]
    assert cells[-1] == "3, 4"
    precision = {}
    for name, scores in {"qi": weak, "fused": weak + strong}.items():
        ranks = metrics.relevant_ranks(scores, relevance)
        precision[name] = metrics.retrieval_metrics(ranks, relevance.query, *relevance.shape)["mAP"]
    gain = precision["fused"] - precision["qi"]
    shown, low, high = (float(number) for number in re.findall(r"[+−]?\d+\.\d+", cells[5].replace("−", "-")))
    assert low < shown < high and shown == pytest.approx(gain, abs=0.005)
    assert "| IEF, staged (1 of 2 seeds) | staged: fitted on val | 0.600 | – | – | – | – | qc 4 |" in part
    assert "| IEF, published code (1 of 2 seeds) | fixed | 0.600 |" in part
    assert "| IEF, weights: trained (1 of 2 seeds) | trained | 0.600 |" in part
    assert "| IEF (1 of 2 seeds) | fitted on val | 0.600 | – |" in part and "CLIP4Clip" not in part
    table = read(out, "weights").set_index(["method", "quantity"])
    assert table["mean"]["ief_per_query", "alpha"] == pytest.approx(0.55)
    assert table["mean"]["ief_per_query", "fused_minus_better_part_mAP"] == pytest.approx(gain)
    assert table["sd"]["ief_per_query", "fused_minus_better_part_mAP"] == pytest.approx(0, abs=1e-9)
    assert table["mean"]["ief_per_query", "alpha_min_over_queries"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("settings", "alpha", "expected"),
    [
        ({"fusion": "learned", "co_train": "joint"}, (0.5, 0.5), "trained"),  # of an earlier version
        ({"fusion": "learned", "co_train": "staged"}, (0.5, 0.5), "staged: chosen on val"),
        ({"fusion": "query", "co_train": "joint"}, (0.4, 0.6), "trained, per query"),
        ({"fusion": "learned", "co_train": "joint", "fusion_data": "train"}, (0.5, 0.5), "trained"),
        ({"fusion": "learned", "co_train": "staged", "fusion_data": "val"}, (0.5, 0.5), "staged: fitted on val"),
        ({"fusion": "query", "fusion_data": "val"}, (0.5, 0.5), "fitted on val, one for all queries"),
        ({"fusion": "fixed", "fusion_data": "val"}, (0.5, 0.5), "fixed"),
    ],
)
def test_how_weights_were_set(settings, alpha, expected):
    assert how_set(settings, dict(zip(("min", "max"), alpha, strict=True))) == expected


def test_costs(runs):
    gpu = {"device": "NVIDIA X", "processes": 2, "peak_memory_mib": {"host": 1000, "device": 70_000}}
    write_run(runs, "demo", "drl_wti", 0, **gpu)
    write_run(runs, "demo", "drl_wti", 1)
    out = runs.parent / "out"
    make_tables(runs, out)
    part = page(out).partition("## Costs")[2]
    assert (
        "| DRL, WTI (2 of 3 seeds) | NVIDIA X / CPU, 2 threads | 2 / 1 | 1,250.0 | 40.0 | 250.5 | 1,524 | 70,000 | "
        "12.35 | 10.00 | 3, 4 |" in part
    )
    table = read(out, "cost").query("method == 'drl_wti'").set_index("quantity")
    assert set(table.index) == set(COSTS)
    assert (table["mean"]["training_seconds"], table["mean"]["parameters"]) == (1250, 12_345_678)
    assert table["sd"]["training_seconds"] == pytest.approx(500 / 2**0.5)


def write_odd_tables(runs):
    """Everything in them that LaTeX could stumble over."""
    for method in ("ief", "ief_qi", "ief_pool_avg"):
        write_run(runs, "odd_name 50% & #1 {x}$^~\\", method, 0, quality=1.5)
    out = runs.parent / "out"
    make_tables(runs, out, absent={"[x]": "no data: a_b <c> *"})
    return out


def test_latex_rows_have_the_tables_columns_and_braces_are_closed(runs):
    out = write_odd_tables(runs)
    for name in TABLES:
        text = (out / f"{name}.tex").read_text(encoding="utf-8")
        plain = re.sub(r"\\[{}&%$#_\\]", "", text.replace(r"\\", ""))
        body = "\n".join(line for line in plain.splitlines() if not line.startswith("%"))
        depth = 0
        for character in body:
            depth += (character == "{") - (character == "}")
            assert depth >= 0
        assert depth == 0 and body.count("$") % 2 == 0
        assert text.count(r"\begin{") == text.count(r"\end{") > 0
        specification = re.search(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}", text)[1]
        rows = [line for line in body.splitlines() if " & " in line]
        assert len(rows) > 4
        for row in rows:
            spanned = sum(int(count) - 1 for count in re.findall(r"\\multicolumn\{(\d+)\}", row))
            assert row.count("&") + spanned + 1 == len(specification), row


def test_latex_labels_are_different_for_all_communities(tmp_path):
    names = ["表情", "笑话", "a_b", "a b", "a-b", "a.b", "demo", "é"]
    for name in names:
        write_run(tmp_path / "runs", name, "ief", 0)
    make_tables(tmp_path / "runs", tmp_path / "out")
    for name in ("main", "weights", "cost"):
        text = (tmp_path / "out" / f"{name}.tex").read_text(encoding="utf-8")
        labels = re.findall(r"\\label\{(.*)\}", text)
        assert len(set(labels)) == len(names) and f"tab:{name}-demo" in labels and f"tab:{name}-a-b" in labels
        assert all(re.fullmatch("[A-Za-z0-9:.-]+", label) for label in labels)
        assert set(re.findall(r"\\ref\{(.*?)\}", text)) <= set(labels)


def test_the_notes_of_a_latex_table_are_beside_it(runs):
    write_run(runs, "english_memes", "ief", 0)
    out = runs.parent / "out"
    make_tables(runs, out)
    table, notes = (read_text(out / f"main.{ending}") for ending in ("tex", "txt"))
    for sentence in ("29 queries", "Nothing is chosen on the test split.", "Seeds 0, 1, 2.", "Holm's correction"):
        assert (sentence in notes, sentence in table) == (True, False), sentence
    assert "Demo: " in notes and "English Memes: " in notes and "% Notes: main.txt" in table


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_latex_compiles(runs):
    out = write_odd_tables(runs)
    inputs = "\n".join(rf"\input{{{name}.tex}}" for name in TABLES)
    packages = r"\usepackage{booktabs}\usepackage{graphicx}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{inputs}\end{{document}}"
    (out / "all.tex").write_text(document, encoding="utf-8")
    for _ in range(2):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
        done = subprocess.run(command, cwd=out, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and "undefined" not in done.stdout


def test_csv_holds_every_metric_of_the_record_in_full(runs):
    out = runs.parent / "out"
    make_tables(runs, out, seeds=[0])
    table = read(out, "main").query("method == 'clip4clip_meanp'").set_index("metric")
    record = json.loads((runs / "demo" / "clip4clip_meanp" / "seed_0" / "metrics.json").read_text(encoding="utf-8"))
    own = record["test"]["scores"]["fused"]["query_to_meme"]["metrics"]
    assert table["mean"].to_dict() == own and own.keys() == metrics.METRICS.keys()


def test_a_community_that_is_neither_there_nor_known_is_refused(tmp_path):
    write_run(tmp_path, "demo", "ief", 0)
    with pytest.raises(InputError, match="--communities demoo: no runs in .*which has demo"):
        make_tables(tmp_path, tmp_path / "out", communities=["demoo"])
    assert not (tmp_path / "out").exists()
