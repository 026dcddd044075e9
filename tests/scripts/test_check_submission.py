"""scripts.check_submission: all that is wrong is said at once, and nothing outside a submission's folder is read."""

import json
import os

import pytest

import metrics
from evaluation.trec_runs import DEPTH
from scripts.check_submission import main
from scripts.submissions.problems import SHOWN
from scripts.submissions.submission import is_link
from tests.scripts.handed_in import RECORD, export, hand_in, scores
from tests.tiny_community import read_json


@pytest.fixture(scope="module")
def communities(tmp_path_factory):
    root = tmp_path_factory.mktemp("communities")
    for name in ("cats", "dogs"):
        export(root, name)
    return root / "communities"


@pytest.fixture
def check(communities, capsys):
    """check(folders) -> (exit code, the lines that it printed)."""

    def checked(*folders):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([*map(str, folders), "--communities", str(communities)])
        return stop.value.code, capsys.readouterr().out.splitlines()

    return checked


def test_what_is_right_needs_no_word(tmp_path, check):
    folder = hand_in(tmp_path, "mine", {"cats": scores(0), "dogs": scores(1)}, trained_on=["cats"], link=None)
    assert check(folder) == (0, [f"{folder}: 0 errors, 0 warnings; would be shown: cats, dogs"])


def test_everything_is_said_at_once(tmp_path, check):
    good = hand_in(tmp_path, "good", {"cats": scores(0)})
    bad = hand_in(tmp_path, "bad", {"cats": scores(0), "dogs": scores(1)}, method="", link="javascript:alert(1)")
    about = read_json(bad / "submission.json")
    del about["authors"]
    (bad / "submission.json").write_text(json.dumps(about | {"author": "me", "trained_on": None}), encoding="utf-8")
    (bad / "dogs.trec.json").unlink()
    (bad / "birds.trec").write_text("t0 Q0 m1 1 0.5 x\n")
    (bad / "notes.txt").write_text("see there")
    (bad / "more").mkdir()
    lines = (bad / "cats.trec").read_text().splitlines()
    lines[4] = "t0 Q0 m5 best 0.5"
    lines[6] = lines[7].replace("m7", "m8")
    lines[9] = "t0 Q0 m9 1 inf IEF"
    lines[10] = "t0 Q0 m10 1 half IEF"
    lines += ["t99 Q0 m1 1 0.5 IEF", "t1 Q0 m77 1 0.5 IEF"]
    (bad / "cats.trec").write_text("\n".join(lines) + "\n", encoding="utf-8")
    code, printed = check(bad, good)
    assert code == 1
    heading, *problems = printed[:-1]
    assert printed[-1] == f"{good}: 0 errors, 0 warnings; would be shown: cats"
    assert heading == f"{bad}: 9 errors, 7 warnings; would be shown: nothing"
    expected = [
        "error: birds.trec: found a run of no community, expected one of cats.trec, dogs.trec",
        "error: submission.json: \"method\": found '', expected one line of 1 to 100 characters",
        'error: submission.json: "authors": found nothing, expected a list of 1 to 50 names',
        "error: submission.json: \"link\": found 'javascript:alert(1)', expected an address that begins with http",
        "error: cats.trec, line 5: found 't0 Q0 m5 best 0.5', expected query Q0 meme rank score tag",
        "error: cats.trec, line 11: found 't0 Q0 m10 1 half IEF', expected query Q0 meme rank score tag",
        "error: cats.trec, line 9: found query 't0', meme 'm8' again, expected each pair once",
        "error: cats.trec, line 10: found the score inf, expected a finite one",
        "error: dogs.trec.json: found no such file, expected how dogs.trec was made",
        "warning: more: is a folder: it is not read",
        "warning: notes.txt: is neither submission.json, nor a run",
        "warning: submission.json: 'author' is none of method, authors, link, trained_on: it is not read",
        'warning: submission.json: "trained_on" is left open for cats.trec',
        'warning: submission.json: "trained_on" is left open for dogs.trec',
        f"warning: cats.trec, line {len(lines) - 1}: found query 't99', expected one of queries.jsonl",
        f"warning: cats.trec, line {len(lines)}: found meme 'm77', expected one of corpus.jsonl",
    ]
    found = [problem.strip().replace(f"{bad}/", "") for problem in problems]
    assert len(found) == len(expected)
    for text in expected:
        assert sum(line.startswith(text) for line in found) == 1, text


