"""How many images a second one thread brings from JPEG files to tensors, and a process to batches, decoding or not.

    python -m benchmarks.image_loading

draws JPEGs like photographs into a temporary folder. It prints, for each way to read them, the best of three rounds
over all of them and its ratio to plain decoding in the same run; then what a run's loader brings in its own process:
without --image_cache, and with it in the first run, which decodes and writes, and in a second one. At the end the peak
memory of the process. As in a run, the C library keeps freed memory. The time is the CPU's, so that other programs on
the machine do not count, and neither does waiting for a disk.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.machine import peak_memory_mib
from dataloaders import data_dataloaders
from dataloaders.image_transform import PAD_COLOUR, RESIZE_MODES, interpolate, load_image
from dataloaders.meme_dataset import SplitData
from dataloaders.meme_images import MemeImages
from dataloaders.meme_records import Meme, Split
from dataloaders.token_table import TokenTable
from engine.host_memory import keep_freed_memory
from modules.backbones.openai import clip_tokenizer
from util import Parser, program

TARGET = 224  # CLIP ViT-B/32's input
QUALITY = 80
ROUNDS = 3
BATCH = 128
EPOCHS = 5  # that a run's loader is timed for
FULL_SIZE = 148_886  # images of the benchmark
SETTINGS = {
    **{"size": TARGET, "resize_mode": "crop", "max_frames": 6, "slice_framepos": 2},
    **{"interpolation": "bicubic", "pad_colour": PAD_COLOUR},
}


def draw_photograph(height, width, rng):
    """RGB pixels (height, width, 3), uint8, with a photograph's statistics: a 1/f spectrum, little colour, edges."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1 / max(height, width)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, height, width))) / frequency, s=(height, width))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    pixels = 128 + 30 * noise[:1] + 10 * noise
    for _ in range(8):
        top, left = rng.integers(height), rng.integers(width)
        shade = rng.uniform(-90, 90, (3, 1, 1))
        pixels[:, top : top + height // 3, left : left + width // 3] += shade
    return np.ascontiguousarray(pixels.transpose(1, 2, 0).clip(0, 255).round().astype(np.uint8))


def decode_with_opencv(path):
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)


def decode_and_resize(path):
    """Nothing but the two: what `load_image` does besides is to judge the file, and to order the pixels."""
    pixels = torch.from_numpy(decode_with_opencv(path))[None].permute(0, 3, 1, 2)
    return interpolate(pixels, TARGET, TARGET, "bicubic")


def load_with_pillow(path):
    """CLIP's published transform: Resize(bicubic) and CenterCrop on a Pillow image."""
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("RGB")
    width, height = image.size
    shorter = min(image.size)
    width, height = int(TARGET * width / shorter), int(TARGET * height / shorter)
    left, top = round((width - TARGET) / 2), round((height - TARGET) / 2)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    image = image.crop((left, top, left + TARGET, top + TARGET))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def images_per_second(ways, paths):
    """{way: images a second}: the best of rounds in which all ways take their turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, load in ways.items():
            start = time.process_time()
            for path in paths:
                load(path)
            best[name] = min(best[name], time.process_time() - start)
    return {name: len(paths) / seconds for name, seconds in best.items()}


def run_of(folder, names, cache):
    """A run's images a second in its check before training, and in its loader after it."""
    args = argparse.Namespace(num_thread_reader=0, device="cpu")
    own = np.arange(len(names))
    memes = [Meme(name, name, (), (), "") for name in names]
    split = Split("test", ["t"], ["cat"], memes, np.zeros_like(own), own)
    start = time.process_time()
    images = MemeImages(folder, SETTINGS, cache)
    assert not images.check(names, progress=False)
    checked = time.process_time() - start
    data = SplitData(split, TokenTable(["cat"], clip_tokenizer(), 32), None, None, [[0]] * len(names), images)
    batches = [list(range(start, min(start + BATCH, len(names)))) for start in range(0, len(names), BATCH)]
    start = time.process_time()
    for batch in data_dataloaders.meme_loader(args, data, batches * EPOCHS, False):
        assert batch["pixels"].is_contiguous()
    return len(names) / checked, EPOCHS * len(names) / (time.process_time() - start)


def show_loaders(folder, paths):
    """Print what a run's loader brings without the store, in the first run with it, and in a second one."""
    names = [path.name for path in paths]
    with tempfile.TemporaryDirectory() as cache:
        (_, uncached), (written, first), (found, second) = (
            run_of(folder, names, where) for where in (None, cache, cache)
        )
    print(f"a run's loader in one process, batches of {BATCH}, by CPU time:")
    print(f"{'without --image_cache':28s}{uncached:8.0f} images/s")
    print(f"{'with it, first run':28s}{first:8.0f} images/s{first / uncached:8.1f} times as many, once it is written, "
          f"at {written:.0f} images/s")  # fmt: skip
    print(f"{'with it, second run':28s}{second:8.0f} images/s{second / uncached:8.1f} times as many; the check before "
          f"it at {found:.0f} images/s: {FULL_SIZE / found:.1f} s for {FULL_SIZE:,}")  # fmt: skip


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200, help="how many files (default: %(default)s)")
    parser.add_argument("--size", type=int, default=500, help="their height and width (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn images (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    ways = {"decoding alone (OpenCV)": decode_with_opencv, "and torch's resize alone": decode_and_resize}
    for mode in RESIZE_MODES:
        ways[f"load_image, {mode}"] = lambda path, mode=mode: load_image(path, TARGET, mode)
    try:
        import PIL

        ways[f"Pillow {PIL.__version__}, crop"] = load_with_pillow
    except ImportError:
        print("Pillow is not installed: not timed")
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(args.seed)
        paths = [Path(folder, f"{number}.jpg") for number in range(args.images)]
        for path in paths:
            photograph = cv2.cvtColor(draw_photograph(args.size, args.size, rng), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(path), photograph, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1000
        print(
            f"{args.images} JPEGs of {args.size} x {args.size}, quality {QUALITY}, {kilobytes:.0f} kB each, "
            f"to {TARGET} x {TARGET}; one thread, torch {torch.__version__}, OpenCV {cv2.__version__}"
        )
        rates = images_per_second(ways, paths)
        decoding = next(iter(rates.values()))
        for name, rate in rates.items():
            print(f"{name:28s}{rate:8.0f} images/s{rate / decoding:8.2f} of decoding alone")
        show_loaders(folder, paths)
    print(f"peak memory {peak_memory_mib():.0f} MiB")


if __name__ == "__main__":
    main()
