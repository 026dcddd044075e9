"""The memes of the demo community: what is decided about each, and how it is drawn and written."""

import random
from dataclasses import dataclass, replace

import cv2
import numpy as np

from preprocess.demo import canvas as demo_drawing
from preprocess.demo import people as demo_people
from preprocess.demo import scenes as demo_scenes
from preprocess.demo import wording as demo_texts

# What a meme shows, in percent: nobody; people without a readable expression, hence without emotion words; a
# main character whose face is hidden, its feeling only in the emotion word; faces; a large face and no scene.
KINDS = {"objects": 20, "unreadable": 13, "hidden": 17, "shown": 40, "closeup": 10}


@dataclass(frozen=True)
class Person:
    """A drawn character. `emotion` is its word in the emotion column, `cover` what hides its face; or empty."""

    emotion: str
    cover: str
    shirt: str
    skin: int
    hair: int
    style: int


@dataclass(frozen=True)
class Meme:
    """All that is decided about a meme before it is drawn. `topics` are the one or two it is posted in."""

    image_id: str
    topics: tuple
    scene: str
    feeling: str
    kind: str
    form: str
    people: tuple
    items: tuple
    upper: str
    lower: str
    captions: tuple = ()

    @property
    def emotions(self):
        """One word per person with a readable expression, the main character's first."""
        return [person.emotion for person in self.people if person.emotion]

    @property
    def text(self):
        """The words on the image: upper and lower text, a line each."""
        return "\n".join(line for line in (self.upper, self.lower) if line)

    @property
    def file_name(self):
        """Stills are JPEG, transparent and grey ones PNG, animated ones WebP."""
        return self.image_id + {"still": ".jpg", "animated": ".webp"}.get(self.form, ".png")


def plan_meme(image_id, topic_id, seed):
    """Decide all about one meme, from (seed, image_id) alone: a Meme."""
    rng = random.Random(f"{seed}/{image_id}")
    scene, feeling, _ = demo_texts.TOPICS[topic_id]
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    form = rng.choices(("still", "animated", "grey"), (96, 2, 2))[0]
    if kind == "closeup" and rng.random() < 0.25:
        form = "transparent"
    upper, lower = demo_texts.meme_text(rng, scene, feeling, 0.8 if kind == "closeup" else 0.35)
    meme = Meme(
        image_id=image_id,
        topics=(topic_id, *_second_topic(rng, kind, scene, feeling)),
        scene=scene,
        feeling=feeling,
        kind=kind,
        form=form,
        people=_people(rng, kind, feeling),
        items=() if kind == "closeup" else _items(rng, scene),
        upper=upper,
        lower=lower,
    )
    return replace(meme, captions=tuple(demo_texts.captions_for(rng, meme)))


def _second_topic(rng, kind, scene, feeling):
    """Some memes fit two topics: no feeling to be seen: another feeling; no scene: another scene."""
    scenes = demo_texts.SCENES
    if kind in ("objects", "unreadable") and rng.random() < 0.1:
        return [f"{scene}-{rng.choice([other for other in scenes[scene].feelings if other != feeling])}"]
    if kind == "closeup" and rng.random() < 0.15:
        others = [name for name in scenes if name != scene and feeling in scenes[name].feelings]
        return [f"{rng.choice(others)}-{feeling}"]
    return []


def _people(rng, kind, feeling):
    counts = {"objects": (0,), "closeup": (1,), "unreadable": (1, 1, 2)}.get(kind, (1, 1, 1, 2, 2, 3))
    people = []
    for number in range(rng.choice(counts)):
        emotion = feeling if rng.random() < (0.5 if number else 0.9) else rng.choice(demo_texts.FEELINGS)
        covered = kind == "unreadable" or (kind == "hidden" and number == 0)
        people.append(
            Person(
                emotion="" if kind == "unreadable" else emotion,
                cover=rng.choice(list(demo_texts.COVERS)) if covered else "",
                shirt=rng.choice(demo_texts.FLAT_COLOURS),
                skin=rng.randrange(len(demo_people.SKINS)),
                hair=rng.randrange(len(demo_people.HAIRS)),
                style=rng.randrange(4),
            )
        )
    return tuple(people)


