"""The words of the demo community: topics, the text on the memes, captions.

Twelve scenes, each with four of eight feelings, make 48 topics. The queries of one scene's topics differ in
the words for the feeling only, so that the scene in a picture does not tell them apart.
"""

from dataclasses import dataclass

# Queries, captions and the emotion column name a feeling with different words. A query continues "and you".
QUERY_WORDS = {
    "happy": ("could not be happier", "are over the moon", "are grinning from ear to ear"),
    "sad": ("feel like crying", "are heartbroken", "are close to tears"),
    "angry": ("are furious", "are boiling with rage", "could scream at everyone"),
    "fear": ("are terrified", "are scared to death", "are shaking with panic"),
    "surprise": ("cannot believe your eyes", "are completely astonished", "did not see that coming"),
    "disgust": ("find it revolting", "feel sick just looking at it", "are grossed out"),
    "bored": ("could fall asleep", "are tired of it all", "are counting the minutes"),
    "proud": ("feel like a champion", "are rather pleased with yourself", "expect a medal for it"),
}
CAPTION_WORDS = {
    "happy": ("cheerful", "delighted"),
    "sad": ("gloomy", "miserable"),
    "angry": ("mad", "annoyed"),
    "fear": ("frightened", "anxious"),
    "surprise": ("amazed", "stunned"),
    "disgust": ("repelled", "nauseous"),
    "bored": ("sleepy", "uninterested"),
    "proud": ("confident", "triumphant"),
}
FEELINGS = tuple(QUERY_WORDS)

# Text on the memes which hints at a feeling, each at several of them, and text which fits anything.
HINTS = {
    "BEST DAY EVER": ("happy", "proud"),
    "LIFE IS GOOD": ("happy", "proud", "bored"),
    "DREAMS COME TRUE": ("happy", "surprise", "proud"),
    "WHY ALWAYS ME": ("sad", "angry"),
    "NOT LIKE THIS": ("sad", "fear", "disgust"),
    "I QUIT": ("angry", "disgust", "sad"),
    "ENOUGH!": ("angry", "disgust", "bored"),
    "NOPE NOPE NOPE": ("fear", "disgust"),
    "SEND HELP": ("fear", "sad", "bored"),
    "WAIT, WHAT?": ("surprise", "fear"),
    "IS THIS REAL?": ("surprise", "angry"),
    "STILL WAITING": ("bored", "angry"),
    "WATCH AND LEARN": ("proud", "surprise"),
}
ANYTHING = ("NOBODY:", "HERE WE GO AGAIN", "EVERY SINGLE TIME", "ME RIGHT NOW", "PLOT TWIST", "SO IT BEGINS",
            "MEANWHILE", "TRUE STORY", "MONDAY MOOD", "TELL ME MORE")  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """One situation: its part of the query, its feelings, its names in captions, its texts and objects."""

    situation: str
    feelings: tuple
    views: tuple
    lines: tuple
    items: tuple


SCENES = {
    "office": Scene(
        "the deadline is tomorrow",
        ("fear", "bored", "angry", "proud"),
        ("an office desk with piles of paper", "an office with a lamp and a stack of documents"),
        ("DEADLINE: TOMORROW", "ONE MORE EMAIL", "THE BOSS IS COMING", "WORK, WORK, WORK", "FRIDAY, 5 PM"),
        ("mug", "clock", "book"),
    ),
    "exam": Scene(
        "the exam begins",
        ("fear", "sad", "surprise", "proud"),
        ("a classroom with a blackboard", "a blackboard full of sums in a school"),
        ("QUESTION 1", "PAGE TWO OF THE TEST", "I STUDIED ALL NIGHT", "PENCILS DOWN", "THE ANSWER IS C"),
        ("book", "apple", "clock"),
    ),
    "rain": Scene(
        "it rains all the way home",
        ("sad", "angry", "happy", "disgust"),
        ("a rainy street with an umbrella", "dark clouds, rain and puddles"),
        ("WEATHER APP: SUNNY", "NO UMBRELLA", "WET SOCKS", "JUST A LITTLE RAIN", "NICE DAY FOR A WALK"),
        ("duck", "sock", "bottle"),
    ),
    "party": Scene(
        "your friends throw a party",
        ("happy", "bored", "surprise", "disgust"),
        ("a party with balloons and a cake", "balloons and bunting around a birthday cake"),
        ("PARTY TIME", "FREE CAKE", "WHO INVITED HIM", "ONE MORE SONG", "HAPPY BIRTHDAY"),
        ("gift", "bottle", "plant"),
    ),
    "kitchen": Scene(
        "dinner is on the stove",
        ("disgust", "proud", "angry", "surprise"),
        ("a kitchen with a steaming pot on the stove", "a stove with a pot and shelves in a kitchen"),
        ("SECRET INGREDIENT", "COOKING FOR FOUR", "RECIPE: 5 MINUTES", "DINNER IS READY", "A PINCH OF SALT"),
        ("banana", "apple", "bottle"),
    ),
    "gym": Scene(
        "you go back to the gym",
        ("proud", "disgust", "sad", "fear"),
        ("a gym with a barbell on a rack", "weights and a mirror in a gym"),
        ("LEG DAY", "NO PAIN NO GAIN", "NEW YEAR, NEW ME", "DAY 1 AT THE GYM", "LAST SET"),
        ("sock", "banana", "bottle"),
    ),
    "cat": Scene(
        "the cat takes over the sofa",
        ("happy", "surprise", "fear", "disgust"),
        ("a cat on a sofa", "a living room where a cat sits on the couch"),
        ("THE CAT: HELLO", "MY SEAT NOW", "3 AM ZOOMIES", "FEED ME, HUMAN", "HAIRBALL O'CLOCK"),
        ("plant", "sock", "duck"),
    ),
    "update": Scene(
        "the computer restarts for an update",
        ("angry", "bored", "fear", "surprise"),
        ("a big computer screen with a progress bar", "a computer and a keyboard, the screen is loading"),
        ("UPDATE 1 OF 99", "DO NOT TURN OFF", "JUST A MOMENT", "99 PERCENT", "DID I SAVE THAT?"),
        ("mug", "plant", "banana"),
    ),
    "football": Scene(
        "the match goes into extra time",
        ("happy", "sad", "proud", "bored"),
        ("a football pitch with a goal", "a goal and a ball on a green field"),
        ("EXTRA TIME", "ONE MORE GOAL", "IT WAS OFFSIDE", "PENALTY!", "ALMOST A GOAL"),
        ("bottle", "clock", "apple"),
    ),
    "bus": Scene(
        "the bus is late again",
        ("angry", "bored", "sad", "disgust"),
        ("a bus on a city street", "a street with houses and a bus"),
        ("BUS: IN 2 MINUTES", "NEXT STOP: NOWHERE", "I RAN FOR THIS", "THE LAST SEAT", "LINE 42"),
        ("book", "mug", "gift"),
    ),
    "bed": Scene(
        "the alarm rings at six",
        ("sad", "happy", "fear", "angry"),
        ("a bedroom at night with a bed", "a bed under a window with the moon"),
        ("6 AM", "5 MORE MINUTES", "SNOOZE", "ALARM NUMBER 7", "GO TO SLEEP, BRAIN"),
        ("clock", "duck", "gift"),
    ),
    "beach": Scene(
        "the holiday at the beach begins",
        ("happy", "bored", "surprise", "proud"),
        ("a sunny beach with a parasol", "sand, sea and a parasol"),
        ("DAY 1: SUNBURN", "OUT OF OFFICE", "SAND EVERYWHERE", "VACATION MODE", "THE WATER IS FINE"),
        ("duck", "gift", "plant"),
    ),
}
ITEMS = tuple(dict.fromkeys(item for scene in SCENES.values() for item in scene.items))
FRAMES = ("when {} and you {}", "memes for when {} and you {}", "that moment when {} and you {}")
VAGUE = ("a cartoon", "a simple drawing", "a comic picture")
COVERS = {"behind": "seen from behind", "bag": "with a bag over the head", "mask": "in sunglasses and a mask"}
CLOSE_UPS = ("a face in front of a plain background", "a close-up of a face")
FLAT_COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "white")


