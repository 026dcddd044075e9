"""scripts.reproduce --launcher slurm: jobs on this machine, and what a cluster's own programs are told."""

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import submitit

from scripts.reproduce import main
from scripts.reproduction.cluster import JOB, executor_of, make_by_jobs, queued_job
from tests.scripts.pretended_runs import ByItsRecord, pretend
from tests.tiny_community import draw_community
from util import InputError, locked

PREEMPTED = """
cd {folder}
[ ! -e saved ] || {{ touch metrics.json; exit 0; }}
trap "touch saved; exit 75" TERM
touch started
while :; do sleep 0.05; done
"""


def test_a_job_whose_machine_is_taken_saves_and_is_queued_again(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("scripts.reproduction.cluster.POLL", 0.1)
    run = pretend(tmp_path, 0, "")
    run = dataclasses.replace(run, command=("sh", "-c", PREEMPTED.format(folder=run.folder)))
    failing = pretend(tmp_path, 1, "echo no such thing; exit 3")

    def take_the_machine():
        while not (run.folder / "started").exists():
            time.sleep(0.05)
        controller = (run.folder / JOB).read_text()
        [task] = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
        os.kill(int(task), signal.SIGUSR2)

    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=5)
    threading.Thread(target=take_the_machine).start()
    outcome = make_by_jobs([run, failing], ByItsRecord(), executor)
    assert (run.folder / "saved").exists()
    assert outcome.made == [run.name] and list(outcome.failed) == [failing.name] and not outcome.stopped
    _, lines = outcome.failed[failing.name]
    assert lines[0] == "no such thing" and str(tmp_path / "jobs") in lines[1]
    for each in (run, failing):
        with open(each.folder / ".lock") as file:
            assert locked(file)


PROGRAMS = {
    "srun": "exit 1",
    "sbatch": 'n=$(cat "$CLUSTER/jobs" | wc -l); cp "$1" "$CLUSTER/job_$n.sh"; echo "$1" >> "$CLUSTER/jobs"; '
    'echo "Submitted batch job 70$n"',
    "sacct": 'echo "JobID|State|NodeList"; echo "700|$(cat "$CLUSTER/state")|x"; echo "701|COMPLETED|x"',
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with the state of job 700 and what was submitted; its programs are found first."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "jobs").touch()
    (folder / "state").write_text("PENDING")
    for name, script in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CLUSTER", str(folder))
    monkeypatch.setattr(submitit.SlurmJob, "watcher", submitit.slurm.slurm.SlurmInfoWatcher(delay_s=0))
    return folder


def test_what_the_cluster_is_asked_for_and_that_a_waiting_job_is_not_submitted_again(tmp_path, cluster, monkeypatch):
    runs = [pretend(tmp_path, number, "true") for number in range(2)]
    executor = executor_of(tmp_path, 240, "gpu", [("gres", "gpu:1"), ("account", "memes")])

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("scripts.reproduction.cluster.time.sleep", interrupt)
    assert make_by_jobs(runs[:1], ByItsRecord(), executor).stopped
    monkeypatch.undo()
    asked = (cluster / "job_0.sh").read_text().splitlines()
    for flag in ("partition=gpu", "time=240", "gres=gpu:1", "account=memes", "job-name=community-ief-0"):
        assert f"#SBATCH --{flag}" in asked
    [signalled] = [line for line in asked if line.startswith("#SBATCH --signal=")]
    assert signalled == "#SBATCH --signal=USR2@90"
    assert (runs[0].folder / JOB).read_text() == "700"


def test_a_job_that_waits_is_waited_for_and_one_that_has_ended_is_not(tmp_path, cluster):
    runs = [pretend(tmp_path, number, "true") for number in range(3)]
    executor = executor_of(tmp_path, 240)
    for run, job in zip(runs, ("700", "701"), strict=False):
        run.folder.mkdir()
        (run.folder / JOB).write_text(job)
    assert queued_job(runs[0], executor).job_id == "700"
    assert queued_job(runs[1], executor) is None and queued_job(runs[2], executor) is None
    (cluster / "sbatch").write_text("#!/bin/sh\necho no such partition >&2; exit 1\n")
    with pytest.raises(InputError, match="community ief seed 1: the job cannot be submitted: .*no such partition"):
        make_by_jobs(runs[1:], ByItsRecord(), executor)


def test_off_a_cluster_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="--launcher slurm: .*srun"):
        executor_of(tmp_path, 240)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--launcher", "slurm"], "--slurm_time MINUTES"),
        (["--launcher", "slurm", "--slurm_time", "9", "--gpus", "0"], "--slurm gres=gpu:1"),
        (["--slurm_partition", "gpu"], "is for --launcher slurm"),
        (["--launcher", "slurm", "--slurm_time", "9", "--slurm", "time=3"], "--slurm_time"),
        (["--launcher", "slurm", "--slurm_time", "9", "--slurm", "--gres"], "expected"),
    ],
)
def test_flags_that_make_no_sense(flags, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--communities", "c", "--data_root", "d", "--out", "o", *flags])
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_a_dry_run_shows_the_jobs(tmp_path, capsys):
    draw_community(tmp_path / "c", train=1, val=1, test=1, topics=2, animated=0)
    argv = ["--communities", "c", "--data_root", str(tmp_path), "--out", str(tmp_path / "out"), "--methods", "bm25"]
    argv += ["--launcher", "slurm", "--slurm_time", "240", "--slurm", "gres=gpu:1", "mem=32G", "--dry_run"]
    assert main(argv) == 0
    first, second, command = capsys.readouterr().out.splitlines()
    assert first == "# a job for each of these commands: --time=240 --gres=gpu:1 --mem=32G"
    assert second == "# c bm25 seed 0: missing" and "scripts.reference bm25" in command
    assert not (tmp_path / "out").exists()
