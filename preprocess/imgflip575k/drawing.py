"""Draw a meme: two texts in white capitals with a black outline, at the upper and the lower edge of a picture."""

import cv2
import numpy as np

OUTLINE = 0.08  # of the letters' height
LINE = 1.15  # from one baseline to the next, in heights
SHARES = (0.24, 0.32, 0.46)  # of the picture's height that a text may fill; the next one if it becomes too small
READABLE = 0.045  # of the longer side: text is not made smaller while there is another share to try
MEASURED = 64  # height in pixels at which words are measured; widths grow with the height


class Pen:
    """The font: OpenCV 5 has a TrueType font built in, OpenCV 4 draws with lines (Hershey)."""

    def __init__(self):
        self.face = cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None

    def width(self, text, height):
        """Width in pixels of a text whose line is `height` pixels high."""
        if self.face is not None:
            x, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), self.face, height, 800)
            return x + width
        return cv2.getTextSize(text, *_hershey(height))[0][0]

    def write(self, mask, text, x, baseline, height):
        """Draw a text into `mask`, (H, W) uint8, 255 where letters are."""
        if self.face is not None:
            cv2.putText(mask, text, (x, baseline), (255,), self.face, height, 800)
        else:
            font, scale, thickness = _hershey(height)
            cv2.putText(mask, text, (x, baseline), font, scale, 255, thickness, cv2.LINE_AA)


def _hershey(height):
    return cv2.FONT_HERSHEY_DUPLEX, height / 30, max(1, round(height / 10))


def resized(picture, long_side):
    """The picture with `long_side` pixels on its longer side."""
    height, width = picture.shape[:2]
    scale = long_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def draw_meme(pen, picture, upper, lower):
    """A copy of `picture`, (H, W, 3) uint8, with both texts (ASCII; "" for none) in capitals."""
    drawn = picture.copy()
    for text, at_top in ((upper, True), (lower, False)):
        if text.strip():
            _draw_text(pen, drawn, text.upper(), at_top)
    return drawn


def _draw_text(pen, picture, text, at_top):
    """Letters are drawn at twice the size and averaged, which keeps small text smooth."""
    height, width = picture.shape[:2]
    size, lines = fitted(pen, text, width, height)
    outline = max(2, round(2 * OUTLINE * size))
    step = round(2 * LINE * size)
    below = round(0.6 * size)  # descenders
    band = min(height, (round(2.2 * size) + step * (len(lines) - 1) + below + outline) // 2 + 1)  # rows of the picture
    first = round(2.2 * size) if at_top else 2 * band - below - step * (len(lines) - 1)
    letters = np.zeros((2 * band, 2 * width), np.uint8)
    for number, line in enumerate(lines):
        left = max(0, (2 * width - pen.width(line, 2 * size)) // 2)
        pen.write(letters, line, left, first + number * step, 2 * size)
    tip = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * outline + 1, 2 * outline + 1))
    black, white = (
        cv2.resize(mask, (width, band), interpolation=cv2.INTER_AREA).astype(np.uint16)[..., None]
        for mask in (cv2.dilate(letters, tip), letters)
    )
    rows = picture[:band] if at_top else picture[height - band :]
    rows[:] = np.minimum((rows * (255 - black) + 127) // 255 + white, 255)


def fitted(pen, text, width, height):
    """(height of the letters in pixels, lines): as large as it goes in a picture of that width and height.

    At most 0.46 of the picture's height is filled, in the smallest pictures by letters too small to read. A
    word that is wider than the picture is broken.
    """
    words = [(word, pen.width(word, MEASURED) / MEASURED) for word in text.split()]
    space = pen.width("x x", MEASURED) / MEASURED - pen.width("xx", MEASURED) / MEASURED
    room = 0.95 * width
    largest = max(10, int(min(0.11 * height, 0.13 * width)))
    smallest = max(7, int(READABLE * max(width, height)))
    for share in SHARES:
        for size in range(largest, smallest - 1, -1):
            lines = wrapped(words, space, room / size)
            if lines and len(lines) * size * LINE <= share * height:
                return size, lines
    for size in range(min(largest, smallest), 0, -1):
        lines = wrapped(_broken(pen, words, room / size), space, room / size)
        if lines and len(lines) * size * LINE <= SHARES[-1] * height:
            break
    return size, lines or [text]


def wrapped(words, space, room):
    """Fill lines with as many words as go in; None if a word alone is wider than `room`.

    words: (word, width). All widths have the same unit.
    """
    lines, used = [], room
    for word, width in words:
        if width > room:
            return None
        if used + space + width <= room:
            lines[-1] += f" {word}"
            used += space + width
        else:
            lines.append(word)
            used = width
    return lines


def _broken(pen, words, room):
    """The words, those wider than `room` cut into pieces of as many letters as certainly go in."""
    for word, width in words:
        if width <= room:
            yield word, width
            continue
        widest = max(pen.width(letter, MEASURED) / MEASURED for letter in set(word))
        letters = max(1, int(room / widest))
        for start in range(0, len(word), letters):
            piece = word[start : start + letters]
            yield piece, pen.width(piece, MEASURED) / MEASURED
