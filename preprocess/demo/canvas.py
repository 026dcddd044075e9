"""Draw for the demo: a canvas in units instead of pixels, small objects, meme text.

A picture is 100 x 100 units, y downwards. Colours are "#rrggbb".
"""

import math

import cv2
import numpy as np

INK = "#2b2530"
COLOURS = {
    "red": "#e2453c",
    "blue": "#3f7fd6",
    "green": "#4caf5b",
    "yellow": "#f6cf3f",
    "purple": "#9257c2",
    "orange": "#f28c33",
    "white": "#f4f1ea",
}
SHIFT = 4  # OpenCV reads coordinates as fixed-point numbers with this many fractional bits
OVERSAMPLING = 3  # drawn this many times larger, then averaged down


def bgr(colour):
    """ "#rrggbb" -> (blue, green, red)."""
    return tuple(int(colour[i : i + 2], 16) for i in (5, 3, 1))


def mixed(colour, other, share):
    """`colour` with `share` (0 to 1) of `other` in it."""
    return "#" + "".join(
        f"{round(int(colour[i : i + 2], 16) * (1 - share) + int(other[i : i + 2], 16) * share):02x}" for i in (1, 3, 5)
    )


class Canvas:
    """A square picture of `size` pixels. `x`, `y`, `zoom` move and scale all that is drawn afterwards."""

    def __init__(self, size, background):
        self.pixels = np.empty((OVERSAMPLING * size, OVERSAMPLING * size, 3), np.uint8)
        self.pixels[:] = bgr(background)
        self.size = size
        self.x = self.y = 0.0
        self.zoom = 1.0

    def finished(self):
        """The picture in its own size: (size, size, 3) uint8, blue first."""
        return cv2.resize(self.pixels, (self.size, self.size), interpolation=cv2.INTER_AREA)

    def mirror(self):
        """Swap left and right of what has been drawn."""
        self.pixels = np.ascontiguousarray(self.pixels[:, ::-1])

    def _px(self, length):
        return length * self.zoom * self.pixels.shape[0] / 100

    def _points(self, points):
        unit = self.pixels.shape[0] / 100 * 2**SHIFT
        moved = [((x - 50) * self.zoom + 50 + self.x, (y - 50) * self.zoom + 50 + self.y) for x, y in points]
        return np.array([(round(x * unit), round(y * unit)) for x, y in moved], np.int32)

    def polygon(self, points, colour, ink=0.9):
        """A filled polygon with an outline `ink` units wide (0: none)."""
        corners = [self._points(points)]
        cv2.fillPoly(self.pixels, corners, bgr(colour), cv2.LINE_AA, SHIFT)
        if ink:
            width = max(1, round(self._px(ink)))
            cv2.polylines(self.pixels, corners, True, bgr(INK), width, cv2.LINE_AA, SHIFT)

    def line(self, points, colour=INK, width=0.9):
        """An open line through `points`."""
        thick = max(1, round(self._px(width)))
        cv2.polylines(self.pixels, [self._points(points)], False, bgr(colour), thick, cv2.LINE_AA, SHIFT)

    def box(self, left, top, right, bottom, colour, ink=0.9):
        """A filled rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour, ink)

    def disc(self, x, y, rx, ry=None, colour="#ffffff", ink=0.9, start=0, end=360):
        """A filled ellipse, or the part of it between two angles (degrees, clockwise from the right)."""
        self.polygon(ellipse(x, y, rx, ry or rx, start, end), colour, ink)

    def arc(self, x, y, rx, ry, start, end, colour=INK, width=0.9):
        """The line of an ellipse between two angles."""
        self.line(ellipse(x, y, rx, ry, start, end), colour, width)


def ellipse(x, y, rx, ry, start, end):
    """Points on an ellipse from one angle to another."""
    steps = max(6, round(abs(end - start) / 12))
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def around(x, y, unit, *offsets):
    """The points (x, y) + unit * offset."""
    return [(x + unit * dx, y + unit * dy) for dx, dy in offsets]


def drop(canvas, x, y, r):
    """A drop of water around (x, y)."""
    canvas.polygon([(x, y - 1.6 * r), *ellipse(x, y, r, r, -20, 200)], "#6db9f2", 0.6)


def star(canvas, x, y, r, colour):
    """A star with five points."""
    rays = [(r * (1 if i % 2 == 0 else 0.45), math.radians(36 * i - 90)) for i in range(10)]
    canvas.polygon([(x + d * math.cos(a), y + d * math.sin(a)) for d, a in rays], colour, 0.6)


def draw_item(canvas, name, x, y, colour):
    """Draw one of `texts.ITEMS`, about 10 units wide, with its middle at (x, y)."""
    paint = COLOURS[colour]
    if name == "mug":
        canvas.disc(x + 3.4, y, 2.2, 2.4, "#ffffff")
        canvas.box(x - 3.2, y - 4, x + 3.2, y + 4, paint)
    elif name == "clock":
        canvas.disc(x, y, 4.6, colour=paint)
        canvas.disc(x, y, 3.1, colour="#ffffff", ink=0.5)
        canvas.line([(x, y - 2.2), (x, y), (x + 1.6, y + 0.8)])
    elif name == "book":
        canvas.polygon([(x - 5, y - 1), (x + 3, y - 4), (x + 5, y + 1), (x - 3, y + 4)], paint)
        canvas.line([(x - 3, y + 4), (x - 4.2, y + 1), (x + 3.8, y - 2)], "#ffffff", 0.8)
    elif name == "apple":
        canvas.disc(x, y + 0.6, 4.2, 3.8, paint)
        canvas.line([(x, y - 3), (x + 0.8, y - 5.4)])
        canvas.disc(x + 2.4, y - 4.6, 1.7, 0.9, "#4caf5b", 0.5)
    elif name == "duck":
        canvas.disc(x, y + 1.6, 4.8, 3, paint)
        canvas.disc(x + 2.6, y - 2.4, 2.5, colour=paint)
        canvas.polygon([(x + 4.8, y - 3), (x + 7.2, y - 2), (x + 4.8, y - 1.2)], "#f28c33", 0.5)
        canvas.disc(x + 3.2, y - 3, 0.5, colour=INK, ink=0)
    elif name == "sock":
        leg, foot = ((-2.6, -5), (1.8, -5), (1.8, 0.6)), ((5.2, 2.2), (4.4, 4.8), (-1, 4.6), (-2.6, 2))
        canvas.polygon(around(x, y, 1, *leg, *foot), paint)
        canvas.line([(x - 2.6, y - 3), (x + 1.8, y - 3)], "#ffffff", 1.2)
    elif name == "bottle":
        canvas.box(x - 1, y - 6.4, x + 1, y - 2.6, paint)
        canvas.box(x - 2.6, y - 3, x + 2.6, y + 5, paint)
        canvas.box(x - 2.6, y - 0.4, x + 2.6, y + 2.4, "#ffffff", 0.5)
    elif name == "gift":
        canvas.box(x - 4.2, y - 3, x + 4.2, y + 4.4, paint)
        canvas.box(x - 0.9, y - 3, x + 0.9, y + 4.4, "#ffffff", 0.5)
        canvas.disc(x - 1.8, y - 4.2, 1.8, 1.2, "#ffffff", 0.6)
        canvas.disc(x + 1.8, y - 4.2, 1.8, 1.2, "#ffffff", 0.6)
    elif name == "plant":
        for lean in (-3.4, 0, 3.4):
            canvas.disc(x + lean * 0.7, y - 3, 1.6, 3.4, "#4caf5b", 0.6)
        canvas.polygon([(x - 3.6, y), (x + 3.6, y), (x + 2.5, y + 5), (x - 2.5, y + 5)], paint)
    else:  # a banana
        outer, inner = ellipse(x, y - 3, 6, 6.6, 5, 165), ellipse(x + 0.6, y - 4.2, 5.2, 4.2, 160, 20)
        canvas.polygon([*outer, *inner], paint)
        canvas.line([outer[-1], (x - 6.6, y - 3.4)], width=1.6)


def draw_text(canvas, text, at_top):
    """White letters with a black border at the upper or lower edge, in one or two rows, never cut off."""
    if not text:
        return
    font, side = cv2.FONT_HERSHEY_DUPLEX, canvas.pixels.shape[0]
    rows = wrapped(text, 2) if text_width(text, 1.0) > 12 * text_height(1.0) else [text]
    scale = min(0.082 * side / text_height(1.0), *(0.9 * side / text_width(row, 1.0) for row in rows))
    while max(text_width(row, scale) for row in rows) > 0.92 * side:  # widths are not exactly linear
        scale *= 0.97
    height, gap = text_height(scale), 0.03 * side + 2
    border = round(side / 90)
    # Only a band of the picture is blended; it starts `above` below the top and ends where letters cannot be.
    band = round(len(rows) * (height + gap) + gap + border)
    above = 0 if at_top else side - band
    letters = np.zeros((band, side), np.uint8)
    for number, row in enumerate(rows):
        baseline = gap + height + number * (height + gap) - (0 if at_top else gap - border)
        origin = (round((side - text_width(row, scale)) / 2), round(baseline))
        cv2.putText(letters, row, origin, font, scale, 255, max(2, round(side / 150)), cv2.LINE_AA)
    round_tip = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * border + 1, 2 * border + 1))
    pixels = canvas.pixels[above : above + band]
    for mask, colour in ((cv2.dilate(letters, round_tip), 0.0), (letters, 255.0)):
        share = mask[..., None] / np.float32(255)
        pixels[:] = np.rint(pixels * (1 - share) + colour * share)


def text_width(text, scale):
    """Width in pixels of `text` in the font of the memes."""
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale, 2)[0][0]


def text_height(scale):
    """Height in pixels of a capital letter and the thin air above it."""
    return cv2.getTextSize("H", cv2.FONT_HERSHEY_DUPLEX, scale, 2)[0][1]


def wrapped(text, rows):
    """Cut `text` at spaces into up to `rows` rows of about equal width."""
    if rows == 1 or " " not in text:
        return [text]
    cuts = [i for i, letter in enumerate(text) if letter == " "]
    cut = min(cuts, key=lambda i: abs(i - len(text) / rows))
    return [text[:cut], *wrapped(text[cut + 1 :], rows - 1)]