def _topics():
    topics, seen = {}, dict.fromkeys(FEELINGS, 0)
    for number, (name, scene) in enumerate(SCENES.items()):
        for feeling in scene.feelings:
            words = QUERY_WORDS[feeling][seen[feeling] % 3]
            seen[feeling] += 1
            topics[f"{name}-{feeling}"] = (name, feeling, FRAMES[number % 3].format(scene.situation, words))
    return topics


TOPICS = _topics()  # topic_id -> (scene, feeling, query); the same for every seed


def meme_text(rng, scene, feeling, about_scene):
    """Draw the upper and the lower text of a meme; one may be "", seldom both.

    `about_scene` is the chance that the upper text belongs to the scene.
    """
    upper = rng.choice(SCENES[scene].lines if rng.random() < about_scene else ANYTHING)
    hints = [line for line, feelings in HINTS.items() if feeling in feelings]
    kind = rng.choices(("hint", "anything", "scene", "none"), (35, 32, 8, 25))[0]
    lower = rng.choice({"hint": hints, "anything": ANYTHING, "scene": SCENES[scene].lines, "none": ("",)}[kind])
    if rng.random() < 0.12:
        upper = ""
    return upper, "" if lower == upper else lower


def captions_for(rng, meme):
    """Write one or two captions for a meme (see `memes.Meme`): a list of strings.

    All name the text. Half name the scene; a third name the feeling, more often where the emotion column is
    silent.
    """
    view = rng.choice(VAGUE)
    if meme.kind == "closeup":
        view = rng.choice(CLOSE_UPS)
    elif rng.random() < 0.57:
        view = f"{rng.choice(VAGUE)} of {rng.choice(SCENES[meme.scene].views)}"
    says_feeling = rng.random() < (0.25 if meme.emotions else 0.5)
    long = [f"{view[0].upper()}{view[1:]}{_people(meme.people)}."]
    if meme.items:
        long.append(f"There is {' and '.join(_with_article(*item) for item in meme.items)}.")
    if says_feeling:
        word = rng.choice(CAPTION_WORDS[meme.emotions[0] if meme.emotions else meme.feeling])
        long.append(f"The character looks {word}." if meme.people else f"Whoever posted it is {word}.")
    long.append(_reads(meme.upper, meme.lower))
    captions = [" ".join(sentence for sentence in long if sentence)]
    if rng.random() < 0.4:
        captions.append(_short(view, meme))
    return captions


def _people(people):
    if not people:
        return ""
    first = people[0]
    cover = f" {COVERS[first.cover]}" if first.cover else ""
    others = {1: "", 2: " and another one", 3: " and two more"}[len(people)]
    return f", with a character in {_with_article(first.shirt, 'shirt')}{cover}{others}"


def _with_article(colour, noun):
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {noun}"


def _reads(upper, lower):
    if upper and lower:
        return f'The text says "{upper}" at the top and "{lower}" at the bottom.'
    return f'The text says "{upper or lower}".' if upper or lower else ""


def _short(view, meme):
    words = f' that reads "{meme.upper or meme.lower}"' if meme.text else " without any text"
    return f"{view[0].upper()}{view[1:]}{words}."
