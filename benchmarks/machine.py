"""What every benchmark measures in its own run: the machine's matrix-product rate, and peak memory."""

import resource
import sys
import time

import torch


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


def gemm_rate(size=2048, repeats=5, dtype=torch.float32, device="cpu"):
    """FLOP/s of torch.mm on square matrices: what this machine gives a matrix product."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: torch.mm(a, b), repeats, synchroniser(device))


def synchroniser(device):
    return torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None


def peak_memory_mib():
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def describe(device="cpu"):
    """One line: device, threads, torch."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"
