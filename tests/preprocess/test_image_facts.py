"""Hashes against the ImageHash package on Pillow's pixels; bad files; what a cache keeps through interruptions."""

import hashlib
import io
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image, ImageOps

import util
from benchmarks import image_hashing
from benchmarks.image_loading import draw_photograph
from dataloaders.image_transform import ImageError, read_frames
from preprocess.comparing import image_facts as module
from preprocess.comparing.image_facts import image_facts
from preprocess.comparing.near_duplicates import DEFAULT_HASH_THRESHOLD, bit_count, near_duplicate_pairs
from preprocess.comparing.perceptual_hash import phashes
from tests.conftest import ROOT
from util import InputError

SHAPES = [(64, 64), (100, 90), (500, 500), (363, 400), (300, 700), (31, 20), (40, 503), (4000, 60), (150, 1100)]


def draw_meme(height, width, seed):
    """A Pillow image: a photograph with text on it."""
    pixels = draw_photograph(height, width, np.random.default_rng(seed))
    for line in range(2):
        place, scale = (width // 10, height // 4 + line * height // 2), width / 250
        cv2.putText(pixels, f"MEME {seed} {line}", place, cv2.FONT_HERSHEY_DUPLEX, scale, (255,) * 3, 1 + width // 100)
    return Image.fromarray(pixels)


def with_holes(image):
    """The image with a transparent circle and a half transparent band."""
    alpha = np.full(image.size[::-1], 255, np.uint8)
    cv2.circle(alpha, (image.width // 2, image.height // 3), min(image.size) // 4, 0, -1)
    alpha[-image.height // 5 :] = 90
    image = image.copy()
    image.putalpha(Image.fromarray(alpha))
    return image


def save(path, image, format, **options):
    path.parent.mkdir(exist_ok=True)
    image.save(path, format, **options)


def save_all_kinds(folder, shape, seed):
    """Write one meme as a file of every kind."""
    image = draw_meme(*shape, seed)
    exif = Image.Exif()
    exif[0x112] = 1 + seed % 8
    more = [draw_meme(*shape, seed + 100 + i) for i in range(2)]
    name = f"{shape[0]}x{shape[1]}"
    save(folder / f"{name}.jpg", image, "JPEG", quality=80, exif=exif)
    save(folder / f"{name}-progressive.jpg", image, "JPEG", quality=95, progressive=True)
    save(folder / f"{name}-grey.jpg", image.convert("L"), "JPEG")
    save(folder / f"{name}-cmyk.jpg", image.convert("CMYK"), "JPEG", quality=95)
    save(folder / f"{name}.png", image, "PNG")
    save(folder / f"{name}-grey.png", image.convert("L"), "PNG")
    save(folder / f"{name}-holes.png", with_holes(image), "PNG", exif=exif)
    save(folder / f"{name}.bmp", image, "BMP")
    save(folder / f"{name}.webp", image, "WebP", quality=90)
    save(folder / f"{name}-holes.webp", with_holes(image), "WebP", lossless=True)
    save(folder / f"{name}.gif", image, "GIF")
    save(folder / f"{name}-moving.gif", image, "GIF", save_all=True, append_images=more, duration=50)
    save(folder / f"{name}-moving.webp", image, "WebP", save_all=True, append_images=more, lossless=True)
    save(folder / f"{name}-moving.png", image, "PNG", save_all=True, append_images=more)


def seen_by_pillow(path):
    """The first frame as shown on a white page."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode in ("RGB", "L", "CMYK"):
            return image.convert("RGB")
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")


def imagehash_of(image):
    return int(str(imagehash.phash(image)), 16)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    for seed, shape in enumerate(SHAPES):
        save_all_kinds(folder, shape, seed)
    names = sorted(path.name for path in folder.iterdir())
    return folder, names, image_facts(folder, names, progress=False)


def test_every_kind_is_hashed_as_imagehash_does(kinds):
    folder, names, facts = kinds
    assert facts.errors == {}
    expected = np.array([imagehash_of(seen_by_pillow(folder / name)) for name in names], np.uint64)
    bits = bit_count(facts.phash ^ expected)
    is_jpeg = np.array([name.endswith(".jpg") for name in names])
    assert bits[~is_jpeg].max() <= 2, dict(zip(names, bits.tolist(), strict=True))
    assert (bits[~is_jpeg] == 0).mean() > 0.9
    assert bits[is_jpeg].max() <= 4, dict(zip(names, bits.tolist(), strict=True))  # decoded smaller than they are
    assert bits[is_jpeg].mean() < 1
    # and the images are not all alike
    assert bit_count(expected[:, None] ^ expected).mean() > 20


def test_the_other_facts_are_pillows_and_hashlibs(kinds):
    folder, names, facts = kinds
    assert facts.paths == names
    for i, name in enumerate(names):
        with Image.open(folder / name) as file:
            width, height = ImageOps.exif_transpose(file).size
            expected = {"JPEG": "JPEG", "PNG": "PNG", "BMP": "BMP", "GIF": "GIF", "WEBP": "WebP"}[file.format]
            assert (facts.kind[i], facts.frames[i]) == (expected, getattr(file, "n_frames", 1)), name
        assert (facts.width[i], facts.height[i]) == (width, height), name
        assert facts.sha256[i] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert {*facts.frames.tolist()} == {1, 3}
    dtypes = [facts.phash.dtype, facts.width.dtype, facts.height.dtype, facts.frames.dtype]
    assert dtypes == [np.uint64, np.int32, np.int32, np.int32]


def test_the_transform_alone_is_imagehashs():
    """On 32 x 32 pixels nothing is resized, so that the bits are equal."""
    greys = np.random.default_rng(0).integers(256, size=(50, 32, 32), dtype=np.uint8)
    expected = [imagehash_of(Image.fromarray(grey)) for grey in greys]
    assert phashes(greys).tolist() == expected


def test_copies_are_found_and_other_images_are_not(tmp_path):
    copies = 4
    for number in range(12):
        image = draw_meme(400, 400 + number, number)
        save(tmp_path / f"{number:02d}-0.png", image, "PNG")
        save(tmp_path / f"{number:02d}-1.jpg", image, "JPEG", quality=30)
        save(tmp_path / f"{number:02d}-2.jpg", image.resize((200, 200)), "JPEG", quality=75)
        save(tmp_path / f"{number:02d}-3.webp", image.convert("L").convert("RGB"), "WebP", quality=50)
    facts = image_facts(tmp_path, sorted(os.listdir(tmp_path)), progress=False)
    expected = [[i, j] for i in range(12 * copies) for j in range(i + 1, i + copies - i % copies)]
    assert near_duplicate_pairs(facts.phash, ["so"] * len(facts.paths), DEFAULT_HASH_THRESHOLD).tolist() == expected


# --- bad files --------------------------------------------------------------------------------------------------


def damaged_files(folder):
    """Write whole, cut and overwritten files of every kind; their names."""
    rng = np.random.default_rng(0)
    save_all_kinds(folder / "whole", (60, 50), 3)
    for path in sorted((folder / "whole").iterdir()):
        data = path.read_bytes()
        for cut in (1, 20, len(data) // 2, len(data) - 1):
            (folder / f"cut-{cut}-{path.name}").write_bytes(data[:cut])
        for number in range(6):
            spoilt = bytearray(data)
            for place in rng.integers(len(data), size=3):
                spoilt[place] = rng.integers(256)
            (folder / f"spoilt-{number}-{path.name}").write_bytes(spoilt)
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no image at all")
    (folder / "folder.jpg").mkdir()
    (folder / "huge.bmp").write_bytes(b"BM" + bytes(12) + struct.pack("<Iii", 40, 20_000, 20_000) + bytes(200))
    return [*sorted(path.name for path in folder.iterdir() if path.name != "whole"), "missing.jpg"]


def test_bad_files_are_reported_as_the_loader_reports_them(tmp_path):
    names = damaged_files(tmp_path)
    whole = sorted(f"whole/{path.name}" for path in (tmp_path / "whole").iterdir())
    facts = image_facts(tmp_path, [*names, *whole], progress=False)
    for i, name in enumerate(facts.paths):
        try:
            read_frames(tmp_path / name)
        except ImageError as error:
            reason = facts.errors.pop(name)
            assert reason.split(";")[0] == str(error).split(";")[0]
            assert (facts.kind[i], facts.phash[i], facts.width[i], facts.frames[i]) == ("", 0, 0, 0)
        else:
            assert facts.kind[i], name
            assert facts.phash[i] != 0, name
    assert facts.errors == {}
    assert 50 < (facts.kind == "").sum() < len(names)
    assert (facts.kind[-len(whole) :] != "").all()
    huge, missing = facts.paths.index("huge.bmp"), facts.paths.index("missing.jpg")
    assert facts.sha256[huge] == hashlib.sha256((tmp_path / "huge.bmp").read_bytes()).hexdigest()
    assert facts.sha256[missing] == ""


def test_no_images_and_repeated_ones(tmp_path):
    facts = image_facts(tmp_path, [], cache=tmp_path / "cache.csv", progress=False)
    assert [len(column) for column in facts] == [0] * len(facts)
    save(tmp_path / "a.png", draw_meme(40, 40, 0), "PNG")
    save(tmp_path / "b.png", draw_meme(40, 50, 1), "PNG")
    facts = image_facts(tmp_path, ["a.png", "b.png", "none", "a.png"], progress=False, workers=1)
    assert facts.width.tolist() == [40, 50, 0, 40]
    assert facts.phash[0] == facts.phash[3] != facts.phash[1]
    assert list(facts.errors) == ["none"]


# --- the cache --------------------------------------------------------------------------------------------------

NAMES = ["plain.png", 'a "quoted", name.png', "two\nlines.png", "return\r.png", "文件夹/梗图 😀.png"]


def same_facts(a, b):
    return a.paths == b.paths and a.errors == b.errors and all(map(np.array_equal, a[1:-1], b[1:-1]))


@pytest.fixture
def strange_names(tmp_path):
    folder = tmp_path / "images"
    names = list(NAMES)
    if os.name == "posix" and sys.platform != "darwin":
        names.append(os.fsdecode(b"not \xff utf-8.png"))
    (folder / "文件夹").mkdir(parents=True)
    for number, name in enumerate(names):
        save(folder / name, draw_meme(40, 40 + number, number), "PNG")
    return folder, names


def spoil(path):
    """Overwrite a file; its size and time of change stay."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_second_call_reads_only_what_has_changed(strange_names, tmp_path):
    folder, names = strange_names
    cache = tmp_path / "new" / "cache.csv"
    first = image_facts(folder, names, cache, progress=False)
    assert same_facts(first, image_facts(folder, names, progress=False))
    assert cache.read_text(encoding="utf-8", errors="surrogateescape").startswith(
        "image,size,mtime_ns,sha256,phash,width,height,kind,frames\n"
    )
    for name in names:
        spoil(folder / name)
    assert same_facts(first, image_facts(folder, names, cache, progress=False))
    save(folder / names[1], draw_meme(70, 80, 9), "PNG")
    (folder / names[2]).unlink()
    second = image_facts(folder, names, cache, progress=False)
    assert second.width.tolist() == [first.width[0], 80, 0, *first.width[3:]]
    assert second.sha256[1] == hashlib.sha256((folder / names[1]).read_bytes()).hexdigest()
    assert list(second.errors) == [names[2]]
    assert same_facts(second, image_facts(folder, names, cache, progress=False))


def test_a_cache_cut_anywhere_is_repaired(strange_names, tmp_path):
    folder, names = strange_names
    cache = tmp_path / "cache.csv"
    expected = image_facts(folder, names, cache, workers=1, progress=False)
    whole = cache.read_bytes()
    for cut in range(len(whole)):
        cache.write_bytes(whole[:cut])
        assert same_facts(image_facts(folder, names, cache, workers=1, progress=False), expected), cut
        assert cache.read_bytes() == whole, cut


def test_what_follows_a_damaged_row_is_made_anew(strange_names, tmp_path):
    folder, names = strange_names
    cache = tmp_path / "cache.csv"
    expected = image_facts(folder, names, cache, workers=1, progress=False)
    whole = cache.read_bytes()
    row = whole.splitlines(keepends=True)[1]
    for bad in (row[:20] + bytes(10) + row[30:], row.replace(b"PNG,1", b"PNG,many"), row.replace(b"40,40", b"4" * 40)):
        assert bad != row
        cache.write_bytes(whole.replace(row, bad))
        assert same_facts(image_facts(folder, names, cache, workers=1, progress=False), expected)
        assert cache.read_bytes() == whole


@pytest.mark.parametrize(
    "content", [b"image_id,image,topic_id\r\nm1,m1.jpg,t1\r\n", b"\xff\xd8\xff\xe0", b"imag\nes\n"]
)
def test_another_file_is_no_cache_and_stays(content, tmp_path):
    cache = tmp_path / "records.csv"
    cache.write_bytes(content)
    with pytest.raises(InputError, match="records.csv, line 1: .* no cache"):
        image_facts(tmp_path, [], cache, progress=False)
    assert cache.read_bytes() == content


@pytest.fixture
def many(tmp_path):
    """(folder, names): a few images under many names."""
    for number in range(20):
        save(tmp_path / "images" / f"{number}.png", draw_meme(40, 40, number), "PNG")
    for link in range(20):
        (tmp_path / f"link{link}").symlink_to(tmp_path / "images", target_is_directory=True)
    return tmp_path, [f"link{link}/{number}.png" for link in range(20) for number in range(20)]


def rows_in(cache):
    return cache.read_bytes().count(b"\n") - 1 if cache.exists() else 0


def test_ctrl_c_ends_the_work_and_keeps_what_was_done(many, tmp_path, monkeypatch):
    folder, names = many
    cache = tmp_path / "cache.csv"
    examine = module.examine

    def interrupted(folder, names, chunk):
        if chunk[0] == 5 * module.CHUNK:
            os.kill(os.getpid(), signal.SIGINT)
        return examine(folder, names, chunk)

    monkeypatch.setattr(module, "examine", interrupted)
    with pytest.raises(KeyboardInterrupt):
        image_facts(folder, names, cache, workers=1, progress=False)
    monkeypatch.undo()
    assert 3 * module.CHUNK <= rows_in(cache) < len(names)
    facts = image_facts(folder, names, cache, progress=False)
    assert rows_in(cache) == len(names)
    assert same_facts(facts, image_facts(folder, names, progress=False))


KILLED = """
import os, signal, sys, time
from pathlib import Path
from preprocess.comparing import image_facts as module
folder, cache = map(Path, sys.argv[1:])
examine = module.examine
def killed(folder, names, chunk):
    while chunk[0] == 160 and cache.read_bytes().count(b"\\n") <= 128: time.sleep(0.01)
    if chunk[0] == 160: os.kill(os.getpid(), signal.SIGKILL)
    return examine(folder, names, chunk)
module.examine = killed
names = [f"link{link}/{number}.png" for link in range(20) for number in range(20)]
module.image_facts(folder, names, cache, workers=1, progress=False)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_process_loses_no_finished_chunk(many, tmp_path):
    folder, names = many
    cache = tmp_path / "cache.csv"
    killed = subprocess.run([sys.executable, "-c", KILLED, folder, cache], cwd=ROOT, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert 128 <= rows_in(cache) <= 160
    facts = image_facts(folder, names, cache, progress=False)
    assert rows_in(cache) == len(names)
    assert same_facts(facts, image_facts(folder, names, progress=False))


def test_progress_counts_what_the_cache_knows(strange_names, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(util, "FIRST_LINE", 0)
    folder, names = strange_names
    image_facts(folder, names[:3], tmp_path / "cache.csv", progress=False)
    assert capsys.readouterr().err == ""
    image_facts(folder, names, tmp_path / "cache.csv")
    shown = capsys.readouterr().err
    assert re.fullmatch(rf"hashing images: 100%\| {len(names)}/{len(names)} \[.*\]\n", shown)  # not 3 of them


def test_the_benchmark_runs(capsys):
    image_hashing.main(["--images", "20", "--size", "120", "--pairs", "500"])
    out = capsys.readouterr().out
    for part in (
        "image_facts",
        "ImageHash",
        "ratio",
        "bytes for each further image",
        "near_duplicate_pairs: 500 memes",
    ):
        assert part in out


def test_bytes_are_read_once(tmp_path, monkeypatch):
    """Checksum, facts and hash come from the same bytes, also if the file is replaced meanwhile."""
    save(tmp_path / "a.jpg", draw_meme(50, 60, 0), "JPEG")
    old = (tmp_path / "a.jpg").read_bytes()
    stream = io.BytesIO()
    draw_meme(90, 80, 1).save(stream, "JPEG")
    read_file = module.read_file

    def replaced_after(path):
        data = read_file(path)
        Path(path).write_bytes(stream.getvalue())
        return data

    monkeypatch.setattr(module, "read_file", replaced_after)
    facts = image_facts(tmp_path, ["a.jpg"], cache=tmp_path / "cache.csv", progress=False)
    assert (facts.sha256[0], facts.width[0]) == (hashlib.sha256(old).hexdigest(), 60)
    monkeypatch.undo()
    assert image_facts(tmp_path, ["a.jpg"], cache=tmp_path / "cache.csv", progress=False).width.tolist() == [80]