def test_of_many_lines_with_one_fault_the_rest_is_counted_and_other_faults_are_still_said(tmp_path, check):
    folder = hand_in(tmp_path, "long", {"cats": scores(0)})
    lines = (folder / "cats.trec").read_text().splitlines()
    lines[:50] = [line.rpartition(" ")[0] for line in lines[:50]]  # no tag
    lines[60] = lines[60].replace(lines[60].split()[4], "nan")
    (folder / "cats.trec").write_text("\n".join(lines), encoding="utf-8")
    code, printed = check(folder)
    assert code == 1 and "51 errors" in printed[0]
    assert sum(", line " in line for line in printed) == SHOWN + 1
    assert any(f"and {50 - SHOWN} more in this file" in line for line in printed)
    assert "line 61: found the score nan" in printed[-1]


def test_warnings_have_the_counts_of_metrics_py_and_are_no_error(tmp_path, check, communities):
    run = scores(0)
    del run["t3"], run["t4"]["m8"], run["t4"]["m1"]  # m8 is relevant
    run["t5"] = dict.fromkeys(run["t5"], 0.5)
    run["t6"]["m1"] = run["t6"]["m2"]  # neither is relevant
    run["other"] = {"m1": 1.0}
    folder = hand_in(tmp_path, "short", {"cats": run})
    code, printed = check(folder)
    assert code == 0 and "0 errors, 4 warnings; would be shown: cats" in printed[0]
    assert [line.partition("cats.trec")[2] for line in printed[1:]] == [
        f", line {20 * 10 + 18 + 1}: found query 'other', expected one of queries.jsonl: it is left out",
        ": 1 of 12 queries have no line ('t3'): they count as 0",
        ": 1 of 12 queries have fewer than 20 memes ('t4'): a relevant one that is not there counts as never found",
        ": in 1 of 12 queries a relevant meme and one that is not have the same score ('t5'): the relevant one is "
        "ranked after it",
    ]
    flags = ["--qrels", str(communities / "cats" / "qrels" / "test.tsv"), "--json", str(tmp_path / "scored.json")]
    assert metrics.main([str(folder / "cats.trec"), *flags]) == 0
    [row] = read_json(tmp_path / "scored.json")["query_to_meme"]["rows"]
    assert (row["queries_without_a_line"], row["relevant_memes_not_found"], row["other_queries"]) == (1, 3, 1)


def test_nothing_outside_the_folder_is_read(tmp_path, check):
    secret = hand_in(tmp_path, "secret", {"cats": scores(0)}, method="Another's")
    folder = hand_in(tmp_path, "linked", {})
    (folder / "submission.json").unlink()
    for name in ("submission.json", "cats.trec", "cats.trec.json"):
        (folder / name).symlink_to(secret / name)
    os.mkfifo(folder / "dogs.trec")  # would wait for ever
    whole = tmp_path / "submissions" / "whole"
    whole.symlink_to(secret, target_is_directory=True)
    code, printed = check(folder, whole)
    assert code == 1 and "Another" not in "".join(printed)
    assert sum("found a link, expected a file" in line for line in printed) == 3
    assert sum("found no file, expected a file" in line for line in printed) == 1
    assert printed[-2:] == [
        f"{whole}: 1 error, 0 warnings; would be shown: nothing",
        f"  error: {whole}: found a link, expected a folder",
    ]


