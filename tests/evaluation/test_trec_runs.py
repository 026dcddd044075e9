"""`metrics.py RUN --qrels`: against trec_eval's own code, and in ties against a plain sort."""

import json

import numpy as np
import pytest
import pytrec_eval

import metrics
from evaluation.trec_runs import Qrels, ranks_in_run, read_run, word, write_run
from tests.conftest import names_with_spaces

THEIRS = {
    **{"mAP": "map", "nDCG@10": "ndcg_cut_10", "MRR": "recip_rank"},
    **{f"R@{k}": f"success_{k}" for k in (1, 5, 10, 20, 50, 100)},
    **{f"recall@{k}": f"recall_{k}" for k in (1, 5, 10, 20, 50)},
    **{f"P@{k}": f"P_{k}" for k in (10, 20, 50)},
}
MEASURES = {"map", "recip_rank", "ndcg_cut.10", "success.1,5,10,20,50,100", "recall.1,5,10,20,50", "P.10,20,50"}


def files(folder, seed, levels, queries=160, memes=60, depth=45):
    """A run and qrels in a folder. levels: how many different scores a query has; few make ties. The run lacks queries
    and memes, and has queries and memes that the qrels lack; both are shuffled.
    """
    rng = np.random.default_rng(seed)
    run, qrels = [], []
    for query in range(queries):
        relevant = rng.choice(memes, size=rng.integers(1, 9), replace=False)
        qrels += [f"q{query} 0 é{meme} {int(meme in relevant)}" for meme in [*relevant, *range(2)][: len(relevant)]]
        if query % 9:
            scores = rng.permutation(levels)[:memes] if levels >= memes else rng.integers(levels, size=memes)
            found = rng.permutation(memes)[:depth]
            run += [f"q{query} Q0 é{meme} 1 {scores[meme] / 7:.9g} tag" for meme in found]
            run.append(f"q{query} Q0 nobody-judged 1 {rng.integers(levels) / 7 + 0.01:.9g} tag")
    run.append("q-other Q0 é1 1 1.5 tag")
    for name, lines in (("run.trec", run), ("qrels", qrels)):
        rng.shuffle(lines)
        (folder / name).write_text("\n".join(["# a comment", *lines]) + "\n", encoding="utf-8")
    return folder / "run.trec", folder / "qrels"


def by_trec_eval(run, qrels):
    """{our name: {query: value}} as `trec_eval -c` has them."""
    with open(run, encoding="utf-8") as file, open(qrels, encoding="utf-8") as judged:
        found = pytrec_eval.parse_run(line for line in file if line[0] != "#")
        truth = pytrec_eval.parse_qrel(line for line in judged if line[0] != "#")
    values = pytrec_eval.RelevanceEvaluator(truth, MEASURES).evaluate(found)
    return {ours: {q: values.get(q, {}).get(name, 0.0) for q in sorted(truth)} for ours, name in THEIRS.items()}


