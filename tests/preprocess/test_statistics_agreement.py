"""Agreement of annotations: kappas of published tables and worked by hand, overlap and distance, the command."""

import hashlib
import json

import pytest

from preprocess import statistics
from preprocess.measuring.agreement import cohen_kappa, fleiss_kappa, kappa, overlap
from tests.conftest import names_with_spaces

# Fleiss (1971), "Measuring nominal scale agreement among many raters", table 1: 30 patients, 6 psychiatrists,
# five diagnoses (depression, personality disorder, schizophrenia, neurosis, other).
FLEISS_1971 = """
0 0 0 6 0  0 3 0 0 3  0 1 4 0 1  0 0 0 0 6  0 3 0 3 0  2 0 4 0 0  0 0 4 0 2  2 0 3 1 0  2 0 0 4 0  0 0 0 0 6
1 0 0 5 0  1 1 0 4 0  0 3 3 0 0  1 0 0 5 0  0 2 0 3 1  0 0 5 0 1  3 0 0 1 2  5 1 0 0 0  0 2 0 4 0  1 0 2 0 3
0 0 0 0 6  0 1 0 5 0  0 2 0 1 3  2 0 0 4 0  1 0 0 4 1  0 5 0 1 0  4 0 0 0 2  0 2 0 4 0  1 0 5 0 0  0 0 0 0 6
"""


def fleiss_table():
    numbers = list(map(int, FLEISS_1971.split()))
    return [numbers[start : start + 5] for start in range(0, len(numbers), 5)]


def test_fleiss_kappa_of_the_published_table():
    table = fleiss_table()
    assert [sum(column) for column in zip(*table, strict=True)] == [26, 26, 30, 55, 43]  # as the paper's margins
    assert fleiss_kappa(table) == pytest.approx(0.430, abs=5e-4)


def test_the_raters_of_the_published_table_give_it_too():
    subjects = [[category for category, n in enumerate(row) for _ in range(n)] for row in fleiss_table()]
    found = kappa(list(zip(*subjects, strict=True)))
    assert found["kappa"] == pytest.approx(0.430, abs=5e-4)
    assert found["observed"] == pytest.approx(0.556, abs=5e-4)  # the paper's P
    assert not found["constant"]


def test_cohen_kappa_by_hand():
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed 0.7; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert cohen_kappa(*zip(*pairs, strict=True)) == pytest.approx(0.4)


def test_cohen_kappa_of_cohens_own_example():
    # Cohen (1960), table 1: 200 patients, three categories; observed 0.70, by chance 0.41, kappa 0.492
    table = {("a", "a"): 88, ("a", "b"): 14, ("a", "c"): 18, ("b", "a"): 10, ("b", "b"): 40, ("b", "c"): 10,
             ("c", "a"): 2, ("c", "b"): 6, ("c", "c"): 12}  # fmt: skip
    pairs = [pair for pair, n in table.items() for _ in range(n)]
    found = kappa(list(zip(*pairs, strict=True)))
    assert found["observed"] == pytest.approx(0.70)
    assert found["kappa"] == pytest.approx((0.70 - 0.41) / (1 - 0.41))


def test_opposite_answers_are_below_chance():
    assert cohen_kappa(["a", "b"], ["b", "a"]) == pytest.approx(-1)
    assert fleiss_kappa([[1, 1], [1, 1]]) == pytest.approx(-1)


@pytest.mark.parametrize("raters", [2, 3])
def test_one_category_throughout_is_defined_and_said(raters):
    assert kappa([["none"] * 4] * raters) == {"kappa": 1.0, "observed": 1.0, "constant": True}


@pytest.mark.parametrize("raters", [2, 3])
def test_full_agreement_on_several_categories_is_one(raters):
    assert kappa([["a", "b", "a"]] * raters) == {"kappa": pytest.approx(1), "observed": 1.0, "constant": False}


def test_what_no_kappa_can_be_of():
    with pytest.raises(ValueError, match="same length"):
        cohen_kappa(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="same length"):
        cohen_kappa([], [])
    for counts in ([[1, 0]], [[2, 0], [1, 0]]):
        with pytest.raises(ValueError, match="same number"):
            fleiss_kappa(counts)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["A cat sits."], ["a cat SITS."], 1),
        (["a a b"], ["a b b"], 2 * 2 / 6),  # a once, b once
        (["one two"], ["one", "two"], 1),  # in whatever captions
        (["一只猫"], ["一只狗"], 2 * 2 / 6),
        (["一只cat"], ["cat 一"], 2 * 2 / 5),
        (["a"], ["b"], 0),
        (["a"], [], 0),
        ([], [], 1),
    ],
)
def test_overlap_by_hand(first, second, expected):
    assert overlap(first, second) == pytest.approx(expected)


def key(name):
    return hashlib.sha256(name.encode()).hexdigest()


def write(path, rows):
    lines = [{"image": name, "sha256": key(name), "status": "ok", "provider": "gemini", "model": path.stem,
              "language": "en", "prompt": "0" * 12} | row for name, row in rows.items()]  # fmt: skip
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def answer(emotions, captions=("a cat",), text="one more hour"):
    return {"captions": list(captions), "text": text, "emotions": list(emotions)}


