"""A small folder in the layout of the data set ImgFlip575K, with drawn templates and made-up memes.

It is as irregular as a real clone: pictures of two kinds, one of them under the other's suffix and one far too large;
no description of some templates; views as texts, as numbers, and with thousands of digits; macOS's files beside.
"""

import json
import random
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

# slug: (title, other names, height and width of its picture); the last one has no row in the project's table
TEMPLATES = {
    "10-Guy": ("10 Guy", "really relaxed guy, ten guy, sleepy guy, fuck this guy", (120, 160)),
    "Doge": ("Doge", "shiba dog, the doge meme", (200, 120)),
    "Two-Buttons": ("Two Buttons", "", (150, 150)),
    "Made-Up-Template": ("Made Up Template", "nobody knows it", (100, 100)),
}
SUFFIXES = {"Doge": "png"}  # jpg for the others
PNG_INSIDE = ("Doge", "Two-Buttons")
UNDESCRIBED = ("Two-Buttons", "Grumpy-Cat")  # there is no templates/<slug>.json
TOO_LARGE = "Grumpy-Cat"  # its picture says that it has 50,000 x 50,000 pixels
ODD_VIEWS = ("9" * 5000, 1234, "1 234", 12.5, None)
WORDS = """
    teacher homework monday coffee computer keyboard garden window summer winter pizza sandwich orange purple elephant
    penguin holiday ticket airport balloon guitar drummer painter library museum bicycle helmet jacket umbrella river
    mountain island picture camera battery charger meeting office printer lottery
"""


def entry(meme_id, upper, lower, title="10 Guy", views="1,234"):
    """A meme as the data set writes it."""
    return {
        "url": f"https://i.imgflip.com/{meme_id}.jpg",
        "post": f"https://imgflip.com/i/{meme_id}",
        "metadata": {"views": views, "img-votes": 0, "title": title, "author": None},
        "boxes": [upper, lower],
    }


DIRTY = {  # why it is dropped: an entry
    "no id": entry("", "some text", "without an id"),
    "a repeated id": entry("a0", "another text", "with the same id"),
    "not two texts": entry("d1", "only one text", "") | {"boxes": ["only one text"]},
    "longer than 160 characters": entry("d2", "a very " + "very " * 20, "long " * 20),
    "not ASCII": entry("d3", "a cat", "猫在键盘上"),
    "a link": entry("d4", "read more", "at https://example.org/memes"),
    "garbage": entry("d5", "asdfghjklmnbvcx", "and then"),
    "not English": entry("d6", "cuando los lunes", "no quiero nada"),
    "a blocked word: politics": entry("d7", "nobody", "votes for this"),
}


def write_checkout(folder, memes=12, seed=0):
    """Write a checkout with so many clean memes per template, and DIRTY in the first one; returns its Path.

    Every second meme has a title of its own. Ids are a0, a1, … for the first template, b0, … for the second.
    """
    folder = Path(folder)
    rng = random.Random(seed)
    for name in ("memes", "templates/img"):
        (folder / "dataset" / name).mkdir(parents=True)
    for number, (slug, (title, others, size)) in enumerate(TEMPLATES.items()):
        if slug not in UNDESCRIBED:
            facts = {"title": f"{title} Meme Template", "alternative_names": others, "template_id": str(number)}
            write(folder, f"templates/{slug}.json", facts)
        picture = draw_template(size, number)
        encoded = cv2.imencode(".png" if slug in PNG_INSIDE else ".jpg", picture)[1]
        picture_of(folder, slug).write_bytes(encoded)
        letter = "abcd"[number]
        entries = [
            entry(f"{letter}{n}", *texts(rng), f"{texts(rng)[0]} {n}" if n % 2 else title, f"{rng.randrange(9999):,}")
            for n in range(memes)
        ]
        for found, views in zip(entries[::2], ODD_VIEWS, strict=False):
            found["metadata"]["views"] = views
        write(folder, f"memes/{slug}.json", entries + (list(DIRTY.values()) if number == 0 else []))
    write(folder, f"memes/{TOO_LARGE}.json", [entry("e1", "an upper text", "and a lower one")])
    picture_of(folder, TOO_LARGE).write_bytes(huge_png(50_000))
    for name in ("memes/._Doge.json", "templates/img/._Doge.png"):
        (folder / "dataset" / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    return folder


def picture_of(folder, slug):
    """The file of a template's picture."""
    return Path(folder) / "dataset/templates/img" / f"{slug}.{SUFFIXES.get(slug, 'jpg')}"


def huge_png(side):
    """A PNG of `side` x `side` grey pixels by its header; the pixels are not there."""
    chunks = (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(100)))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in (*chunks, (b"IEND", b"")):
        parts += struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(kind + content))
    return b"".join(parts)


def write(folder, name, value):
    (Path(folder) / "dataset" / name).write_text(json.dumps(value, indent=2), encoding="utf-8")


def texts(rng):
    return tuple(" ".join(rng.sample(WORDS.split(), rng.randint(3, 5))).upper() for _ in range(2))


def draw_template(size, number):
    """A picture without white and black: (H, W, 3) uint8."""
    height, width = size
    picture = np.full((height, width, 3), (60 + 30 * number, 120, 160 - 25 * number), np.uint8)
    cv2.circle(picture, (width // 2, height // 2), min(size) // 4, (100, 90 + 20 * number, 110), -1)
    return picture
