"""The bytes of an image file -> its kind, size and number of frames, and its frames as browsers show them; or why not.

Pillow reads the files, and decodes them but for the stills that OpenCV decodes faster and equally: opaque JPEGs, PNGs
and WebPs that are whole. Where OpenCV refuses one of these, Pillow decides. Functions are thread-safe. Importing this
file silences Pillow's warnings and OpenCV's log, which would repeat every bad file on the terminal.
"""

import io
import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile as PillowFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dataloaders.image_bytes import (
    BYTES_PER_PIECE,
    FREE_PIECES,
    BadImage,
    Pieces,
    check_rows,
    essential_chunks,
    essential_segments,
    up_to_its_length,
)
from util import InputError

READERS = {  # kind: (how its files begin, what reads them)
    "JPEG": (rb"\xff\xd8\xff", JpegImageFile),  # by its class, as Image.open swallows the reason of a refusal
    "PNG": (rb"\x89PNG\r\n\x1a\n", PngImageFile),
    "GIF": (rb"GIF8[79]a", GifImageFile),
    "WebP": (rb"RIFF....WEBP", WebPImageFile),
    "BMP": (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", BmpImageFile),  # and a known size of its header
    "AVIF": (rb"....ftyp(avi[fs]|m[is]f1)", AvifImageFile),
}
APPLE_DOUBLE = b"\x00\x05\x16\x07"

MAX_BYTES = 2**29
MAX_PIXELS = 2**27  # 384 MiB in RGB
MAX_SIDE = 2**20  # OpenCV's own limit
# Where decoders keep several copies of the pixels: animations, GIF, AVIF, transparent WebP. Up to 0.5 GiB.
MAX_CANVAS = 2**24
# All frames before a wanted one have to be painted. 2**29 pixels are 258 frames of 1920 x 1080 and take up to 15 s.
MAX_FRAMES, MAX_PAINTED = 10_000, 2**29
MAX_SCANNED = 2**31  # pixels of all scans of a JPEG, each over all its pixels, which takes up to 20 s
BYTES_PER_PIECE_OF = {"BMP": 1}  # where it is packed

FOR_OPENCV = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "L"), "WebP": ("RGB",)}  # Pillow's names of their modes
BAND = 2**18  # pixels that are made RGB at a time
KEEP, CLEAR, RESTORE = range(3)  # what becomes of a frame's area before the next frame
REDUCED_GREY = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
REDUCED_COLOUR = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

if hasattr(cv2, "setLogLevel"):  # OpenCV 4
    cv2.setLogLevel(0)
else:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", module=r"PIL\.")  # once, here: to do it around a call would not be thread-safe
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice as many, where it is told more only while it decodes


