"""Runs that only seem to be, each one a shell script, and a plan for them: imported in no time, as each job does."""

from engine.methods import METHODS
from scripts.reproduction.plan import DONE, MISSING, Run, State


def pretend(folder, number, script):
    """A Run whose process is a shell script."""
    command = ("sh", "-c", script)
    return Run("community", METHODS["ief"], number, folder / str(number), command, {}, None, True)


class ByItsRecord:
    """A plan in which the runs that have a metrics.json are done."""

    def state(self, run):
        return State(DONE if (run.folder / "metrics.json").exists() else MISSING)
