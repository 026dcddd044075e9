"""scripts.leaderboard: the pages' numbers against metrics.py and trec_eval, their order, tests, marks and escaping."""

import itertools

import numpy as np
import pytest
import pytrec_eval

import metrics
from scripts import check_submission
from scripts.leaderboard import main
from tests.scripts.handed_in import export, hand_in, scores
from tests.scripts.parsed_page import parsed
from tests.tiny_community import read_json

HOSTILE = '</th><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'
QUALITY = {"low": 1.0, "middle": 0.9, "high": 2.6}  # with these draws: in this order, and p between 0.05 and 0.2


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three submissions to cats, of which one takes part in dogs; a spoilt one; and nothing for birds."""
    root = tmp_path_factory.mktemp("leaderboard")
    for name in ("birds", "cats", "dogs"):
        export(root, name)
    runs = {name: scores(seed, quality=quality) for seed, (name, quality) in enumerate(QUALITY.items())}
    del runs["low"]["t3"]
    hand_in(root, "low", {"cats": runs["low"]}, method=HOSTILE, authors=["A", HOSTILE], trained_on={"dogs": []})
    hand_in(root, "middle", {"cats": runs["middle"], "dogs": scores(7)}, trained_on=["cats", HOSTILE], link=None)
    hand_in(
        root,
        "high",
        {"cats": runs["high"]},
        method="مرحبا",
        trained_on={"cats": ["LAION", "dogs"], "dogs": []},
        link="https://e.org/?a&b",
    )
    (hand_in(root, "spoilt", {"cats": scores(9)}) / "cats.trec").write_text("?")
    (root / "submissions" / "README.md").write_text("is no submission")
    return root


@pytest.fixture
def pages(root, tmp_path, capsys):
    """pages(*flags) -> {name: the parsed page}, and what was printed."""

    def made(*flags):
        main([f"--{name}={root / name}" for name in ("submissions", "communities")] + ["--out", str(tmp_path), *flags])
        found = {path.stem: parsed(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.html")}
        return found, capsys.readouterr().out

    return made


def cells(page):
    """{a row's second cell, the method: {column: the texts in the cell}} of a community's page."""
    table = page.one("table")
    columns = [cell.text for cell in table.one("thead").all("th")]
    found = {}
    for row in (row for body in table.all("tbody") for row in body.all("tr")):
        texts = [[child if isinstance(child, str) else child.text for child in cell.children] for cell in row.children]
        found["".join(texts[1][:1])] = dict(zip(columns, texts, strict=True))
    return found


def test_numbers_are_those_of_metrics_py_and_trec_eval(root, pages, tmp_path):
    rows = cells(pages()[0]["cats"])
    assert list(rows) == ["مرحبا", "A method", HOSTILE, "random ranking"]
    qrels = root / "communities" / "cats" / "qrels.test.trec"
    runs = [root / "submissions" / name / "cats.trec" for name in ("high", "middle", "low")]
    for path, row in zip(runs, rows.values(), strict=False):
        assert metrics.main([str(path), "--qrels", str(qrels), "--json", str(tmp_path / "scored.json")]) == 0
        [scored] = read_json(tmp_path / "scored.json")["query_to_meme"]["rows"]
        with open(path) as run, open(qrels) as judged:
            evaluator = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(judged), {"map", "success.1"})
            theirs = evaluator.evaluate(pytrec_eval.parse_run(run))
        for column, measure in (("mAP", "map"), ("R@1", "success_1")):
            mean = sum(found[measure] for found in theirs.values()) / 12
            assert row[column][0] == f"{100 * round(mean, 4):.2f}"
            assert row[column][1] == "–".join(f"{end:.2f}" for end in scored["intervals"][column])
    assert rows[HOSTILE]["MnR"] == ["–"]  # a query has no line
    assert rows["A method"]["MnR"] != ["–"]
    relevance = metrics.Relevance(np.repeat(np.arange(12), 2), np.arange(24) % 20, (12, 20))
    assert rows["random ranking"]["mAP"] == [f"{metrics.random_expectation(relevance)['mAP']:.2f}"]


def average_precision(run):
    """(Q,) by hand: two memes are relevant to each query."""
    found = []
    for query in range(12):
        own = run.get(f"t{query}", {})
        order = sorted(own, key=own.get, reverse=True)
        places = sorted(order.index(f"m{(2 * query + place) % 20}") + 1 for place in range(2)) if own else []
        found.append(50 * sum((n + 1) / place for n, place in enumerate(places)))
    return np.array(found)


def test_a_row_is_tested_against_the_one_above(pages):
    """Fisher's test with all 2^12 signs, and a bootstrap of our own; Holm's correction for two, by hand."""
    rows = cells(pages()[0]["cats"])
    runs = [scores(seed, quality=quality) for seed, quality in enumerate(QUALITY.values())]
    del runs[0]["t3"]
    low, middle, high = map(average_precision, runs)
    signs = np.array(list(itertools.product((-1, 1), repeat=12)))
    p_values, expected = [], {}
    draws = np.random.default_rng(1).integers(12, size=(20_000, 12))
    for name, below, above in (("A method", middle, high), (HOSTILE, low, middle)):
        difference = below - above
        exact = np.mean(np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9)
        drawn = difference[draws].mean(axis=1)
        shifted = np.mean(np.abs(drawn - difference.mean()) >= abs(difference.mean()))
        p_values.append((exact, shifted))
        expected[name] = difference.mean(), np.percentile(drawn, (2.5, 97.5))
    order = np.argsort(p_values, axis=0)
    corrected = np.empty((2, 2))
    for test in range(2):
        first, second = order[:, test]
        corrected[first, test] = min(1, 2 * p_values[first][test])
        corrected[second, test] = max(corrected[first, test], p_values[second][test])
    assert rows["مرحبا"]["difference to the row above"] == ["–"]
    for place, (name, (gain, interval)) in enumerate(expected.items()):
        shown_gain, shown_interval, shown_p = rows[name]["difference to the row above"]
        assert shown_gain == f"{gain:+.2f}".replace("-", "−")
        ends = [float(end) for end in shown_interval.strip("[]").replace("−", "-").split(", ")]
        assert ends == pytest.approx(interval, abs=1.0)
        assert float(shown_p.removeprefix("p = ")) == pytest.approx(corrected[place].max(), abs=0.012)
    assert (np.abs(corrected.max(axis=1) - np.max(p_values, axis=1)) > 0.03).all()  # so the correction is seen


def test_another_metric_ranks_and_comes_first(pages):
    found, printed = pages("--sort", "R@1")
    columns = [cell.text for cell in found["cats"].one("thead").all("th")]
    assert columns[4:7] == ["R@1", "difference to the row above", "R@5"] and columns.count("R@1") == 1
    values = [float(row["R@1"][0]) for row in [*cells(found["cats"]).values()][:3]]
    assert values == sorted(values, reverse=True) and "1. مرحبا: R@1 " in printed
    with pytest.raises(SystemExit, match=r"--sort: found MnR, expected one of R@1"):
        pages("--sort", "MnR")


def test_marks_of_what_was_trained_on(pages):
    found, _ = pages()
    rows = cells(found["cats"])
    assert rows["A method"]["trained on"] == ["trained on this data", f"and {HOSTILE}"]
    assert "".join(rows["مرحبا"]["trained on"]) == "LAION, dogs"
    assert rows[HOSTILE]["trained on"] == ["unknown"]
    assert "".join(cells(found["dogs"])["A method"]["trained on"]) == f"cats, {HOSTILE}"


def test_texts_of_others_stay_texts(pages):
    found, _ = pages()
    for page in found.values():
        assert not page.all("script") and not page.all("img")
        policy = page.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
    links = {link.text: link.attributes for body in found["cats"].all("tbody") for link in body.all("a")}
    assert links["مرحبا"] == {"href": "https://e.org/?a&b", "rel": "noopener noreferrer nofollow"}
    assert "A method" not in links  # its link is null


def test_what_is_left_out_is_named_and_what_is_empty_is_shown(root, pages, capsys):
    found, printed = pages()
    assert "spoilt" in found["cats"].one("main").text and "spoilt" not in found["dogs"].text
    assert f"{root / 'submissions' / 'spoilt'}: 1 error, by check_submission" in printed
    assert "cats: 3 submissions, without spoilt" in printed and "birds: 0 submissions" in printed
    assert list(cells(found["birds"])) == ["random ranking"]
    with pytest.raises(SystemExit):
        check_submission.main([str(root / "submissions" / "spoilt"), "--communities", str(root / "communities")])
    assert "line 1: found '?'" in capsys.readouterr().out


def test_the_list_of_communities(pages):
    found, _ = pages()
    rows = found["index"].one("table").rows()
    assert rows[1:] == [
        ["birds", "12", "20", "0", "–"],
        ["cats", "12", "20", "3", "مرحبا"],
        ["dogs", "12", "20", "1", "A method"],
    ]
    for name, page in found.items():
        links = {link.attributes["href"]: link.attributes.get("aria-current") for link in page.one("nav").all("a")}
        assert links == {
            f"{other}.html": "page" if other == name else None for other in ("index", "birds", "cats", "dogs")
        }


def test_the_same_files_make_the_same_pages(pages, tmp_path):
    pages()
    first = {path.name: path.read_bytes() for path in tmp_path.glob("*.html")}
    pages()
    assert first == {path.name: path.read_bytes() for path in tmp_path.glob("*.html")} and len(first) == 4


def test_what_is_not_there_is_named(root, tmp_path):
    flags = ["--communities", str(root / "communities"), "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="found no such folder, expected one of submissions"):
        main(["--submissions", str(tmp_path / "none"), *flags])
