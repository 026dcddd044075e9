"""The bytes of other people's PNGs, JPEGs and WebPs -> bytes that the decoders judge as browsers do; or why not.

Pillow refuses pictures for faults that change no pixel, and neither Pillow nor OpenCV always notices that pixels are
missing.
"""

import io
import re
import struct
import zlib

PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND"}  # that say what is seen
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # no stuffed byte, restart marker or filling
BETWEEN_SCANS = b"\xc4\xda\xdb\xdd\xfe"  # DHT, SOS, DQT, DRI, COM
INFLATED_AT_ONCE = 2**18
# Pillow goes through a file's structure in small pieces: a GIF's blocks of up to 255 bytes, some three times.
FREE_PIECES, BYTES_PER_PIECE = 2**18, 32


class BadImage(ValueError):
    """The file is not a whole image, or too large a one; the message says why, without the path."""


class Pieces(io.BytesIO):
    """Bytes that can be read in as many pieces as an ordinary file of that length takes; then it is BadImage."""

    def __init__(self, data: bytes, bytes_per_piece: int = BYTES_PER_PIECE):
        super().__init__(data)
        self.most = self.left = FREE_PIECES + len(data) // bytes_per_piece

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.left:
            raise BadImage(f"it is cut into too many frames or blocks: {self.most:,} pieces were read, and no end")
        self.left -= 1
        return super().read(size)


def essential_chunks(data: bytes) -> tuple[bytes, bool]:
    """A PNG without the chunks that change no pixel, or are not critical and wrong by their checksum; if it is whole.

    Browsers pass over these, where Pillow refuses the file. Whole: up to the last chunk, by all checksums.
    """
    file = Pieces(data)
    kept, sound, kind = [(b"", file.read(8))], True, b""
    in_palette = pixels_begun = False
    colours = frames = 0
    while kind != b"IEND" and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        content, checksum = file.read(length), file.read(4)
        right = checksum == zlib.crc32(content, zlib.crc32(kind)).to_bytes(4, "big")
        if kind not in PNG_CHUNKS and kind[:1].isupper():
            raise BadImage(f"corrupt: a PNG chunk {kind!r} that would have to be known")
        if kind == b"IHDR":
            in_palette = content[9:10] == b"\x03"
        elif kind == b"PLTE":
            colours = max(colours, length // 3)
        elif kind == b"IDAT":
            pixels_begun = True
        elif kind == b"tRNS" and pixels_begun:
            continue
        elif kind == b"tRNS" and in_palette and 0 < colours < length:
            content = content[:colours]
            head = struct.pack(">I4s", colours, kind)
            checksum = zlib.crc32(content, zlib.crc32(kind)).to_bytes(4, "big")
        if kind in PNG_CHUNKS and (right or kind.isupper()):
            kept.append((kind, head + content + checksum))
            sound &= right
            frames += kind == b"fcTL"
            if kind == b"acTL" and length >= 4:
                frames -= int.from_bytes(content[:4], "big")
    if in_palette and not colours:
        raise BadImage("corrupt: a PNG without its palette")
    if frames < 0 and kind == b"IEND":  # fewer than it says, though nothing is cut off: browsers show the still
        kept = [(name, chunk) for name, chunk in kept if name not in (b"acTL", b"fcTL", b"fdAT")]
    return b"".join(chunk for _, chunk in kept), sound and kind == b"IEND"


def check_rows(data: bytes, frames: int) -> None:
    """BadImage where rows are missing from one of a PNG's first pictures, which Pillow leaves black.

    data: of `essential_chunks`; frames: how many pictures are looked at.
    """
    position = 8
    pictures: list[tuple[int, int, list[memoryview]]] = []  # (width, height, compressed pieces)
    while position + 8 <= len(data) and len(pictures) <= frames:
        length, kind = struct.unpack_from(">I4s", data, position)
        content = memoryview(data)[position + 8 : position + 8 + length]
        position += length + 12
        if kind == b"IHDR":
            width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", content)
            pictures.append((width, height, []))
        elif kind == b"fcTL":
            if not pictures[-1][2]:
                del pictures[-1]
            pictures.append((*struct.unpack_from(">II", content, 4), []))
        elif kind in (b"IDAT", b"fdAT"):
            pictures[-1][2].append(content[4 if kind == b"fdAT" else 0 :])
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    for width, height, pieces in pictures[:frames]:
        sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes]
        row = bits * PNG_CHANNELS.get(colour, 1)
        if not holds(pieces, sum(h * (1 + (w * row + 7) // 8) for w, h in sizes if w > 0 and h > 0)):
            raise BadImage("truncated: rows of a PNG are missing")


def holds(pieces: list[memoryview], needed: int) -> bool:
    """Whether compressed pieces inflate to so many bytes, or are damaged, which Pillow says better."""
    inflate = zlib.decompressobj()
    for piece in pieces:
        left: bytes | memoryview = piece
        while left and needed > 0:
            try:
                needed -= len(inflate.decompress(left, INFLATED_AT_ONCE))
            except zlib.error:
                return True
            left = inflate.unconsumed_tail
    return needed <= 0


def essential_segments(data: bytes) -> tuple[bytes, bool, bytes | None, int]:
    """A JPEG without what changes no pixel; whether it is whole; its EXIF block; how many scans it has.

    Pillow refuses pictures for the least fault in such segments, where browsers pass over them. Whole: nothing but
    what belongs between scans stands between the first scan and the end marker, which comes last. Else OpenCV may
    fill what is missing with grey, without a sign.
    """
    data = data.rstrip(b"\0")  # zeros after a cut would be taken for pixels
    kept, position, exif = [data[:2]], 2, None
    while (found := JPEG_MARKER.search(data, position)) and found[1] not in (b"\xda", b"\xd9"):
        start = found.end()
        length = int.from_bytes(data[start : start + 2], "big")
        position = start + max(2, length)
        segment = data[start + 2 : position]
        if found[1] == b"\xe1" and segment.startswith(b"Exif\0\0") and exif is None:
            exif = segment
        well_formed = found[1] == b"\xe0" and length >= 16 or found[1] == b"\xee" and length >= 14
        if well_formed or not (b"\xe0" <= found[1] <= b"\xef" or found[1] == b"\xfe"):
            kept.append(data[found.start() : position])
    scans = found.start() if found else len(data)
    markers = b"".join(JPEG_MARKER.findall(data, scans))
    whole = data.endswith(b"\xff\xd9", scans) and not markers[:-1].strip(BETWEEN_SCANS)
    if sum(map(len, kept)) < scans:  # else it is all there, and need not be copied
        data = b"".join((*kept, data[scans:]))
    return data, whole, exif, markers.count(b"\xda")


def up_to_its_length(data: bytes) -> bytes:
    """A WebP without what comes after it, and one that moves with a transparent canvas, as browsers show it."""
    length = int.from_bytes(data[4:8], "little") + 8
    if length > len(data):
        raise BadImage("truncated: the end of the WebP is missing")
    data = data[:length]
    if data[12:16] == b"VP8X" and data[20:21] and data[20] & 2:
        data = data[:20] + bytes([data[20] | 0x10]) + data[21:]
    return data
