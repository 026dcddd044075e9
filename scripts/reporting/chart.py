"""Line charts and histograms as SVG. Colours and fonts come from page.css; page.js shows the `data-tip` texts."""

import math
from dataclasses import dataclass

from pages.markup import joined, tag

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 16, 36  # margins
TICKS = 5  # about so many on an axis
POINTS = 300  # of a line, at most
MARKED = 25  # up to so many points get a mark each
SMALL, LARGE = 2.2, 4  # half of a mark's width: of a line's points, of points without a line
SHAPES = (  # of marks, within -1 … 1
    None,  # a circle
    "M-1-1H1V1H-1Z",
    "M0-1.2 1.2 1H-1.2Z",
    "M0-1.4 1.4 0 0 1.4-1.4 0Z",
    "M0 1.2 1.2-1H-1.2Z",
)


@dataclass
class Line:
    """label: for the legend; style: classes of page.css (`fused`, `qi`, `qc`, `total`); shape: of its marks, of SHAPES.
    points: [(x, y)] by x; band: [(x, low, high)], drawn behind. starts: the xs after which it begins anew; best: the x
    of a point with a ring, or None.
    """

    label: str
    style: str
    points: list
    band: list = ()
    shape: int = 0
    starts: list = ()
    best: float | None = None

    def values_at(self, x):
        """What a tip says of the line at x: no row, or one."""
        ranges = [f" ({number(low)} to {number(high)})" for at, low, high in self.band if at == x]
        return [f"{self.label}  {number(y)}{''.join(ranges)}" for at, y in self.points if at == x]


def ticks(low, high):
    """Round numbers that cover low … high: about TICKS of them, the first <= low, the last >= high."""
    span = high - low or abs(high) or 1
    magnitude = 10 ** math.floor(math.log10(span / TICKS))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if span / (factor * magnitude) <= TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def thin(points):
    """Every k-th of the points and the last one, so that at most POINTS + 1 are left."""
    step = math.ceil(len(points) / POINTS)
    return points[::step] + points[-1:] * (len(points) % step != 1) if step > 1 else list(points)


def number(value):
    return f"{value:,.4g}"


class Frame:
    """The place of a chart's values in its SVG, and its axes. x_range: the ends of the horizontal one; the vertical
    one goes from the first of y_ticks to the last.
    """

    def __init__(self, x_ticks, x_range, y_ticks, x_label, y_label):
        self.x_low, self.x_high = x_range
        self.x_ticks, self.y_ticks, self.x_label, self.y_label = x_ticks, y_ticks, x_label, y_label

    def x(self, value):
        span = self.x_high - self.x_low or 1
        return round(LEFT + (value - self.x_low) / span * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value):
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    def axes(self):
        left, right, bottom = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
        for value in self.y_ticks:
            yield tag("line", class_="grid", x1=left, x2=right, y1=self.y(value), y2=self.y(value))
            yield tag("text", number(value), class_="tick", x=left - 5, y=self.y(value) + 3.5, text_anchor="end")
        inside = [value for value in self.x_ticks if self.x_low <= value <= self.x_high]
        for value in inside:
            yield tag("line", class_="axis", x1=self.x(value), x2=self.x(value), y1=bottom, y2=bottom + 4)
            yield tag("text", number(value), class_="tick", x=self.x(value), y=bottom + 15, text_anchor="middle")
        yield tag("line", class_="axis", x1=left, x2=right, y1=bottom, y2=bottom)
        yield tag("text", self.x_label, class_="label", x=(left + right) / 2, y=HEIGHT - 5, text_anchor="middle")
        middle = (TOP + bottom) / 2
        yield tag(
            "text",
            self.y_label,
            class_="label",
            x=0,
            y=0,
            text_anchor="middle",
            transform=f"translate(10 {middle}) rotate(-90)",
        )


def line_chart(title, lines, x_label, y_label, y_ticks, stages=(), best=None, tip=number):
    """A figure. stages: [(x where it begins, name)], where there are several; best: x of the chosen epoch, or None;
    tip(x): what an x is called where its values are shown.
    """
    xs = sorted({x for line in lines for x, _ in line.points})
    if not xs:
        return nothing(f"{title}: there are no values.")
    single = len(xs) == 1  # such as of one epoch: there is nothing to join, and no epoch to choose
    x_range = (xs[0] - 1, xs[0] + 1) if single else (min(0, xs[0]), xs[-1])
    whole = xs if single else [value for value in ticks(*x_range) if value == int(value)]  # steps and epochs
    frame = Frame(whole, x_range, y_ticks, x_label, y_label)
    parts = [*frame.axes(), *_stages(frame, stages)]
    if best is not None and not single:
        parts.append(tag("line", class_="best", x1=frame.x(best), x2=frame.x(best), y1=TOP, y2=HEIGHT - BOTTOM))
    for line in lines:
        parts += _drawn(frame, line, LARGE if single else SMALL)
    if not single:
        parts += [_ring(frame.x(x), frame.y(y)) for line in lines for x, y in line.points if x == line.best]
    parts += _spots(frame, lines, xs, tip)
    return figure(title, parts, _legend_of_points(lines) if single else legend(lines, best))


