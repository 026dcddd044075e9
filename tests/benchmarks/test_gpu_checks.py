"""The loop of run_gpu_checks.sh: what becomes of steps that pass, fail, hang or find no time left; the report."""

import dataclasses
import json

import pytest

from benchmarks import full_size, gpu_checks, machine, one_step, similarity, train_step
from benchmarks.gpu_checks import Step

PASSES = """
import json, sys
rows = [{"what": "a step", "figure": "2 s", "beside": "torch.mm", "ratio": "80.0%"}]
open(sys.argv[-1], "w").write(json.dumps({"heading": "", "figures": rows}))
"""
FAILS = "raise SystemExit(3)"
HANGS = "import time; print('waiting', flush=True); time.sleep(600)"
TESTS = """
def test_one(): pass
def test_two(): assert False
"""


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    for name, code in (("passes", PASSES), ("fails", FAILS), ("hangs", HANGS), ("test_stub", TESTS)):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OUT", str(tmp_path / "out" / "deeper"))
    return tmp_path


def checks(monkeypatch, steps):
    """(exit code, the report's file) of a run over these steps."""
    monkeypatch.setattr(gpu_checks, "steps", lambda device: steps)
    with pytest.raises(SystemExit) as stop:
        gpu_checks.main([])
    return stop.value.code


def test_what_fails_or_hangs_does_not_stop_the_others(stubs, monkeypatch, capsys):
    steps = [Step("one", ["hangs"], 5), Step("two", ["fails"], 60), Step("three", ["passes"], 60)]
    assert checks(monkeypatch, steps) == 1
    text = (stubs / "out" / "deeper" / "gpu_checks.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert "| one | **not done in 5 s** |  |  |" in text
    assert "| two | **failed with exit code 3 after " in text
    assert "| a step | 2 s | torch.mm | 80.0% |" in text
    assert "2 step(s) failed: one: not done in 5 s; two: failed with exit code 3" in text
    assert f"torch {machine.torch.__version__}" in text


def test_all_passed(stubs, monkeypatch):
    assert checks(monkeypatch, [Step("three", ["passes"], 60)]) == 0
    text = (stubs / "out" / "deeper" / "gpu_checks.md").read_text(encoding="utf-8")
    assert "Every step passed." in text and "**No GPU: torch sees none here.**" in text


def test_pytest_is_counted(stubs, monkeypatch):
    arguments = ["pytest", str(stubs / "test_stub.py"), "-o", "addopts=", "-q", "-p", "no:cacheprovider", "--junitxml"]
    outcome = gpu_checks.run_step(Step("tests", arguments, 60), 60)
    assert outcome.rows[0][1].startswith("1 passed, 1 failed, 0 skipped in")
    assert outcome.failure.startswith("tests: failed with exit code 1")


def test_where_no_time_is_left_a_step_is_not_begun(stubs):
    outcome = gpu_checks.run_step(Step("three", ["passes"], 60), 2)
    assert outcome.rows == [("three", "not run: the time was used up", "", "")] and outcome.failure


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_step_is_a_module_with_such_flags_and_there_is_time_for_the_tests(device):
    """Each benchmark's parser takes the flags: it is stopped where it would begin to measure."""
    table = list(gpu_checks.table_steps(device))
    assert 0 < len(table) <= 12
    steps = [*gpu_checks.steps(device), *table]
    tests = steps[0].arguments
    assert any(argument.endswith("test_gpu.py") for argument in tests) and tests[-1] == "--junitxml"
    for step in steps[1:]:
        module = __import__(step.arguments[0], fromlist=["main"])
        with pytest.MonkeyPatch.context() as patch:
            measured = []
            patch.setattr(module, "measure", lambda options, measured=measured: measured.append(options) or [])
            patch.setattr(module, "describe", lambda device: device)
            patch.setattr(module, "show", lambda *_: None)
            module.main([*step.arguments[1:], "file"])
        [options] = measured
        assert options.device == device and options.json == "file"


def test_a_package_without_which_nothing_runs_is_named(monkeypatch):
    monkeypatch.setitem(gpu_checks.NEEDED, "no_such_module", "no-such-package")
    with pytest.raises(SystemExit, match=r"lacks no-such-package, without which nothing of IEF runs"):
        gpu_checks.main([])


def test_benchmarks_print_and_write_the_same_figures(tmp_path, capsys, monkeypatch):
    narrow = {"vision_width": 64, "vision_layers": 1, "text_width": 64, "text_layers": 1}
    monkeypatch.setattr(machine, "ROWS", 64)
    monkeypatch.setattr(train_step, "VIT_B_32", dataclasses.replace(train_step.VIT_B_32, **narrow))
    similarity.main([*("--queries", "20", "--memes", "30", "--repeats", "1"), "--json", str(tmp_path / "a")])
    few = ["--plain_queries", "2", "--twice_queries", "5"]
    full_size.main(["--queries", "20", "--memes", "50", *few, "--json", str(tmp_path / "b")])
    printed = capsys.readouterr().out
    flags = ["--batch_size", "4", "--repeats", "1", "--reading_steps", "1", "--readers", "1", "--memory_batch", "2"]
    flags += ["--timed_batch", "4", "--large_batch", "6", "--lengths", "memecap"]
    train_step.main([*flags, "--precision", "bf16", "--json", str(tmp_path / "c")])
    printed += capsys.readouterr().out
    one_step.main(["--batch_size", "4", "--memory_batch", "2", "--repeats", "1", "--json", str(tmp_path / "d")])
    printed += capsys.readouterr().out
    ends = {"a": ("WTI, 20 x 30", "memory"), "b": ("QI, QC and", "memory"), "c": ("joint training", "waiting for data")}
    ends["d"] = ("ViT-B/32, fp32, batch 4, --memory_batch 2", "2")
    for name, (first, last) in ends.items():
        figures = json.loads((tmp_path / name).read_text())["figures"]
        assert figures[0]["what"].startswith(first) and figures[-1]["what"].endswith(last)
        assert all(figure["what"] in printed and figure["figure"] in printed for figure in figures)