@pytest.fixture
def files(tmp_path):
    """Two files with four images in common that are ok in both."""
    failed = {"status": "blocked", "error": "by safety"}
    one = {"1.jpg": answer(["joyful", "sad"]), "2.jpg": answer([]), "3.jpg": answer(["sad"]), "4|.jpg": answer(["sad"]),
           "5.jpg": failed, "6.jpg": answer(["sad"])}  # fmt: skip
    other = {"4|.jpg": answer(["angry", "angry"], ["a DOG"], "one more"), "3.jpg": answer(["sad"]),
             "2.jpg": answer([], text="One  more hour"), "1.jpg": answer(["sad", "happy"]), "5.jpg": answer(["sad"]),
             "7.jpg": answer([])}  # fmt: skip
    return [write(tmp_path / "a.jsonl", one), write(tmp_path / "b.jsonl", other)]


def test_two_files(files, tmp_path, capsys):
    statistics.main(["--agreement", *files, "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "agreement.json").read_text(encoding="utf-8"))
    assert not names_with_spaces(report)
    assert report["images"] == 4
    assert [(file["images"], file["ok"]) for file in report["files"]] == [(6, 5), (6, 6)]
    emotions = report["emotions"]
    # as answered: joyful+sad | happy+sad, none | none, sad | sad, sad | angry: 2 of 4; by chance (1 + 2) / 16
    assert emotions["as_answered"]["kappa"] == pytest.approx((1 / 2 - 3 / 16) / (1 - 3 / 16))
    # mapped, joyful is happy: 3 of 4; by chance (1 + 1 + 2) / 16
    assert emotions["mapped"]["kappa"] == pytest.approx((3 / 4 - 1 / 4) / (1 - 1 / 4))
    assert emotions["words"]["sad"]["memes"] == [3, 2]
    # sad: yes/yes twice, yes/no once, no/no once; by chance 3/4 * 2/4 + 1/4 * 2/4 = 1/2
    assert emotions["words"]["sad"]["kappa"] == pytest.approx((3 / 4 - 1 / 2) / (1 / 2))
    assert emotions["words"]["happy"] == {"kappa": pytest.approx(1), "observed": 1, "constant": False, "memes": [1, 1]}
    assert set(emotions["words"]) == {"sad", "happy", "angry"}
    assert report["persons"]["same_number"] == 3 / 4
    assert report["captions"]["overlap"]["mean"] == pytest.approx((1 + 1 + 1 + 0.5) / 4)  # "a" of "a cat", "a DOG"
    assert report["text"]["distance"]["max"] == pytest.approx(5 / 13)  # " hour" of "one more hour"
    assert report["text"]["at_most_0.1"] == 3 / 4
    assert [worst["image"] for worst in report["worst"]] == ["4|.jpg"]
    assert report["worst"][0]["agreement"] == pytest.approx((0 + 0.5 + 1 - 5 / 13) / 3)
    printed = capsys.readouterr().out
    assert "Cohen's kappa" in printed and "4|.jpg" in printed
    page = (tmp_path / "out" / "agreement.md").read_text(encoding="utf-8")
    assert r"4\|.jpg" in page and "a DOG" in page


def test_three_files_have_fleiss_kappa(files, tmp_path, capsys):
    files.append(write(tmp_path / "c.jsonl", {f"{n}.jpg": answer(["sad"]) for n in (1, 2, 3)}))
    statistics.main(["--agreement", *files, "--out", str(tmp_path)])
    report = json.loads((tmp_path / "agreement.json").read_text(encoding="utf-8"))
    assert report["images"] == 3
    # rows over happy+sad, none, sad: 2 0 1, 0 2 1, 0 0 3; P = (1/3 + 1/3 + 1) / 3, Pe = (2² + 2² + 5²) / 9²
    assert report["emotions"]["mapped"]["kappa"] == pytest.approx((5 / 9 - 33 / 81) / (1 - 33 / 81))
    assert "Fleiss' kappa" in capsys.readouterr().out


def test_the_same_word_everywhere_is_explained(tmp_path, capsys):
    files = [write(tmp_path / f"{name}.jsonl", {"1.jpg": answer([]), "2.jpg": answer([])}) for name in "ab"]
    statistics.main(["--agreement", *files, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "1.000 *" in printed and "0 / 0" in printed
    assert json.loads((tmp_path / "agreement.json").read_text(encoding="utf-8"))["worst"] == []


def test_files_that_cannot_be_compared(files, tmp_path):
    other = write(tmp_path / "c.jsonl", {"8.jpg": answer([])})
    for given, expected in (
        (files[:1], "two or more different files"),
        ([files[0], files[0]], "two or more different files"),
        ([files[0], other], "no image that is ok in all files"),
        ([files[0], str(tmp_path / "no.jsonl")], "no.jsonl"),
    ):
        with pytest.raises(SystemExit, match=expected):
            statistics.main(["--agreement", *given, "--out", str(tmp_path)])


def test_without_any_captions_nothing_is_said_of_them(tmp_path, capsys):
    paths = [
        write(tmp_path / f"{name}.jsonl", {"1.jpg": answer(["sad"], []), "2.jpg": answer(emotions, [], text)})
        for name, emotions, text in (("a", ["sad"], "one"), ("b", ["happy"], "two"))
    ]
    statistics.main(["--agreement", *paths, "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "agreement.json").read_text(encoding="utf-8"))
    assert report["captions"]["overlap"] is None
    assert [(worst["image"], worst["agreement"]) for worst in report["worst"]] == [("2.jpg", 0.0)]
    assert "caption overlap  –" in " ".join(capsys.readouterr().out.split()).replace("overlap –", "overlap  –")
