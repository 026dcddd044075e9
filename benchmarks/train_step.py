"""One joint training step of IEF on ViT-B/32, against the machine's matrix-product rate in the same run.

    python -m benchmarks.train_step [--batch_size 16] [--words 32] [--captions 1] [--device cpu] [--precision fp32]

The arithmetic is counted by torch's FlopCounterMode while the step runs, not estimated. The weights are random. With
--reading_steps N, as many steps are also taken on batches that loader processes read from JPEG files, and the share of
the time is told that these steps wait for data.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import Figure, describe, gemm_rate, peak_memory, seconds_of, show, synchroniser
from modules.backbones.openai import CLIP, ClipSizes
from util import Parser, program

VIT_B_32 = ClipSizes(
    embed_dim=512,
    image_size=224,
    patch_size=32,
    vision_width=768,
    vision_layers=12,
    text_width=512,
    text_layers=12,
)
FILES, FILE_SIZE = 64, 480  # of the JPEGs that are read, each by many memes
NOT_COUNTED = 3  # steps at the start of reading: the loader's processes fill their queues


def make_batch(sizes, batch_size, words, captions, device):
    """Random stills, full-length queries and captions."""
    generator = torch.Generator().manual_seed(0)

    def ids(*shape):
        return torch.randint(1, 49000, shape, generator=generator).to(device)

    return {
        "query_ids": ids(batch_size, words),
        "query_mask": torch.ones(batch_size, words, dtype=torch.bool, device=device),
        "topic": torch.arange(batch_size, device=device),
        "meme": torch.arange(batch_size, device=device),
        "pixels": torch.randint(
            0, 256, (batch_size, 3, sizes.image_size, sizes.image_size), dtype=torch.uint8, generator=generator
        ).to(device),
        "frame_mask": torch.ones(batch_size, 1, dtype=torch.bool, device=device),
        "emotions": torch.zeros(batch_size, 1, dtype=torch.long, device=device),
        "caption_ids": ids(batch_size, captions, words),
        "caption_mask": torch.ones(batch_size, captions, words, dtype=torch.bool, device=device),
        "row_key": torch.arange(batch_size, device=device),
    }


EMOTIONS = {"none": 0, "unknown": 1, "happy": 2}


def make_model(flags, sizes=None):
    """IEF with its defaults on random weights of ViT-B/32 (or of other sizes), read from a file as any weights are."""
    from engine.arguments import parse_arguments
    from engine.build_model import build_model

    sizes = sizes or VIT_B_32
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pt"
        torch.save(CLIP(sizes).state_dict(), path)
        heads = [str(width // 64) for width in (sizes.vision_width, sizes.text_width)]
        own = ["--pretrained_clip_name", str(path), "--clip_activation", "quick_gelu", "--clip_heads", *heads]
        args, _ = parse_arguments(["--do_train", "--output_dir", folder, *own, *flags])
        model, _, _ = build_model(args, ["happy", "sad"])
    return args, model


def make_step(args, model, batch_size, device):
    """step(batch): what engine/train_loop.py does with one batch."""
    from engine.optimizer import make_optimizer, parameter_groups, set_learning_rate
    from engine.training_step import TrainingStep

    optimizer = make_optimizer(parameter_groups(model, args.lr, 1e-3, args.fusion_lr, args.weight_decay))
    keys = torch.arange(batch_size, device=device) * (batch_size + 1)
    step_module = TrainingStep(model, args.loss_weights, keys, batch_size)

    def step(batch):
        set_learning_rate(optimizer, 100, 1000, 0.1)
        loss, _ = step_module(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def reading_loader(args, folder, options):
    """The run's own loader over memes whose pictures are JPEG files in `folder`, for all the steps of the benchmark."""
    import cv2

    from benchmarks.image_loading import draw_photograph
    from dataloaders import data_dataloaders
    from dataloaders.batch_plan import BatchPlan
    from dataloaders.image_transform import PAD_COLOUR
    from dataloaders.meme_images import MemeImages
    from dataloaders.meme_records import Meme, Split
    from modules.backbones.openai import clip_tokenizer

    draw = np.random.default_rng(0)
    for number in range(FILES):
        cv2.imwrite(str(folder / f"{number}.jpg"), draw_photograph(FILE_SIZE, FILE_SIZE, draw))
    steps, size = options.reading_steps + NOT_COUNTED, options.batch_size
    text = "cat " * (options.words - 2)
    memes = [Meme(str(i), f"{i % FILES}.jpg", (text,) * options.captions, ("happy",), "") for i in range(size * steps)]
    own = np.arange(len(memes))
    split = Split("train", list(map(str, own)), [text] * len(memes), memes, own, own)
    images = MemeImages(
        folder,
        {
            "size": VIT_B_32.image_size,
            "resize_mode": args.resize,
            "max_frames": 1,
            "slice_framepos": 2,
            "interpolation": "bicubic",
            "pad_colour": PAD_COLOUR,
        },
    )
    args.num_thread_reader = options.readers
    data, _ = data_dataloaders.tokenise(args, split, clip_tokenizer(), EMOTIONS, images, True)
    plan = BatchPlan(len(memes), size)
    return data_dataloaders.train_loader(args, data, plan, 0, 0, steps, options.device == "cuda")


