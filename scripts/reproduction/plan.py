"""Which runs are still to be made, and why: read from their folders alone, anew at each call."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from dataloaders.communities import SPLITS
from engine.methods import GROUPS, Method
from util import InputError, read_json

DONE, INTERRUPTED, MISSING, AGAIN = "done", "interrupted", "missing", "made again"


@dataclass(frozen=True)
class Run:
    """One seed of a method on a community.

    command: of its process, without --overwrite and --resume_model. settings: {flag: value}, as its args.json has
    them. captions: the --caption_source that it reads, None for none. reads_images: whether it opens the images.
    dropped: flags of the command line that have no effect on this method, which the command leaves out.
    """

    community: str
    method: Method
    seed: int
    folder: Path
    command: tuple
    settings: dict
    captions: str | None
    reads_images: bool
    dropped: tuple = ()

    @property
    def given(self):
        """The names of the flags that stand in the command."""
        return {part.removeprefix("--") for part in self.command if str(part).startswith("--")}

    @property
    def name(self):
        return f"{self.community} {self.method.name} seed {self.seed}"


@dataclass(frozen=True)
class State:
    """kind: DONE, INTERRUPTED, MISSING or AGAIN; why: for AGAIN what differs, for DONE what is remarkable.

    other_code: of a finished run that stays although the code is another one, what its record says of its own.
    """

    kind: str
    why: str = ""
    other_code: dict | None = None

    def __str__(self):
        return f"{self.kind}: {self.why}" if self.why else self.kind


class Plan:
    """What the runs' records are compared with. data: {community: data_version of its splits}.

    remake_changed: whether finished runs of other code are made again.
    """

    def __init__(self, data, remake_changed=False):
        from engine.run_record import code_version

        self.data, self.remake_changed = data, remake_changed
        self.code = {group: code_version(sources_of(group))["version"] for group in GROUPS}

    def state(self, run):
        """The State of a run, from its folder."""
        finished = (run.folder / "metrics.json").is_file()
        if not finished and not last_checkpoint(run).is_file():
            return State(MISSING)
        try:
            args, record = read_json(run.folder / "args.json"), read_json(run.folder / "run.json")
            reasons = [*changed_flags(run, args), *self._changed_data(run, record)]
            other_code = record["code"] if record["code"]["version"] != self.code[run.method.group] else None
        except InputError as error:
            return State(AGAIN, str(error))
        except (KeyError, TypeError, AttributeError):
            return State(AGAIN, f"{run.folder / 'run.json'} does not say by what code and data it was made")
        if other_code and (self.remake_changed or not finished):
            reasons.append("the code has changed")
        if not reasons:
            reasons = why_not_usable(run) if finished else why_not_resumable(run)
        if reasons:
            return State(AGAIN, "; ".join(reasons))
        if not finished:
            return State(INTERRUPTED)
        return State(DONE, "by another version of the code" if other_code else "", other_code)

    def _changed_data(self, run, record):
        current = self.data[run.community]
        for split in SPLITS if run.method.trained else record["data"]:
            old, new = record["data"].get(split), current.get(split)
            if old is None or new is None:
                yield f"{split}.csv is {'new' if old is None else 'gone'}"
            elif old["csv"] != new["csv"]:
                yield f"{split}.csv has changed"
            elif run.reads_images and old["images"] != new["images"]:
                yield f"images of {split} have changed"


def sources_of(group):
    """What a result of this group's methods depends on: paths in the repository."""
    from engine.run_record import REFERENCE_SOURCES, SOURCES

    return REFERENCE_SOURCES if group == "reference" else SOURCES


def changed_flags(run, args):
    """Yields what differs between the flags of a run that was made and those of its command."""
    from engine.arguments import BY_THE_TOWER, NOT_CHECKED_ON_RESUME, build_parser

    default = build_parser().get_default  # for a flag which is newer than the run
    unchecked = NOT_CHECKED_ON_RESUME | (BY_THE_TOWER - run.given)
    for name, value in run.settings.items():
        old = args.get(name, default(name))
        if name not in unchecked and old != value:
            yield f"--{name} was {old}, is {value}"


def why_not_usable(run):
    """[why no table can be made of a finished run's records], empty where one can."""
    from scripts.tables.run_tree import read_run

    try:
        read_run(run.folder, run.method, run.seed)
    except InputError as error:
        return [str(error)]
    return []


def why_not_resumable(run):
    """[why the run's checkpoint_last.pt cannot be gone on with by one process], empty where it can."""
    from engine.checkpoint import check_resumable
    from modules.backbones.weights_file import load_tensors

    path = last_checkpoint(run)
    try:
        state = load_tensors(path, mmap=True)  # the tensors are not read
    except (InputError, OSError) as error:
        return [f"{path} cannot be read: {error}"]
    try:
        check_resumable(path, state, Namespace(**run.settings), run.given | {"fusion_data"})
    except InputError as error:
        return [str(error)]
    except (LookupError, TypeError, AttributeError):
        return [f"{path} is no checkpoint of this program"]
    return []


def last_checkpoint(run):
    return run.folder / "checkpoint_last.pt"


def full_command(run, state):
    """The run's command, with what its state asks for."""
    if state.kind == INTERRUPTED:
        return (*run.command, "--resume_model", str(last_checkpoint(run)))
    return (*run.command, "--overwrite")
