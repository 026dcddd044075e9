"""scripts.make_tables: runs that are missing, damaged or not comparable; weights, costs; Markdown, LaTeX, CSV."""

import json
import re
import shutil
import subprocess

import pandas as pd
import pytest

from scripts.make_tables import main, make_tables
from scripts.tables.runs import COSTS
from tests.run_folders import relevance_of, write_run
from util import InputError

TABLES = ("main", "ablation", "weights", "cost")
UNTRAINED = {
    **{"best epoch": None, "alpha": None, "alpha by a grid on val": None, "records/s": None},
    "seconds": {"training": None, "evaluation on val": None, "all": 3.0},
}


@pytest.fixture
def runs(tmp_path):
    """Three methods on a community; of one a seed is missing, of one no run has finished."""
    root = tmp_path / "runs"
    for seed in (0, 1, 2):
        write_run(root, "demo", "clip4clip_meanp", seed, alpha=None, **{"alpha by a grid on val": None})
        write_run(root, "demo", "ief", seed, quality=2.0, finished=seed != 1)
        write_run(root, "demo", "cap4video", seed, finished=False)
    return root


def page(folder):
    return (folder / "tables.md").read_text(encoding="utf-8")


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


def test_an_untrained_method_stands_with_its_one_run(runs):
    for seed in (0, 1):
        write_run(runs, "demo", "zero_shot_clip", seed, **UNTRAINED)
    out = runs.parent / "out"
    make_tables(runs, out, seeds=[1, 2])
    table = read(out, "main").query("method == 'zero_shot_clip'")
    assert set(table.status) == {"complete"} and table.sd.isna().all() and set(table.seeds) == {"0"}
    assert re.search(r"\| CLIP, zero-shot \| CPU, 2 threads \| 1 \| – \| – \| – \| 2,048 \| – \|", page(out))


def test_the_program_lists_the_benchmark_and_says_where_everything_is(runs, capsys):
    main([str(runs), "--out", str(runs.parent / "out"), "--baseline", "ief", "--tested", "mAP"])
    printed = capsys.readouterr().out
    for name in ("Douban MEMERS", "English Memes", "Let's exchange Memes"):
        assert f"{name}: no runs" in printed
    assert "worse than IEF in mAP" in printed and "1 comparison " in printed.replace("\n", " ")
    written = printed.rpartition("written to ")[2].partition(": ")[2].strip().split(", ")
    assert sorted(written) == sorted(path.name for path in (runs.parent / "out").iterdir())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--methods", "ief", "magic"], "magic"),
        (["--baseline", "ief_qi"], "ief_qi"),
        (["--tested", "MdR"], "median"),
        (["--tested", "map"], "found map"),
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
    "no metric": (
        "metrics.json",
        lambda path: edit(path, lambda value: value["test"]["random"]["query_to_meme"]["metrics"].pop("P@50")),
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
    assert "The train split is not the same in all runs: compare clip4clip\\_meanp/seed\\_0, ief\\_staged/seed" in found
    assert "The val split" not in found
    assert "--epochs: found 12, 3" in found and "--lr" not in found


def test_weights(runs):
    for seed, (mean, low, high) in enumerate(((0.5, 0.2, 0.8), (0.6, 0.3, 0.9))):
        write_run(
            runs,
            "demo",
            "ief_per_query",
            seed,
            settings={"fusion": "query"},
            alpha={"mean": mean, "min": low, "max": high},
            **{"alpha by a grid on val": {"alpha": 0.3 + 0.2 * seed, "val_mAP": 40.0 + seed}},
        )
    staged = {"best epoch": {"stage": "qc", "epoch": 4, "val": {"mAP": 1.0}}}
    write_run(runs, "demo", "ief_staged", 0, settings={"co_train": "staged"}, **staged)
    write_run(runs, "demo", "ief_published", 0, settings={"co_train": "staged", "fusion": "fixed"}, **staged)
    out = runs.parent / "out"
    make_tables(runs, out, seeds=[0, 1])
    part = page(out).partition("## Weights")[2].partition("## Costs")[0]
    assert (
        "| IEF, weights: per query | learned, per query | 0.550 ± 0.071 | 0.200 – 0.900 | 0.40 ± 0.14 | 40.50 ± 0.71 | "
        "3, 4 |" in part
    )
    assert "| IEF, staged (1 of 2 seeds) | staged: chosen on val | 0.600 | – | 0.50 | 41.50 | qc 4 |" in part
    assert "| IEF, published code (1 of 2 seeds) | fixed | 0.600 |" in part
    assert "| IEF (1 of 2 seeds) | learned | 0.600 | – |" in part and "CLIP4Clip" not in part
    table = read(out, "weights").set_index(["method", "quantity"])
    assert table["mean"]["ief_per_query", "alpha"] == pytest.approx(0.55)
    assert table["sd"]["ief_per_query", "alpha_by_grid_on_val"] == pytest.approx(0.2 / 2**0.5)
    assert table["mean"]["ief_per_query", "alpha_min_over_queries"] == pytest.approx(0.25)


def test_costs(runs):
    gpu = {"device": "NVIDIA X", "processes": 2, "peak memory (MiB)": {"host": 1000, "device": 70_000}}
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
    assert table["mean"].to_dict() == own and len(own) == 17