def waiting_share(loader, step, device):
    """(share of the steps' time that they wait for a batch, records a second)."""
    from evaluation.eval_loop import to_device

    waited = worked = records = 0
    synchronise, batches = synchroniser(device), iter(loader)
    for number in range(len(loader)):
        started = time.perf_counter()
        batch = next(batches)
        read = time.perf_counter()
        batch["topic"] = batch["meme"] = torch.arange(len(batch["meme"]))
        step(to_device(batch, device))
        synchronise()
        if number >= NOT_COUNTED:
            waited += read - started
            worked += time.perf_counter() - read
            records += len(batch["meme"])
    return waited / (waited + worked), records / (waited + worked)


def measure(options):
    """The benchmark's Figures."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    args, model = make_model([])
    model.to(device).train()
    model.tower_dtype = torch.bfloat16 if options.precision == "bf16" else None
    step = make_step(args, model, options.batch_size, device)
    batch = make_batch(VIT_B_32, options.batch_size, options.words, options.captions, device)
    with FlopCounterMode(display=False) as counter:
        step(batch)
    flop = counter.get_total_flops()
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    before = gemm_rate(dtype, device)
    seconds = seconds_of(lambda: step(batch), options.repeats, synchroniser(device))
    rate = max(before, gemm_rate(dtype, device))
    name = f"joint training step, ViT-B/32, {options.precision}, batch {options.batch_size}"
    yield Figure(
        name,
        f"{seconds:.3f} s, {options.batch_size / seconds:,.1f} records/s, {flop / 1e9:,.0f} GFLOP counted, "
        f"{flop / seconds / 1e9:,.1f} GFLOP/s",
        f"torch.mm {rate / 1e9:,.1f} GFLOP/s",
        f"{flop / seconds / rate:.1%}",
    )
    yield Figure(f"{name}, peak memory", peak_memory(device))
    if options.reading_steps:
        with tempfile.TemporaryDirectory() as folder:
            share, records = waiting_share(reading_loader(args, Path(folder), options), step, device)
        yield Figure(
            f"{name}, waiting for data",
            f"{share:.1%} of the time, {records:,.1f} records/s",
            f"JPEGs of {FILE_SIZE} x {FILE_SIZE} read by {options.readers} loader processes",
        )


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--words", type=int, default=32, help="tokens of each query and caption")
    parser.add_argument("--captions", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--reading_steps", type=int, default=0, help="steps on batches that are read from files")
    parser.add_argument("--readers", type=int, default=max(1, os.cpu_count() - 1), help="loader processes of these")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(argv)
    show(
        f"{describe(options.device)}; {options.words} words, {options.captions} caption(s)",
        list(measure(options)),
        options.json,
    )


if __name__ == "__main__":
    main()
