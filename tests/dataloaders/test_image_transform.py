"""Decoding against Pillow's, resizing against the published pipeline, and every kind of bad file."""

import importlib.util
import io
import random
import re
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, ImageSequence

from benchmarks import image_loading
from benchmarks.image_loading import draw_photograph
from dataloaders import image_file, image_transform
from dataloaders.image_transform import ImageError, load_image, read_frames, resize
from tests.conftest import ROOT
from tests.dataloaders import animations
from tests.dataloaders.animations import CLEAR, KEEP, RESTORE, Part, png_chunk

TEMPLATES = ROOT.parent / "shared" / "data" / "imgflip" / "templates"


@pytest.fixture
def photograph():
    return draw_photograph(60, 45, np.random.default_rng(0))


@pytest.fixture(scope="module")
def published_crop():
    """CLIP's published transform, on Pillow images, without the normalisation."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from modules.torchvision_ops import import_torchvision

    transforms = import_torchvision().transforms
    modes = transforms.InterpolationMode

    def crop(rgb, size, interpolation="bicubic"):
        mode = modes(interpolation)
        steps = transforms.Compose([transforms.Resize(size, interpolation=mode), transforms.CenterCrop(size)])
        return np.asarray(steps(Image.fromarray(rgb)))

    return crop


def to_file(path, image, format, **options):
    """Write a Pillow image, or a list of them as an animation, whatever the suffix."""
    first, *more = image if isinstance(image, list) else [image]
    if more:
        options |= {"save_all": True, "append_images": more, "duration": 50}
    first.save(path, format, **options)
    return path


def on_white(image):
    """What Pillow shows of an image on a white page."""
    page = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(page, image.convert("RGBA")).convert("RGB"))


def pillow_frames(path):
    with Image.open(path) as file:
        return [on_white(frame) for frame in ImageSequence.Iterator(file)]


def largest_difference(a, b):
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def as_pixels(tensor):
    assert tensor.dtype == torch.uint8 and tensor.is_contiguous()
    return tensor.permute(1, 2, 0).numpy()


# --- resizing ---------------------------------------------------------------------------------------------------


SHAPES = [(500, 500), (363, 400), (400, 363), (123, 777), (1001, 600), (100, 90), (224, 224), (224, 301), (33, 250)]
TALL = [(1503, 500), (700, 300)]  # made smaller, Pillow resizes their height first, since version 13
LONG = [(40, 1003), (7, 500), (300, 2500), (1003, 40), (500, 7), (2500, 300)]


def needs_new_pillow(shape, size):
    shrinks = min(shape) > size and shape[0] > 2 * shape[1]
    if shrinks and int(Image.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 resizes tall images in another order and rounds otherwise")


@pytest.mark.parametrize("shape", SHAPES + TALL, ids=str)
@pytest.mark.parametrize("size", [224, 64])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crop_is_the_published_pipeline(published_crop, shape, size, interpolation):
    needs_new_pillow(shape, size)
    rgb = draw_photograph(*shape, np.random.default_rng(shape))
    expected = published_crop(rgb, size, interpolation)
    difference = np.abs(as_pixels(resize(rgb, size, "crop", interpolation)).astype(int) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.05


@pytest.mark.parametrize("shape", [(400, 363), (1001, 600)], ids=str)
def test_plain_bicubic_would_not_be(published_crop, shape):
    rgb = draw_photograph(*shape, np.random.default_rng(shape))
    expected = published_crop(rgb, 224)
    height, width = (int(224 * side / min(shape)) for side in shape)
    top, left = round((height - 224) / 2), round((width - 224) / 2)
    pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None]
    of_torch = torch.nn.functional.interpolate(pixels, size=(height, width), mode="bicubic")[0]
    of_opencv = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_CUBIC)
    for plain in (of_torch.permute(1, 2, 0).numpy(), of_opencv):
        difference = np.abs(plain[top : top + 224, left : left + 224].astype(int) - expected)
        assert difference.max() > 2
        assert difference.mean() > 0.05


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason="../shared/data/imgflip/templates is absent")
def test_real_pictures_are_the_published_pipeline(published_crop):
    for path in sorted(TEMPLATES.glob("*.jpg"))[:20]:
        with Image.open(path) as file:
            expected = published_crop(np.asarray(file.convert("RGB")), 224)
        difference = np.abs(as_pixels(load_image(path, 224)[0]).astype(int) - expected)
        assert difference.max() <= 2, path
        assert difference.mean() < 0.05, path


@pytest.mark.parametrize("shape", LONG, ids=str)
def test_very_long_images_are_cropped_first_and_stay_exact(published_crop, shape):
    needs_new_pillow(shape, 64)
    assert max(shape) > image_transform.LONG_SIDES * min(shape)
    rgb = draw_photograph(*shape, np.random.default_rng(shape))
    difference = np.abs(as_pixels(resize(rgb, 64, "crop")).astype(int) - published_crop(rgb, 64))
    assert difference.max() <= 2
    assert difference.mean() < 0.05


def keys_cubic(x):
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def triangle(x):
    return max(0.0, 1 - abs(x))


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_line_of_pixels_gives_what_the_filter_says(tall, interpolation, monkeypatch):
    """Resized whole, this would be 224 x 11,200,000 pixels."""
    resample, shape_of = image_transform.resample, {"bicubic": keys_cubic, "bilinear": triangle}[interpolation]

    def small_resample(pixels, height, width, mode):
        assert height * width < 10**6, "the whole strip is resized"
        return resample(pixels, height, width, mode)

    monkeypatch.setattr(image_transform, "resample", small_resample)
    line = np.random.default_rng(1).integers(0, 256, (1, 50_001, 3), dtype=np.uint8)
    rgb = line.transpose(1, 0, 2).copy() if tall else line
    got = as_pixels(resize(rgb, 224, "crop", interpolation))
    got = got.transpose(1, 0, 2) if tall else got
    assert (got == got[:1]).all()
    new_width = int(224 * 50_001 / 1)
    left = round((new_width - 224) / 2)
    for column in range(0, 224, 5):
        centre = (left + column + 0.5) * 50_001 / new_width
        near = range(int(centre) - 4, int(centre) + 5)
        weights = [shape_of(pixel + 0.5 - centre) for pixel in near]
        value = sum(w * line[0, pixel].astype(float) for w, pixel in zip(weights, near, strict=True)) / sum(weights)
        assert np.abs(got[0, column] - value.clip(0, 255)).max() <= 0.51


@pytest.mark.parametrize("shape", [(300, 200), (111, 333), (20, 20), (5, 2000), (1, 90_000), (90_000, 2)], ids=str)
def test_pad_shows_the_whole_image_in_the_middle(shape):
    rgb = np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8)
    got = as_pixels(resize(rgb, 96, "pad"))
    height, width = (max(1, round(96 * side / max(shape))) for side in shape)
    expected = Image.new("RGB", (96, 96), (123, 117, 104))  # CLIP's mean colour: 255 * (0.4815, 0.4578, 0.4082)
    part = Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC)
    expected.paste(part, ((96 - width) // 2, (96 - height) // 2))
    assert largest_difference(got, np.asarray(expected)) <= 2


@pytest.mark.parametrize("shape", [(300, 200), (20, 31), (3, 5000)], ids=str)
def test_squash_brings_both_sides_to_size(shape):
    rgb = draw_photograph(*shape, np.random.default_rng(3))
    expected = np.asarray(Image.fromarray(rgb).resize((96, 96), Image.Resampling.BICUBIC))
    assert largest_difference(as_pixels(resize(rgb, 96, "squash")), expected) <= 2


def test_an_unknown_resize_mode_is_refused(photograph):
    with pytest.raises(ValueError, match="'stretch'; expected one of crop, pad, squash"):
        resize(photograph, 32, "stretch")


# --- stills -----------------------------------------------------------------------------------------------------


def alpha_of(shape):
    """A ramp with fully transparent and fully opaque ends."""
    return Image.fromarray(np.linspace(-60, 315, shape[0] * shape[1]).reshape(shape[:2]).clip(0, 255).astype(np.uint8))


STILLS = {
    "jpeg": lambda rgb: (rgb, "JPEG", {"quality": 90}),
    "progressive jpeg": lambda rgb: (rgb, "JPEG", {"progressive": True, "subsampling": 0}),
    "grey jpeg": lambda rgb: (rgb.convert("L"), "JPEG", {}),
    "png": lambda rgb: (rgb, "PNG", {}),
    "grey png": lambda rgb: (rgb.convert("L"), "PNG", {}),
    "black and white png": lambda rgb: (rgb.convert("1"), "PNG", {}),
    "palette png": lambda rgb: (rgb.quantize(50), "PNG", {}),
    "palette png of 4 bits": lambda rgb: (rgb.quantize(9), "PNG", {}),
    "palette png, one colour transparent": lambda rgb: (rgb.quantize(50), "PNG", {"transparency": 3}),
    "palette png, half transparent": lambda rgb: (rgb.quantize(50), "PNG", {"transparency": bytes(range(0, 250, 5))}),
    "transparent png": lambda rgb: (rgb, "PNG", {"alpha": True}),
    "transparent grey png": lambda rgb: (rgb.convert("L"), "PNG", {"alpha": True}),
    "png, one colour transparent": lambda rgb: (rgb, "PNG", {"transparency": rgb.getpixel((3, 3))}),
    "grey png, one level transparent": lambda rgb: (
        rgb.convert("L"),
        "PNG",
        {"transparency": rgb.convert("L").getpixel((3, 3))},
    ),
    "black and white png, black transparent": lambda rgb: (rgb.convert("1"), "PNG", {"transparency": 0}),
    "webp": lambda rgb: (rgb, "WEBP", {}),
    "lossless webp": lambda rgb: (rgb, "WEBP", {"lossless": True}),
    "transparent webp": lambda rgb: (rgb, "WEBP", {"alpha": True}),
    "transparent lossless webp": lambda rgb: (rgb, "WEBP", {"alpha": True, "lossless": True}),
    "avif": lambda rgb: (rgb, "AVIF", {}),
    "transparent avif": lambda rgb: (rgb, "AVIF", {"alpha": True}),
    "gif": lambda rgb: (rgb.quantize(50), "GIF", {}),
    "transparent gif": lambda rgb: (rgb.quantize(50), "GIF", {"transparency": 3}),
    "interlaced gif": lambda rgb: (rgb.quantize(50), "GIF", {"interlace": True}),
    "bmp": lambda rgb: (rgb, "BMP", {}),
    "palette bmp": lambda rgb: (rgb.quantize(50), "BMP", {}),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("kind", STILLS)
def test_stills_look_as_pillow_shows_them(tmp_path, photograph, kind):
    image, format, options = STILLS[kind](Image.fromarray(photograph))
    options = dict(options)
    if options.pop("alpha", False):
        image = image.copy()
        image.putalpha(alpha_of(photograph.shape))
    path = to_file(tmp_path / "file", image, format, **options)
    frames = read_frames(path, max_frames=6)
    assert len(frames) == 1 and frames[0].dtype == np.uint8
    assert largest_difference(frames[0], pillow_frames(path)[0]) <= 1
    if "transparent" in kind:
        opaque = np.asarray(Image.open(path).convert("RGB"))
        assert largest_difference(frames[0], opaque) > 50, "nothing was transparent"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_keep_their_upper_half(tmp_path, channels):
    pixels = np.random.default_rng(4).integers(0, 2**16, (20, 30, channels), dtype=np.uint16)
    if channels == 4:
        pixels[..., 3] = np.where(pixels[..., 0] < 2**15, 0, 2**16 - 1)
    (tmp_path / "deep.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    high = (pixels >> 8).astype(np.uint8)
    expected = np.repeat(high, 3, axis=2) if channels == 1 else high[..., 2::-1].copy()
    if channels == 4:
        expected[high[..., 3] == 0] = 255
    assert (read_frames(tmp_path / "deep.png")[0] == expected).all()


def test_sixteen_bit_grey_with_a_transparent_level(tmp_path):
    pixels = np.random.default_rng(5).integers(1, 2**16, (20, 30), dtype=np.uint16)
    pixels[4:9] = 20_000
    pixels[9:12] = 20_001  # the same upper half, and not transparent
    path = to_file(tmp_path / "deep.png", Image.fromarray(pixels), "PNG", transparency=20_000)
    expected = np.where(pixels == 20_000, 255, pixels >> 8)
    assert (read_frames(path)[0] == expected[..., None]).all()


@pytest.mark.parametrize("kind", ["Adobe", "plain", "Adobe YCCK"])
def test_cmyk_is_within_two_of_pillow(tmp_path, kind):
    rng = np.random.default_rng(6)
    inks = np.dstack([draw_photograph(60, 45, rng), draw_photograph(60, 45, rng)[..., :1]])
    data = to_file(io.BytesIO(), Image.fromarray(inks, "CMYK"), "JPEG", quality=95).getvalue()
    start = data.index(b"\xff\xee\x00\x0eAdobe")
    marker = bytearray(data[start : start + 16])
    marker[-1] = 2 if kind == "Adobe YCCK" else 0  # the colour transform
    path = tmp_path / "cmyk.jpg"
    path.write_bytes(data[:start] + (b"" if kind == "plain" else bytes(marker)) + data[start + 16 :])
    with Image.open(path) as file:
        assert file.mode == "CMYK"
        expected = np.asarray(file.convert("RGB"))
    assert largest_difference(read_frames(path)[0], expected) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "transparent PNG"])
def test_exif_rotation_is_applied(tmp_path, photograph, orientation, format):
    image = Image.fromarray(photograph)
    if format == "transparent PNG":
        image.putalpha(alpha_of(photograph.shape))
    exif = Image.Exif()
    exif[0x10F] = "a camera"
    exif[0x112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    path = to_file(tmp_path / "file", image, format.removeprefix("transparent "), exif=exif, **options)
    with Image.open(path) as file:
        expected = on_white(ImageOps.exif_transpose(file))
    assert largest_difference(read_frames(path)[0], expected) <= 1


@pytest.mark.parametrize("exif", [b"", b"II", b"MM\0*\0\0\0\xff", b"II*\0\x08\0\0\0\xff\xff", b"rubbish" * 5])
def test_a_broken_exif_block_turns_nothing(tmp_path, photograph, exif):
    path = to_file(tmp_path / "file.jpg", Image.fromarray(photograph), "JPEG", exif=b"Exif\0\0" + exif)
    assert read_frames(path)[0].shape == photograph.shape


@pytest.mark.parametrize("name", ["梗图 表情包.png", "😂 мем.jpg", "naïve é.webp"])
def test_unicode_paths(tmp_path, photograph, name):
    path = to_file(tmp_path / name, Image.fromarray(photograph), "PNG")
    assert (read_frames(path)[0] == photograph).all()
    assert (read_frames(str(path))[0] == photograph).all()


# --- animations -------------------------------------------------------------------------------------------------


def moving_pictures(draw, kind):
    """Frames that differ in patches, so that the file holds parts of frames, with holes or half-transparent."""
    rng = np.random.default_rng(draw.randrange(10**6))
    height, width = draw.randrange(5, 50), draw.randrange(5, 50)
    frames = []
    for _ in range(draw.randrange(2, 8)):
        pixels = np.zeros((height, width, 4), np.uint8)
        if kind == "solid":
            pixels[:] = (200, 30, 90, 255)
        for _ in range(3):
            top, left = draw.randrange(height), draw.randrange(width)
            patch = pixels[top : top + draw.randrange(1, 20), left : left + draw.randrange(1, 20)]
            patch[:] = rng.integers(0, 256, 4)
            patch[..., 3] = rng.integers(0, 256) if kind == "half transparent" else 255
        frames.append(Image.fromarray(pixels))
    return frames


@pytest.mark.parametrize(
    "format, kind",
    [("GIF", "solid"), ("GIF", "holes"), ("PNG", "holes")]
    + [("WEBP", kind) for kind in ("solid", "holes", "half transparent")],
)
def test_animations_look_as_pillow_shows_them(tmp_path, format, kind):
    """With every way of treating the frame before, save those in which Pillow departs from the standards:

    it takes GIF's 0 as "like the frame before", keeps a first frame that asks to be undone, clears to a colour where
    no pixel is transparent, pastes half-transparent PNG frames as masks and does not undo PNG frames.
    """
    draw = random.Random(f"{format} {kind}")
    for _ in range(25):
        frames = moving_pictures(draw, kind)
        options = {"lossless": draw.random() < 0.5} if format == "WEBP" else {}
        if format == "GIF":
            allowed = (1,) if kind == "solid" else (1, 2, 3)
            options["disposal"] = [draw.choice(allowed[:2]), *(draw.choice(allowed) for _ in frames[1:])]
        elif format == "PNG":
            options["disposal"] = [draw.randrange(2) for _ in frames]
            options["blend"] = [draw.randrange(2) for _ in frames]
        path = to_file(tmp_path / "file", frames, format, **options)
        expected = pillow_frames(path)
        got = read_frames(path, max_frames=100)
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert largest_difference(a, b) <= 1, options


def with_right_checksums(png):
    """A PNG's bytes, whose chunks may have been overwritten."""
    made, start = bytes(png[:8]), 8
    while start < len(png):
        (length,) = struct.unpack_from(">I", png, start)
        made += png_chunk(bytes(png[start + 4 : start + 8]), bytes(png[start + 8 : start + 8 + length]))
        start += length + 12
    return made