def _stages(frame, stages):
    for index, (start, name) in enumerate(stages if len(stages) > 1 else ()):
        x = frame.x(start)
        if index:
            yield tag("line", class_="stage", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM)
        yield tag("text", name, class_="tick", x=x, y=TOP - 4)


def _drawn(frame, line, size):
    """A line, its band and marks of a size; it is interrupted where a stage begins."""
    if line.band:
        edge = [(x, low) for x, low, _ in line.band] + [(x, high) for x, _, high in reversed(line.band)]
        yield tag("polygon", class_=f"band {line.style}", points=_places(frame, edge))
    edges = [-math.inf, *line.starts[1:], math.inf]
    for begin, end in zip(edges, edges[1:], strict=False):
        part = [(x, y) for x, y in line.points if begin < x <= end]
        if len(part) > 1:
            yield tag("polyline", class_=f"line {line.style}", points=_places(frame, thin(part)))
        if len(part) == 1 or len(line.points) <= MARKED:
            yield from (_mark(line, frame.x(x), frame.y(y), size) for x, y in part)


def _mark(line, x, y, size):
    path = SHAPES[line.shape]
    if path is None:
        return tag("circle", class_=f"dot {line.style}", cx=x, cy=y, r=size)
    return tag("path", class_=f"dot {line.style}", d=path, transform=f"translate({x} {y}) scale({size})")


def _ring(x, y):
    return tag("circle", class_="ring", cx=x, cy=y, r=5)


def _places(frame, points):
    return " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in points)


def _spots(frame, lines, xs, tip):
    """An invisible strip around each x, with the values there as its tip."""
    shown = thin(xs)
    places = [frame.x(x) for x in shown]
    edges = [LEFT, *((one + next_one) / 2 for one, next_one in zip(places, places[1:], strict=False)), WIDTH - RIGHT]
    for x, place, start, end in zip(shown, places, edges, edges[1:], strict=False):
        rows = [row for line in lines for row in line.values_at(x)]
        yield tag(
            "g",
            tag("line", class_="cursor", x1=place, x2=place, y1=TOP, y2=HEIGHT - BOTTOM),
            tag("rect", x=round(start, 1), y=TOP, width=round(max(end - start, 1), 1), height=HEIGHT - TOP - BOTTOM),
            class_="spot",
            data_tip="\n".join([tip(x), *rows]),
        )


def histogram(title, values, x_label, y_label, bins=20):
    """A figure of how often `values` fall into equal steps between round numbers."""
    x_ticks = ticks(min(values), max(values))
    low, high = x_ticks[0], x_ticks[-1]
    width = (high - low) / bins
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / width + 1e-9), bins - 1)] += 1
    frame = Frame(x_ticks, (low, high), ticks(0, max(counts)), x_label, y_label)
    parts = [*frame.axes()]
    for index, count in enumerate(counts):
        left, right = (low + width * edge for edge in (index, index + 1))
        place = {"x": frame.x(left) + 0.5, "width": round(frame.x(right) - frame.x(left) - 1, 1)}
        bar = tag("rect", class_="bar", y=frame.y(count), height=round(frame.y(0) - frame.y(count), 1), **place)
        whole = tag("rect", y=TOP, height=HEIGHT - TOP - BOTTOM, **place)
        parts.append(tag("g", bar, whole, class_="spot", data_tip=f"{left:.3f} to {right:.3f}\nqueries  {count}"))
    return figure(title, parts)


def figure(title, parts, below=None):
    svg = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    return tag("figure", tag("figcaption", title), svg, below, class_="chart")


def legend(lines, best):
    """Each line's label after a sample of it."""
    samples = [tag("span", _sample(_stroke(f"line {line.style}"), _mark(line, 12, 5, 3)), line.label) for line in lines]
    if best is not None:
        samples.append(tag("span", _sample(_stroke("best")), "best epoch"))
    if any(line.best is not None for line in lines):
        samples.append(tag("span", _sample(_ring(12, 5)), "best epoch"))
    return tag("p", *samples, class_="legend")


def _legend_of_points(lines):
    """Each point's label and value after its mark."""
    samples = [
        tag("span", _sample(_mark(line, 12, 5, LARGE)), f"{line.label}  {number(y)}")
        for line in lines
        for _, y in line.points
    ]
    return tag("p", *samples, class_="legend")


def _stroke(style):
    return tag("line", class_=style, x1=0, x2=24, y1=5, y2=5)


def _sample(*parts):
    return tag("svg", *parts, viewBox="0 0 24 10", width=24, height=10, aria_hidden="true")


def nothing(text):
    return tag("p", text, class_="quiet")


def beside(columns):
    """Runs' figures beside each other; columns: [(heading or None, [figures])]."""
    return tag(
        "div",
        *(
            tag("div", tag("h3", heading) if heading else None, tag("div", joined(figures), class_="charts"))
            for heading, figures in columns
        ),
        class_="columns" if len(columns) > 1 else None,
    )
