"""What every program prints survives any terminal: an encoding without the characters, a reader that has gone."""

import ast
import io
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import util
from tests.conftest import ROOT
from tests.scripts.run_folders import write_run

PROGRAMS = sorted(
    path
    for path in [
        *ROOT.glob("*.py"),
        *(p for part in ("preprocess", "recommend", "scripts", "benchmarks") for p in ROOT.glob(f"{part}/*.py")),
    ]
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)
STAND_ALONE = {"missing_packages.py"}  # runs before anything is installed, and prints names of packages
SHORTEST = {  # command lines that get as far as the first package
    "main_task_retrieval": ["--do_train", "--output_dir", "/nowhere"],
    "download": ["https://localhost:1/a", "--out", "DATA"],
    "imgflip": ["--source", "DATA", "--out", "/nowhere"],
    "make_tables": [".", "--out", "/nowhere"],
    "publish": ["DATA", "--to", "/nowhere"],
    "report": ["."],
    "check_submission": ["."],
    "__main__": ["serve", "/nowhere"],
    "reproduce": ["--communities", "demo", "--data_root", "DATA", "--out", "/nowhere/out"],
    "describe": ["DATA", "--out", "/nowhere"],
    "build_community": ["--records", "/nowhere", "--images", "/nowhere", "--out", "/nowhere"],
}
FORWARDS = {"metrics.py"}  # to evaluation/metrics_command.py


def mains(path):
    return [node for node in ast.parse(path.read_text(encoding="utf-8")).body if getattr(node, "name", "") == "main"]


def test_every_program_is_prepared_for_any_terminal():
    paths = [path for path in PROGRAMS if path.name not in STAND_ALONE | FORWARDS]
    assert len(paths) > 15
    for path in [*paths, ROOT / "evaluation" / "metrics_command.py"]:
        [main] = mains(path)
        assert [decorator.id for decorator in main.decorator_list] == ["program"], path


def test_an_argument_error_of_any_program_is_one_line():
    """Each one's parser is util.Parser, which says so in one place."""
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] not in ("tests", ".venv") and path.name != "util.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "ArgumentParser":
                    assert any(keyword.arg == "add_help" for keyword in node.keywords), path


def start(*argv, encoding="utf-8", **how):
    """A process with stdout and stderr as pipes, unless `how` says otherwise."""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *map(str, argv)], cwd=ROOT, env=environment, **streams | how)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(root, "demo", "ief", seed, quality=2.0)
    write_run(root, "demo", "clip4clip_meanp")
    return root


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_a_terminal_lacks_is_a_question_mark(runs, tmp_path, encoding):
    process = start("-m", "scripts.make_tables", runs, "--out", tmp_path / "α", encoding=encoding)
    printed, errors = (text.decode(encoding) for text in process.communicate())
    assert (process.returncode, errors) == (0, "")
    assert "IEF" in printed and "mean" in printed
    if encoding == "ascii":
        assert "Mean ? standard deviation" in printed and "/?: tables.md" in printed
    assert (tmp_path / "α" / "tables.md").read_text(encoding="utf-8").count("α")


def test_a_prompt_in_chinese_does_not_stop_a_dry_run(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "梗.png")
    out = ("--out", tmp_path / "a.jsonl", "--provider", "openai", "--model", "m", "--base_url", "http://localhost:1/v1")
    process = start(
        "-m", "preprocess.annotate", "--images", tmp_path, *out, "--language", "zh", "--dry-run", encoding="ascii"
    )
    printed, errors = process.communicate()
    assert process.returncode == 0 and b"?" in printed, errors


def test_the_log_has_what_the_terminal_lacks(tmp_path):
    code = (
        "import sys; from util import make_logger, program\n"
        "@program\ndef main(path):\n    make_logger(path).info('α 0.5, 梗'); return 0\n"
        f"sys.exit(main({str(tmp_path / 'log.txt')!r}))"
    )
    process = start("-c", code, encoding="ascii")
    assert process.communicate() == (b"? 0.5, ?\n", b"") and process.returncode == 0
    assert "α 0.5, 梗\n" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def closed_at_once(*argv):
    """(exit code, stderr) of a program whose stdout is closed at its other end before it prints."""
    process = start(*argv, stdin=subprocess.DEVNULL)
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    return process.wait(60), errors


@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
def test_a_reader_that_has_gone_ends_a_program_without_a_word(runs, tmp_path, unbuffered):
    np.save(tmp_path / "a.npy", np.eye(4, dtype=np.float32))
    code, errors = closed_at_once(*unbuffered, "metrics.py", tmp_path / "a.npy")
    assert (code, errors) == (141 if unbuffered else 0, "")
    code, errors = closed_at_once(*unbuffered, "-m", "scripts.make_tables", runs, "--out", tmp_path / "out")
    assert (code, errors) == (141 if unbuffered else 0, "")
    code, errors = closed_at_once(*unbuffered, "main_task_retrieval.py", "--help")
    assert errors == ""


