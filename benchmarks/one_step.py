"""One row of a table: a joint training step of IEF on a CLIP of a published size, and its share of the machine's rate.

    python -m benchmarks.one_step [--model ViT-B/32] [--precision bf16] [--batch_size 512] [--compile]
    python -m benchmarks.one_step --batch_size 2048 --memory_batch 128

Texts are as long as those of real memes (benchmarks/train_step.py), weights and pixels are random. The share is the
model's arithmetic in a second over torch.mm's in the same precision: what --memory_batch computes twice counts once.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import train_step
from benchmarks.machine import Figure, describe, options_of, peak_mib, reset_peak, seconds_of, show, synchroniser
from benchmarks.train_step import LENGTHS, PRECISIONS, make_batch, make_model, make_step, matrix_rate
from engine import distributed
from engine.compiled import compile_towers
from modules.backbones.openai import ClipSizes
from util import Parser, program

VIT_L_14 = ClipSizes(
    embed_dim=768,
    image_size=224,
    patch_size=14,
    vision_width=1024,
    vision_layers=24,
    text_width=768,
    text_layers=12,
)
COUNTED_AT_ONCE = 64  # records whose arithmetic is counted in one step: a large batch may need --memory_batch


def sizes_of(name):
    return {"ViT-B/32": train_step.VIT_B_32, "ViT-L/14": VIT_L_14}[name]


def arithmetic(step, batch):
    """FLOP of a step: the sum over parts of the batch. What grows with its square, the losses, is next to nothing."""
    with FlopCounterMode(display=False) as counter:
        for start in range(0, len(batch["meme"]), COUNTED_AT_ONCE):
            step({name: tensor[start : start + COUNTED_AT_ONCE] for name, tensor in batch.items()})
    return counter.get_total_flops()


def measure(options):
    """The one Figure."""
    torch.manual_seed(0)
    device = distributed.setup(options.device)
    sizes = sizes_of(options.model)
    args, model = make_model(["--precision", options.precision], sizes)
    model.to(device).train()
    step = make_step(args, model, device)
    batch = make_batch(sizes, options.batch_size, options.lengths, 1, device)
    flop = arithmetic(step, batch)
    name = f"{options.model}, {options.precision}, batch {options.batch_size}"
    if options.memory_batch:
        name += f", --memory_batch {options.memory_batch}"
    if options.compile:
        name += f", {compile_towers(model, device)}"
    reset_peak(device)
    seconds = seconds_of(lambda: step(batch, options.memory_batch), options.repeats, synchroniser(device))
    peak, rate = peak_mib(device), matrix_rate(model, device)
    yield Figure(
        name,
        f"{options.batch_size / seconds:,.1f} records/s ({seconds:.3f} s a step), peak memory {peak:,.0f} MiB",
        f"torch.mm {rate / 1e12:,.2f} TFLOP/s",
        f"{flop / seconds / rate:.1%}",
    )


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("ViT-B/32", "ViT-L/14"), default="ViT-B/32")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--memory_batch", type=int, metavar="N", help="steps in pieces of N")
    parser.add_argument("--compile", action="store_true", help="the towers through torch.compile")
    parser.add_argument("--lengths", choices=LENGTHS, default="imgflip", help="whose texts' lengths the texts have")
    parser.add_argument("--repeats", type=int, default=5)
    options = options_of(parser, argv)
    show(describe(options.device), list(measure(options)), options.json)


if __name__ == "__main__":
    main()
