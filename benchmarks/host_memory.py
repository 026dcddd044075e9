"""Times a convolutional image tower on the CPU before and after `keep_freed_memory`, as it is in every run there.

`python -m benchmarks.host_memory`: batches of random images through timm's `tf_efficientnet_lite0`, random weights
(requirements-pair.txt), without gradients and with them.
"""

import time

import torch

from benchmarks.machine import Figure, describe, peak_memory, show
from util import Parser, program


def seconds(network, pixels, backward):
    """The least of three passes."""
    found = []
    for _ in range(3):
        started = time.perf_counter()
        with torch.set_grad_enabled(backward):
            out = network(pixels)
            if backward:
                out.sum().backward()
        found.append(time.perf_counter() - started)
    return min(found)


def measure(options):
    """The benchmark's Figures."""
    from engine.host_memory import keep_freed_memory
    from modules.backbones.timm_tower import make_trunk

    torch.manual_seed(0)
    network = make_trunk("tf_efficientnet_lite0").eval()
    pixels = torch.randn(options.batch_size, 3, 224, 224)
    before = [seconds(network, pixels, backward) for backward in (False, True)]
    yield Figure("peak memory before", peak_memory(torch.device("cpu")))
    if not keep_freed_memory():
        yield Figure("keep_freed_memory", "this C library has no mallopt: nothing changes")
        return
    after = [seconds(network, pixels, backward) for backward in (False, True)]
    for name, kept, fresh in zip(("forward", "forward and backward"), after, before, strict=True):
        yield Figure(
            f"{name}, {options.batch_size} images",
            f"{kept:.2f} s with kept memory",
            f"{fresh:.2f} s with fresh memory",
            f"{fresh / kept:.2f} times as fast",
        )
    yield Figure("peak memory after", peak_memory(torch.device("cpu")))


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(argv)
    show(describe("cpu"), list(measure(options)), options.json)


if __name__ == "__main__":
    main()