def test_a_log_goes_on_where_nobody_reads_it(tmp_path):
    code = (
        "import sys; from util import make_logger, program\n"
        "@program\ndef main(path):\n    log = make_logger(path)\n"
        "    for i in range(3): log.info(f'line {i}')\n    return 0\n"
        f"sys.exit(main({str(tmp_path / 'log.txt')!r}))"
    )
    assert closed_at_once("-c", code) == (0, "")
    assert "line 2" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_a_pipe_of_another_kind_is_an_error_still():
    @util.program
    def main():
        with util.ending_clearly("stopped"):
            raise BrokenPipeError("a worker is gone")

    with mock.patch.object(util, "_nobody_reads", lambda: False), pytest.raises(SystemExit, match="a worker is gone"):
        main()


@pytest.fixture
def clock(monkeypatch):
    """The time that util sees, in seconds: it stands still but for `clock.now += …`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(util, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_bar_in_a_log_is_a_line_now_and_then(clock, capsys):
    for number in util.progress_bar(range(200), desc="reading", unit="img"):
        clock.now += 1 if number < 190 else 0.5
    assert capsys.readouterr().err.splitlines() == [
        "reading:   5%| 10/200 [00:10<03:10,  1.00img/s]",
        "reading:  20%| 40/200 [00:40<02:40,  1.00img/s]",
        "reading:  35%| 70/200 [01:10<02:10,  1.00img/s]",
        "reading:  50%| 100/200 [01:40<01:40,  1.00img/s]",
        "reading:  65%| 130/200 [02:10<01:10,  1.00img/s]",
        "reading:  80%| 160/200 [02:40<00:40,  1.00img/s]",
        "reading:  95%| 190/200 [03:10<00:10,  1.00img/s]",
        "reading: 100%| 200/200 [03:15<00:00,  1.03img/s]",
    ]


def test_a_bar_that_goes_on_counts_the_rate_of_this_call_alone(clock, capsys):
    with util.progress_bar(total=1000, initial=500, desc="training", unit="step") as bar:
        bar.set_postfix({"loss": "0.5"})
        for _ in range(2):
            clock.now += 25
            bar.update(100)
    assert capsys.readouterr().err.splitlines() == [  # the second update comes before EACH_LINE is over
        "training:  60%| 600/1000 [00:25<01:40,  4.00step/s, loss=0.5]",
        "training:  70%| 700/1000 [00:50<01:15,  4.00step/s, loss=0.5]",
    ]


def test_a_bar_without_an_end_says_how_many_it_has_seen(clock, capsys):
    with util.progress_bar(desc="memes", unit="meme") as bar, pytest.raises(KeyboardInterrupt):
        for _ in bar:
            pass
        clock.now += 20
        bar.update(40)
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "memes: 40meme [00:20,  2.00meme/s]\n"


def test_what_is_done_in_a_moment_leaves_no_line(clock, capsys):
    for _ in util.progress_bar(iter("abc"), total=3):
        clock.now += 3
    with util.progress_bar(total=0):
        clock.now += 9
    list(util.progress_bar(range(9), disable=True))
    assert capsys.readouterr().err == ""


def test_a_terminal_has_tqdms_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(util.progress_bar("abc", desc="reading")) == ["a", "b", "c"]
    assert "\rreading: 100%|" in terminal.getvalue() and "| 3/3 [" in terminal.getvalue()


def test_every_bar_is_made_in_one_place():
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] not in ("tests", ".venv") and path.name != "util.py":
            assert not re.search(r"\btqdm\(", path.read_text(encoding="utf-8")), path


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_behind_stdout_is_a_sentence():
    code = "import sys; from util import program\n@program\ndef main():\n    print('x')\nmain()"
    with open("/dev/full", "w") as full:
        process = start("-c", code, stdout=full)
        _, errors = process.communicate()
    assert (process.returncode, errors.decode()) == (
        1,
        "error: the output cannot be written: No space left on device\n",
    )


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_without_its_packages_a_program_says_what_to_run(path, tmp_path):
    if path.stem in ("missing_packages", "gpu_checks", "statistics", "memecap"):  # they name what they lack
        return
    (tmp_path / "demo").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / "demo" / f"{split}.csv").touch()
    flags = [str(tmp_path) if word == "DATA" else word for word in SHORTEST.get(path.stem, [])]
    program = [path.name] if path.parent == ROOT else ["-m", f"{path.parent.name}.{path.stem}"]
    process = start("-S", *program, *flags)  # -S: without site-packages
    errors = process.communicate()[1].decode()
    assert process.returncode == 1, errors
    assert re.fullmatch(r"error: \S+ has no package \w+\. `sh scripts/set_up\.sh` in .*\n", errors), errors
