"""One joint training step of IEF on ViT-B/32, against the machine's matrix-product rate in the same run.

    python -m benchmarks.train_step [--batch_size 16] [--lengths imgflip] [--device cpu] [--precision fp32]
    python -m benchmarks.train_step --memory_batch 16 [--timed_batch 64] [--large_batch 256]
    python -m benchmarks.train_step --compile

Queries and captions are as long as those of real memes (LENGTHS). The arithmetic is counted by torch's FlopCounterMode
while the step runs, not estimated. The weights are random. Beside it: the same batches with the texts in one pass of
queries and one of captions, each padded to its longest. --memory_batch also measures steps in pieces: their time
against one pass, and their peak memory against that of a batch as large as a piece. With --reading_steps N, as many
steps are also taken on batches that loader processes read from JPEG files, and the share of the time is told that these
steps wait for data.
"""

import os
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import (
    Figure,
    describe,
    gemm_rate,
    options_of,
    peak_memory,
    peak_mib,
    reset_peak,
    seconds_of,
    show,
    synchroniser,
)
from engine import distributed
from modules import ief_model
from modules.backbones.openai import CLIP, ClipSizes
from modules.tf32 import tf32
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
PRECISIONS = ("fp32", "tf32", "bf16")  # TF32 is a GPU's
# Tokens of a text by CLIP's tokenizer, start and end included: the 0th, 5th, ... 100th percentile. imgflip: the titles
# of 5,863 memes of ImgFlip575K, and what `preprocess.imgflip` makes their captions. memecap: what 1,311 memes of
# MemeCap mean to say (`--query meaning`), and 1,326 captions of what is seen on them.
# Queries are cut at 32, captions at 77.
LENGTHS = {
    "imgflip": {
        "query": [2, 4, 4, 5, 5, 5, 6, 6, 6, 6, 7, 7, 8, 8, 9, 10, 11, 12, 14, 17, 32],
        "caption": [22, 30, 32, 34, 35, 36, 37, 38, 39, 39, 40, 41, 42, 43, 44, 46, 47, 49, 51, 54, 77],
    },
    "memecap": {
        "query": [6, 11, 13, 13, 14, 15, 16, 17, 17, 18, 19, 20, 20, 21, 22, 23, 24, 25, 27, 30, 32],
        "caption": [4, 8, 10, 10, 11, 11, 12, 13, 13, 14, 14, 15, 16, 16, 17, 18, 20, 22, 24, 28, 51],
    },
}
FILES, FILE_SIZE = 64, 480  # of the JPEGs that are read, each by many memes
NOT_COUNTED = 3  # steps at the start of reading: the loader's processes fill their queues


def draw_lengths(kind, number, lengths, draw):
    """Tokens of so many texts, drawn of a distribution by its percentiles: (number,) int."""
    percentiles = LENGTHS[lengths][kind]
    return np.interp(draw.uniform(0, 1, number), np.linspace(0, 1, len(percentiles)), percentiles).round().astype(int)


