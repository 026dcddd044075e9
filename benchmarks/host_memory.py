"""Times a convolutional image tower on the CPU: its memory kept or fresh, its weights channels last or first.

`python -m benchmarks.host_memory`: batches of random images through timm's `tf_efficientnet_lite0`, random weights
(requirements-pair.txt), without gradients and with them. A run has its memory kept (`keep_freed_memory`) and the
channels last (`TimmTower`).
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
    from modules.backbones.timm_tower import TimmTower, make_trunk

    torch.manual_seed(0)
    plain = make_trunk("tf_efficientnet_lite0").eval()
    network = TimmTower(make_trunk("tf_efficientnet_lite0"), False).trunk.eval()
    pixels = torch.randn(options.batch_size, 3, 224, 224)
    before = [seconds(network, pixels, backward) for backward in (False, True)]
    yield Figure("peak memory before", peak_memory(torch.device("cpu")))
    if not keep_freed_memory():
        yield Figure("keep_freed_memory", "this C library has no mallopt: nothing changes")
        return
    after = [seconds(network, pixels, backward) for backward in (False, True)]
    first = [seconds(plain, pixels, backward) for backward in (False, True)]
    names = [f"{name}, {options.batch_size} images" for name in ("forward", "forward and backward")]
    for ours, theirs, others in (("kept memory", "fresh memory", before), ("channels last", "channels first", first)):
        for name, own, other in zip(names, after, others, strict=True):
            yield Figure(
                name, f"{own:.2f} s with {ours}", f"{other:.2f} s with {theirs}", f"{other / own:.2f} times as fast"
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
