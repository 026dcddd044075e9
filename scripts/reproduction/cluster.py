"""Makes runs as jobs of a SLURM cluster, each one a job of its own, by submitit.

A job makes its run as a call on its own machine does: it takes the run's lock, leaves a finished one alone, and goes on
with an interrupted one. When the cluster takes the machine back or the job's time is over, the run saves and ends, and
the job is queued again.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from scripts.reproduction.plan import DONE
from scripts.reproduction.progress import Screen, duration, last_lines
from scripts.reproduction.runner import CONSOLE, Outcome, Runner, indented, map_of, remove_leftover, seconds_of
from util import InputError, write_text

FOLDER = "jobs"  # in --out: what submitit keeps of the jobs, and what they print
JOB = ".job"  # in a run's folder: its last job's number
REQUEUED = 100  # times at most that a job whose time was over is queued again
POLL = 1.0  # seconds


class RunJob:
    """What a job does: submitit calls it, and `checkpoint` when the job has to end and is to be queued again."""

    def __init__(self, run, plan):
        self.run, self.plan, self.runner = run, plan, None

    def __call__(self):
        self.runner = Runner([self.run], self.plan, [{}])
        self.runner.make_all()

    def checkpoint(self):
        """In a signal's handler: have the run save and end, wait for that, and return what is done next time."""
        from submitit.helpers import DelayedSubmission

        for job in self.runner.running:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                job.process.send_signal(signal.SIGTERM)
                # not Popen's own wait: the handler may have come in the middle of it
                os.waitid(os.P_PID, job.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(RunJob(self.run, self.plan))


def executor_of(out, minutes, partition=None, parameters=()):
    """submitit's executor. parameters: [(name, value)] for sbatch. InputError without submitit, or off a cluster."""
    try:
        import submitit
    except ImportError:
        raise InputError("--launcher slurm needs submitit: pip install -r requirements-slurm.txt") from None
    try:
        executor = submitit.SlurmExecutor(Path(out) / FOLDER, max_num_timeout=REQUEUED)
    except RuntimeError as error:  # there is no srun
        raise InputError(f"--launcher slurm: {error}") from None
    executor.update_parameters(
        time=minutes, partition=partition, additional_parameters=dict(parameters), stderr_to_stdout=True
    )
    return executor


def make_by_jobs(runs, plan, executor):
    """Submit a job for each run that no job of an earlier call is about to make, and wait for all: an Outcome.

    After Ctrl-C the jobs go on.
    """
    screen, outcome, waiting = Screen(), Outcome(), {}
    for number, run in enumerate(runs, 1):
        title = f"[{number}/{len(runs)}] {run.name}"
        job = queued_job(run, executor)
        if job is None:
            job = submit(run, plan, executor)
            screen.say(f"{title}: job {job.job_id}")
        else:
            screen.say(f"{title}: job {job.job_id} of an earlier call is to make it ({job.state})")
        waiting[title] = run, job
    try:
        while waiting:
            time.sleep(POLL)
            for title in [title for title, (_, job) in waiting.items() if job.done()]:
                note_end(title, *waiting.pop(title), plan, outcome, screen)
    except KeyboardInterrupt:
        outcome.stopped = True
        numbers = " ".join(job.job_id for _, job in waiting.values())
        screen.say(f"no longer waiting; the jobs go on, and `scancel {numbers}` ends them")
    return outcome


def submit(run, plan, executor):
    """Submit a run's job, and note it in the run's folder; returns it. InputError where the cluster refuses it."""
    from submitit.core.utils import FailedJobError

    run.folder.mkdir(parents=True, exist_ok=True)
    executor.update_parameters(job_name=f"{run.community}-{run.method.name}-{run.seed}")
    try:
        job = executor.submit(RunJob(run, plan))
    except (FailedJobError, OSError) as error:
        raise InputError(f"{run.name}: the job cannot be submitted: {' '.join(str(error).split())}") from None
    write_text(run.folder / JOB, job.job_id)
    return job


def queued_job(run, executor):
    """The run's job of an earlier call, if it still waits or is at work; else None."""
    with contextlib.suppress(OSError):
        job = executor.job_class(executor.folder, (run.folder / JOB).read_text())
        if not job.done(force_check=True):
            return job
    return None


def note_end(title, run, job, plan, outcome, screen):
    """Say what became of a run whose job has ended, and note it."""
    state = plan.state(run)
    if state.kind == DONE:
        remove_leftover(run, plan)
        outcome.made.append(run.name)
        seconds = seconds_of(run)
        screen.say(f"{title}: {map_of(run)}{'made' if seconds is None else duration(seconds)}")
        return
    lines = [*last_lines(run.folder / CONSOLE), f"job {job.job_id} is {job.state}; what it printed: {job.paths.stdout}"]
    outcome.failed[run.name] = (run.folder / CONSOLE, lines)
    screen.say(f"{title}: failed\n" + indented(lines))
