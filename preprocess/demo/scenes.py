"""The twelve scenes of the demo community, drawn behind the characters.

Each function draws on a canvas of 100 x 100 units (see canvas.py), its main object on the right half; the
caller moves, zooms and mirrors it. Floors and skies reach beyond the edges, so that moving shows no gap.
"""

import math

from preprocess.demo.canvas import COLOURS, drop, mixed, star

WALLS = ("#f3dfc1", "#dbe7e4", "#e9d7e8", "#d6e4f0", "#f6e3b4", "#e2dccb")
FLOORS = ("#b98a5e", "#8f9aa8", "#a8785a", "#9c8f7d")
BRIGHT = tuple(COLOURS.values())[:6]


def _room(canvas, rng):
    canvas.box(-30, -30, 130, 66, rng.choice(WALLS), 0)
    canvas.box(-30, 66, 130, 130, rng.choice(FLOORS))


def draw_office(canvas, rng):
    """A desk with paper and a lamp."""
    _room(canvas, rng)
    canvas.box(12, 22, 34, 40, "#bfe3f7")  # window
    canvas.line([(23, 22), (23, 40)])
    canvas.box(40, 58, 98, 64, "#a9713f")
    for leg in (44, 90):
        canvas.box(leg, 64, leg + 4, 88, "#8a5a30")
    for pile, height in ((72, rng.randint(4, 9)), (84, rng.randint(3, 11))):
        for sheet in range(height):
            lean = rng.uniform(-1, 1)
            canvas.box(pile + lean, 55.5 - 2.5 * sheet, pile + 11 + lean, 58 - 2.5 * sheet, "#ffffff", 0.5)
    canvas.line([(52, 58), (48, 44), (58, 36)], "#555a66", 1.6)  # lamp
    canvas.polygon([(54, 32), (62, 36), (60, 43), (50, 38)], rng.choice(BRIGHT))


def draw_exam(canvas, rng):
    """A blackboard with sums above school desks."""
    _room(canvas, rng)
    canvas.box(34, 20, 96, 52, rng.choice(("#2f5d50", "#33475b")), 2.2)
    for row in range(3):
        x = 39 + rng.uniform(0, 4)
        for _ in range(rng.randint(3, 5)):
            mark = [(x + rng.uniform(0, 5), 26 + 9 * row + rng.uniform(-2.5, 2.5)) for _ in range(4)]
            canvas.line(mark, "#f2f2e6", 0.8)
            x += 10
    canvas.box(52, 64, 92, 69, "#d7a35b")
    canvas.box(56, 69, 60, 90, "#8a8f98")
    canvas.box(84, 69, 88, 90, "#8a8f98")
    canvas.polygon([(64, 63), (68, 58), (82, 58), (79, 63)], "#ffffff", 0.6)


def draw_rain(canvas, rng):
    """Clouds, rain, puddles and an umbrella."""
    canvas.box(-30, -30, 130, 72, rng.choice(("#7f8fa3", "#6d7f94", "#8d97a0")), 0)
    canvas.box(-30, 72, 130, 130, "#5b616b")
    for _ in range(4):
        x, y = rng.uniform(0, 100), rng.uniform(14, 28)
        for dx in (-9, 0, 9):
            canvas.disc(x + dx, y - (3 if dx == 0 else 0), 9, 6.5, "#c9d0d8", 0)
    for _ in range(60):
        x, y = rng.uniform(-10, 110), rng.uniform(20, 100)
        canvas.line([(x, y), (x - 1.6, y + 5)], "#cfe6fa", 0.7)
    for x in (24, 82):
        canvas.disc(x + rng.uniform(-8, 8), 84, 13, 3, "#9fc3df", 0.6)
    colour = rng.choice(BRIGHT)
    canvas.line([(72, 42), (72, 76), (69, 79), (66, 76)], "#3b3b46", 1.5)
    canvas.disc(72, 48, 22, 20, colour, 0.9, 180, 360)
    for x in (61, 83):
        canvas.disc(x, 48, 6, 15, mixed(colour, "#ffffff", 0.35), 0.6, 180, 360)
    drop(canvas, 91, 56, 1.6)


