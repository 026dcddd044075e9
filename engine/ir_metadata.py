"""What stands beside a TREC run: by which method, command, code, data and machine it was made, in ir_metadata's fields.

https://www.ir-metadata.org has them as YAML, of which JSON is a part. `actor` and `research goal` are the owner's to
add.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from engine.run_record import code_version, command_line, versions
from evaluation.trec_runs import TAG
from util import write_json


def write_beside(
    run: str | os.PathLike[str],
    device: torch.device,
    retrieval: Sequence[Mapping[str, Any]],
    ties: str,
    data: Mapping[str, Any],
    origin: Mapping[str, Any] | None = None,
) -> None:
    """<run>.json. retrieval: the method's steps; ties: how equal scores are ordered; data: `test collection` and, where
    it is known, `training data`; origin: what run.json says of the command and the code, if not this process.
    """
    origin = origin or {"command": command_line(), "code": code_version()}
    record = {
        "platform": _platform(device),
        "implementation": {
            "executable": {"cmd": origin["command"]},
            "source": {"lang": ["python"], **origin["code"]},
        },
        "method": {"automatic": True, "score ties": ties, "retrieval": list(retrieval)},
        "data": data,
    }
    write_json(f"{os.fspath(run)}.json", record)


def steps(args: argparse.Namespace, **more: Any) -> list[dict[str, Any]]:
    """The steps of IEF with these flags: QI, QC, and their sum where there are both. more: of the last step."""
    image = args.sim_header if args.sim_header == "tightTransf" else args.interaction
    parts = [{"name": "QI", "method": image}, {"name": "QC", "method": args.text_pool_type}]
    name = args.method or TAG
    if args.branches == "qi_qc":
        return [*parts, {"name": name, "interpolates": ["QI", "QC"], **more}]
    return [parts[args.branches == "qc"] | {"name": name, **more}]


def _platform(device: torch.device) -> dict[str, Any]:
    hardware: dict[str, Any] = {
        "cpu": {
            "model": _cpu_model(),
            "architecture": platform.machine(),
            "number of cores": os.cpu_count(),
        }
    }
    if (memory := _memory_bytes()) is not None:
        hardware["ram"] = _gigabytes(memory)
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        hardware["gpu"] = {"architecture": gpu.name, "ram": _gigabytes(gpu.total_memory)}
    libraries = [f"{name}=={version}" for name, version in versions().items()]
    return {
        "hardware": hardware,
        "operating system": {"kernel": f"{platform.system()} {platform.release()}", "distribution": _distribution()},
        "software": {"libraries": {"python": libraries}},
    }


def _gigabytes(number: int) -> str:
    return f"{round(number / 1e9)} GB"


def _cpu_model() -> str:
    """The CPU's name where the system says it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _memory_bytes() -> int | None:
    """The host's memory; None where the system does not say it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()
