"""scripts.reproduce making runs: what becomes of them when they finish, fail, are killed or stopped."""

import dataclasses
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.methods import METHODS
from scripts.reproduce import main
from scripts.reproduction import runner
from scripts.reproduction.plan import AGAIN, MISSING, State
from scripts.reproduction.progress import Estimate, duration
from scripts.reproduction.runner import Runner, locked, remove_leftover
from tests.conftest import ROOT
from tests.engine.test_resume import run_and_die
from tests.processes import run_chains
from tests.scripts.pretended_runs import ByItsRecord, pretend
from tests.tiny_community import Place, comparable, read_csv, read_json, run

TRAINING = ["--epochs", "2", "--batch_size", "8", "--lr", "1e-3", "--coef_lr", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("reproduce"), train=2, val=1, test=1, animated=0)
    yield place
    shutil.rmtree(place.folder)


def flags(place, out, *methods, own=(), shared=()):
    own = ["--communities", "community", *own, "--methods", *methods, "--out", str(place.folder / out)]
    return [*own, "--data_root", str(place.folder), "--", "--pretrained_clip_name", str(place.clip), *TRAINING, *shared]


# --- real runs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_call(place):
    """(exit code, output) of a call with a run that cannot work and a community without data."""
    (place.folder / "no_bert").mkdir()
    methods = ("bm25", "zero_shot_clip", "ief_qc", "ief_emotion_bert")
    own = ["--communities", "community", "lets_exchange_memes", "--baseline", "zero_shot_clip"]
    argv = flags(place, "first", *methods, own=own, shared=["--bert_name", str(place.folder / "no_bert")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        done = subprocess.run(
            [sys.executable, "-m", "scripts.reproduce", *argv], cwd=ROOT, capture_output=True, text=True
        )
    return done.returncode, done.stdout + done.stderr, argv


def test_a_failed_run_does_not_stop_the_others(place, first_call):
    code, printed, _ = first_call
    assert code == 1, printed
    assert "4 runs: 4 missing" in printed and "3 of 4 runs are made, 1 failed" in printed
    assert printed.count(f"error: --bert_name {place.folder / 'no_bert'}") == 2, "at once, and in the end"
    assert "Traceback" not in printed
    runs = place.folder / "first" / "community"
    for method in ("bm25", "zero_shot_clip", "ief_qc"):
        value = read_json(runs / method / "seed_0" / "metrics.json")["test"]["scores"]["fused"]["query_to_meme"]
        [line] = [line for line in printed.splitlines() if f"{method} seed 0: mAP" in line]
        assert f"mAP {value['metrics']['mAP']:.2f}, " in line
    assert not list(runs.rglob("checkpoint_last.pt"))
    assert sorted(path.parent.parent.name for path in runs.rglob("checkpoint_best.pt")) == ["ief_qc"]
    assert "error: --bert_name" in (runs / "ief_emotion_bert" / "seed_0" / "console.txt").read_text()


def test_the_tables_have_what_was_made_and_name_what_has_no_data(place, first_call):
    rows = read_csv(place.folder / "first" / "tables" / "main.csv")
    assert {row["method"] for row in rows} >= {"bm25", "zero_shot_clip"}
    [absent] = [row for row in rows if row["community"] == "lets_exchange_memes"]
    assert absent["status"] == "no data"


def test_the_second_call_starts_nothing_that_is_finished(place, first_call, monkeypatch, capsys):
    def refuse(*_):
        raise AssertionError("a run was started")

    argv = first_call[2]
    argv[argv.index("ief_emotion_bert")] = "ief_qc"
    argv[argv.index("--bert_name") :] = []
    monkeypatch.setattr(Runner, "_start", refuse)
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "3 runs: 3 done" in printed and "3 of 3 runs are made" in printed


def test_a_call_for_less_keeps_the_rows_of_what_is_made_already(place, first_call, capsys):
    assert main(flags(place, "first", "ief_qc")) == 0
    rows = read_csv(place.folder / "first" / "tables" / "main.csv")
    assert {row["method"] for row in rows if row["status"] == "complete"} >= {"bm25", "zero_shot_clip"}


@pytest.mark.parametrize("damage", ["metrics.json", "test_queries.npz", "another test split"])
def test_a_run_of_an_earlier_call_that_is_damaged_is_left_out_and_named(place, first_call, capsys, damage):
    """It is none of this call's, which therefore does not make it again."""
    path = place.folder / "first" / "community" / "bm25" / "seed_0" / ("run.json" if " " in damage else damage)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    if " " in damage:
        origin = json.loads(whole)
        origin["data"]["test"]["csv"] = "of an older test.csv"
        path.write_text(json.dumps(origin), encoding="utf-8")
    assert main(flags(place, "first", "ief_qc")) == 0
    path.write_bytes(whole)
    printed = capsys.readouterr().out
    assert "community bm25 seed 0 is not in the tables: " in printed and str(path.parent) in printed
    rows = read_csv(place.folder / "first" / "tables" / "main.csv")
    [status] = [row["status"] for row in rows if row["method"] == "bm25"]
    assert str(path.parent) in status
    assert "complete" in {row["status"] for row in rows if row["method"] == "zero_shot_clip"}


def test_the_old_results_of_a_run_that_fails_now_are_not_in_the_tables(place, first_call, capsys):
    """It fails before it removes them: there is no GPU."""
    out = place.folder / "old results"
    for method in ("bm25", "zero_shot_clip"):
        folder = out / "community" / method / "seed_0"
        shutil.copytree(place.folder / "first" / "community" / method / "seed_0", folder)
    shutil.copytree(folder, folder.parent / "seed_1")
    argv = flags(place, out.name, "bm25", "zero_shot_clip")[: -len(TRAINING)]
    assert main(argv) == 0
    assert of_zero_shot(out)["mAP"] == [("complete", True)]
    assert main([*argv, "--max_words", "20", "--device", "cuda"]) == 1
    printed = capsys.readouterr().out
    assert "torch sees no GPU" in printed and "1 of 2 runs are made, 1 failed" in printed
    assert (folder / "metrics.json").exists()
    assert [status for status, _ in sum(of_zero_shot(out).values(), [])] == ["failed"]
    assert not any(number for _, number in sum(of_zero_shot(out).values(), []))


def of_zero_shot(out):
    """{metric: [(status, whether there is a number)]} of its rows of main.csv."""
    rows = [row for row in read_csv(out / "tables" / "main.csv") if row["method"] == "zero_shot_clip"]
    return {row["metric"]: [(row["status"], row["mean"] != "")] for row in rows}


def test_a_killed_run_goes_on_and_ends_as_one_that_ran_through(place, capsys):
    argv = flags(place, "killed", "ief_qc")
    assert main(["--dry_run", *argv]) == 0
    [command] = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    words = shlex.split(command)[2:]
    steps = {"killed": [(run_and_die, words, "evaluation", 2)]}
    [(code, printed)] = run_chains(steps, place.folder)["killed"]
    assert code == -signal.SIGKILL, printed
    folder = place.folder / "killed" / "community" / "ief_qc" / "seed_0"
    assert (folder / "checkpoint_last.pt").exists() and not (folder / "metrics.json").exists()

    assert main(argv) == 0
    assert "1 run: 1 interrupted" in capsys.readouterr().out
    code, printed = run([*words, "--output_dir", str(place.folder / "through")])
    assert code == 0, printed
    ends = [read_json(path / "metrics.json") for path in (folder, place.folder / "through")]
    assert comparable(ends[0]) == comparable(ends[1])


def test_ctrl_c_stops_the_run_and_a_printed_command_goes_on(place, capsys):
    # no loader processes: while Python forks one, it loses a KeyboardInterrupt and says so
    argv = flags(place, "stopped", "ief_qc", "drl_wti", shared=["--epochs", "300", "--num_thread_reader", "0"])
    folder = place.folder / "stopped" / "community" / "drl_wti" / "seed_0"
    history = folder / "metrics.jsonl"
    signal_when(history, signal.SIGINT)
    assert main(argv) == 130
    assert capsys.readouterr().err == "stopped: 0 of 2 runs are made; the same command goes on from there\n"
    console = (folder / "console.txt").read_bytes().decode()
    assert "Traceback" not in console and "\r" not in console
    assert not (folder.parents[1] / "ief_qc").exists()
    with open(folder / ".lock") as file:
        assert locked(file), "no process is left"

    assert main(["--dry_run", *argv]) == 0
    state, command = capsys.readouterr().out.splitlines()[:2]
    assert state == "# community drl_wti seed 0: interrupted"
    epochs = history.read_text().splitlines()
    process = subprocess.Popen(["sh", "-c", f"exec {command}"], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while len(history.read_text().splitlines()) == len(epochs) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
    later = history.read_text().splitlines()
    assert later[: len(epochs)] == epochs and len(later) > len(epochs)


# --- runs that only seem to be ----------------------------------------------------------------------------------


class Everything:
    """A plan in which all runs are missing."""

    def __init__(self, state=State(MISSING)):  # noqa: B008  it is frozen
        self.all = state

    def state(self, run):
        return self.all


def make(runs, slots=({},), plan=None):
    return Runner(runs, plan or Everything(), slots).make_all()


def test_one_run_at_a_time_on_each_gpu(tmp_path):
    script = "echo start $CUDA_VISIBLE_DEVICES >> %s; sleep 0.4; echo end $CUDA_VISIBLE_DEVICES >> %s"
    log = tmp_path / "log"
    runs = [pretend(tmp_path, number, script % (log, log)) for number in range(5)]
    outcome = make(runs, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "3"}])
    assert sorted(outcome.made) == sorted(run.name for run in runs)
    busy, most = set(), 0
    for line in log.read_text().splitlines():
        event, gpu = line.split()
        assert (gpu in busy) == (event == "end")
        busy ^= {gpu}
        most = max(most, len(busy))
    assert most == 2 and not busy


def test_the_end_of_a_failed_run_s_output_is_shown(tmp_path, capsys):
    bars = "printf 'old line\\n 10%%\\r 50%%\\r100%%\\n'; seq 30; echo error: no such thing >&2; exit 3"
    runs = [pretend(tmp_path, 0, bars), pretend(tmp_path, 1, "echo allocating; kill -9 $$")]
    outcome = make(runs)
    (_, lines), (console, killed) = outcome.failed.values()
    assert lines == [*map(str, range(20, 31)), "error: no such thing"]
    assert killed == ["allocating", "killed by SIGKILL (out of memory?)"]
    assert console.read_text() == "allocating\n"
    assert "    error: no such thing" in capsys.readouterr().out


def test_of_progress_bars_the_last_state_is_shown(tmp_path):
    script = "printf 'a\\n 10%%\\r 50%%\\r100%%\\ninner\\033[A\\r   \\033[A\\router\\r'; exit 1"
    outcome = make([pretend(tmp_path, 0, script)])
    [(_, lines)] = outcome.failed.values()
    assert lines == ["a", "100%", "outer"]


def test_a_terminal_shows_how_far_the_run_is(tmp_path, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", screen)
    make([pretend(tmp_path, 0, "printf 'training: 50%%\\r'; sleep 0.4")])
    first, live, last = re.split(r"\r\x1b\[2K", screen.getvalue())
    assert first.endswith("starts\n") and live == "  training: 50%" and last.startswith("[1/1] community ief seed 0: ")


def test_what_remains_is_estimated_from_what_is_made(tmp_path):
    runs = [pretend(tmp_path, number, "true") for number in range(4)]
    other = [dataclasses.replace(run, method=METHODS["drl_wti"]) for run in runs]
    estimate = Estimate()
    assert estimate.remaining(runs, [], 1) == 0
    estimate.add(runs[0], 10)
    estimate.add(runs[1], 30)
    assert estimate.remaining(runs, [], 1) == 80
    estimate.add(other[0], 100)
    assert estimate.remaining([runs[2], other[1]], [(runs[3], 15), (other[2], 200)], 2) == (20 + 100 + 5 + 0) / 2
    elsewhere = dataclasses.replace(runs[0], community="another", method=METHODS["ief_qc"])
    assert estimate.remaining([elsewhere], [], 2) == pytest.approx((10 + 30 + 100) / 3)
    assert [duration(seconds) for seconds in (8.4, 119, 3599, 7290)] == ["8 s", "2 min", "1 h 00 min", "2 h 02 min"]


def test_a_run_that_another_process_makes_is_left_to_it(tmp_path, capsys):
    runs = [pretend(tmp_path, number, "true") for number in range(2)]
    runs[0].folder.mkdir()
    with open(runs[0].folder / ".lock", "w") as file:
        assert locked(file)
        outcome = make(runs)
    assert (outcome.busy, outcome.made) == ([runs[0].name], [runs[1].name])
    assert "another process is making it" in capsys.readouterr().out


def test_the_lock_lives_as_long_as_the_run(tmp_path):
    """Also where scripts.reproduce itself is killed: its run goes on, and a second call leaves it alone."""
    run = pretend(tmp_path, 0, "sleep 60")
    child = os.fork()
    if child == 0:
        make([run])
        os._exit(0)
    while not (run.folder / "console.txt").exists():
        time.sleep(0.02)
    time.sleep(0.2)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert make([run]).busy == [run.name]
    [sleeping] = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if run_of(path) == run.command]
    os.killpg(int(sleeping.name), signal.SIGKILL)
    time.sleep(0.2)
    with open(run.folder / ".lock") as file:
        assert locked(file)


def run_of(cmdline):
    try:
        return tuple(cmdline.read_text().split("\0")[:3])
    except OSError:
        return None


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "INT"), (signal.SIGTERM, "TERM")])
def test_a_signal_is_passed_on_and_the_end_awaited(tmp_path, capsys, number, name):
    script = f"trap 'sleep 0.5; touch ended; exit 1' {name}; touch started; while :; do sleep 0.05; done"
    runs = [pretend(tmp_path, n, f"cd {tmp_path}; {script}") for n in range(2)]
    signal_when(tmp_path / "started", number)
    outcome = make(runs)
    assert (tmp_path / "ended").exists() and outcome.stopped and not outcome.failed
    assert not runs[1].folder.exists()
    assert "seed 0: stopped" in capsys.readouterr().out


