"""What every benchmark measures in its own run, and how it tells it: matrix-product rate, peak memory, lines, JSON."""

import dataclasses
import os
import socket
import time
from pathlib import Path

import torch
import torch.multiprocessing

from engine.run_record import host_memory_mib
from util import write_json

ROWS = 2048  # of the square matrices whose product gives the rate of a CPU; a GPU's have four times as many


@dataclasses.dataclass
class Figure:
    """What was measured, what stands beside it from the same run, and the ratio of the two."""

    what: str
    figure: str
    beside: str = ""
    ratio: str = ""


def options_of(parser, argv):
    """What a benchmark is called with: its own flags, and the two that most have, `--device` and `--json`."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    return parser.parse_args(argv)


def show(heading, figures, json_file=None):
    """Print the figures; with `json_file`, also write them there."""
    print(heading)
    for each in figures:
        beside = f"; {each.beside}" if each.beside else ""
        ratio = f"; ratio: {each.ratio}" if each.ratio else ""
        print(f"{each.what}: {each.figure}{beside}{ratio}")
    if json_file is not None:
        write_json(json_file, {"heading": heading, "figures": [dataclasses.asdict(each) for each in figures]})


def seconds_of(function, repeats, synchronise=lambda: None):
    """The median wall time of `function()` over `repeats` calls, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        synchronise()
        started = time.perf_counter()
        function()
        synchronise()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def in_processes(function, number, threads, *arguments):
    """What `function(*arguments)` returns in each of so many new processes, which find each other as torchrun's do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(_enter, (place, threads, function, arguments, results), nprocs=number)
    return [results.get() for _ in range(number)]


def _enter(rank, place, threads, function, arguments, results):
    os.environ.update(place | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    torch.set_num_threads(threads)
    results.put(function(*arguments))


def gemm_rate(dtype=torch.float32, device="cpu", repeats=5):
    """FLOP/s of torch.mm on square matrices: what this machine gives a matrix product."""
    size = (4 if torch.device(device).type == "cuda" else 1) * ROWS
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: torch.mm(a, b), repeats, synchroniser(device))


def synchroniser(device):
    return torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None


def peak_memory_mib():
    """Peak resident memory of this process, nan where the system does not say it."""
    return host_memory_mib() or float("nan")


def reset_peak(device):
    """Forget the peak memory so far, for `peak_mib`: of a GPU, or of this process on Linux."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device):
    """Peak memory since `reset_peak`: of a GPU, else of this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_memory_mib()


def peak_memory(device):
    """Peak memory as text: the device's, where it is a GPU, and this process's."""
    host = f"{peak_memory_mib():,.0f} MiB"
    if torch.device(device).type != "cuda":
        return host
    return f"{torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MiB on the GPU, {host} of the host"


def describe(device="cpu"):
    """One line: device, threads, torch."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"
