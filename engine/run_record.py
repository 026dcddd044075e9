"""What a run leaves in --output_dir beside the checkpoints: args.json, run.json, log.txt, the curves, metrics.json."""

import argparse
import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from dataloaders.data_dataloaders import features_folder
from dataloaders.data_version import data_version
from dataloaders.meme_records import Split
from evaluation.query_record import FILE_NAME as QUERY_RECORD
from util import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (  # what a result depends on
    *("main_task_retrieval.py", "metrics.py", "util.py"),
    *("dataloaders", "engine", "evaluation", "modules"),
)
REFERENCE_SOURCES = (*SOURCES, "scripts/reference.py", "scripts/references")
METHODS_TABLE = "engine/methods.py"  # no part of the code's version: a run's own flags are in its args.json
TEST_RUN = "test.trec"
WRITTEN = (
    "args.json",
    "run.json",
    "log.txt",
    "losses.jsonl",
    "metrics.jsonl",
    QUERY_RECORD,
    "metrics.json",
    "checkpoint_last.pt",
    "checkpoint_best.pt",
    "qi.npy",
    "qc.npy",
    "fused.npy",
    "relevance.npz",
    TEST_RUN,
    f"{TEST_RUN}.json",
    "report.html",  # of scripts.report
)


def written(args: argparse.Namespace) -> list[str]:
    """The names of the run's files that are there."""
    return [name for name in WRITTEN if (Path(args.output_dir) / name).exists()]


def write_args(args: argparse.Namespace) -> None:
    write_json(Path(args.output_dir) / "args.json", vars(args))


def write_run(
    args: argparse.Namespace,
    csv_paths: Mapping[str, str | os.PathLike[str]],
    splits: Mapping[str, Split],
    sources: Iterable[str] = SOURCES,
) -> None:
    """run.json: the command, and the versions of the code and of the data. csv_paths, splits: {split: ...}."""
    record = {
        "command": command_line(),
        "code": code_version(sources),
        "data": data_version(csv_paths, splits, features_folder(args)),
    }
    write_json(Path(args.output_dir) / "run.json", record)


def code_version(sources: Iterable[str] = SOURCES) -> dict[str, str | None]:
    """{"version": SHA-256 of the sources that a result depends on, "commit": git's, or None outside a repository}.

    What cannot change a result is left out: comments, docstrings, the layout of lines, and METHODS_TABLE. In records of
    earlier versions of this repository it is a checksum of the files' bytes, which is never the same as one of these.
    """
    digest = hashlib.sha256()
    for source in sources:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = file.relative_to(ROOT).as_posix()
            if name != METHODS_TABLE:
                digest.update(f"{name}\0{_syntax_checksum(file.read_bytes())}\0".encode())
    commit = git("rev-parse", "--verify", "HEAD")
    return {"version": digest.hexdigest(), "commit": commit and commit.strip()}


def git(*words: str) -> str | None:
    """What git prints about this repository; None where there is no git, no repository, or git knows no answer."""
    try:
        answer = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    except OSError:
        return None
    return answer.stdout if answer.returncode == 0 else None


@functools.cache
def _syntax_checksum(source: bytes) -> str:
    """SHA-256 of the syntax tree of a file without its docstrings; of its bytes where they are no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return hashlib.sha256(source).hexdigest()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            del node.body[0]
    return hashlib.sha256(ascii(_plain(tree)).encode()).hexdigest()


def _plain(node: Any) -> Any:
    """A syntax tree as tuples and lists. Empty fields are left out: each version of Python has others."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
    return (type(node).__name__, *((name, _plain(value)) for name, value in fields))


def write_lines(args: argparse.Namespace, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
    """A .jsonl file: metrics.jsonl has a line per evaluation, losses.jsonl one per step that was displayed."""
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    write_text(Path(args.output_dir) / name, text)


def command_line() -> str:
    module = getattr(sys.modules["__main__"], "__spec__", None)  # of `python -m scripts.reference`
    program = ["-m", module.name.removesuffix(".__main__")] if module is not None else sys.argv[:1]
    return shlex.join([Path(sys.executable).name, *program, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose results may differ between versions."""
    packages = ("torch", "torchvision", "numpy", "opencv-python-headless", "opencv-python", "transformers")
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def peak_memory_mb(device: torch.device) -> dict[str, int]:
    """Peak memory of this process in MiB: on the device where it is a GPU, and of the host where the system says it."""
    own = host_memory_mib()
    peak = {"host": round(own)} if own is not None else {}
    if device.type == "cuda":
        peak["device"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak


def host_memory_mib() -> float | None:
    """Peak resident memory of this process in MiB; None on Windows, which has no such call."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
