"""How time and memory of scoring and ranking N queries x N memes grow with N, from random cached features.

    python -m benchmarks.growth [--sizes 1000 2000 4000 8000 16000] [--words 32] [--plot docs/growth.png]

Each N is a process of its own, with the scoring of `benchmarks.full_size` and towers so narrow that they take little
memory. Seconds are those on the processor (of all threads), which other programs stretch least; on a GPU those that
pass. The arithmetic grows with N x N; the memory should not. Beside it: what the three score matrices would take.
"""

import dataclasses
import importlib.util
from pathlib import Path

import torch

from benchmarks.full_size import score_and_rank
from benchmarks.machine import Figure, describe, in_processes, options_of, peak_memory_mib, show
from benchmarks.train_step import VIT_B_32
from util import InputError, Parser, program, replaced_atomically

NARROW = dataclasses.replace(VIT_B_32, vision_width=64, vision_layers=1, text_width=64, text_layers=1)


def time_and_memory(options):
    """(seconds, peak memory in MiB) of a process."""
    found = score_and_rank(options, NARROW)
    return found.processor if options.device == "cpu" else found.ranking, peak_memory_mib()


def matrices_mib(size):
    return 3 * 4 * size**2 / 2**20


def figures(sizes, words, found):
    """A Figure for each size: seconds and memory, and how much more than of the size before."""
    before = None
    for size, (seconds, memory) in zip(sizes, found, strict=True):
        ratio = (
            f"time {seconds / before[0]:.2f}, memory {memory / before[1]:.2f} times the one before" if before else ""
        )
        yield Figure(
            f"{size:,} x {size:,}, {words} words",
            f"{seconds:.2f} s, {memory:,.0f} MiB",
            f"the three matrices alone {matrices_mib(size):,.0f} MiB",
            ratio,
        )
        before = seconds, memory


def plot(path, sizes, found, heading, on_cpu):
    """Two panels, both axes logarithmic: seconds with a line that grows as N x N, and memory with the matrices'."""
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(9, 3.8), layout="constrained")
    picture.suptitle(heading, fontsize=9)
    seconds, memory = zip(*found, strict=True)
    quadratic = [seconds[-1] * (size / sizes[-1]) ** 2 for size in sizes]
    for axis, title, values, name, line in (
        (picture.add_subplot(121), "seconds on the processor" if on_cpu else "seconds", seconds, "as N x N", quadratic),
        (picture.add_subplot(122), "peak memory, MiB", memory, "three matrices alone", list(map(matrices_mib, sizes))),
    ):
        axis.loglog(sizes, values, "o-", label="measured")
        axis.loglog(sizes, line, "--", color="grey", label=name)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        axis.minorticks_off()
        axis.set_xlabel("N queries x N memes")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    with replaced_atomically(path) as temporary:
        picture.savefig(temporary, format="png", dpi=100)


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000, 8000, 16000], metavar="N")
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves there, as PNG")
    options = options_of(parser, argv)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib: pip install -r requirements-data.txt")
    found = []
    for size in options.sizes:
        options.queries = options.memes = size
        found += in_processes(time_and_memory, 1, torch.get_num_threads(), options)
    show(describe(options.device), list(figures(options.sizes, options.words, found)), options.json)
    if options.plot:
        plot(options.plot, options.sizes, found, describe(options.device), options.device == "cpu")


if __name__ == "__main__":
    main()
