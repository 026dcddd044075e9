"""A run's hold on its --output_dir: one run at a time, and an older one's results until this one can go on alone."""

import argparse
import logging
import logging.handlers
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO

from engine import distributed
from engine.run_record import WRITTEN, command_line, write_args, written
from evaluation.feature_store import TEMPORARY_PREFIX
from util import InputError, NotWritten, add_log_file, take_lock

LOCK = ".lock"
# What --overwrite sets aside: in the first while it is moved, there or back; in the second when all of it is there.
MOVING, REPLACED = ".replacing", ".replaced"
LAST = "checkpoint_last.pt"


class OutputFolder:
    """A context: `lock`, `take` and `begin` in the first process alone, in this order.

    The lock is held until the context is left, and vanishes with a process that is killed.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.path = args, Path(args.output_dir)
        self.held: IO[bytes] | None = None
        self.early: logging.handlers.MemoryHandler | None = None  # what was logged before there is a log.txt
        self.begun = self.put_back = False

    def __enter__(self) -> "OutputFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.held is not None:
            try:
                self.put_back = settle(self.path)
            finally:
                self.held.close()
                self.held = None

    def lock(self) -> None:
        """Lock the folder, if there is one; InputError says who holds it. A killed start's old results come back."""
        if self.held is not None or not self.path.is_dir():
            return
        try:
            self.held = take_lock(self.path / LOCK, command_line())
        except NotWritten:
            raise
        except InputError as error:
            hint = distributed.slurm_hint()
            raise InputError(f"--output_dir {self.path} is in use: {error}{hint and f' ({hint})'}") from None
        for leftover in self.path.glob(".*.partial"):  # of a killed process, like the next ones
            leftover.unlink()
        for leftover in self.path.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(leftover)
        settle(self.path)

    def take(self) -> None:
        """Make the folder and lock it; InputError where it holds a run that this one would spoil."""
        args, folder = self.args, self.path
        if args.resume_model and Path(args.resume_model).resolve().parent != folder.resolve():
            raise InputError(
                f"--resume_model {args.resume_model} is not in --output_dir {folder}: a run goes on in its own folder"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--output_dir {folder} cannot be made: {error.strerror}") from error
        self.lock()
        found = written(args)
        whole = [name for name in found if name.startswith("checkpoint") or name == "metrics.json"]
        if args.resume_model or not found or ("args.json" in found and not whole):  # of a run that came to nothing
            return
        if args.do_eval and any(name.startswith("checkpoint") for name in found):
            raise InputError(f"--output_dir {folder} holds a training run: name another folder for the evaluation")
        if not args.overwrite:
            go_on = f"Go on with it by --resume_model {folder / LAST}, start" if args.do_train else "Start"
            raise InputError(
                f"--output_dir {folder} holds a run ({', '.join(found)}). {go_on} anew by --overwrite, or name another "
                "folder"
            )

    def keep_log(self, logger: logging.Logger) -> None:
        """Keep what is logged, for log.txt."""
        self.early = logging.handlers.MemoryHandler(10**6, logging.CRITICAL + 1)
        logger.addHandler(self.early)

    def begin(self, logger: logging.Logger, record: argparse.Namespace | None = None) -> None:
        """Set an older run aside; write args.json (`record`, by default the arguments) and begin log.txt.

        To be called when all has been checked that can be. The older run comes back if this one ends before its first
        checkpoint is written, or, without training, before its results are.
        """
        if not self.args.resume_model:
            set_aside(self.path)
        self.begun = True
        write_args(self.args if record is None else record)
        handler = add_log_file(logger, self.path / "log.txt")
        if self.early is not None:
            self.early.setTarget(handler)
            self.early.flush()
            logger.removeHandler(self.early)

    def way_on(self, error: BaseException) -> str:
        """What to add to the message about the run's end: how it goes on."""
        last = self.path / LAST
        refused = isinstance(error, (NotWritten, OSError))
        can_resume = self.args.do_train and (self.args.resume_model or self.begun) and not self.put_back
        if can_resume and last.is_file():
            whole = f"; {last} is whole" if refused else ""
            return f"{whole}; go on with --resume_model {last}"
        back = f"; {self.path} holds the earlier run as before" if self.put_back else ""
        return f"{back}; then give the same command again" if refused else back


def set_aside(folder: Path) -> None:
    """Move a run's files into REPLACED, so that a kill at any moment loses nothing: `settle` brings them back."""
    found = [path for path in run_files(folder) if path.exists()]
    if found:
        (folder / MOVING).mkdir()
        for path in found:
            path.rename(folder / MOVING / path.name)
        (folder / MOVING).rename(folder / REPLACED)


def settle(folder: Path) -> bool:
    """Remove what was set aside if a newer run can go on or has finished; else bring it back, and return True."""
    if (folder / REPLACED).is_dir():
        if any((folder / name).exists() for name in (LAST, "metrics.json")):
            shutil.rmtree(folder / REPLACED)
            return False
        for path in run_files(folder):  # of the start that came to nothing
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        (folder / REPLACED).rename(folder / MOVING)
    if not (folder / MOVING).is_dir():
        return False
    for path in (folder / MOVING).iterdir():
        path.rename(folder / path.name)
    (folder / MOVING).rmdir()
    return True


def run_files(folder: Path) -> list[Path]:
    return [folder / name for name in (*WRITTEN, "tensorboard")]