def draw_party(canvas, rng):
    """Bunting, balloons and a cake on a table."""
    canvas.box(-30, -30, 130, 70, rng.choice(("#5a3f7a", "#31476f", "#7a3c5c")), 0)
    canvas.box(-30, 70, 130, 130, "#4a2f3f")
    for number in range(9):
        x = -10 + 14 * number
        canvas.polygon([(x, 17), (x + 11, 17), (x + 5.5, 27)], rng.choice(BRIGHT), 0.6)
    for _ in range(5):
        x, y = rng.uniform(6, 96), rng.uniform(30, 46)
        canvas.line([(x, y), (x + rng.uniform(-3, 3), y + 20)], "#e8e8e8", 0.6)
        canvas.disc(x, y, 6, 7.4, rng.choice(BRIGHT))
    for _ in range(26):
        canvas.disc(rng.uniform(0, 100), rng.uniform(15, 80), 0.9, colour=rng.choice(BRIGHT), ink=0)
    canvas.box(52, 70, 98, 76, "#f4f1ea")
    canvas.box(60, 59, 90, 70, "#f7b5c4")
    canvas.box(65, 51, 85, 59, "#fdf0d8")
    for x in (69, 75, 81):
        canvas.line([(x, 51), (x, 45)], "#ffffff", 1.3)
        canvas.disc(x, 43.4, 1.2, 1.8, "#ffcf3f", 0.4)


def draw_kitchen(canvas, rng):
    """A stove with a steaming pot, shelves and tiles."""
    canvas.box(-30, -30, 130, 74, rng.choice(("#f2efe2", "#dcebe2", "#e6ecf4")), 0)
    for line in range(-20, 120, 10):
        canvas.line([(line, 14), (line, 74)], "#c9cfc9", 0.5)
        canvas.line([(-30, line), (130, line)], "#c9cfc9", 0.5)
    canvas.box(-30, 74, 130, 130, "#8c6f57")
    canvas.box(8, 34, 38, 37, "#9a6a3f")
    for x in (12, 21, 30):
        canvas.box(x, 26, x + 6, 34, rng.choice(BRIGHT))
    canvas.box(54, 62, 96, 96, "#d9dde2")
    canvas.box(59, 72, 91, 90, "#4c525c")
    for x in (60, 68, 76, 84):
        canvas.disc(x + 2, 67, 1.7, colour="#5c626c", ink=0.5)
    pot = rng.choice(BRIGHT)
    canvas.box(61, 44, 89, 61, pot)
    canvas.line([(57, 49), (61, 49)], width=2)
    canvas.line([(89, 49), (93, 49)], width=2)
    canvas.disc(75, 44, 15, 2.6, mixed(pot, "#ffffff", 0.4))
    for x in (67, 75, 83):
        sway = rng.uniform(1, 3)
        canvas.line([(x, 40), (x + sway, 35), (x - sway, 30), (x + sway, 24)], "#aab4bd", 1.8)


def draw_gym(canvas, rng):
    """A barbell on a rack, a mirror and dumb-bells."""
    canvas.box(-30, -30, 130, 70, rng.choice(("#c3cbd6", "#d8cfc4", "#b9cdd0")), 0)
    canvas.box(-30, 70, 130, 130, "#4a4f5a")
    canvas.box(10, 22, 40, 62, "#e6f3f8")
    canvas.line([(16, 52), (32, 28)], "#ffffff", 1.8)
    for x in (58, 86):
        canvas.box(x - 1.6, 30, x + 1.6, 88, "#8b929c")
    canvas.line([(42, 42), (102, 42)], "#5d636d", 2.2)
    colour = rng.choice(BRIGHT)
    for x in (46, 51, 93, 98):
        height = 14 if x in (51, 93) else 9
        canvas.box(x - 2, 42 - height, x + 2, 42 + height, colour if height == 14 else "#3c4048")
    for x in (64, 76):
        canvas.line([(x, 82), (x + 7, 82)], "#5d636d", 1.8)
        for end in (x, x + 7):
            canvas.disc(end, 82, 2, 3.4, "#3c4048")


