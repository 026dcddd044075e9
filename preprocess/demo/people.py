"""Draw the demo's characters: eight feelings in eyebrows, eyes, mouth, tears, sweat and a mild tint."""

from preprocess.demo.canvas import COLOURS, INK, around, drop, ellipse, mixed, star

SKINS = ("#ffdfc4", "#f0c08f", "#c98f5f", "#8d5a3b", "#ffe39a")
HAIRS = ("#3a2a20", "#7a4a24", "#d9a441", "#b03a2e", "#4b4f58")
# (inner end, outer end) of an eyebrow above the eye, in head radii; negative is up.
BROWS = {
    "happy": (-0.30, -0.26),
    "sad": (-0.42, -0.16),
    "angry": (-0.08, -0.42),
    "fear": (-0.52, -0.30),
    "surprise": (-0.56, -0.56),
    "disgust": (-0.10, -0.30),
    "bored": (-0.24, -0.24),
    "proud": (-0.40, -0.32),
}
TINTS = {"angry": "#f0503c", "fear": "#a9c4ee", "disgust": "#9ac45a", "sad": "#b8c8e0"}  # mild, over the skin


def draw_person(canvas, person, x, y, r):
    """Draw head and body of `person` (see `memes.Person`); the head's centre is (x, y), its radius r."""
    skin = SKINS[person.skin]
    if not person.cover and person.emotion in TINTS:
        skin = mixed(skin, TINTS[person.emotion], 0.22)
    hair = HAIRS[person.hair]
    canvas.box(x - 0.35 * r, y + 0.7 * r, x + 0.35 * r, y + 1.5 * r, skin)
    shoulders = ellipse(x, y + 2.3 * r, 1.45 * r, 1.1 * r, 180, 360)
    canvas.polygon([*shoulders, (x + 1.5 * r, y + 7 * r), (x - 1.5 * r, y + 7 * r)], COLOURS[person.shirt])
    for side in (-1, 1):
        canvas.line([(x + side * 0.95 * r, y + 2.6 * r), (x + side * 1.0 * r, y + 7 * r)])
    if person.style == 2:
        for side in (-1, 1):
            canvas.disc(x + side * 0.85 * r, y + 0.35 * r, 0.42 * r, 1.25 * r, hair)
    canvas.disc(x - r, y + 0.1 * r, 0.2 * r, 0.26 * r, skin)
    canvas.disc(x + r, y + 0.1 * r, 0.2 * r, 0.26 * r, skin)
    if person.cover == "behind":
        canvas.disc(x, y, r, 1.05 * r, hair)
        canvas.arc(x, y - 0.1 * r, 0.6 * r, 0.75 * r, 200, 250, mixed(hair, "#ffffff", 0.3))
        return
    if person.cover == "bag":
        sack = (-1.05, -1.2), (1.05, -1.2), (1.15, 1.15), (-1.15, 1.15)
        canvas.polygon(around(x, y, r, *sack), "#d2a36c")
        for side in (-1, 1):
            canvas.disc(x + side * 0.42 * r, y - 0.1 * r, 0.2 * r, 0.22 * r, INK)
        canvas.line([(x - 0.7 * r, y - 1.2 * r), (x - 0.6 * r, y - 0.6 * r)], "#a87c48")
        return
    canvas.disc(x, y, r, 1.05 * r, skin)
    _hair(canvas, person.style, hair, x, y, r)
    if person.cover == "mask":
        canvas.disc(x, y + 0.5 * r, 0.72 * r, 0.5 * r, "#d7ecf2")
        for side in (-1, 1):
            canvas.line([(x + side * 0.7 * r, y + 0.45 * r), (x + side * r, y + 0.2 * r)])
            canvas.disc(x + side * 0.42 * r, y - 0.12 * r, 0.36 * r, 0.28 * r, INK)
        canvas.line([(x - 0.9 * r, y - 0.2 * r), (x + 0.9 * r, y - 0.2 * r)], INK, 0.1 * r)
        return
    _eyes(canvas, person.emotion, x, y, r)
    _mouth(canvas, person.emotion, x, y + 0.5 * r, r)
    _signs(canvas, person.emotion, x, y, r)


def _hair(canvas, style, hair, x, y, r):
    if style == 0:  # a short fringe
        canvas.disc(x, y - 0.42 * r, 0.98 * r, 0.72 * r, hair, start=180, end=360)
    elif style == 1:  # spikes
        left = (-0.95, -0.4), (-0.9, -1.1), (-0.5, -0.85), (-0.2, -1.4), (0.15, -0.95)
        right = (0.6, -1.35), (0.7, -0.8), (0.98, -0.35), (0.4, -0.65), (-0.4, -0.65)
        canvas.polygon(around(x, y, r, *left, *right), hair)
    elif style == 2:  # long, parted
        canvas.disc(x, y - 0.35 * r, r, 0.8 * r, hair, start=180, end=360)
    else:  # a bun
        canvas.disc(x, y - 1.25 * r, 0.38 * r, 0.36 * r, hair)
        canvas.disc(x, y - 0.5 * r, 0.92 * r, 0.6 * r, hair, start=180, end=360)


