"""How many images a second `preprocess.comparing.image_facts` hashes, beside a plain loop of Pillow and ImageHash.

    python -m benchmarks.image_hashing

draws memes into a temporary folder (photographs with shapes and text, no two the same). Both ways read each file,
take its SHA-256 and its perceptual hash; they take turns, and the best of three rounds counts. Measured as well:
the memory that more images take, and the time of `near_duplicate_pairs` on as many memes as the benchmark has.
"""

import hashlib
import io
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from benchmarks.image_loading import draw_photograph
from benchmarks.machine import peak_memory_mib
from preprocess.comparing.image_facts import image_facts
from preprocess.comparing.near_duplicates import bit_count, near_duplicate_pairs
from util import Parser, program, progress_bar

FULL_SIZE = 148_886  # records of the benchmark
QUALITY = 70
PER_PHOTOGRAPH = 20
ROUNDS = 3
LINKS = 10  # the memory is measured on each file under so many names
TEMPLATES = 2000
FLIPPED = 5 / 64  # of a template's bits in each meme: half of the pairs of one template are then within 8 bits or so


def draw_memes(folder, size, first):
    """Write PER_PHOTOGRAPH memes, the files <first>.jpg and following: one photograph, each time another part of it."""
    rng = np.random.default_rng(first)
    photograph = draw_photograph(size, size, rng)
    for number in range(first, first + PER_PHOTOGRAPH):
        pixels = np.roll(photograph, rng.integers(size, size=2), axis=(0, 1))
        for _ in range(6):
            (x, y), radius = rng.integers(size, size=2).tolist(), int(rng.integers(5, size // 5))
            cv2.circle(pixels, (x, y), radius, rng.integers(256, size=3).tolist(), -1, cv2.LINE_AA)
        for line, height in enumerate((0.1, 0.2, 0.9)):
            place, text = (size // 20, int(size * height)), f"MEME {number} LINE {line} {rng.integers(10**6)}"
            for colour, width in ((0, 6), (255, 2)):
                cv2.putText(pixels, text, place, cv2.FONT_HERSHEY_DUPLEX, size / 500, (colour,) * 3, width)
        cv2.imwrite(str(folder / f"{number}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


def plain_loop(paths):
    import imagehash
    from PIL import Image

    hashes = []
    for path in paths:
        data = path.read_bytes()
        hashlib.sha256(data).hexdigest()
        with Image.open(io.BytesIO(data)) as image:
            hashes.append(int(str(imagehash.phash(image)), 16))
    return np.array(hashes, np.uint64)


def timed(function):
    """(seconds, seconds of processor time, result)."""
    start, cpu_start = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - start, time.process_time() - cpu_start, result


def draw_community(count, rng):
    """Hashes and texts of `count` memes. Some templates have many; one meme in 20 is a copy, one in 20 has no text."""
    shares = 1 / np.arange(1, TEMPLATES + 1)
    hashes = rng.integers(2**64, size=TEMPLATES, dtype=np.uint64)[rng.choice(TEMPLATES, count, p=shares / shares.sum())]
    for bit in range(64):
        hashes ^= (rng.random(count) < FLIPPED).astype(np.uint64) << np.uint64(bit)
    words = np.array(["".join(rng.choice(list("etaoinshrdlu"), length)) for length in rng.integers(2, 9, 3000)])
    texts = [" ".join(words[rng.integers(len(words), size=length)]) for length in rng.integers(1, 25, count)]
    for copy in rng.integers(1, count, count // 20):
        hashes[copy], texts[copy] = hashes[copy - 1], texts[copy - 1] + "."
    for silent in rng.integers(count, size=count // 20):
        texts[silent] = ""
    return hashes, texts


def report_speed(folder, names):
    ways = {"image_facts, all cores": lambda: image_facts(folder, names, progress=False).phash}
    try:
        import imagehash
        from PIL import __version__

        ways[f"loop: Pillow {__version__}, ImageHash {imagehash.__version__}"] = partial(
            plain_loop, [folder / name for name in names]
        )
    except ImportError:
        print("Pillow or ImageHash is not installed: no plain loop")
    rounds = [{name: timed(way) for name, way in ways.items()} for _ in range(ROUNDS)]
    best = {name: tuple(min(each[name][i] for each in rounds) / len(names) for i in (0, 1)) for name in ways}
    for name, (seconds, cpu_seconds) in best.items():
        print(
            f"{name:44s}{1 / seconds:8.0f} images/s, {1000 * cpu_seconds:.2f} ms of processor time each; "
            f"{FULL_SIZE:,} images in {FULL_SIZE * seconds:.0f} s"
        )
    if len(ways) == 2:
        fast, plain = best.values()
        differing = bit_count(np.bitwise_xor(*(result for _, _, result in rounds[0].values())))
        print(
            f"ratio {plain[0] / fast[0]:.2f} (of processor time {plain[1] / fast[1]:.2f}); "
            f"{(differing <= 2).mean():.1%} of the hashes within 2 bits of ImageHash's"
        )


def report_memory(folder, names):
    for link in range(LINKS):
        (folder / f"link{link}").symlink_to(folder, target_is_directory=True)
    many = [f"link{link}/{name}" for link in range(LINKS) for name in names]
    peaks = [peak_memory_mib()]
    for count in (len(many) // 2, len(many)):
        image_facts(folder, many[:count], progress=False)
        peaks.append(peak_memory_mib())
        print(f"peak memory {peaks[-1]:.0f} MiB with {count:,} images")
    grown = (peaks[2] - peaks[1]) * 2**20 / (len(many) - len(many) // 2)
    print(f"{grown:.0f} bytes for each further image")


def report_pairs(count):
    hashes, texts = draw_community(count, np.random.default_rng(0))
    before = peak_memory_mib()
    seconds, cpu_seconds, pairs = timed(lambda: near_duplicate_pairs(hashes, texts))
    grown = peak_memory_mib() - before
    print(
        f"near_duplicate_pairs: {count:,} memes, {len(pairs):,} pairs, {seconds:.1f} s "
        f"({cpu_seconds:.1f} s of processor time), {grown:.0f} MiB more at the peak"
    )


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="how many files (default: %(default)s)")
    parser.add_argument("--size", type=int, default=500, help="their height and width (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=FULL_SIZE, help="memes to pair (default: %(default)s)")
    args = parser.parse_args(argv)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"{os.cpu_count()} cores, load {load} before; OpenCV {cv2.__version__}, NumPy {np.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        starts = range(0, args.images, PER_PHOTOGRAPH)
        # other processes draw, so that this one's peak memory is not the drawing's
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            drawn = pool.map(partial(draw_memes, folder, args.size), starts)
            list(progress_bar(drawn, total=len(starts), desc="drawing"))
        names = [f"{number}.jpg" for number in range(args.images)]
        kilobytes = sum((folder / name).stat().st_size for name in names) / len(names) / 1000
        print(f"{len(names)} JPEGs of {args.size} x {args.size}, {kilobytes:.0f} kB each")
        report_memory(folder, names)
        report_speed(folder, names)
    report_pairs(args.pairs)


if __name__ == "__main__":
    main()