def draw_cat(canvas, rng):
    """A cat on a sofa."""
    _room(canvas, rng)
    canvas.box(14, 20, 36, 36, "#ffffff")
    canvas.polygon([(15, 35), (22, 26), (27, 31), (31, 27), (35, 35)], rng.choice(BRIGHT), 0.5)
    sofa = rng.choice(BRIGHT)
    canvas.box(40, 46, 104, 72, sofa)
    canvas.box(36, 64, 108, 84, mixed(sofa, "#ffffff", 0.2))
    canvas.box(34, 56, 43, 84, sofa)
    fur = rng.choice(("#4a4a52", "#e09a4a", "#f2eee6", "#8f8478"))
    canvas.line([(88, 60), (96, 54), (95, 44)], fur, 3.4)
    canvas.disc(78, 57, 13, 9, fur)
    canvas.polygon([(62, 44), (61, 31), (69, 38)], fur)
    canvas.polygon([(78, 44), (79, 31), (71, 38)], fur)
    canvas.disc(70, 45, 10, 8.6, fur)
    for x in (66, 74):
        canvas.disc(x, 43.4, 1.9, 2.4, "#d9f26b", 0.6)
        canvas.line([(x, 41.8), (x, 45)])
    canvas.polygon([(69, 47), (71, 47), (70, 48.4)], "#f2889a", 0.4)
    for side in (-1, 1):
        canvas.line([(70 + side * 4, 48), (70 + side * 13, 46)], width=0.5)
        canvas.line([(70 + side * 4, 49), (70 + side * 13, 50)], width=0.5)


def draw_update(canvas, rng):
    """A large screen with a progress bar."""
    _room(canvas, rng)
    canvas.box(30, 72, 106, 78, "#7a5a44")
    canvas.box(62, 60, 74, 70, "#9aa0aa")
    canvas.box(56, 69, 80, 72, "#9aa0aa")
    canvas.box(38, 22, 98, 62, "#32363f", 1.4)
    screen = rng.choice(("#1f6fc4", "#1d8a7e", "#2b2f7e"))
    canvas.box(41, 25, 95, 58, screen, 0.6)
    for dot in range(7):
        canvas.arc(68, 36, 6, 6, 51 * dot, 51 * dot + 30, mixed("#ffffff", screen, dot / 8), 1.8)
    canvas.box(48, 48, 88, 53, "#ffffff", 0.6)
    canvas.box(49, 49, 50 + 37 * rng.random(), 52, "#6fdc5a", 0)
    canvas.polygon([(44, 78), (88, 78), (92, 85), (40, 85)], "#d9dde2")
    for x in range(46, 86, 6):
        canvas.box(x, 80, x + 4, 82.5, "#8b929c", 0.3)


def draw_football(canvas, rng):
    """A green pitch with a goal and a ball."""
    canvas.box(-30, -30, 130, 46, rng.choice(("#9fd3f2", "#c4def0", "#7fbfe6")), 0)
    canvas.box(-30, 34, 130, 48, "#7d8794", 0.6)
    for _ in range(60):
        canvas.disc(rng.uniform(-10, 110), rng.uniform(35.5, 46), 1.3, colour=rng.choice(BRIGHT), ink=0)
    for stripe in range(6):
        canvas.box(-30, 48 + 10 * stripe, 130, 58 + 10 * stripe, "#4fa54f" if stripe % 2 else "#5cb85a", 0)
    canvas.line([(-30, 74), (130, 74)], "#ffffff", 1)
    for step in range(10):
        canvas.line([(52 + 4.8 * step, 32), (52 + 4.8 * step, 64)], "#e6ece6", 0.4)
        canvas.line([(52, 32 + 3.4 * step), (96, 32 + 3.4 * step)], "#e6ece6", 0.4)
    canvas.line([(52, 66), (52, 32), (96, 32), (96, 66)], "#ffffff", 2.4)
    x, y = rng.uniform(58, 88), rng.uniform(56, 74)
    canvas.disc(x, y, 5, colour="#ffffff")
    star(canvas, x, y, 2.6, "#2b2530")