def test_a_second_ctrl_c_kills(tmp_path):
    stubborn = f"cd {tmp_path}; trap '' INT; touch started; sleep 30"
    signal_when(tmp_path / "started", signal.SIGINT, times=2)
    start = time.monotonic()
    assert make([pretend(tmp_path, 0, stubborn)]).stopped
    assert time.monotonic() - start < 15


def test_a_run_that_loses_the_first_signal_is_told_again(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "REPEAT", 0.3)
    deaf_once = "trap 'trap \"touch ended; exit 1\" INT' INT; touch started; for i in $(seq 400); do sleep 0.05; done"
    signal_when(tmp_path / "started", signal.SIGINT)
    outcome = make([pretend(tmp_path, 0, f"cd {tmp_path}; {deaf_once}")])
    assert outcome.stopped and (tmp_path / "ended").exists()


def test_a_run_that_is_stopped_when_all_is_written_is_made(tmp_path):
    run = pretend(tmp_path, 0, "")
    script = f"cd {run.folder}; trap 'exit 130' INT; touch checkpoint_last.pt metrics.json; touch {tmp_path}/started"
    run = dataclasses.replace(run, command=("sh", "-c", f"{script}; while :; do sleep 0.05; done"))
    signal_when(tmp_path / "started", signal.SIGINT)
    outcome = make([run], plan=ByItsRecord())
    assert outcome.stopped and outcome.made == [run.name] and not outcome.failed
    assert not (run.folder / "checkpoint_last.pt").exists()


