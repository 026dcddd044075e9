"""Animated GIFs, PNGs and WebPs written part by part, so that every way of placing and undoing a part can be had."""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

KEEP, CLEAR, RESTORE = range(3)


class Part(NamedTuple):
    """A picture on the canvas: `pixels` (h, w, 4) RGBA or, in a GIF, (h, w) places in its palette (n, 3)."""

    pixels: np.ndarray
    x: int
    y: int
    dispose: int
    blend: bool = True
    palette: np.ndarray | None = None  # of a GIF: None for the shared one
    transparent: int | None = None  # of a GIF: a place in the palette


def gif(width, height, palette, parts, trailer=b";", between=b"", disposals=(1, 2, 3)):
    """`between` comes before each part, `disposals` are the numbers that say KEEP, CLEAR and RESTORE."""
    file = b"GIF89a" + struct.pack("<2H3B", width, height, 0x80 | _bits(palette) - 1, 0, 0) + palette.tobytes()
    for part in parts:
        control = disposals[part.dispose] << 2 | (part.transparent is not None)
        file += between + struct.pack("<4BHBB", 0x21, 0xF9, 4, control, 5, part.transparent or 0, 0)
        local = b"" if part.palette is None else part.palette.tobytes()
        flags = 0x80 | _bits(part.palette) - 1 if local else 0
        h, w = part.pixels.shape
        file += struct.pack("<B4HB", 0x2C, part.x, part.y, w, h, flags) + local + _gif_data(part.pixels)
    return file + between + trailer


def _bits(palette):
    return (len(palette) - 1).bit_length()


def _gif_data(pixels):
    """Places in a palette as LZW codes of 9 bits, none of which stands for more than one pixel."""
    codes = []
    for number, pixel in enumerate(pixels.ravel().tolist()):
        codes += [256, pixel] if number % 200 == 0 else [pixel]  # 256 clears the decoder's table before it grows
    codes.append(257)
    bits = sum(code << 9 * place for place, code in enumerate(codes))
    data = bits.to_bytes(-(-9 * len(codes) // 8), "little")
    blocks = (data[start : start + 255] for start in range(0, len(data), 255))
    return b"\x08" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, parts):
    chunks = [
        (b"IHDR", struct.pack(">2I5B", width, height, 8, 6, 0, 0, 0)),
        (b"acTL", struct.pack(">2I", len(parts), 0)),
    ]
    number = 0
    for part in parts:
        h, w = part.pixels.shape[:2]
        control = struct.pack(">5I2H2B", number, w, h, part.x, part.y, 5, 100, part.dispose, part.blend)
        rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in part.pixels))
        chunks.append((b"fcTL", control))
        chunks.append((b"fdAT", struct.pack(">I", number + 1) + rows) if number else (b"IDAT", rows))
        number += 2 if number else 1
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in [*chunks, (b"IEND", b"")])


def webp(width, height, parts):
    """Places are even; there is no RESTORE."""
    chunks = _riff(b"VP8X", b"\x12\0\0\0" + _int24(width - 1, height - 1)) + _riff(b"ANIM", bytes(6))
    for part in parts:
        h, w = part.pixels.shape[:2]
        still = io.BytesIO()
        Image.fromarray(part.pixels).save(still, "WebP", lossless=True, exact=True)
        flags = (part.dispose == CLEAR) | (not part.blend) << 1
        place = _int24(part.x // 2, part.y // 2, w - 1, h - 1, 50)
        chunks += _riff(b"ANMF", place + bytes([flags]) + still.getvalue()[12:])
    return _riff(b"RIFF", b"WEBP" + chunks)


def _int24(*values):
    return b"".join(value.to_bytes(3, "little") for value in values)


def _riff(kind, content):
    return struct.pack("<4sI", kind, len(content)) + content + bytes(len(content) % 2)


def random_parts(kind, rng, width, height, count):
    """Parts of colours and holes, anywhere on the canvas; the first may be smaller than it."""
    parts = []
    for number in range(count):
        x, y = (2 * int(rng.integers(side // 4)) if number or rng.integers(2) else 0 for side in (width, height))
        w, h = int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1))
        if kind == "PNG" and not number:
            x, y, w, h = 0, 0, width, height
        dispose, blend = int(rng.integers(2 if kind == "WEBP" else 3)), bool(rng.integers(2))
        blocks = np.kron(rng.integers(0, 16, (8, 8)), np.ones((-(-h // 8), -(-w // 8)), int))[:h, :w]
        if kind == "GIF":
            palette = rng.integers(0, 256, (16, 3), np.uint8) if rng.integers(2) else None
            transparent = int(rng.integers(16)) if rng.integers(2) else None
            parts.append(Part(blocks, x, y, dispose, True, palette, transparent))
        else:
            colours = rng.integers(0, 256, (16, 4), np.uint8)
            colours[:6, 3], colours[6:12, 3] = 0, 255
            parts.append(Part(colours[blocks], x, y, dispose, blend))
    return parts
