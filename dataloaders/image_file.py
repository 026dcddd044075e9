"""What an image file says of itself: kind, size, rotation, frames; and whether it is whole.

OpenCV decodes pixels but fills the missing part of some truncated files with grey, has no common way to know the
size beforehand and composes some animations wrongly (GIFs that restore the frame before, for one). So the files'
own structure is read here, and an animation is taken apart into still images with their place on the canvas.
"""

import re
import struct
import zlib
from typing import NamedTuple

KEEP, CLEAR, RESTORE = range(3)  # what becomes of a frame's area before the next frame
JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # no stuffed byte, restart marker or filling
JPEG_FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class BadImage(ValueError):
    """The file is not a whole image; the message says why, without the path."""


class Frame(NamedTuple):
    """One still image of an animation: a complete file, its place on the canvas, how it is painted."""

    data: bytes
    x: int
    y: int
    width: int
    height: int
    blend: bool  # over what is there (True) or instead of it
    dispose: int  # KEEP, CLEAR or RESTORE


class ImageFile(NamedTuple):
    """`frames` is empty for a still. `grey_key`: the grey level of a PNG that is transparent, or None."""

    kind: str
    width: int
    height: int
    orientation: int = 1  # EXIF: 1 to 8
    frames: tuple = ()
    grey_key: int | None = None


def parse_image(data):
    """The ImageFile of a file's bytes. Raises BadImage: unknown kind, truncated, structure broken."""
    for signature, parse in PARSERS:
        if re.match(signature, data, re.DOTALL):
            try:
                image = parse(data)
            except (IndexError, struct.error) as error:
                raise BadImage("truncated: the file ends in the middle of a header") from error
            if min(image.width, image.height) < 1:
                raise BadImage(f"corrupt: the size is {image.width} x {image.height}")
            return image
    raise BadImage("not a JPEG, PNG, GIF, WebP or BMP image")


def parse_jpeg(data):
    size, orientation, position, scans = None, 1, 2, 0
    while match := JPEG_MARKER.search(data, position):
        marker, start = match[1][0], match.end()
        if marker == 0xD9:
            if size is None or not scans:
                raise BadImage("corrupt: a JPEG without an image")
            return ImageFile("JPEG", *size, orientation)
        if marker in (0x01, 0xD8):  # markers without a segment
            position = start
            continue
        (length,) = struct.unpack_from(">H", data, start)
        position = start + length
        if length < 2:
            raise BadImage("corrupt: a JPEG segment without a length")
        if marker in JPEG_FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", data, start + 3)
            size = width, height
        elif marker == 0xDA:
            scans += 1
        elif marker == 0xE1 and data[start + 2 : start + 8] == b"Exif\0\0":
            orientation = exif_orientation(data[start + 8 : position])
    raise BadImage("truncated: the end of the JPEG is missing")


def parse_png(data):
    header, orientation, grey_key = None, 1, None
    shared, controls, parts, still = [], [], [], False  # chunks for every frame; the frames' control and data
    for kind, content in png_chunks(data):
        if header is None and kind != b"IHDR":
            raise BadImage("corrupt: the PNG does not begin with its header")
        if kind == b"IHDR":
            header = content
            width, height, bits, colour = struct.unpack_from(">IIBB", content)
        elif kind in (b"PLTE", b"tRNS"):
            shared.append((kind, content))
            if kind == b"tRNS" and colour == 0:
                key = struct.unpack(">H", content)[0]
                grey_key = key if bits > 8 else key * 255 // (2**bits - 1)
        elif kind == b"eXIf":
            orientation = exif_orientation(content)
        elif kind == b"fcTL":
            controls.append(struct.unpack_from(">IIIIHHBB", content, 4))
            parts.append([])
        elif kind == b"IDAT":
            still = True
            if parts:
                parts[-1].append(content)
        elif kind == b"fdAT" and parts:
            parts[-1].append(content[4:])
    if not still:
        raise BadImage("corrupt: a PNG without an image")
    frames = []
    for (w, h, x, y, _, _, dispose, blend), pieces in zip(controls, parts, strict=True):
        chunks = [(b"IHDR", struct.pack(">II", w, h) + header[8:]), *shared, (b"IDAT", b"".join(pieces))]
        png = PNG_SIGNATURE + b"".join(png_chunk(*chunk) for chunk in [*chunks, (b"IEND", b"")])
        frames.append(Frame(png, x, y, w, h, blend == 1, dispose))
    check_inside(frames, width, height)
    return ImageFile("PNG", width, height, orientation, tuple(frames), grey_key)