def _items(rng, scene):
    """Up to two small objects (colour, name), usually of the kinds that belong to the scene."""
    usual, any_kind = demo_texts.SCENES[scene].items, demo_texts.ITEMS
    names = [rng.choice(usual if rng.random() < 0.7 else any_kind) for _ in range(rng.randint(0, 2))]
    return tuple((rng.choice(demo_texts.FLAT_COLOURS), name) for name in dict.fromkeys(names))


def draw_meme(meme, size, seed, lift=0.0, background="#ffffff"):
    """Draw a meme: (size, size, 3) uint8, blue first. `lift` raises the people (units of 1/100 of the side).

    `background` is seen where nothing is drawn, which happens in transparent memes only.
    """
    rng = random.Random(f"{seed}/{meme.image_id}/drawing")
    canvas = demo_drawing.Canvas(size, background)
    canvas.x, canvas.y, canvas.zoom = rng.uniform(-5, 5), rng.uniform(-4, 4), rng.uniform(0.85, 1.1)
    if meme.form == "transparent":
        pass
    elif meme.kind == "closeup":
        demo_scenes.draw_close_up(canvas, rng)
    else:
        demo_scenes.DRAW_SCENE[meme.scene](canvas, rng)
    left = rng.random() < 0.5
    if left:
        canvas.mirror()
    canvas.x = canvas.y = 0.0
    canvas.zoom = 1.0
    places = []
    for number, person in enumerate(meme.people):
        if meme.kind == "closeup":
            x, y, r = 50 + rng.uniform(-6, 6), 51 + rng.uniform(-3, 3), rng.uniform(20, 24)
        else:
            x = (28, 74, 51)[number] if len(meme.people) > 1 else rng.uniform(22, 40)
            x, y, r = x + rng.uniform(-4, 4), rng.uniform(50, 57), rng.uniform(9.5, 12)
        places.append(100 - x if left else x)
        demo_people.draw_person(canvas, person, places[-1], y - lift, r)
    for colour, name in meme.items:
        spots = [spot for spot in range(8, 96, 4) if all(abs(spot - place) > 13 for place in places)]
        places.append(rng.choice(spots))
        demo_drawing.draw_item(canvas, name, places[-1], rng.uniform(70, 76), colour)
    demo_drawing.draw_text(canvas, meme.upper, at_top=True)
    demo_drawing.draw_text(canvas, meme.lower, at_top=False)
    return canvas.finished()


def write_image(meme, path, size, seed):
    """Draw `meme` and write it as the kind of file that its `form` asks for."""
    if meme.form == "animated":
        animation = cv2.Animation()
        animation.frames = [draw_meme(meme, size, seed, lift) for lift in (0, 3, 5, 3)]
        animation.durations = np.full(4, 150)
        written = cv2.imwriteanimation(str(path), animation, [cv2.IMWRITE_WEBP_QUALITY, 90])
    elif meme.form == "transparent":
        on_white = draw_meme(meme, size, seed).astype(np.float32)
        on_black = draw_meme(meme, size, seed, background="#000000").astype(np.float32)
        opacity = 1 - (on_white - on_black).mean(axis=2, keepdims=True) / 255
        colour = on_black / np.maximum(opacity, 1 / 255)
        pixels = np.concatenate([colour, 255 * opacity], axis=2)
        written = cv2.imwrite(str(path), np.rint(pixels.clip(0, 255)).astype(np.uint8))
    elif meme.form == "grey":
        written = cv2.imwrite(str(path), cv2.cvtColor(draw_meme(meme, size, seed), cv2.COLOR_BGR2GRAY))
    else:
        written = cv2.imwrite(str(path), draw_meme(meme, size, seed), [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not written:
        raise OSError(f"{path}: OpenCV {cv2.__version__} could not write the image")