def test_png_frames_blend_and_are_undone_as_the_standard_says(tmp_path):
    """A red frame; half-transparent blue over its left half, undone; green instead of its lower half, cleared."""

    def part(colour, width, height, *how):
        return Part(np.full((height, width, 4), colour, np.uint8), *how)

    parts = [
        part((255, 0, 0, 255), 4, 4, 0, 0, KEEP, False),
        part((0, 0, 255, 128), 2, 4, 0, 0, RESTORE, True),
        part((0, 255, 0, 0), 4, 2, 0, 2, CLEAR, False),
        part((0, 0, 0, 255), 1, 1, 3, 0, KEEP, True),
    ]
    (tmp_path / "file.png").write_bytes(animations.png(4, 4, parts))
    first, second, third, fourth = read_frames(tmp_path / "file.png", max_frames=4)
    assert (first == (255, 0, 0)).all()
    assert (second[:, :2] == (127, 0, 128)).all() and (second[:, 2:] == (255, 0, 0)).all()
    assert (third[:2] == (255, 0, 0)).all() and (third[2:] == 255).all()
    assert (fourth[:2, :3] == (255, 0, 0)).all() and (fourth[0, 3] == 0).all() and (fourth[2:] == 255).all()


def test_a_png_whose_still_is_not_part_of_the_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "red", "lime", "blue")]
    path = to_file(tmp_path / "file.png", frames, "PNG", default_image=True)
    assert [tuple(frame[0, 0]) for frame in read_frames(path, 9)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    path = to_file(tmp_path / "file.png", frames[:2], "PNG", default_image=True)
    assert [tuple(frame[0, 0]) for frame in read_frames(path, 9)] == [(255, 0, 0)]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF"])
@pytest.mark.parametrize(
    "slice_framepos, max_frames, expected",
    [
        (0, 3, [0, 1, 2]),
        (1, 3, [8, 9, 10]),
        (2, 3, [0, 5, 10]),
        (2, 6, [0, 2, 4, 6, 8, 10]),
        (2, 4, [0, 3, 6, 10]),  # numpy.linspace(0, 10, 4, dtype=int), as CLIP4Clip
        (2, 1, [0]),
        (0, 11, list(range(11))),
        (1, 12, list(range(11))),
        (2, 12, list(range(11))),
    ],
)
def test_which_frames_are_kept(tmp_path, format, slice_framepos, max_frames, expected):
    frames = [Image.new("RGB", (16, 12), (20 * number, 0, 255 - 20 * number)) for number in range(11)]
    options = {"lossless": True} if format == "WEBP" else {}
    path = to_file(tmp_path / "file", frames, format, **options)
    got = read_frames(path, max_frames, slice_framepos)
    assert [round(int(frame[0, 0, 0]) / 20) for frame in got] == expected
    tensor = load_image(path, 8, "squash", max_frames, slice_framepos)
    assert tensor.shape == (len(expected), 3, 8, 8) and tensor.is_contiguous() and tensor.dtype == torch.uint8
    assert [round(int(frame[0, 0, 0]) / 20) for frame in tensor] == expected


@pytest.mark.parametrize("format", ["GIF", "PNG"])
def test_no_frame_after_the_last_wanted_one_is_decoded(tmp_path, format):
    """The rest of the file may be nonsense."""
    frames = [Image.fromarray(draw_photograph(30, 40, np.random.default_rng(number))) for number in range(11)]
    path = to_file(tmp_path / "file", frames, format)
    whole = read_frames(path, max_frames=2, slice_framepos=0)
    data = bytearray(path.read_bytes())
    start = len(data) - len(data) // 8
    data[start : start + 200] = random.Random(0).randbytes(200)
    if format == "PNG":
        data = with_right_checksums(data)
    path.write_bytes(data)
    assert all(map(np.array_equal, read_frames(path, max_frames=2, slice_framepos=0), whole))
    with pytest.raises(ImageError):
        read_frames(path, max_frames=11)


def test_a_turned_animation(tmp_path):
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "lime")]
    for frame in frames:
        frame.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn clockwise
    path = to_file(tmp_path / "file.webp", frames, "WEBP", lossless=True, exif=exif)
    got = read_frames(path, 2)
    assert [frame.shape for frame in got] == [(16, 12, 3)] * 2
    assert all(tuple(frame[0, -1]) == (0, 0, 255) for frame in got)