def png_chunks(data):
    """(kind, content) of each chunk up to the end chunk; checksums are compared."""
    position, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise BadImage("truncated: the end of the PNG is missing")
        length, kind = struct.unpack_from(">I4s", data, position)
        content = data[position + 8 : position + 8 + length]
        position += length + 12
        if position > len(data):
            raise BadImage("truncated: the end of the PNG is missing")
        if zlib.crc32(content, zlib.crc32(kind)) != struct.unpack_from(">I", data, position - 4)[0]:
            raise BadImage("corrupt: a checksum in the PNG is wrong")
        yield kind, content


def png_chunk(kind, content):
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))


def parse_gif(data):
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + palette_bytes(flags)
    palette, frames, control = data[13:position], [], bytes(4)
    while (block := data[position]) != 0x3B:
        if block == 0x21:  # an extension; the one of interest controls the next image
            if data[position + 1] == 0xF9:
                control = data[position + 3 : position + 7]
            position = gif_blocks_end(data, position + 2)
        elif block == 0x2C:
            x, y, w, h, local = struct.unpack_from("<HHHHB", data, position + 1)
            start, position = position + 10, gif_blocks_end(data, position + 11 + palette_bytes(local))
            screen = struct.pack("<6sHHBBB", b"GIF89a", w, h, flags, 0, 0) + palette
            transparency = b"\x21\xf9\x04" + bytes([control[0] & 1, 0, 0, control[3], 0])
            picture = struct.pack("<BHHHHB", 0x2C, 0, 0, w, h, local) + data[start:position]
            dispose = {2: CLEAR, 3: RESTORE}.get(control[0] >> 2 & 7, KEEP)
            frames.append(Frame(screen + transparency + picture + b"\x3b", x, y, w, h, True, dispose))
            control = bytes(4)
        else:
            raise BadImage("corrupt: an unknown block in the GIF")
    if not frames:
        raise BadImage("corrupt: a GIF without an image")
    # As browsers do, a canvas that is too small for its images grows.
    width = max(width, *(frame.x + frame.width for frame in frames))
    height = max(height, *(frame.y + frame.height for frame in frames))
    return ImageFile("GIF", width, height, frames=tuple(frames))


def palette_bytes(flags):
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def gif_blocks_end(data, position):
    """The position after a chain of data blocks, which ends with one of length 0."""
    while length := data[position]:
        position += length + 1
    return position + 1


def parse_webp(data):
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise BadImage("truncated: the end of the WebP is missing")
    size, orientation, frames = None, 1, []
    for kind, content in webp_chunks(data[12 : struct.unpack_from("<I", data, 4)[0] + 8]):
        if kind == b"VP8X":
            size = int24(content, 4) + 1, int24(content, 7) + 1
        elif kind == b"VP8 " and size is None:
            width, height = struct.unpack_from("<HH", content, 6)
            size = width & 0x3FFF, height & 0x3FFF
        elif kind == b"VP8L" and size is None:
            (bits,) = struct.unpack_from("<I", content, 1)
            size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif kind == b"EXIF":
            orientation = exif_orientation(content.removeprefix(b"Exif\0\0"))
        elif kind == b"ANMF":
            x, y, w, h = (int24(content, 3 * i) for i in range(4))
            flags, picture = content[15], content[16:]
            if picture[:4] == b"ALPH":
                picture = b"VP8X\x0a\0\0\0\x10\0\0\0" + content[6:12] + picture
            webp = b"RIFF" + struct.pack("<I", len(picture) + 4) + b"WEBP" + picture
            dispose = CLEAR if flags & 1 else KEEP
            frames.append(Frame(webp, 2 * x, 2 * y, w + 1, h + 1, not flags & 2, dispose))
    if size is None:
        raise BadImage("corrupt: a WebP without an image")
    check_inside(frames, *size)
    return ImageFile("WebP", *size, orientation, tuple(frames))


def webp_chunks(data):
    position = 0
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if position + 8 + length > len(data):
            raise BadImage("truncated: a part of the WebP is missing")
        yield kind, data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def int24(data, position):
    return struct.unpack("<I", data[position : position + 3] + b"\0")[0]


def parse_bmp(data):
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return ImageFile("BMP", width, abs(height))


def check_inside(frames, width, height):
    for frame in frames:
        if frame.x + frame.width > width or frame.y + frame.height > height:
            raise BadImage("corrupt: a frame of the animation leaves the canvas")


def exif_orientation(exif):
    """The orientation (1 to 8) in an EXIF block; 1 if it has none or is broken, as viewers do."""
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, entry)
            if (tag, kind) == (0x112, 3) and 1 <= value <= 8:
                return value
    except (KeyError, struct.error):
        pass
    return 1


PARSERS = (
    (rb"\xff\xd8\xff", parse_jpeg),
    (re.escape(PNG_SIGNATURE), parse_png),
    (rb"GIF8[79]a", parse_gif),
    (rb"RIFF....WEBP", parse_webp),
    (rb"BM", parse_bmp),
)