def _eyes(canvas, emotion, x, y, r):
    inner, outer = BROWS[emotion]
    stroke = max(0.8, 0.12 * r)
    for side in (-1, 1):
        ex, ey = x + side * 0.42 * r, y - 0.05 * r
        if emotion in ("fear", "surprise"):
            white = 0.34 if emotion == "surprise" else 0.30
            canvas.disc(ex, ey, white * r, white * 1.1 * r)
            canvas.disc(ex, ey, (0.07 if emotion == "fear" else 0.14) * r, colour=INK, ink=0)
        elif emotion == "proud":
            canvas.arc(ex, ey - 0.05 * r, 0.24 * r, 0.16 * r, 10, 170, INK, stroke)
        elif emotion == "happy":
            canvas.arc(ex, ey + 0.12 * r, 0.22 * r, 0.26 * r, 190, 350, INK, stroke)
        elif emotion == "bored":
            canvas.disc(ex, ey, 0.28 * r, 0.24 * r)
            canvas.disc(ex, ey + 0.1 * r, 0.12 * r, colour=INK, ink=0)
            canvas.disc(ex, ey, 0.30 * r, 0.27 * r, "#c9a58a", start=180, end=360)
        elif emotion == "disgust":
            squint = (side * 0.22, -0.14), (side * -0.2, 0.02), (side * 0.22, 0.16)
            canvas.line(around(ex, ey, r, *squint), INK, stroke)
            continue
        else:
            canvas.disc(ex, ey + 0.05 * r, 0.15 * r, 0.18 * r, INK, ink=0)
            canvas.disc(ex - 0.05 * r, ey, 0.05 * r, colour="#ffffff", ink=0)
        canvas.line([(x + side * 0.18 * r, ey + inner * r), (x + side * 0.68 * r, ey + outer * r)], INK, stroke)


def _mouth(canvas, emotion, x, y, r):
    stroke = max(0.8, 0.1 * r)
    if emotion == "happy":
        canvas.disc(x, y - 0.12 * r, 0.48 * r, 0.46 * r, "#8c2f39", stroke, 0, 180)
        canvas.disc(x, y + 0.18 * r, 0.24 * r, 0.12 * r, "#ff8f8f", 0)
    elif emotion == "sad":
        canvas.arc(x, y + 0.22 * r, 0.36 * r, 0.28 * r, 195, 345, INK, stroke)
    elif emotion == "angry":
        canvas.box(x - 0.42 * r, y - 0.08 * r, x + 0.42 * r, y + 0.22 * r, "#ffffff", stroke)
        canvas.line([(x - 0.42 * r, y + 0.07 * r), (x + 0.42 * r, y + 0.07 * r)], INK, stroke / 2)
    elif emotion == "fear":
        wave = [(x + (i - 3) * 0.15 * r, y + 0.1 * r + (-1) ** i * 0.09 * r) for i in range(7)]
        canvas.line(wave, INK, stroke)
    elif emotion == "surprise":
        canvas.disc(x, y + 0.12 * r, 0.22 * r, 0.28 * r, "#8c2f39", stroke)
    elif emotion == "disgust":
        canvas.arc(x, y + 0.2 * r, 0.42 * r, 0.2 * r, 185, 355, INK, stroke)
        canvas.disc(x + 0.14 * r, y + 0.04 * r, 0.17 * r, 0.36 * r, "#f27d8d", stroke, 0, 180)
    elif emotion == "bored":
        canvas.line([(x - 0.34 * r, y + 0.1 * r), (x + 0.34 * r, y + 0.1 * r)], INK, stroke)
    else:
        canvas.line(around(x, y, r, (-0.36, 0.06), (-0.1, 0.18), (0.16, 0.15), (0.42, -0.1)), INK, stroke)


def _signs(canvas, emotion, x, y, r):
    if emotion == "happy":
        for side in (-1, 1):
            canvas.disc(x + side * 0.7 * r, y + 0.32 * r, 0.17 * r, 0.12 * r, "#ff9d94", 0)
    elif emotion == "sad":
        drop(canvas, x - 0.5 * r, y + 0.38 * r, 0.2 * r)
        drop(canvas, x + 0.52 * r, y + 0.62 * r, 0.2 * r)
    elif emotion == "fear":
        drop(canvas, x + 0.85 * r, y - 0.55 * r, 0.24 * r)
        drop(canvas, x - 1.1 * r, y - 0.35 * r, 0.2 * r)
    elif emotion == "angry":
        for side in (-1, 1):
            canvas.disc(x + side * 1.35 * r, y - 0.45 * r, 0.26 * r, 0.2 * r, "#f2f2f2")
    elif emotion == "bored":
        for step, half in enumerate((0.2, 0.28)):
            zx, zy = x + (1.15 + 0.45 * step) * r, y - (0.5 + 0.5 * step) * r
            letter = around(zx, zy, half * r, (-1, -1), (1, -1), (-1, 1), (1, 1))
            canvas.line(letter, INK, max(0.7, 0.09 * r))
    elif emotion == "proud":
        star(canvas, x + 0.8 * r, y + 1.75 * r, 0.38 * r, "#ffd23c")