@pytest.mark.parametrize(("levels", "flags"), [(1000, ()), (1000, ("--ties", "trec")), (5, ("--ties", "trec"))])
def test_all_that_is_printed_has_trec_evals_last_digit(tmp_path, capsys, levels, flags):
    run, qrels = files(tmp_path, levels, levels)
    assert metrics.main([str(run), "--qrels", str(qrels), *flags, "--json", str(tmp_path / "all.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    stored = json.loads((tmp_path / "all.json").read_text())["query_to_meme"]["rows"][0]
    assert not names_with_spaces(stored)
    row = dict(zip(lines[1].split(), lines[2].split()[1:], strict=True))
    for name, of_queries in by_trec_eval(run, qrels).items():
        mean = sum(of_queries.values()) / len(of_queries)
        assert stored["metrics"][name] == pytest.approx(100 * mean, rel=1e-12)
        if name in row:
            assert f"{float(row[name]) / 100:.4f}" == f"{mean:.4f}", name
    assert row["MnR"] == "–" and "18 queries are not in it" in lines[5] and "1 of its queries" in lines[5]


def test_in_ties_relevant_memes_come_last(tmp_path):
    run, qrels = files(tmp_path, 3, 4)
    found, judged = read_run(run), Qrels.load(qrels)
    ranked = ranks_in_run(found, judged)
    expected = []
    for query, relevant in judged.relevant.items():
        scores = found.get(query, {})
        for meme in relevant:
            same = [other for other in scores if scores[other] == scores.get(meme)]
            ahead = sum(scores[other] > scores[meme] for other in scores) if meme in scores else np.inf
            irrelevant = sum(other not in relevant for other in same)
            expected.append((query, ahead + irrelevant))
    places = np.array(ranked.ranks)
    names = np.repeat(list(judged.relevant), ranked.n_relevant).tolist()
    taken: dict = {}
    for (query, before), (name, rank) in zip(sorted(expected), zip(names, places, strict=True), strict=True):
        assert query == name
        taken[query, before] = taken.get((query, before), 0) + 1
        assert rank == before + taken[query, before]


def test_a_run_without_end_has_the_metrics_of_its_matrix(tmp_path, capsys):
    """Nothing is truncated here: MdR and MnR are known, and all is as by metrics.py of the matrix, ties among it."""
    rng = np.random.default_rng(0)
    relevance = metrics.Relevance(*np.nonzero(rng.random((30, 50)) < 0.1), (30, 50))
    scores = rng.integers(9, size=(30, 50)).astype(np.float32) / 3
    found = ((f"q {q}", ((f"m{m}", row[m]) for m in range(50))) for q, row in enumerate(scores))
    write_run(tmp_path / "a.trec", found)
    pairs = zip(relevance.query, relevance.meme, strict=True)
    (tmp_path / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q%20{q}\tm{m}\t1\n" for q, m in pairs), encoding="utf-8"
    )
    assert metrics.main([str(tmp_path / name) for name in ("a.trec",)] + ["--qrels", str(tmp_path / "qrels.tsv")]) == 0
    row = capsys.readouterr().out.splitlines()[2].split()[1:]
    ranks = metrics.relevant_ranks(scores, relevance)
    own = metrics.retrieval_metrics(ranks, relevance.query, 30, 50)
    expected = [own[name] for name in metrics.shown_metrics(wide=False)]
    assert [float(cell) for cell in row] == pytest.approx(expected, abs=0.051)
    assert "–" not in row


def test_scores_and_ids_are_read_as_they_were_written(tmp_path):
    scores = np.random.default_rng(0).normal(size=500).astype(np.float32) * 1e-3
    write_run(tmp_path / "run", [('#a\tb 100%"', zip(map(str, range(500)), scores, strict=True))])
    [(query, found)] = read_run(tmp_path / "run").items()
    assert query == word('#a\tb 100%"') == "%23a%09b%20100%25%22"
    assert np.array([*found.values()], np.float32).tolist() == scores.tolist()


RUN, QRELS = "q Q0 m 1 0.5 t\n", "q 0 m 1\n"


@pytest.mark.parametrize(
    ("run", "qrels", "flags", "said"),
    [
        ("q Q0 m 1 0.5\n", QRELS, [], "run.trec, line 1, found 'q Q0 m 1 0.5', expected query Q0 meme rank score tag"),
        ("q Q0 m 1 best t\n", QRELS, [], "the score a number"),
        ("q Q0 m 1 nan t\n", QRELS, [], "found the score nan, expected a finite one"),
        (RUN + "q Q0 m 2 0.4 u\n", QRELS, [], "run.trec, line 2, found query 'q', meme 'm' again"),
        ("# nothing\n", QRELS, [], "found no line of a run"),
        ("other Q0 m 1 0.5 t\n", QRELS, [], "found none of the queries that"),
        (RUN, QRELS + QRELS, [], "qrels, line 2, found query 'q', meme 'm' again"),
        (RUN, "q 0 m 0.5\n", [], "expected query iteration meme grade, a whole number"),
        (RUN, "q m 1\n", [], "expected query iteration meme grade"),
        (RUN, "q 0 m 0\nq 0 n -1\n", [], "found no relevant meme"),
        (RUN, "query-id corpus-id score\nq m 1 1\n", [], "expected query meme grade"),
        (RUN, QRELS, ["--weights", "1"], "--weights, --fit_weights and --relevance with matrices"),
        (RUN, QRELS, ["--seed", "-1"], "--seed: expected 0 or more"),
        (RUN, None, [], "qrels: cannot be read"),
    ],
)
def test_what_cannot_be_scored_is_named(tmp_path, capsys, run, qrels, flags, said):
    (tmp_path / "run.trec").write_text(run, encoding="utf-8")
    if qrels is not None:
        (tmp_path / "qrels").write_text(qrels, encoding="utf-8")
    assert metrics.main([str(tmp_path / "run.trec"), "--qrels", str(tmp_path / "qrels"), *flags]) == 2
    assert said in capsys.readouterr().err


def test_ties_are_of_runs(tmp_path, capsys):
    np.save(tmp_path / "m.npy", np.eye(3))
    assert metrics.main([str(tmp_path / "m.npy"), "--ties", "trec"]) == 2
    assert "go with --qrels" in capsys.readouterr().err