def test_sizes_are_bounded_before_a_file_is_opened(tmp_path, check):
    run = scores(0)
    run["t0"] = {f"m{number}": 1 - number / 1e4 for number in range(DEPTH + 1)}
    deep = hand_in(tmp_path, "deep", {"cats": run})
    large = hand_in(tmp_path, "large", {"cats": scores(0), "dogs": scores(0)})
    for name, size in (("cats.trec", 2**40), ("dogs.trec.json", 2**21), ("submission.json", 2**17)):
        os.truncate(large / name, size)  # sparse: takes no room
    code, printed = check(deep, large)
    text = "\n".join(printed)
    assert code == 1 and "cats.trec: found 1,001 memes of query 't0', expected at most 1,000" in text
    for found in (
        "cats.trec: found 1,099,511,627,776 bytes",
        "dogs.trec.json: found 2,097,152",
        "submission.json: found",
    ):
        assert f"error: {large}/{found}" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"submission.json": b"{"}, "submission.json: found no valid JSON"),
        ({"submission.json": b"[]"}, "submission.json: found a JSON list, expected a JSON object"),
        ({"submission.json": b"\xff"}, "submission.json: found no valid JSON"),
        ({"cats.trec": b""}, "cats.trec: found no line of a run"),
        ({"cats.trec": b"\xff\xfe\n"}, "cats.trec: found bytes that are not UTF-8"),
        ({"cats.trec": b"x Q0 m1 1 0.5 t\n"}, "cats.trec: found none of the 12 queries"),
        ({"cats.trec.json": b"[1]"}, "cats.trec.json: found a JSON list"),
        ({"cats.trec.json": b'{"data": 3}'}, "cats.trec.json: found none of platform, implementation, method, data"),
        (
            {"cats.trec.json": b'{"method": {}}'},
            "warning: {}/cats.trec.json: does not have platform, implementation, data",
        ),
        (
            {"cats.trec.json": json.dumps(RECORD | {"data": {"training data": [{}]}}).encode()},
            'warning: {}/cats.trec.json: names training data, where "trained_on" of submission.json is []',
        ),
    ],
)
def test_spoilt_files(tmp_path, check, change, said):
    folder = hand_in(tmp_path, "spoilt", {"cats": scores(0)})
    for name, content in change.items():
        (folder / name).write_bytes(content)
    code, printed = check(folder)
    assert said.format(folder) in "\n".join(printed)
    assert code == ("warning" not in said)


@pytest.mark.parametrize(
    ("about", "is_right"),
    [
        ({"method": "猫 <b>"}, True),
        ({"method": "two\nlines"}, False),
        ({"method": "\ud800"}, False),
        ({"method": "m" * 101}, False),
        ({"authors": []}, False),
        ({"authors": ["a", 3]}, False),
        ({"authors": "a"}, False),
        ({"trained_on": "cats"}, False),
        ({"trained_on": ["cats", "LAION"]}, True),
        ({"trained_on": {"cats": ["cats"], "dogs": None}}, True),
        ({"trained_on": {"cats": "cats"}}, False),
        ({"link": 7}, False),
    ],
)
def test_fields(tmp_path, check, about, is_right):
    code, printed = check(hand_in(tmp_path, "fields", {"cats": scores(0)}, **about))
    assert code == (not is_right)
    assert is_right or f'submission.json: "{[*about][0]}": found ' in printed[1]


@pytest.mark.parametrize(
    ("address", "is_right"),
    [
        ("https://example.org/a?b=c#d", True),
        ("http://例え.jp", True),
        ("HTTPS://example.org", True),
        ("javascript:alert(1)", False),
        ("java\tscript:alert(1)", False),
        ("data:text/html,<script>", False),
        ("//example.org", False),
        ("https:/example.org", False),
        ("https://", False),
        ("https://[", False),
        ("https://example.org@evil.org", False),
        ("https://example.org\\@evil.org", False),
        ("https://example.org/ x", False),
        ("https://example.org/" + "x" * 500, False),
    ],
)
def test_links(address, is_right):
    assert is_link(address) is is_right


@pytest.mark.parametrize("name", ["..", "a b", "-x"])
def test_names_of_folders(tmp_path, check, name):
    folder = hand_in(tmp_path, "fine", {"cats": scores(0)})
    if name == "..":
        (folder / "inside").mkdir()
        code, printed = check(folder / "inside" / "..")  # is "fine"
        assert code == 0 and "would be shown: cats" in printed[0]
        return
    folder.rename(folder.with_name(name))
    code, printed = check(folder.with_name(name))
    assert code == 1 and "found this name, expected a letter or digit" in printed[1]


def test_communities_are_checked_too(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"found no folder with qrels/test\.tsv in it"):
        main(["mine", "--communities", str(tmp_path)])
    export(tmp_path, "cats")
    corpus = tmp_path / "communities" / "cats" / "corpus.jsonl"
    lines = corpus.read_text(encoding="utf-8").splitlines()
    for content, said in (
        ("\n".join(lines[:5]), r"corpus\.jsonl: found no m\d+, which is in qrels/test\.tsv"),
        ("\n".join([lines[0], "{}"]), r"corpus\.jsonl, line 2: found no JSON object with an _id"),
    ):
        corpus.write_text(content, encoding="utf-8")
        with pytest.raises(SystemExit, match=said):
            main(["mine", "--communities", str(tmp_path / "communities")])