def draw_bus(canvas, rng):
    """A bus in front of houses."""
    canvas.box(-30, -30, 130, 70, rng.choice(("#bfdcec", "#f1d9b8", "#cdd3e6")), 0)
    for number in range(7):
        x, top = -14 + 18 * number, rng.uniform(20, 36)
        canvas.box(x, top, x + 17, 66, rng.choice(("#c98d6b", "#a9a4b8", "#d8b98a", "#8fa3a8")))
        for window in range(2):
            canvas.box(x + 3 + 7 * window, top + 4, x + 7 + 7 * window, top + 10, "#fff4c4", 0.5)
    canvas.box(-30, 66, 130, 130, "#585d68")
    canvas.line([(-30, 90), (130, 90)], "#f2f2e6", 1.2)
    colour = rng.choice(BRIGHT)
    canvas.box(34, 38, 102, 76, colour)
    canvas.box(34, 64, 102, 68, mixed(colour, "#ffffff", 0.6), 0.5)
    for x in (38, 52, 66, 80):
        canvas.box(x, 43, x + 11, 57, "#d5eefa")
    canvas.box(94, 43, 100, 74, "#d5eefa")
    for x in (48, 86):
        canvas.disc(x, 77, 6.5, colour="#2e3138")
        canvas.disc(x, 77, 2.6, colour="#c4c9d0", ink=0.5)


def draw_bed(canvas, rng):
    """A bed at night under a window with the moon."""
    canvas.box(-30, -30, 130, 68, rng.choice(("#3c4470", "#4a3f66", "#33506b")), 0)
    canvas.box(-30, 68, 130, 130, "#5e4a4a")
    canvas.box(12, 18, 44, 48, "#14193a", 1.6)
    canvas.disc(34, 28, 6, colour="#ffeaa0", ink=0)
    canvas.disc(31, 26.6, 5.4, colour="#14193a", ink=0)
    for _ in range(5):
        star(canvas, rng.uniform(15, 41), rng.uniform(36, 45), 1.2, "#ffffff")
    canvas.line([(28, 18), (28, 48)], width=1.4)
    canvas.box(94, 42, 100, 88, "#8a5a30")
    canvas.box(40, 62, 96, 80, "#f4f1ea")
    canvas.box(38, 58, 42, 88, "#8a5a30")
    canvas.disc(85, 59, 9, 5, "#ffffff")
    cover = rng.choice(BRIGHT)
    canvas.polygon([(42, 60), (74, 56), (80, 64), (80, 82), (42, 82)], cover)
    for x in (48, 58, 68):
        canvas.disc(x, 70, 2.2, colour=mixed(cover, "#ffffff", 0.5), ink=0)


def draw_beach(canvas, rng):
    """Sea, sand, the sun and a parasol."""
    canvas.box(-30, -30, 130, 44, rng.choice(("#8fd6f5", "#a8e0f0", "#ffd9b0")), 0)
    canvas.disc(rng.uniform(14, 34), 27, 8, colour="#ffd23c")
    canvas.box(-30, 42, 130, 62, rng.choice(("#2f9fc4", "#37b5b0")), 0)
    for _ in range(9):
        x, y = rng.uniform(-6, 100), rng.uniform(45, 60)
        canvas.arc(x, y, 4, 1.6, 180, 360, "#d9f4fa", 0.8)
    canvas.box(-30, 60, 130, 130, "#f0d79a", 0)
    for _ in range(30):
        canvas.disc(rng.uniform(-5, 105), rng.uniform(64, 98), 0.5, colour="#cfae6a", ink=0)
    colour = rng.choice(BRIGHT)
    canvas.line([(72, 34), (77, 84)], "#9a6a3f", 1.8)
    canvas.disc(73, 46, 24, 19, colour, 0.9, 180, 360)
    canvas.disc(73, 46, 9, 19, "#fff6e6", 0.7, 180, 360)
    canvas.polygon([(80, 80), (102, 76), (106, 84), (84, 88)], rng.choice(BRIGHT))


DRAW_SCENE = {
    "office": draw_office,
    "exam": draw_exam,
    "rain": draw_rain,
    "party": draw_party,
    "kitchen": draw_kitchen,
    "gym": draw_gym,
    "cat": draw_cat,
    "update": draw_update,
    "football": draw_football,
    "bus": draw_bus,
    "bed": draw_bed,
    "beach": draw_beach,
}


def draw_close_up(canvas, rng):
    """Rays behind a large face: no scene at all."""
    colour = rng.choice(BRIGHT)
    canvas.box(-30, -30, 130, 130, colour, 0)
    for degrees in range(0, 360, 30):
        ends = [(50 + 99 * math.cos(a), 52 + 99 * math.sin(a)) for a in map(math.radians, (degrees, degrees + 15))]
        canvas.polygon([(50, 52), *ends], mixed(colour, "#ffffff", 0.35), 0)