class ImageError(InputError):
    """An image that cannot be used; the message names the file and says why."""


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of a file that may be an image; ImageError if there are none or too many."""
    try:
        size = os.stat(path).st_size
        if size == 0:
            raise ImageError(f"{path}: the file is empty")
        if size > MAX_BYTES:
            raise ImageError(f"{path}: {size:,} bytes are too many; at most {MAX_BYTES:,} are read")
        return Path(path).read_bytes()  # not by OpenCV: it knows no Unicode paths on some systems
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise ImageError(f"{path}: there is not enough memory for its {size:,} bytes") from error


def stamp_of(path: str | os.PathLike) -> tuple[int, int]:
    """(size, mtime_ns), the same as long as the file has not changed."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def may_move(path: str | os.PathLike) -> bool:
    """Whether a file may be an animation, by how it begins; False of one that cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    webp = head[12:16] == b"VP8X" and head[20:21] and head[20] & 2
    return bool(webp) or head.startswith(b"GIF8") or b"acTL" in head or head[4:12] == b"ftypavis"


@contextmanager
def refusing() -> Iterator[None]:
    """Whatever a decoder raises becomes BadImage: none says what damaged files may bring forth, and it is much."""
    try:
        yield
    except BadImage:
        raise
    except MemoryError as error:
        raise BadImage("there is not enough memory to decode it") from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"it has too many pixels; at most {MAX_PIXELS:,} are read") from error
    except Exception as error:
        told = str(error) or type(error).__name__
        if isinstance(error.__cause__ or error, (struct.error, IndexError)):
            raise BadImage("truncated: the file ends in the middle of a header") from error
        if "truncated" in told.lower():
            raise BadImage(f"truncated: {told}") from error
        raise BadImage(f"corrupt: Pillow cannot read it ({told})") from error


class ImageFile:
    """An image file: `kind`, `width` and `height` as it is shown, `frames` (1 for a still). Not decoded yet.

    Raises BadImage, as its methods do: not an image, truncated, corrupt, or over one of the bounds above.
    """

    def __init__(self, data: bytes):
        self.kind, reader = kind_of(data)
        whole, exif, self.scans = True, None, 0
        if self.kind == "PNG":
            data, whole = essential_chunks(data)
        elif self.kind == "JPEG":
            data, whole, exif, self.scans = essential_segments(data)
        elif self.kind == "WebP":
            data = up_to_its_length(data)
        self.data = data
        with refusing():
            # a small file has few pieces anyway, and io.BytesIO is faster
            per_piece = BYTES_PER_PIECE_OF.get(self.kind, BYTES_PER_PIECE)
            self.file = reader(Pieces(data, per_piece) if len(data) > FREE_PIECES else io.BytesIO(data))
            self.skipped = 0
            if isinstance(self.file, PngImageFile):
                scale_transparency(self.file)
                self.skipped = int(self.file.default_image)  # a still for those who know no APNG
            self.frames = getattr(self.file, "n_frames", 1) - self.skipped
            self.check_bounds()
            self.orientation = orientation(exif or self.file.info.get("exif"))
            opaque = self.file.mode in FOR_OPENCV.get(self.kind, ()) and "transparency" not in self.file.info
            self.for_opencv = whole and opaque and self.frames == 1 and not self.skipped
        self.width, self.height = self.file.size if self.orientation < 5 else self.file.size[::-1]

    def check_bounds(self) -> None:
        width, height = self.size = self.file.size
        several_copies = self.kind in ("GIF", "AVIF") or self.kind == "WebP" and self.file.mode != "RGB"
        most = MAX_CANVAS if several_copies or self.frames > 1 else MAX_PIXELS
        if min(width, height) < 1:
            raise BadImage(f"corrupt: the size is {width} x {height}")
        if width * height > most or max(width, height) > MAX_SIDE:
            kind = f"{'an animated' if self.frames > 1 else 'such a'} {self.kind}"
            raise BadImage(
                f"{width} x {height} pixels are too many; at most {most:,} are read of {kind}, "
                f"and {MAX_SIDE:,} in a row"
            )
        if self.frames > MAX_FRAMES:
            raise BadImage(f"{self.frames:,} frames are too many; at most {MAX_FRAMES:,} are read")
        if self.frames * width * height > MAX_PAINTED:
            raise BadImage(
                f"{self.frames:,} frames of {width} x {height} pixels are too many; at most {MAX_PAINTED:,} pixels "
                "are read in all frames together"
            )
        if self.scans * width * height > MAX_SCANNED:
            raise BadImage(
                f"{self.scans:,} scans of {width} x {height} pixels are too many; at most {MAX_SCANNED:,} pixels are "
                "read in all scans together"
            )

    def pictures(self, wanted: list[int]) -> Iterator[np.ndarray]:
        """Yield the `wanted` frames (indices, ascending): RGB (H, W, 3), uint8, on white, turned as EXIF says."""
        with refusing():
            if (pixels := self.by_opencv(cv2.IMREAD_COLOR_RGB)) is not None:
                yield turned(pixels, self.orientation)
                return
            if self.kind == "PNG":
                check_rows(self.data, self.skipped + wanted[-1] + 1)
            if isinstance(self.file, GifImageFile) or isinstance(self.file, PngImageFile) and self.file.is_animated:
                shown: Iterator[Image.Image] = play(self.file, self.size, self.skipped, wanted)
            else:
                shown = whole_frames(self.file, wanted)
            for image in shown:
                yield turned(on_white(image), self.orientation)

    def first(self, reduction: float, colour: bool) -> np.ndarray:
        """The first frame as pictures() gives it, but in BGR (H, W, 3) or, without `colour`, grey levels (H, W).

        A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as far as `reduction` allows.
        """
        if self.kind == "JPEG":
            factor = next((f for f in (8, 4, 2) if f <= reduction), 1)
            with refusing():
                pixels = self.by_opencv((REDUCED_COLOUR if colour else REDUCED_GREY)[factor])
            if pixels is not None:
                return turned(pixels, self.orientation)
        (rgb,) = self.pictures([0])
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR if colour else cv2.COLOR_RGB2GRAY)

    def by_opencv(self, flag: int) -> np.ndarray | None:
        """What cv2.imdecode makes of a still that it decodes faster than Pillow, and equally; not turned. Or None."""
        if not self.for_opencv:
            return None
        try:
            return cv2.imdecode(np.frombuffer(self.data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            return None


def kind_of(data: bytes) -> tuple[str, type[PillowFile]]:
    """The kind of an image by how it begins, and what reads it."""
    for kind, (signature, reader) in READERS.items():
        if re.match(signature, data, re.DOTALL):
            return kind, reader
    *kinds, last = READERS
    if data[:4] == APPLE_DOUBLE:
        raise BadImage("not an image, but what macOS keeps beside one: files that begin with ._ can be left out")
    raise BadImage(f"not a {', '.join(kinds)} or {last} image")


def scale_transparency(file: PngImageFile) -> None:
    """Bring the transparent colour of 2, 4 or 3 x 16 bits to 8, which Pillow does with the pixels only."""
    key, how = file.info.get("transparency"), file.tile[0].args if file.tile else None
    if isinstance(key, int) and how in ("L;2", "L;4"):
        file.info["transparency"] = key * {"L;2": 85, "L;4": 17}[how]
    elif isinstance(key, tuple) and how == "RGB;16B":
        file.info["transparency"] = tuple(level >> 8 for level in key)


def orientation(exif: bytes | None) -> int:
    """The orientation (1 to 8) in an EXIF block; 1 if it has none or is broken, as viewers do."""
    block = Image.Exif()
    try:
        block.load(exif or b"")
        found = block.get(0x112)
    except Exception:  # as many as in refusing()
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def whole_frames(file: PillowFile, wanted: list[int]) -> Iterator[Image.Image]:
    for index in wanted:
        file.seek(index)
        yield file


def play(
    file: GifImageFile | PngImageFile, size: tuple[int, int], skipped: int, wanted: list[int]
) -> Iterator[Image.Image]:
    """Yield the canvas at each wanted frame of an animation made of parts. It begins white, and "cleared" is white.

    Pillow decodes each part alone: it would compose them otherwise than the standards say and browsers do.
    """
    canvas, painted = Image.new("RGB", size, "white"), 0
    for index in range(wanted[-1] + 1):
        painted += file.width * file.height
        if painted > MAX_PAINTED:  # parts outside a GIF's canvas extend it
            raise BadImage(f"its frames have too many pixels; at most {MAX_PAINTED:,} are read in all together")
        part, box, blend, dispose = (
            gif_part(file, index) if isinstance(file, GifImageFile) else png_part(file, index + skipped)
        )
        before = canvas.crop(box) if dispose == RESTORE else "white"
        if not blend:
            canvas.paste("white", box)
        canvas.paste(part, box, part)
        if index in wanted:
            yield canvas
        if dispose in (CLEAR, RESTORE):
            canvas.paste(before, box)


Part = tuple[Image.Image, tuple[int, int, int, int], bool, int]  # RGBA, its place, painted over what is there?, KEEP, …


def png_part(file: PngImageFile, index: int) -> Part:
    """A frame of an APNG, without what is there before."""
    file.seek(index)
    file.blend_op = file.dispose_op = 0  # Pillow's own composition
    box = file.info["bbox"]
    return eight_bits(file.crop(box)).convert("RGBA"), box, file.info["blend"] == 1, file.info["disposal"]


def gif_part(file: GifImageFile, index: int) -> Part:
    """A frame of a GIF, without what is there before; the frames are asked for in order."""
    if index != file.tell():
        file.disposal_method = 0  # which Pillow would take from the frame before, if this one does not say
        file.seek(index)
        if file.width * file.height > MAX_CANVAS:  # a part outside the canvas, to which Pillow extends it
            raise BadImage(
                f"{file.width} x {file.height} pixels are too many; at most {MAX_CANVAS:,} are read of a GIF"
            )
    left, top, right, bottom = map(int, file.dispose_extent or (0, 0, *file.size))
    part = file.crop((left, top, right, bottom)).convert("RGBA")
    dispose = {2: CLEAR, 3: RESTORE, 4: RESTORE}.get(file.disposal_method, KEEP)  # 4: as browsers do
    file.dispose = None
    file.im, file._mode = Image.new("RGBA", file.size).im, "RGBA"  # what Pillow paints the next one over
    file.info.pop("transparency", None)
    return part, (left, top, right, bottom), True, dispose


def on_white(image: Image.Image) -> np.ndarray:
    """A Pillow image as RGB (H, W, 3), uint8, made in bands, as Pillow keeps four bytes to a pixel."""
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        band = eight_bits(image.crop((0, top, image.width, min(top + rows, image.height))))
        if band.has_transparency_data:
            page, band = Image.new("RGB", band.size, "white"), band.convert("RGBA")
            page.paste(band, mask=band)
            band = page
        rgb[top : top + rows] = np.asarray(band.convert("RGB"))
    return rgb


def eight_bits(image: Image.Image) -> Image.Image:
    """The upper half of 16 bits of grey, which Pillow would cut off at 255; other images as they are."""
    if not image.mode.startswith("I;16"):
        return image
    levels = np.asarray(image)
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror the pixels (H, W) or (H, W, 3) as an EXIF orientation (1 to 8) asks."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[rows, columns])
