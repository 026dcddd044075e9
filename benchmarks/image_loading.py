"""How many images a second one thread brings from JPEG files to tensors, beside decoding alone and Pillow.

    python -m benchmarks.image_loading

draws JPEGs like photographs into a temporary folder and prints, for each way, the best of three rounds over all of
them, its ratio to plain decoding in the same run, and the peak memory of the process.
"""

import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.machine import peak_memory_mib
from dataloaders.image_transform import RESIZE_MODES, load_image
from util import Parser, program

TARGET = 224  # CLIP ViT-B/32's input
QUALITY = 80
ROUNDS = 3


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


def images_per_second(load, paths):
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for path in paths:
            load(path)
        best = min(best, time.perf_counter() - start)
    return len(paths) / best


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200, help="how many files (default: %(default)s)")
    parser.add_argument("--size", type=int, default=500, help="their height and width (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn images (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    ways = {"decoding alone (OpenCV)": decode_with_opencv}
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
        rates = {name: images_per_second(load, paths) for name, load in ways.items()}
    decoding = next(iter(rates.values()))
    for name, rate in rates.items():
        print(f"{name:28s}{rate:8.0f} images/s{rate / decoding:8.2f} of decoding alone")
    print(f"peak memory {peak_memory_mib():.0f} MiB")


if __name__ == "__main__":
    main()