def make_batch(sizes, batch_size, lengths, captions, device, seed=0):
    """Random stills, queries and captions."""
    generator = torch.Generator().manual_seed(seed)
    draw = np.random.default_rng(seed)

    def texts(kind, *shape):
        """Ids and mask (*shape, L)."""
        long = torch.from_numpy(draw_lengths(kind, int(np.prod(shape)), lengths, draw)).view(*shape, 1)
        mask = torch.arange(int(long.max())) < long
        return torch.randint(1, 49000, mask.shape, generator=generator).to(device), mask.to(device)

    query_ids, query_mask = texts("query", batch_size)
    caption_ids, caption_mask = texts("caption", batch_size, captions)
    return {
        "query_ids": query_ids,
        "query_mask": query_mask,
        "topic": torch.arange(batch_size, device=device),
        "meme": torch.arange(batch_size, device=device),
        "pixels": torch.randint(
            0, 256, (batch_size, 3, sizes.image_size, sizes.image_size), dtype=torch.uint8, generator=generator
        ).to(device),
        "frame_mask": torch.ones(batch_size, 1, dtype=torch.bool, device=device),
        "emotions": torch.zeros(batch_size, 1, dtype=torch.long, device=device),
        "caption_ids": caption_ids,
        "caption_mask": caption_mask,
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


def make_step(args, model, device):
    """step(batch, size=None): what engine/train_loop.py does with one batch, with --memory_batch `size`."""
    from engine.memory_batch import TowersInPieces
    from engine.optimizer import make_optimizer, parameter_groups, set_learning_rate
    from engine.training_step import TrainingStep

    optimizer = make_optimizer(parameter_groups(model, args.lr, 1e-3, args.fusion_lr, args.weight_decay))
    memes = 2**20
    step_module = TrainingStep(model, args.loss_weights, torch.arange(2**12, device=device) * (memes + 1), memes)

    def step(batch, size=None):
        set_learning_rate(optimizer, 100, 1000, 0.1)
        towers = None if size is None else TowersInPieces(step_module, batch, size)
        loss, _ = step_module(batch if towers is None else batch | towers.features)
        with tf32(model.tower_tf32):
            loss.backward()
            if towers is not None:
                towers.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def matrix_rate(model, device):
    """FLOP/s of torch.mm in the precision of the model's towers."""
    with tf32(model.tower_tf32):
        return gemm_rate(model.tower_dtype or torch.float32, device)


def one_pass(number):
    """Within it a batch of so many records has its queries in one group and its captions in another."""
    groups = lambda lengths, cost: [np.arange(number), np.arange(number, len(lengths))]  # noqa: E731
    return mock.patch.object(ief_model, "groups_of_like_length", groups)


def side_by_side(ours, others, repeats, synchronise):
    """(seconds of `ours(number)`, of `others(number)`): medians over calls in turn, after one each not counted."""
    times = []
    for number in [0, *range(repeats)]:
        for function in (ours, others):
            synchronise()
            started = time.perf_counter()
            function(number)
            synchronise()
            times.append(time.perf_counter() - started)
    return [float(np.median(times[first::2])) for first in (2, 3)]


def in_groups(options, step, device):
    """The Figure of batches whose texts go through the tower in groups."""
    batches = [
        make_batch(VIT_B_32, options.batch_size, options.lengths, options.captions, device, seed)
        for seed in range(options.repeats)
    ]

    def whole(number):
        with one_pass(options.batch_size):
            step(batches[number])

    grouped, plain = side_by_side(lambda number: step(batches[number]), whole, options.repeats, synchroniser(device))
    texts = [batch[f"{kind}_mask"].flatten(0, -2) for batch in batches for kind in ("query", "caption")]
    real, padded = (sum(int(function(mask)) for mask in texts) for function in (torch.sum, torch.numel))
    return Figure(
        f"the same on {options.repeats} batches, texts in groups of like length",
        f"{grouped:.3f} s",
        f"one pass each of queries and captions {plain:.3f} s ({padded:,} tokens, of which {real:,} are no padding)",
        f"{plain / grouped:.2f} times as fast",
    )


def in_pieces(options, step, device):
    """The Figures of --memory_batch: yields its peak memory, then its time."""
    size, synchronise = options.memory_batch, synchroniser(device)
    peaks = []
    for number, pieces in ((size, None), (options.large_batch, size)):
        batch = make_batch(VIT_B_32, number, options.lengths, options.captions, device)
        reset_peak(device)
        step(batch, pieces)
        peaks.append(peak_mib(device))
    yield Figure(
        f"batch {options.large_batch} with --memory_batch {size}, peak memory",
        f"{peaks[1]:,.0f} MiB",
        f"batch {size} in one pass {peaks[0]:,.0f} MiB",
        f"{peaks[1] / peaks[0]:.2f}",
    )
    batch = make_batch(VIT_B_32, options.timed_batch, options.lengths, options.captions, device)
    pieces, whole = side_by_side(lambda _: step(batch, size), lambda _: step(batch), options.repeats, synchronise)
    yield Figure(
        f"batch {options.timed_batch} with --memory_batch {size}",
        f"{pieces:.3f} s",
        f"in one pass {whole:.3f} s",
        f"{pieces / whole:.2f} times its time",
    )


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

    def texts(kind):
        return ["cat " * (tokens - 2) for tokens in draw_lengths(kind, size * steps, options.lengths, draw)]

    memes = [
        Meme(str(i), f"{i % FILES}.jpg", (text,) * options.captions, ("happy",), "")
        for i, text in enumerate(texts("caption"))
    ]
    own = np.arange(len(memes))
    split = Split("train", list(map(str, own)), texts("query"), memes, own, own)
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
    device = distributed.setup(options.device)
    args, model = make_model(["--precision", options.precision])
    model.to(device).train()
    step = make_step(args, model, device)
    batch = make_batch(VIT_B_32, options.batch_size, options.lengths, options.captions, device)
    with FlopCounterMode(display=False) as counter:
        step(batch)
    flop = counter.get_total_flops()
    before = matrix_rate(model, device)
    seconds = seconds_of(lambda: step(batch), options.repeats, synchroniser(device))
    rate = max(before, matrix_rate(model, device))
    name = f"joint training step, ViT-B/32, {options.precision}, batch {options.batch_size}"
    yield Figure(
        name,
        f"{seconds:.3f} s, {options.batch_size / seconds:,.1f} records/s, {flop / 1e9:,.0f} GFLOP counted, "
        f"{flop / seconds / 1e9:,.1f} GFLOP/s",
        f"torch.mm {rate / 1e9:,.1f} GFLOP/s",
        f"{flop / seconds / rate:.1%}",
    )
    yield Figure(f"{name}, peak memory", peak_memory(device))
    yield in_groups(options, step, device)
    if options.memory_batch:
        yield from in_pieces(options, step, device)
    if options.compile:
        from engine.compiled import compile_towers

        line = compile_towers(model, device)
        compiled = seconds_of(lambda: step(batch), options.repeats, synchroniser(device))
        yield Figure(f"{name}, {line}", f"{compiled:.3f} s", f"before {seconds:.3f} s", f"{seconds / compiled:.2f}")
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
    parser.add_argument("--lengths", choices=LENGTHS, default="imgflip", help="whose texts' lengths the texts have")
    parser.add_argument("--captions", type=int, default=1)
    parser.add_argument("--memory_batch", type=int, metavar="N", help="also measure steps in pieces of N")
    parser.add_argument("--timed_batch", type=int, default=64, help="in pieces and in one pass")
    parser.add_argument("--large_batch", type=int, default=256, help="in pieces, for its peak memory")
    parser.add_argument("--compile", action="store_true", help="also measure the step with --compile")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--reading_steps", type=int, default=0, help="steps on batches that are read from files")
    parser.add_argument("--readers", type=int, default=max(1, os.cpu_count() - 1), help="loader processes of these")
    options = options_of(parser, argv)
    show(
        f"{describe(options.device)}; {options.captions} caption(s); tokens, from the shortest by twentieths of all: "
        + "; ".join(f"{kind} {' '.join(map(str, tokens))}" for kind, tokens in LENGTHS[options.lengths].items()),
        list(measure(options)),
        options.json,
    )


if __name__ == "__main__":
    main()