def test_what_only_an_interrupted_run_needs_is_removed_if_nobody_makes_it(tmp_path):
    runs = [pretend(tmp_path, number, "true") for number in range(3)]
    for one in runs:
        one.folder.mkdir()
        (one.folder / "checkpoint_last.pt").touch()
    for one in runs[:2]:
        (one.folder / "metrics.json").touch()
    with open(runs[1].folder / ".lock", "w") as file:
        assert locked(file)
        for one in runs:
            remove_leftover(one, ByItsRecord())
    assert [(one.folder / "checkpoint_last.pt").exists() for one in runs] == [False, True, True]


@pytest.mark.parametrize("record", ["{}", '{"seconds": {"all": null}}', '{"seconds": {"all": "x"}}', "[]", None])
def test_a_record_without_a_time_is_not_in_the_estimate(tmp_path, record):
    run = pretend(tmp_path, 0, "true")
    run.folder.mkdir()
    if record is not None:
        (run.folder / "metrics.json").write_text(record)
    assert runner.seconds_of(run) is None
    (run.folder / "metrics.json").write_text('{"seconds": {"all": 2.5}}')
    assert runner.seconds_of(run) == 2.5


def signal_when(path, number, times=1):
    """In a process of its own: send this process a signal once the file is there, and again after half a second."""
    script = f"until [ -e {path} ]; do sleep 0.05; done; sleep 0.1; kill -{number} {os.getpid()}"
    subprocess.Popen(["sh", "-c", script + f"; sleep 0.5; kill -{number} {os.getpid()}" * (times - 1)])


def test_why_a_run_is_made_again_is_said(tmp_path, capsys):
    make([pretend(tmp_path, 0, "true")], plan=Everything(State(AGAIN, "test.csv has changed")))
    assert "starts anew: test.csv has changed" in capsys.readouterr().out


def test_what_cannot_be_written_is_a_failed_run(tmp_path):
    (tmp_path / "0").write_text("a file where the run's folder should be")
    outcome = make([pretend(tmp_path, 0, "true"), pretend(tmp_path, 1, "true")])
    assert len(outcome.failed) == len(outcome.made) == 1
