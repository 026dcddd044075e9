"""What a user sees of the runs: a line as each one starts and ends, and, on a terminal, how far the one run is."""

import re
import shutil
import sys
from pathlib import Path

LAST_LINES = 12  # of a failed run's output, shown
CLEAR = "\r\x1b[2K"
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # what moves a terminal's cursor


class Screen:
    """Prints lines; below them, on a terminal, a line that changes."""

    def __init__(self, stream=None):
        self.stream = stream or sys.stdout
        self.changes = self.stream.isatty()
        self.shown = ""

    def say(self, line):
        self.show("")
        print(line, file=self.stream, flush=True)

    def show(self, line):
        if self.changes and line != self.shown:
            width = shutil.get_terminal_size().columns - 1
            print(CLEAR + line[:width], end="", file=self.stream, flush=True)
            self.shown = line


def last_lines(path, number=LAST_LINES):
    """The last lines of a program's output, of a progress bar what it showed last."""
    path = Path(path)
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 16384))
        text = CONTROL.sub("", file.read().decode("utf-8", "replace"))
    shown = [[part for part in line.split("\r") if part.strip()] for line in text.split("\n")]
    return [parts[-1] for parts in shown if parts][-number:]


def duration(seconds):
    """8 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Estimate:
    """How long the remaining runs take, from those that are made: of the same method, else of any."""

    def __init__(self):
        self.seconds = {}  # (community, method name) -> [seconds]

    def add(self, run, seconds):
        self.seconds.setdefault((run.community, run.method.name), []).append(seconds)

    def of(self, run):
        """Seconds, or None as long as no run is known."""
        community = {key: value for key, value in self.seconds.items() if key[0] == run.community}
        for known in (
            self.seconds.get((run.community, run.method.name)),
            sum(community.values(), []),
            sum(self.seconds.values(), []),
        ):
            if known:
                return sum(known) / len(known)
        return None

    def remaining(self, waiting, running, slots):
        """Seconds until all are made. running: [(run, seconds since it started)]."""
        parts = [self.of(run) for run in waiting]
        parts += [max(0, (self.of(run) or 0) - since) for run, since in running]
        return sum(part or 0 for part in parts) / min(slots, len(parts)) if parts else 0