# --- bad files --------------------------------------------------------------------------------------------------


def jpeg_bytes(photograph, **options):
    return to_file(io.BytesIO(), Image.fromarray(photograph), "JPEG", **options).getvalue()


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ImageError, match=r"no\.jpg: cannot be read: No such file"):
        read_frames(tmp_path / "no.jpg")
    with pytest.raises(ImageError, match=r"folder\.jpg: cannot be read: Is a directory"):
        (tmp_path / "folder.jpg").mkdir()
        load_image(tmp_path / "folder.jpg", 32)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "the file is empty"),
        (b"<html>404 Not Found</html>", "not a JPEG, PNG, GIF, WebP, BMP or AVIF image"),
        (b"\xff\xd8", "not a JPEG"),
        (b"\xff\xd8\xff\xd9", "(corrupt|truncated): "),
        (b"GIF89a\x01\0\x01\0\0\0\0;", "corrupt: Pillow cannot read it .no more images"),
        (b"GIF89a\x01\0", "truncated"),
        (b"RIFF\x04\0\0\0WEBP", "corrupt: Pillow cannot read it"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"BM" + bytes(60), "not a JPEG, PNG, GIF, WebP, BMP or AVIF image"),
        (b"BMX is a bicycle, and this file a text about it", "not a JPEG, PNG, GIF, WebP, BMP or AVIF image"),
        (
            b"\x89PNG\r\n\x1a\n"
            + png_chunk(b"IHDR", struct.pack(">2I5B", 1, 1, 0, 0, 0, 0, 0))  # 0 bits to a pixel
            + png_chunk(b"tRNS", b"\0\0")
            + png_chunk(b"IDAT", zlib.compress(b"\0\0"))
            + png_chunk(b"IEND", b""),
            "corrupt: Pillow cannot read it",
        ),
    ],
)
def test_files_that_are_no_images(tmp_path, data, reason):
    (tmp_path / "meme 7.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=rf"meme 7\.jpg: {reason}"):
        load_image(tmp_path / "meme 7.jpg", 32)


@pytest.mark.parametrize(
    "kind", ["JPEG", "progressive JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF", "long GIF", "long WEBP", "long PNG"]
)
def test_a_truncated_file_is_an_error_or_has_all_that_is_wanted(tmp_path, photograph, kind, capfd):
    """Of what stands behind the pixels (GIF's trailer, PNG's end) nothing is missed; a GIF may end after any frame."""
    image = Image.fromarray(photograph)
    if kind.startswith("long"):
        image = [image, ImageOps.mirror(image), ImageOps.flip(image)]
    options = {"progressive": True} if "progressive" in kind else {}
    format = kind.split()[-1]
    path = to_file(tmp_path / "file", image, format, **options)
    data, whole = path.read_bytes(), read_frames(path, max_frames=9)
    ends = [*range(1, len(data), 1 + len(data) // 150), *range(len(data) - 8, len(data))]
    accepted = []
    for end in ends:
        path.write_bytes(data[:end])
        try:
            frames = read_frames(path, max_frames=9)
        except ImageError as error:
            assert re.search("file: (truncated|not a JPEG|corrupt)", str(error))
            continue
        assert all(map(np.array_equal, frames, whole[: len(frames)]))
        accepted.append(end)
        assert len(frames) == len(whole) or kind == "long GIF"
    behind = {"GIF": 4, "PNG": 22, "BMP": 2}.get(format, 0)  # bytes; a BMP's rows are filled up
    assert kind == "long GIF" or all(end >= len(data) - behind for end in accepted)
    assert len(accepted) < len(ends) / 4
    assert capfd.readouterr() == ("", ""), "a decoder wrote to the terminal"


def test_a_jpeg_filled_up_with_zeros_and_one_with_a_thumbnail_are_truncated(tmp_path, photograph):
    """The thumbnail has an end marker of its own; libjpeg would fill the missing rows with grey."""
    data = jpeg_bytes(photograph)
    thumbnail = jpeg_bytes(photograph[:16, :16])
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0" + thumbnail
    with_thumbnail = jpeg_bytes(photograph, exif=exif)
    assert b"\xff\xd9" in with_thumbnail[: len(exif) + 50]
    path = tmp_path / "file.jpg"
    for broken in (data[: len(data) // 2] + bytes(len(data)), with_thumbnail[: -len(data) // 2]):
        path.write_bytes(broken)
        with pytest.raises(ImageError, match=r"file\.jpg: truncated: "):
            read_frames(path)


def png(colour, rows, width=16, height=12, more=b"", interlaced=0):
    """A PNG of 8 bits with so many rows of random pixels in it, instead of `height`."""
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    pixels = np.random.default_rng(colour).integers(0, 256, (rows, 1 + width * channels), np.uint8)
    pixels[:, 0] = 0  # no filter
    header = png_chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, colour, 0, 0, interlaced))
    data = png_chunk(b"IDAT", zlib.compress(pixels.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + header + more + data + png_chunk(b"IEND", b"")


COLOURS = png_chunk(b"PLTE", bytes(range(256)) * 3)


@pytest.mark.parametrize("colour", [0, 2, 3, 6])
def test_a_png_that_lacks_rows_is_truncated_though_its_data_end_well(tmp_path, colour):
    more = COLOURS if colour == 3 else b""
    path = tmp_path / "file"
    for rows in (1, 11, 12):
        path.write_bytes(png(colour, rows, more=more))
        if rows < 12:
            with pytest.raises(ImageError, match="file: truncated: rows of a PNG are missing"):
                read_frames(path)
    assert (
        np.array_equal(read_frames(path)[0], np.asarray(Image.open(path).convert("RGBA").convert("RGB"))) or colour == 6
    )


def test_an_interlaced_png_has_all_its_rows_or_is_truncated(tmp_path):
    passes = [(1, 1), (1, 1), (1, 1), (3, 1), (2, 2), (5, 1)]  # (width, height) of Adam7 on 5 x 3
    assert sum(width * height for width, height in passes) == 15
    needed = sum(height * (1 + width) for width, height in passes)
    header = png_chunk(b"IHDR", struct.pack(">2I5B", 5, 3, 8, 0, 0, 0, 1))
    for size in (needed - 1, needed):
        data = png_chunk(b"IDAT", zlib.compress(bytes(size)))
        (tmp_path / "file").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + png_chunk(b"IEND", b""))
        if size < needed:
            with pytest.raises(ImageError, match="truncated: rows of a PNG are missing"):
                read_frames(tmp_path / "file")
    assert read_frames(tmp_path / "file")[0].shape == (3, 5, 3)


def test_a_frame_of_an_animated_png_that_lacks_rows_is_truncated_once_it_is_wanted(tmp_path):
    def control(number):
        return png_chunk(b"fcTL", struct.pack(">5I2H2B", number, 16, 12, 0, 0, 1, 10, 0, 0))

    still = png(2, 12, more=png_chunk(b"acTL", struct.pack(">2I", 2, 0)) + control(0))
    short = struct.pack(">I", 2) + zlib.compress(bytes(49))
    data = still[:-12] + control(1) + png_chunk(b"fdAT", short) + still[-12:]
    (tmp_path / "file").write_bytes(data)
    assert len(read_frames(tmp_path / "file", 1, 0)) == 1
    with pytest.raises(ImageError, match="rows of a PNG are missing"):
        read_frames(tmp_path / "file", 2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(3, 12), "corrupt: a PNG without its palette"),
        (png(3, 12, more=png_chunk(b"PLTE", b"")), "corrupt: a PNG without its palette"),
        (
            png(3, 12, more=COLOURS.replace(b"PLTE", b"PLTD")),
            "corrupt: a PNG chunk b'PLTD' that would have to be known",
        ),
    ],
)
def test_a_png_without_its_palette_is_refused(tmp_path, data, reason):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ImageError, match=reason):
        read_frames(tmp_path / "file")


def test_a_png_says_more_of_its_transparency_or_its_frames_than_there_is(tmp_path):
    """As browsers do: a list of transparencies counts as far as there are colours, one after the pixels not at all."""
    palette, path = png_chunk(b"PLTE", bytes(range(192))), tmp_path / "file"
    pixels = png(3, 12, more=palette)
    few = pixels.replace(palette, palette + png_chunk(b"tRNS", bytes(64)))
    many = pixels.replace(palette, palette + png_chunk(b"tRNS", bytes(300)))
    late = pixels[:-12] + png_chunk(b"tRNS", bytes(64)) + pixels[-12:]
    moving = pixels.replace(palette, png_chunk(b"acTL", struct.pack(">2I", 3, 0)) + palette)
    shown = {}
    for name, data in (("none", pixels), ("few", few), ("many", many), ("late", late), ("moving", moving)):
        # all indices within the palette
        path.write_bytes(data)
        shown[name] = read_frames(path, 4)
    assert np.array_equal(shown["many"], shown["few"])
    assert np.array_equal(shown["late"], shown["none"]) and np.array_equal(shown["moving"], shown["none"])


def test_the_transparent_colour_of_a_png_without_a_palette_stays_whole_beside_a_suggested_palette(tmp_path):
    key = png_chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))
    shown = []
    for more in (key, png_chunk(b"PLTE", bytes(3)) + key):
        (tmp_path / "file").write_bytes(png(2, 12, more=more))
        shown.append(read_frames(tmp_path / "file")[0])
    assert np.array_equal(*shown)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_jpeg_before_another_one_is_not_read(tmp_path, photograph, progressive):
    data = jpeg_bytes(photograph, progressive=progressive)
    (tmp_path / "file.jpg").write_bytes(data[: len(data) * 2 // 3] + data)
    with pytest.raises(ImageError, match=r"file\.jpg: (truncated|corrupt)"):
        read_frames(tmp_path / "file.jpg")


@pytest.mark.parametrize("lossless", [False, True])
def test_a_cut_webp_before_other_bytes_is_truncated_and_a_whole_one_is_read(tmp_path, photograph, lossless):
    path = to_file(tmp_path / "file", Image.fromarray(photograph), "WEBP", lossless=lossless)
    data, whole = path.read_bytes(), read_frames(path)
    path.write_bytes(data + data)
    assert np.array_equal(read_frames(path), whole)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="file: truncated: the end of the WebP is missing"):
        read_frames(path)


@pytest.mark.parametrize(
    "segment",
    [
        (0xE0, b"JFIF"),
        (0xEE, b"Adobe"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04"),
        (0xE2, b"ICC_PROFILE\0"),
        # a resolution that is a text
        (0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x1a\x01\x02\0\x01\0\0\0a\0\0\0\0\0\0\0"),
    ],
    ids=lambda segment: segment[1][:8].decode(),
)
def test_what_a_jpeg_says_of_itself_may_be_broken(tmp_path, photograph, segment):
    path = to_file(tmp_path / "file", Image.fromarray(photograph), "JPEG")
    data, expected = path.read_bytes(), read_frames(path)
    marker, content = segment
    path.write_bytes(data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:])
    assert np.array_equal(read_frames(path), expected)


def test_a_large_bmp_in_runs_is_read(tmp_path):
    """Pillow reads it two bytes at a time."""
    width, height = 1000, 800
    rows = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    runs = b"".join(bytes(np.stack([np.ones(width, np.uint8), row], axis=1)) + b"\0\0" for row in rows[::-1]) + b"\0\1"
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    offset = 14 + len(header) + len(palette)
    (tmp_path / "file").write_bytes(
        b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset) + header + palette + runs
    )
    assert np.array_equal(read_frames(tmp_path / "file")[0][..., 0], rows)


def test_a_webp_that_moves_on_a_canvas_without_an_alpha_flag_begins_white(tmp_path):
    """As Chromium shows it. The flag of the header alone says that there is transparency; the parts do not fill it."""
    red = Image.new("RGB", (8, 8), (200, 0, 0))
    part = to_file(io.BytesIO(), red, "WEBP", lossless=True).getvalue()[12:]

    def int24(number):
        return struct.pack("<I", number)[:3]

    def chunk(kind, content):
        return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)

    frames = [chunk(b"ANMF", int24(x // 2) * 2 + int24(7) * 2 + int24(100) + b"\0" + part) for x in (0, 8)]
    content = chunk(b"VP8X", b"\2\0\0\0" + int24(15) * 2) + chunk(b"ANIM", bytes(6)) + b"".join(frames)
    (tmp_path / "file").write_bytes(b"RIFF" + struct.pack("<I", len(content) + 4) + b"WEBP" + content)
    first, _ = read_frames(tmp_path / "file", 2)
    assert first[0, 0].tolist() == [200, 0, 0] and first[15, 15].tolist() == [255, 255, 255]


def test_a_changed_byte_in_a_png_is_an_error(tmp_path, photograph, capfd):
    data = bytearray(to_file(io.BytesIO(), Image.fromarray(photograph), "PNG").getvalue())
    data[len(data) // 2] ^= 0x10
    (tmp_path / "file.png").write_bytes(data)
    with pytest.raises(ImageError, match=r"file\.png: corrupt: Pillow cannot read it"):
        read_frames(tmp_path / "file.png")
    assert capfd.readouterr() == ("", "")


# --- what browsers show all the same ----------------------------------------------------------------------------

STRIPES = np.random.default_rng(8).integers(0, 16, (2, 12, 10))  # places in the palette
PALETTE = np.random.default_rng(9).integers(0, 256, (16, 3), np.uint8)


def moving_gif(**options):
    parts = [Part(STRIPES[0], 0, 0, KEEP), Part(STRIPES[1, :5, :5], 3, 2, KEEP)]
    return animations.gif(10, 12, PALETTE, parts, **options)


@pytest.mark.parametrize(
    "options",
    [{"trailer": b""}, {"trailer": b"\0\0;"}, {"between": b"\0"}, {"trailer": b";what else a program wrote"}],
    ids=str,
)
def test_a_gif_without_trailer_or_with_zeros_between_blocks(tmp_path, options):
    (tmp_path / "file.gif").write_bytes(moving_gif(**options))
    first, second = read_frames(tmp_path / "file.gif", 2)
    expected = PALETTE[STRIPES[0]]
    assert (first == expected).all()
    expected[2:7, 3:8] = PALETTE[STRIPES[1, :5, :5]]
    assert (second == expected).all()


def test_a_png_without_its_end_or_with_a_bad_checksum_that_changes_no_pixel(tmp_path, photograph):
    data = to_file(io.BytesIO(), Image.fromarray(photograph), "PNG").getvalue()
    bad = png_chunk(b"prVt", b"a program's own")[:-1] + b"?"
    too_short = png_chunk(b"pHYs", b"1")
    for odd in (data[:-12], data[:-5], *(data[:33] + chunk + data[33:] for chunk in (bad, too_short))):
        (tmp_path / "file.png").write_bytes(odd)
        assert (read_frames(tmp_path / "file.png")[0] == photograph).all()
    (tmp_path / "file.png").write_bytes(data[:29] + b"????" + data[33:])  # the header's checksum
    with pytest.raises(ImageError, match="checksum in b'IHDR'"):
        read_frames(tmp_path / "file.png")


def test_a_jpeg_with_bytes_of_a_phones_own(tmp_path, photograph):
    data = jpeg_bytes(photograph)
    (tmp_path / "file.jpg").write_bytes(data)
    expected = read_frames(tmp_path / "file.jpg")[0]
    own = b"\xff\xe5\xff\xf0 a phone's own " * 9
    two = to_file(io.BytesIO(), [Image.fromarray(photograph), Image.new("L", (9, 9))], "MPO").getvalue()
    for odd in (data + own, data + bytes(99), data[:-2] + own, data[:-2] + own + data[-2:], two):
        (tmp_path / "file.jpg").write_bytes(odd)
        (got,) = read_frames(tmp_path / "file.jpg", 2)
        assert largest_difference(got, expected) <= 1


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_a_transparent_level_of_other_than_8_bits(tmp_path, bits):
    """Pixels 0, 1, 2 and 3 (times 1001 in three channels, for 16 bits); 2 is transparent."""
    levels = np.arange(4) * (1 if bits < 16 else 1001)
    if bits == 16:
        row, key, colour = np.repeat(levels, 3).astype(">u2").tobytes(), struct.pack(">3H", *[levels[2]] * 3), 2
    else:
        row = int("".join(f"{level:0{bits}b}" for level in levels), 2).to_bytes(bits // 2, "big")
        key, colour = struct.pack(">H", levels[2]), 0
    header = struct.pack(">2I5B", 4, 1, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    (tmp_path / "file.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))
    expected = levels >> 8 if bits == 16 else levels * 255 // (2**bits - 1)
    expected[2] = 255
    assert read_frames(tmp_path / "file.png")[0][0, :, 0].tolist() == expected.tolist()


# --- bounds -----------------------------------------------------------------------------------------------------


def huge_headers():
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">2I5B", 20_000, 20_000, 8, 2, 0, 0, 0))
    tiny = jpeg_bytes(np.zeros((8, 8, 3), np.uint8))
    at = tiny.index(b"\xff\xc0") + 5
    gif = to_file(io.BytesIO(), Image.new("L", (8, 8)), "GIF").getvalue()
    webp = to_file(io.BytesIO(), [Image.new("RGB", (8, 8), c) for c in ("red", "blue")], "WEBP").getvalue()
    canvas = webp.index(b"VP8X") + 12
    return {
        "PNG": png + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b""),
        "long PNG": png.replace(png[8:], png_chunk(b"IHDR", struct.pack(">2I5B", 2**21, 1, 8, 2, 0, 0, 0)))
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b""),
        "JPEG": tiny[:at] + struct.pack(">2H", 60_000, 60_000) + tiny[at + 4 :],
        "GIF": gif[:6] + struct.pack("<2H", 65_535, 65_535) + gif[10:],
        "WebP": webp[:canvas] + b"\xff\x1f\0\xff\x1f\0" + webp[canvas + 6 :],
        "BMP": b"BM" + struct.pack("<IIIIiiHH", 100, 0, 54, 40, 30_000, -30_000, 1, 24) + bytes(24),
    }


@pytest.mark.parametrize("kind", ["PNG", "long PNG", "JPEG", "GIF", "WebP", "BMP"])
def test_huge_images_are_refused_before_they_are_decoded(tmp_path, monkeypatch, kind):
    def never(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(image_file.ImageFile, "by_opencv", never)
    monkeypatch.setattr(image_file.PillowFile, "load", never)
    (tmp_path / "huge").write_bytes(huge_headers()[kind])
    most = "16,777,216" if kind in ("GIF", "WebP") else "134,217,728"
    with pytest.raises(ImageError, match=rf"huge: \d+ x \d+ pixels are too many; at most {most} are read"):
        read_frames(tmp_path / "huge")


TINY = np.full((1, 1, 4), 255, np.uint8)
GIF_FRAME = b",\0\0\0\0\1\0\1\0\0\2\2L\1\0"  # 1 x 1 pixel
HOSTILE = {  # file, reason
    "WebP of a large canvas": (
        lambda: animations.webp(11_000, 11_000, [Part(TINY, 0, 0, KEEP)] * 20),
        "11000 x 11000 pixels are too many; at most 16,777,216 are read of an animated WebP",
    ),
    "WebP of many frames": (
        lambda: animations.webp(4096, 4096, [Part(TINY, 0, 0, KEEP)] * 40),
        "40 frames of 4096 x 4096 pixels are too many; at most 536,870,912",
    ),
    "PNG that says so": (
        lambda: animations.png(1, 1, [Part(TINY, 0, 0, KEEP)] * 10_001),
        "10,001 frames are too many; at most 10,000 are read",
    ),
    "GIF of 500,000 frames": (
        lambda: b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + GIF_FRAME * 500_000 + b";",
        r"cut into too many frames or blocks: 496,519 pieces were read, and no end",
    ),
    "GIF of 20,000 frames": (
        lambda: b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + GIF_FRAME * 20_000 + b";",
        "20,000 frames are too many; at most 10,000 are read",
    ),
    "GIF that grows": (
        lambda: moving_gif(trailer=GIF_FRAME.replace(b"\1\0\1\0", b"\xff\xff\0\x08") + b";"),
        "65535 x 2048 pixels are too many; at most 16,777,216 are read",
    ),
    "PNG of many chunks": (
        lambda: animations.png(1, 1, [Part(TINY, 0, 0, KEEP)])[:33] + png_chunk(b"tEXt", b"") * 200_000,
        "cut into too many frames or blocks",
    ),
    "JPEG of many scans, not progressive": (
        lambda: (
            (data := jpeg_bytes(np.zeros((1000, 2200, 3), np.uint8)))[:-2]
            + data[data.rindex(b"\xff\xda") : -2] * 1000
            + data[-2:]
        ),
        "1,001 scans of 2200 x 1000 pixels are too many",
    ),
    "GIF whose parts are far beyond its canvas": (
        lambda: animations.gif(1, 1, PALETTE, [Part(STRIPES[0], x, x, KEEP) for x in (0, 4000, *[0] * 40)]),
        "its frames have too many pixels; at most 536,870,912 are read in all together",
    ),
    "GIF that is undone beyond its canvas": (
        lambda: animations.gif(
            1, 1, PALETTE, [Part(STRIPES[0], 0, 0, KEEP), Part(STRIPES[0], 13_000, 13_000, RESTORE)]
        ),
        "it has too many pixels; at most 134,217,728 are read",
    ),
    "JPEG of many scans": (
        lambda: (
            (data := jpeg_bytes(np.zeros((1000, 2200, 3), np.uint8), progressive=True))[:-2]
            + data[data.rindex(b"\xff\xda") : -2] * 1000
            + data[-2:]
        ),
        r"1,\d+ scans of 2200 x 1000 pixels are too many; at most 2,147,483,648 pixels are read in all scans together",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_take_long_or_much_memory_is_refused_at_once(tmp_path, name):
    data, reason = HOSTILE[name][0](), HOSTILE[name][1]
    (tmp_path / "file").write_bytes(data)
    start = time.process_time()
    with pytest.raises(ImageError, match=rf"file: .*{reason}"):
        read_frames(tmp_path / "file", 6)
    assert time.process_time() - start < 2


def alone(code, *arguments):
    """What a process of its own writes to its standard output; it writes no errors."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_memory_of_the_largest_animation_that_is_read(tmp_path):
    """In a process of its own: what it takes at most is not given back."""
    (tmp_path / "file.webp").write_bytes(animations.webp(4096, 4096, [Part(TINY, 0, 0, KEEP)] * 8))
    code = """
import resource, sys, pathlib
from dataloaders.image_file import ImageFile
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for frame in ImageFile(pathlib.Path(sys.argv[1]).read_bytes()).pictures([0, 7]):
    del frame
print(peak() - before)
"""
    kilobytes = int(alone(code, tmp_path / "file.webp")) / (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 2**19


def damage(data, draw):
    """Bytes overwritten, left out or put in; in a PNG, in half of the cases, with right checksums."""
    data = bytearray(data)
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(min(len(data), draw.choice((60, 400, 10**6))))
        length = draw.choice((0, 1, 1, 4))
        data[place : place + length] = draw.randbytes(draw.choice((0, length, length, 3)))
    if data.startswith(b"\x89PNG") and draw.random() < 0.5:
        try:
            return with_right_checksums(data)
        except struct.error:
            pass
    return bytes(data)


def test_damaged_files_give_an_image_or_an_image_error(tmp_path, photograph):
    draw = random.Random(7)
    image = Image.fromarray(photograph)
    frames = [image, ImageOps.mirror(image)]
    files = [
        to_file(io.BytesIO(), content, format).getvalue()
        for content, format in [(image, f) for f in ("JPEG", "PNG", "BMP", "WEBP", "AVIF")]
        + [(frames, f) for f in ("GIF", "WEBP", "PNG", "AVIF")]
    ] + [moving_gif()] * 2
    errors = 0
    for _ in range(1000):
        (tmp_path / "file").write_bytes(damage(draw.choice(files), draw))
        try:
            for frame in read_frames(tmp_path / "file", 2):
                assert frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8
        except ImageError:
            errors += 1
    assert 200 < errors < 900


@pytest.mark.parametrize(
    "error",
    [MemoryError(), ZeroDivisionError(), OverflowError(), SyntaxError("broken"), Image.DecompressionBombError()],
)
def test_whatever_a_decoder_raises_is_an_image_error(tmp_path, photograph, monkeypatch, error):
    def fail(*_):
        raise error

    path = to_file(tmp_path / "file", Image.fromarray(photograph), "BMP")
    monkeypatch.setattr(image_file.PillowFile, "load", fail)
    with pytest.raises(ImageError, match="file: (corrupt|there is not enough memory|it has too many pixels)"):
        read_frames(path)


def test_nothing_is_said_on_the_terminal(tmp_path, photograph):
    """In a process of its own, as pytest shows warnings by itself. Pillow warns of both files."""
    exif = to_file(tmp_path / "exif.jpg", Image.fromarray(photograph), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\xff")
    twice = animations.png(1, 1, [Part(TINY, 0, 0, KEEP)])
    control = png_chunk(b"acTL", struct.pack(">2I", 1, 0))
    (tmp_path / "twice.png").write_bytes(twice.replace(control, control * 2))
    code = """
import sys, pathlib
from dataloaders.image_file import ImageFile
for path in sys.argv[1:]:
    print(sum(1 for _ in ImageFile(pathlib.Path(path).read_bytes()).pictures([0])))
"""
    assert alone(code, exif, tmp_path / "twice.png") == "1\n1\n"


# --- the rest ---------------------------------------------------------------------------------------------------


def test_threads_give_the_same_as_one(tmp_path):
    paths = []
    for number, format in enumerate(["JPEG", "PNG", "WEBP", "GIF"] * 5):
        rgb = draw_photograph(60 + number, 90, np.random.default_rng(number))
        paths.append(to_file(tmp_path / str(number), Image.fromarray(rgb), format))
    expected = [load_image(path, 48) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        for got, one in zip(pool.map(lambda path: load_image(path, 48), paths * 3), expected * 3, strict=True):
            assert torch.equal(got, one)


def test_torchvision_is_not_imported(tmp_path, photograph):
    path = to_file(tmp_path / "file.jpg", Image.fromarray(photograph), "JPEG")
    code = (
        f"import sys; from dataloaders.image_transform import load_image; load_image({str(path)!r}, 32); "
        "sys.exit('torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_benchmark_prints_each_way_and_the_peak(capsys):
    image_loading.main(["--images", "3", "--size", "64"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 JPEGs of 64 x 64")
    ways = ("decoding alone", "and torch's", "load_image, crop", "load_image, pad", "load_image, squash", "Pillow")
    for line, way in zip(lines[1:7], ways, strict=True):
        assert line.startswith(way) and "images/s" in line and line.endswith("of decoding alone")
    assert lines[7].startswith("--image_cache: 3 images") and lines[8].startswith("a run's loader")
    for line, way in zip(lines[9:12], ("without --image_cache", "with it, first", "with it, second"), strict=True):
        assert line.startswith(way) and "images/s" in line
    assert lines[12].startswith("peak memory")
