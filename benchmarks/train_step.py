"""One joint training step of IEF on ViT-B/32, against the machine's matrix-product rate in the same run.

    python -m benchmarks.train_step [--batch_size 16] [--words 32] [--captions 1] [--device cpu] [--precision fp32]

The arithmetic is counted by torch's FlopCounterMode while the step runs, not estimated. The weights are random.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe, gemm_rate, peak_memory_mib, seconds_of, synchroniser
from modules.backbones.openai import CLIP, ClipSizes

VIT_B_32 = ClipSizes(
    embed_dim=512,
    image_size=224,
    patch_size=32,
    vision_width=768,
    vision_layers=12,
    text_width=512,
    text_layers=12,
)


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
    }


def make_model(flags):
    """IEF with its defaults on random weights of ViT-B/32, read from a file as any weights are."""
    from dataloaders.image_transform import normalise
    from engine.arguments import parse_arguments
    from engine.build_model import build_model
    from modules.tokenizer import Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pt"
        torch.save(CLIP(VIT_B_32).state_dict(), path)
        args, _ = parse_arguments(["--do_train", "--output_dir", folder, "--pretrained_clip_name", str(path), *flags])
        model, _, _ = build_model(args, ["happy", "sad"], Tokenizer(), normalise)
    return args, model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--words", type=int, default=32, help="tokens of each query and caption")
    parser.add_argument("--captions", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()

    from engine.optimizer import make_optimizer, parameter_groups, set_learning_rate
    from engine.training_step import TrainingStep

    torch.manual_seed(0)
    device = torch.device(options.device)
    args, model = make_model([])
    model.to(device).train()
    model.tower_dtype = torch.bfloat16 if options.precision == "bf16" else None
    optimizer = make_optimizer(parameter_groups(model, args.lr, 1e-3, args.fusion_lr, args.weight_decay))
    step_module = TrainingStep(
        model,
        args.loss_weights,
        torch.arange(options.batch_size, device=device) * (options.batch_size + 1),
        options.batch_size,
    )
    batch = make_batch(VIT_B_32, options.batch_size, options.words, options.captions, device)

    def step():
        set_learning_rate(optimizer, 100, 1000, 0.1)
        loss, _ = step_module(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with FlopCounterMode(display=False) as counter:
        step()
    flop = counter.get_total_flops()
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    before = gemm_rate(dtype=dtype, device=device)
    seconds = seconds_of(step, options.repeats, synchroniser(device))
    rate = max(before, gemm_rate(dtype=dtype, device=device))
    print(
        f"{describe(device)}, {options.precision}, batch {options.batch_size}, {options.words} words, "
        f"{options.captions} caption(s)"
    )
    print(f"joint training step: {seconds:.3f} s, {options.batch_size / seconds:.2f} records/s")
    print(f"arithmetic counted: {flop / 1e9:.0f} GFLOP, {flop / seconds / 1e9:.1f} GFLOP/s")
    print(f"torch.mm in the same run: {rate / 1e9:.1f} GFLOP/s")
    print(f"ratio: {flop / seconds / rate:.1%}")
    print(f"peak memory: {peak_memory_mib():.0f} MiB")


if __name__ == "__main__":
    main()
