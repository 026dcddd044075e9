"""Makes runs, each one a process of its own, one after the other or one per GPU."""

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from scripts.reproduction.plan import AGAIN, DONE, INTERRUPTED, MISSING, Run, full_command, last_checkpoint
from scripts.reproduction.progress import Estimate, Screen, duration, last_lines
from util import LOCK_VARIABLE, STOPPED, InputError, NotWritten, locked, read_json, take_lock

ROOT = Path(__file__).resolve().parents[2]
CONSOLE = "console.txt"  # in a run's folder: all that it printed
LOCK = ".lock"
POLL = 0.1  # seconds
REPEAT = 5  # seconds after which a run is asked to stop again: one that is just importing may lose the signal
# A run's output goes to a file, in UTF-8 whatever the terminal has.
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


@dataclass
class Outcome:
    """made, busy: names of runs; failed: {name: (its console.txt, last lines of its output)}."""

    made: list = field(default_factory=list)
    failed: dict = field(default_factory=dict)
    busy: list = field(default_factory=list)
    stopped: bool = False


@dataclass
class Process:
    """A run that is being made."""

    run: Run
    title: str
    slot: dict
    started: float
    lock: object
    process: subprocess.Popen


class Runner:
    """slots: what to add to the environment of the runs that go on at the same time, [dict]. plan: Plan."""

    def __init__(self, runs, plan, slots, known=()):
        self.plan, self.free, self.slots = plan, list(slots), len(slots)
        self.waiting = deque((f"[{number}/{len(runs)}] {run.name}", run) for number, run in enumerate(runs, 1))
        self.running, self.outcome = [], Outcome()
        self.screen, self.estimate = Screen(), Estimate()
        for run, seconds in known:
            self.estimate.add(run, seconds)
        self.stops = self.stops_heeded = 0  # how often the user asked to stop
        self.passed_on = signal.SIGINT  # what the runs are told then
        self.signalled = 0.0  # when the runs were told

    def make_all(self):
        """Make all runs, whatever becomes of each: an Outcome.

        Ctrl-C stops the runs as Ctrl-C does; SIGTERM and SIGHUP have them save and end; it waits until they have. A
        second Ctrl-C kills them.
        """
        with handled(self._note_stop, "SIGINT", "SIGTERM", "SIGHUP"):
            try:
                while self.running or (self.waiting and not self.stops):
                    self._step()
            except BaseException:  # such as a closed stdout: no run goes on unseen
                self._signal_runs(kill=False)
                raise
        self.outcome.stopped = bool(self.stops)
        return self.outcome

    def _step(self):
        while self.waiting and self.free and not self.stops:
            self._start(*self.waiting.popleft())
        if self.stops > self.stops_heeded:
            self._heed_stop()
        elif self.stops == 1 and time.monotonic() - self.signalled > REPEAT:
            self._signal_runs(kill=False)
        self._show_progress()
        time.sleep(POLL)
        for job in [job for job in self.running if job.process.poll() is not None]:
            self._end(job)

    def _start(self, title, run):
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as closing:
                try:
                    lock = closing.enter_context(take_lock(run.folder / LOCK, "scripts.reproduce"))
                except NotWritten:
                    raise
                except InputError as holder:
                    self.screen.say(f"{title}: another process is making it; left to that one ({holder})")
                    self.outcome.busy.append(run.name)
                    return
                state = self.plan.state(run)  # again: another process may have made it by now
                if state.kind == DONE:
                    self.screen.say(f"{title}: another process has made it")
                    self.outcome.made.append(run.name)
                    return
                how = {MISSING: "starts", INTERRUPTED: "goes on", AGAIN: f"starts anew: {state.why}"}[state.kind]
                self.screen.say(f"{title}: {how}")
                process = start_process(run, state, self.free[0], lock)
                closing.pop_all()  # the lock stays open as long as the run goes on
        except (OSError, NotWritten) as error:
            self._fail(title, run, [f"it cannot be started: {error}"])
            return
        self.running.append(Process(run, title, self.free.pop(0), time.monotonic(), lock, process))

    def _end(self, job):
        self.running.remove(job)
        self.free.append(job.slot)
        seconds, code = time.monotonic() - job.started, job.process.returncode
        made = code == 0 or self.plan.state(job.run).kind == DONE  # stopped after all was written
        job.lock.close()
        if made:
            remove_leftover(job.run, self.plan)
            self.outcome.made.append(job.run.name)
            self.estimate.add(job.run, seconds)
            self.screen.say(f"{job.title}: {map_of(job.run)}{duration(seconds)}{self._remaining()}")
        elif self.stops or code == STOPPED:
            self.screen.say(f"{job.title}: stopped")
        else:
            self._fail(job.title, job.run, last_lines(job.run.folder / CONSOLE), code)

    def _fail(self, title, run, lines, code=None):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            lines = [*lines, f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")]
        self.outcome.failed[run.name] = (run.folder / CONSOLE, lines)
        self.screen.say(f"{title}: failed\n" + indented(lines))

    def _remaining(self):
        running = [(job.run, time.monotonic() - job.started) for job in self.running]
        waiting = [run for _, run in self.waiting]
        if self.stops or not (running or waiting):
            return ""
        return f"; about {duration(self.estimate.remaining(waiting, running, self.slots))} left"

    def _show_progress(self):
        if len(self.running) == 1 and self.screen.changes and not self.stops:
            lines = last_lines(self.running[0].run.folder / CONSOLE, 1)
            self.screen.show(f"  {lines[0]}" if lines else "")

    def _note_stop(self, number, _):  # and no more: a signal may come in the middle of a print
        if not self.stops and number != signal.SIGINT:
            self.passed_on = signal.SIGTERM
        self.stops += not self.stops or number == signal.SIGINT

    def _heed_stop(self):
        kill = self.stops > 1
        self.stops_heeded = self.stops
        self._signal_runs(kill)
        if self.running and not kill:
            self.screen.say(f"stopping: waiting for {len(self.running)} run(s) to end (Ctrl-C again kills)")

    def _signal_runs(self, kill):
        self.signalled = time.monotonic()
        for job in self.running:
            with contextlib.suppress(ProcessLookupError):
                if kill:
                    os.killpg(job.process.pid, signal.SIGKILL)  # with the processes that it has started
                else:
                    job.process.send_signal(self.passed_on)


def remove_leftover(run, plan):
    """Remove a finished run's checkpoint_last.pt: it is only good for going on, and the largest file by far."""
    if not last_checkpoint(run).is_file():
        return
    with contextlib.suppress(OSError), open(run.folder / LOCK, "ab") as lock:  # a folder may be read-only
        if locked(lock) and plan.state(run).kind == DONE:
            last_checkpoint(run).unlink(missing_ok=True)


def start_process(run, state, environment, lock):
    """The run's process; what it prints goes to its console.txt."""
    with open(run.folder / CONSOLE, "ab" if state.kind == INTERRUPTED else "wb") as console:
        return subprocess.Popen(
            full_command(run, state),
            cwd=ROOT,
            env=os.environ | ENVIRONMENT | environment | {LOCK_VARIABLE: str(lock.fileno())},
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C comes to this process alone, and from it to the run, once
            pass_fds=[lock.fileno()],  # so that it is held as long as the run lives, even if this process is killed
        )


@contextlib.contextmanager
def handled(handler, *names):
    """`handler` for the signals of these names, as far as the system has them; nohup's ignored SIGHUP stays ignored."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if signal.getsignal(numbers[-1]) == signal.SIG_IGN:
        numbers.pop()
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def finished(run):
    """metrics.json of a run, or None where it cannot be read."""
    try:
        return read_json(run.folder / "metrics.json")
    except InputError:
        return None


def seconds_of(run):
    """How long a finished run took, or None where its record does not say."""
    try:
        return float(finished(run)["seconds"]["all"])
    except (KeyError, TypeError, ValueError):
        return None


def map_of(run):
    try:
        return f"mAP {finished(run)['test']['scores']['fused']['query_to_meme']['metrics']['mAP']:.2f}, "
    except (KeyError, TypeError, ValueError):
        return ""


def indented(lines):
    return "\n".join(f"    {line}" for line in lines)
