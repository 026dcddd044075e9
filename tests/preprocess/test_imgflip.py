"""A community out of the data set ImgFlip575K: which memes are used, how they are split and drawn, resuming, errors."""

import itertools
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pandas
import pytest

from dataloaders.communities import SPLITS
from dataloaders.meme_records import read_splits
from engine.arguments import parse_arguments
from preprocess import imgflip
from preprocess.imgflip575k import images as imgflip_images
from preprocess.imgflip575k.drawing import Pen, draw_meme, fitted
from preprocess.imgflip575k.split import KINDS
from preprocess.imgflip575k.templates import COLUMNS, TABLE, read_table, read_templates
from preprocess.imgflip575k.text_filter import BlockedWords, comparable, fault, is_english, to_ascii
from preprocess.imgflip575k.usable_memes import Meme, own_title, read_memes, to_meme, without_repeats
from tests.conftest import ROOT, names_with_spaces
from tests.preprocess.imgflip_checkout import (
    DIRTY,
    TEMPLATES,
    TOO_LARGE,
    entry,
    picture_of,
    texts,
    write,
    write_checkout,
)
from tests.tiny_community import rows_of
from util import InputError

BLOCKED = BlockedWords()
USED = [slug for slug in TEMPLATES if slug != "Made-Up-Template"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return write_checkout(tmp_path_factory.mktemp("imgflip") / "checkout")


@pytest.fixture(scope="module")
def communities(checkout, tmp_path_factory):
    """kind -> (folder, what the manifest says)."""
    folder = tmp_path_factory.mktemp("communities")
    return {kind: (folder / kind, imgflip.make_community(checkout, folder / kind, kind, size=96)) for kind in KINDS}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def meme_of(upper, lower, meme_id="x"):
    return Meme(meme_id, None, upper, lower, "")


# Which memes are used


def test_each_dirty_meme_is_dropped_for_its_reason(checkout):
    templates, *_, names = read_templates(checkout, TABLE, BLOCKED)
    memes, counts = read_memes(templates, names, BLOCKED)
    assert counts == {"read": 36 + len(DIRTY), **dict.fromkeys(DIRTY, 1)}
    assert sorted(meme.meme_id for meme in memes) == sorted(f"{letter}{n}" for letter in "abc" for n in range(12))


@pytest.mark.parametrize(
    "changed",
    [
        {"boxes": None},
        {"boxes": "AB"},
        {"boxes": [None, "text"]},
        {"boxes": ["text", " \n"]},
        {"boxes": ["one", "two", "three"]},
        {"post": None, "url": 7},
        {"post": "https://imgflip.com/i/../../x", "url": ""},
        {"boxes": ["fine", "x"]},
        {"boxes": ["|||||||||||", "||"]},
    ],
)
def test_odd_entries_are_dropped(changed):
    assert to_meme(entry("x1", "a text", "and a text") | changed, None, set(), BLOCKED)[0] is None


@pytest.mark.parametrize("odd", [None, 7, "meme", [], {}, {"metadata": []}])
def test_what_is_no_meme_is_dropped(odd):
    assert to_meme(odd, None, set(), BLOCKED) == (None, 0, "no id")


def test_missing_facts_do_no_harm():
    for facts in ({}, {"title": None, "views": None}, {"title": 3, "views": "many"}, None, "text"):
        meme, views, reason = to_meme(entry("x1", "A\ncat ", "a  dog") | {"metadata": facts}, None, set(), BLOCKED)
        assert (meme.upper, meme.lower, meme.title, views, reason) == ("A cat", "a dog", "", 0, None)
    assert to_meme(entry("x1", "a cat", "a dog", views="1,234,567"), None, set(), BLOCKED)[1] == 1_234_567
    for views, number in (
        (12, 12), ("1,234,567", 1_234_567), ("12.345", 12_345), ("1 234", 1234), (12.5, 12), ("9" * 5000, 0), (-3, 0),
        (10**30, 0), (1e300, 0), (float("inf"), 0), (float("nan"), 0), ("3 of 10", 0), (True, 0), ([7], 0),
    ):  # fmt: skip
        assert to_meme(entry("x1", "a cat", "a dog", views=views), None, set(), BLOCKED)[1] == number, views
    assert to_meme(entry("x" * 300, "a cat", "a dog"), None, set(), BLOCKED) == (None, 0, "no id")
    assert (
        to_meme(entry("", "a cat", "a dog") | {"url": "http://i.imgflip.com/3ab.png"}, None, set(), BLOCKED)[0][0]
        == "3ab"
    )


def test_160_characters_are_allowed():
    for length, reason in ((160, None), (161, "longer than 160 characters")):
        upper = "many words " * 13
        lower = ("see you " * 3)[: length - len(upper.strip()) - 1]
        assert len(f"{upper.strip()} {lower}") == length
        assert to_meme(entry("x", upper, lower), None, set(), BLOCKED)[2] == reason


def test_what_can_be_written_in_ascii():
    assert to_ascii("it’s “POKÉMON” – naïve… 𝓶𝓮") == 'it\'s "POKEMON" - naive... me'
    assert comparable("The POKÉMON's Meme!") == "pokemons"
    for text in ("猫", "😀", "straße", "½"):
        assert to_ascii(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "visit www.example.com",
        "look at imgflip.com",
        "http://a",
        "go to example.co.uk now",
    ],
)
def test_links(text):
    assert fault(text, BLOCKED) == "a link"


def test_what_looks_like_a_link_but_is_none():
    for text in ("wait...what", "I went home.come on", "Mr.T"):
        assert fault(text, BLOCKED) is None


@pytest.mark.parametrize(
    "text",
    [
        "cuando llegas tarde y el profe ya esta en la clase",
        "quando voce acorda e ja e segunda",
        "je ne suis pas un chat mais une baguette",
        "ich bin nicht zu spat das ist der neue plan",
        "als het weer maandag is en ik niet wil werken",
        "quando il gatto non ti vuole e tu sei solo",
        "yang penting aku tidak sendiri",
        "kapag wala ka ng pera sa bulsa ko",
    ],
)
def test_other_languages(text):
    assert not is_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "minecraft fortnite",
        "what if I told you that you are late",
        "hasta la vista baby and thanks for all",
        "yo dawg I heard you like un puzzles",
        "me: one does not simply speak el spanish",
        "surprised pikachu",
    ],
)
def test_english(text):
    assert is_english(text)


@pytest.mark.parametrize(
    "text, category",
    [
        ("what the FUCK", "profanity"),
        ("what the f*ck is", "profanity"),
        ("you f*** up", "masked"),
        ("FUUUUUCK!!!", "profanity"),
        ("unfucking-believable", "profanity"),
        ("he *dies* inside", "violence"),
        ("god's plan", "religion"),
        ("dad/killer", "violence"),
        ("the presidential suite", "politics"),
        ("sooo drunk", "drugs"),
        ("some porn", "sexual"),
        ("so racist", "hate"),
        ("gay", "groups of people"),
    ],
)
def test_blocked_words(text, category):
    assert BLOCKED.category(text.lower()) == BLOCKED.category(text) == category
    assert fault(text, BLOCKED) == f"a blocked word: {category}"


def test_only_whole_words_are_blocked():
    harmless = (
        "class, grass, bassist, cocktail, peacock, upvote, skill, Scunthorpe, shut the duck up, hello, nuggets, WAIT!!!"
        ", 50 cents, a godzilla diet, *sigh* so high, grape, damn"
    )
    for text in harmless.split(", "):
        assert BLOCKED.category(text) is None, text


def test_own_table_of_blocked_words(tmp_path):
    table = tmp_path / "words.txt"
    table.write_text("# mine\n\nanimals: cat* d?g\nplants: tree\nanimals: *fish\n")
    blocked = BlockedWords(table)
    found = [
        blocked.category(text) for text in ("many cats", "hot dogs", "a dig", "swordfish", "trees", "tree", "fuck")
    ]
    assert found == ["animals", None, "animals", "animals", None, "plants", None]
    table.write_text("")
    assert BlockedWords(table).category("fuck") is None
    for text, message in (
        ("animals: cat\nno colon\n", r"line 2: found 'no colon', expected 'category: word word'"),
        ("a: (x)\n", "line 1"),
        ("a: cat *\n", r"line 1: found '\*', expected a word with"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=message):
            BlockedWords(table)
    with pytest.raises(InputError, match="absent.txt: found no readable text file"):
        BlockedWords(tmp_path / "absent.txt")


def edit_distance(one, other):
    """Levenshtein's, by the textbook's table."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row, before = [i], row
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
    return row[-1]


def test_nearly_the_same_texts():
    first = "WHEN YOUR HOMEWORK IS FINISHED BUT YOUR TEACHER FORGETS TO COLLECT IT"
    for again in (
        first.lower(),
        first.replace(" BUT ", ", BUT... ") + "!",
        first.replace("FORGETS", "FORGETTS"),
        first.replace("COLLECT IT", "COLLECT THEM"),
        first.replace(" BUT ", " AND "),
        first.replace(" IS ", " "),
        "THE " + first,
    ):
        assert len(without_repeats([meme_of(first, "SO"), meme_of(again, "SO")])) == 1, again
        assert edit_distance(first.lower(), again.lower()) <= 0.15 * len(first)
    for other in (first.replace("HOMEWORK", "PRESENTATION"), first.replace("IS FINISHED", "WAS EASY"), "SO"):
        assert len(without_repeats([meme_of(first, "SO"), meme_of(other, "SO")])) == 2, other
    short = [meme_of("WHAT IF I TOLD YOU", last) for last in ("YOU ARE LATE", "YOU ARE FIRST", "YOU ARE RED")]
    assert without_repeats(short) == short


def test_every_repeat_is_near_by_edit_distance():
    """Against the slow definition: what is dropped is close to something kept, and no kept text is equal to another."""
    rng = random.Random(3)
    memes = []
    for _ in range(60):
        words = f"{texts(rng)[0]} {texts(rng)[1]}".split()
        for _ in range(3):
            changed = words[:]
            changed[rng.randrange(len(words))] = rng.choice(["a", "up", "cat", "lemon", "television", "understanding"])
            memes.append(meme_of(" ".join(changed), "SO"))
    kept = without_repeats(memes)
    dropped = [meme for meme in memes if meme not in kept]
    assert len(dropped) > 5 and len(kept) > 60
    for meme in dropped:
        nearest = min(edit_distance(meme.text, other.text) / max(len(meme.text), len(other.text)) for other in kept)
        assert nearest <= 0.2


def test_own_titles():
    names = {comparable(name) for name in ("10 Guy", "Really High Guy")}
    for title in ("10 Guy", "10 guy MEME", "really high guy!", "Monday", "", None, "cuando los lunes", "votes for him",
                  "猫 猫", "see www.example.com", "very long " * 20):  # fmt: skip
        assert own_title(title, names, BLOCKED) == ""
    assert own_title(" Don’t  cut in line ", names, BLOCKED) == "Don’t cut in line"


def test_own_titles_come_first_then_views(tmp_path):
    checkout = write_checkout(tmp_path / "checkout", memes=3)
    memes = [
        ("m1", "10 Guy", "9,000"),
        ("m2", "my own title", "5"),
        ("m3", "ten guy", "10,000"),
        ("m4", "a good day", "70"),
    ]
    write(
        checkout,
        "memes/10-Guy.json",
        [entry(meme_id, f"text of {meme_id}", meme_id, title, views) for meme_id, title, views in memes],
    )
    templates, *_, names = read_templates(checkout, TABLE, BLOCKED)
    order = [meme.meme_id for meme in read_memes(templates, names, BLOCKED)[0] if meme.template.slug == "10-Guy"]
    assert order == ["m4", "m2", "m3", "m1"]


def test_of_nearly_equal_memes_the_first_in_order_stays(tmp_path):
    checkout = write_checkout(tmp_path / "checkout", memes=3)
    write(
        checkout,
        "memes/Doge.json",
        [entry("m1", "such wow", "much cat", views="3"), entry("m2", "Such WOW!", "much cat", views="8")],
    )
    templates, *_, names = read_templates(checkout, TABLE, BLOCKED)
    memes, counts = read_memes(templates, names, BLOCKED)
    assert [meme.meme_id for meme in memes if meme.template.slug == "Doge"] == ["m2"]
    assert counts["nearly the same text"] == 1


# Templates


def test_templates(checkout):
    templates, without_row, without_memes, without_picture, undescribed, names = read_templates(
        checkout, TABLE, BLOCKED
    )
    assert [template.slug for template in templates] == USED and without_row == ["Made-Up-Template"]
    assert len(without_memes) == 68 - 4 and list(without_picture) == [TOO_LARGE]
    assert undescribed == ["Two-Buttons"]
    assert templates[0].names == ("really relaxed guy", "ten guy", "sleepy guy")  # a rude one is left out
    assert templates[1].names == ("shiba dog",)  # "the doge meme" says no more than the name
    assert templates[2].name == "Two Buttons" and templates[2].names == ()
    assert {"10 guy", "ten guy", "made up", "nobody knows it"} <= names


def test_the_projects_table_follows_the_vocabulary():
    words = """
        happy sad angry fear surprise disgust contempt neutral excited smug confused frustrated bored embarrassed
        thoughtful
    """
    rows = read_table(TABLE)
    assert len(rows) == 68
    for slug, description, emotions in rows.values():
        assert set(emotions) <= set(words.split()) and len(emotions) <= 4, slug
        assert description.endswith(".") and to_ascii(description) == description


def test_slugs_agree_whatever_their_case_and_an_own_table_counts(checkout, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(
        'template,emotions,description,note\nmade-up-TEMPLATE,"[""happy""]",A grey circle.,mine\nNot-There,[],X.,\n'
    )
    templates, without_row, without_memes, *_ = read_templates(checkout, table, BLOCKED)
    assert [(t.slug, t.emotions, t.description) for t in templates] == [
        ("Made-Up-Template", ("happy",), "A grey circle.")
    ]
    assert without_row == [*USED[:2], TOO_LARGE, USED[2]] and without_memes == ["Not-There"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("template,description\nDoge,x\n", "line 1: found no column emotions"),
        (",".join(COLUMNS) + "\nDoge,[],\n", "line 2: found an empty template or description"),
        (",".join(COLUMNS) + "\nDoge,[],x\ndoge,[],x\n", "line 3: found the template 'doge' again"),
        (",".join(COLUMNS) + "\nDoge,happy,x\n", "line 2: found the emotions 'happy', expected a JSON list"),
        (",".join(COLUMNS) + "\nDoge,[7],x\n", "line 2: found the emotions"),
        (",".join(COLUMNS) + f"\nDoge,{'[' * 100_000},x\n", "line 2: found the emotions"),
        (",".join(COLUMNS) + "\nNobody,[],x\n", "found a row for none of 10-Guy, Doge"),
    ],
)
def test_errors_in_the_table(checkout, tmp_path, text, message):
    table = tmp_path / "table.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_templates(checkout, table, BLOCKED)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("memes/Doge.json", '[{"boxes":', r"memes/Doge.json: found no valid JSON \(.*line 1.*expected a list of memes"),
        ("memes/Doge.json", "{}", "memes/Doge.json: found a JSON dict, expected a list of memes"),
        ("memes/Doge.json", b"\xff\xfe", "memes/Doge.json: found no valid JSON"),
        ("memes/Doge.json", "[" * 100_000, "memes/Doge.json: found no valid JSON"),
        ("templates/Doge.json", "[]", "templates/Doge.json: found a JSON list, expected an object"),
    ],
)
def test_broken_files_are_named(tmp_path, name, text, message):
    checkout = write_checkout(tmp_path / "checkout", memes=3)
    path = checkout / "dataset" / name
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        imgflip.make_community(checkout, tmp_path / "out", size=64)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "no picture of it in "),
        (b"version https://git-lfs.github.com/spec/v1", "Doge.png: not a JPEG, "),
        (b"", "Doge.png: the file is empty"),
        (b"\x89PNG\r\n\x1a\n", "Doge.png: "),
    ],
)
def test_a_template_without_a_picture_is_left_out_and_named(tmp_path, capsys, content, reason):
    checkout = write_checkout(tmp_path / "checkout", memes=3)
    picture_of(checkout, "Doge").unlink()
    if content is not None:
        picture_of(checkout, "Doge").write_bytes(content)
    imgflip.main(["--source", str(checkout), "--out", str(tmp_path / "out"), "--size", "64"])
    printed = capsys.readouterr().out
    assert "templates left out, as there is no picture that can be read:\n" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("  Doge: ")]
    assert reason in line
    (line,) = [line for line in printed.splitlines() if line.startswith(f"  {TOO_LARGE}: ")]
    assert "50000 x 50000 pixels are too many" in line
    manifest = json.loads((tmp_path / "out" / "imgflip.json").read_text())
    assert manifest["templates"]["used"] == 2 and list(manifest["templates"]["without_a_picture"]) == [
        "Doge",
        TOO_LARGE,
    ]


def test_no_picture_at_all_is_an_error(tmp_path):
    checkout = write_checkout(tmp_path / "checkout", memes=3)
    for slug in USED:
        picture_of(checkout, slug).write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match="templates/img: found no picture that can be read.*10-Guy.jpg: not a JPEG"):
        imgflip.make_community(checkout, tmp_path / "out", size=64)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["webp", "JPG", "jpeg"])
def test_a_picture_may_have_any_suffix_and_case(tmp_path, suffix):
    checkout = write_checkout(tmp_path / "checkout", memes=3)
    picture_of(checkout, "Doge").rename(picture_of(checkout, "Doge").with_name(f"doge.{suffix}"))
    manifest = imgflip.make_community(checkout, tmp_path / "out", size=64)
    assert manifest["templates"]["used"] == 3


def test_a_transparent_picture_is_composed_on_white(tmp_path):
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[:, 15:] = (10, 200, 30, 255)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    found = imgflip_images.read_picture(tmp_path / "a.png")
    assert (found[:, :15] == 255).all() and (found[:, 15:] == (10, 200, 30)).all()


def test_another_folder_is_no_checkout(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"^error: .*dataset/memes: found no memes, expected a clone of"):
        imgflip.main(["--source", str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


# Kinds


@pytest.mark.parametrize("kind", KINDS)
def test_the_project_reads_it(communities, kind):
    folder, manifest = communities[kind]
    splits, notes = read_splits({split: folder / f"{split}.csv" for split in SPLITS}, folder / "images")
    assert notes == []
    for name, split in splits.items():
        assert manifest[name] == {"records": len(split), "topics": len(split.topic_ids)}
        for meme in split.memes:
            assert cv2.imread(str(folder / "images" / meme.image)).shape[:2] in {(72, 96), (96, 58), (96, 96)}
    ids = [meme.image_id for split in splits.values() for meme in split.memes]
    assert len(ids) == len(set(ids)) == manifest["memes"]["used"] == (18 if kind == "titles" else 36)
    assert len(list((folder / "images").glob("*/*"))) == len(ids)


def test_rows_say_what_is_shown(communities, checkout):
    memes = {}
    for slug in USED:
        for found in json.loads((checkout / f"dataset/memes/{slug}.json").read_text()):
            memes.setdefault(f"{slug}-{found['post'].split('/')[-1]}", found)
    table = read_table(TABLE)
    for row in itertools.chain(*rows_of(communities["topics"][0]).values()):
        slug = row["topic_id"]
        _, description, emotions = table[slug.casefold()]
        text = " ".join(memes[row["image_id"]]["boxes"])
        assert row["text"] == text and row["image"] == f"{slug}/{row['image_id'].removeprefix(slug + '-')}.jpg"
        assert json.loads(row["captions"]) == [f'{description} The text reads: "{text}"']
        assert json.loads(row["emotions"]) == list(emotions)


def test_topics_have_one_query_and_are_in_every_split(communities):
    rows = rows_of(communities["topics"][0])
    queries = [{(row["topic_id"], row["query"]) for row in rows[split]} for split in SPLITS]
    assert queries[0] == queries[1] == queries[2] == {
        ("10-Guy", "really relaxed guy"), ("Doge", "shiba dog"), ("Two-Buttons", "Two Buttons")
    }  # fmt: skip
    assert [len(rows[split]) for split in SPLITS] == [30, 3, 3]


def test_templates_have_other_queries_in_each_split(communities):
    rows = rows_of(communities["templates"][0])
    queries = {split: {row["topic_id"]: row["query"] for row in rows[split]} for split in SPLITS}
    assert [queries[split]["10-Guy"] for split in SPLITS] == ["really relaxed guy", "ten guy", "sleepy guy"]
    assert [queries[split]["Doge"] for split in SPLITS] == ["shiba dog", "Doge", "Doge"]
    assert [queries[split]["Two-Buttons"] for split in SPLITS] == ["Two Buttons"] * 3
    same = [[row["image_id"] for row in rows_of(communities[kind][0])["val"]] for kind in ("topics", "templates")]
    assert same[0] == same[1]


def test_titles_are_topics_of_one_meme(communities):
    rows = rows_of(communities["titles"][0])
    assert [len(rows[split]) for split in SPLITS] == [14, 2, 2]
    every = list(itertools.chain(*rows.values()))
    assert len({row["topic_id"] for row in every}) == len({comparable(row["query"]) for row in every}) == len(every)
    assert not {comparable(row["query"]) for row in every} & {comparable(title) for title, *_ in TEMPLATES.values()}


def test_a_repeated_title_is_used_once(tmp_path):
    checkout, rng = write_checkout(tmp_path / "checkout", memes=6), random.Random(0)
    for slug in USED:
        entries = [
            entry(f"{slug[:1]}{n}", texts(rng)[0], f"of {slug}", title, "7")
            for n, title in enumerate(("Same here!", "SAME here", f"only {slug}"))
        ]
        write(checkout, f"memes/{slug}.json", entries)
    imgflip.make_community(checkout, tmp_path / "out", "titles", size=64)
    queries = [row["query"] for row in itertools.chain(*rows_of(tmp_path / "out").values())]
    assert sorted(queries) == ["Same here!", "only 10-Guy", "only Doge", "only Two-Buttons"]


def test_limits_and_seeds(checkout, tmp_path):
    def rows(name, **arguments):
        imgflip.make_community(checkout, tmp_path / name, size=64, **arguments)
        return rows_of(tmp_path / name)

    few = list(itertools.chain(*rows("few", limit=11).values()))
    assert sorted(sum(row["topic_id"] == slug for row in few) for slug in USED) == [3, 4, 4]
    assert {row["image_id"][-1] in "13579" for row in few} == {True}  # the odd ones have a title of their own
    one = rows("one", max_templates=1)
    assert len({row["topic_id"] for split in SPLITS for row in one[split]}) == 1 and len(one["train"]) == 10
    zero, first = rows("zero", seed=0), rows("first", seed=1)
    assert {row["image_id"] for row in zero["val"]} != {row["image_id"] for row in first["val"]}
    ids = [{row["image_id"] for split in SPLITS for row in each[split]} for each in (zero, first)]
    assert ids[0] == ids[1]
    with pytest.raises(
        InputError, match="val and test would be empty: 5 memes of 3 templates are left for --kind topics"
    ):
        rows("none", limit=5)
    assert not (tmp_path / "none").exists()


# Drawing


def pens():
    drawn_with_lines = Pen()
    drawn_with_lines.face = None  # what OpenCV 4 has
    return {"default": Pen(), "Hershey": drawn_with_lines}


TEXTS = {
    "short": "Me",
    "usual": "when you find out that it is monday again",
    "long": "I ORDERED A CHICKEN AND AN EGG FROM AMAZON TODAY AND I WILL LET YOU KNOW WHICH COMES FIRST, QUITE SOON",
    "a long word": "supercalifragilistic" * 7,
    "descenders": "@jay,jay;QQQ",
    "wide letters": "W" * 40 + " " + "M" * 40,
}


@pytest.mark.parametrize("pen", ["default", "Hershey"])
@pytest.mark.parametrize("size", [(336, 336), (150, 336), (336, 110), (64, 64), (20, 64), (64, 20)])
def test_text_is_at_the_edge_and_never_cut_off(pen, size):
    pen = pens()[pen]
    grey = np.full((*size, 3), 128, np.uint8)
    for name, text in TEXTS.items():
        for at_top in (True, False):
            drawn = draw_meme(pen, grey, *((text, "") if at_top else ("", text)))
            assert drawn.shape == grey.shape and (grey == 128).all()
            changed = np.abs(drawn.astype(int) - 128).max(axis=2) > 2
            white = drawn.min(axis=2) > 190
            assert changed.any(), name
            half = slice(size[0] // 2 + 1, None) if at_top else slice(0, size[0] // 2 - 1)
            assert not changed[half].any(), name
            assert not white[:, [0, -1]].any() and not white[[0, -1]].any(), (name, at_top)
            if size == (336, 336):
                assert white.any() and (drawn.max(axis=2) < 30).any()  # letters and outline


def test_all_letters_are_there():
    """The white area grows with each letter, whatever is broken into lines."""
    pen, grey = Pen(), np.full((400, 400, 3), 128, np.uint8)
    size, lines = fitted(pen, "ONE DOES NOT SIMPLY " * 5, 400, 400)
    assert " ".join(lines).split() == ("ONE DOES NOT SIMPLY " * 5).split() and size >= 18
    size, lines = fitted(pen, "X" * 150, 400, 400)
    assert "".join(lines) == "X" * 150 and max(pen.width(line, size) for line in lines) <= 400
    areas = []
    for letters in (1, 2, 4, 8):
        drawn = draw_meme(pen, grey, "H" * letters, "")
        areas.append(int((drawn.min(axis=2) > 190).sum()))
    assert areas[1] == pytest.approx(2 * areas[0], rel=0.1) and areas[2] == pytest.approx(4 * areas[0], rel=0.1)


def test_lower_case_is_drawn_in_capitals():
    pen, grey = Pen(), np.full((200, 200, 3), 128, np.uint8)
    assert (draw_meme(pen, grey, "a cat", "a dog") == draw_meme(pen, grey, "A CAT", "A DOG")).all()
    assert (draw_meme(pen, grey, "", " ") == grey).all()


def test_the_meme_is_its_template_with_text_above_and_below(communities, checkout):
    folder, _ = communities["topics"]
    for row in itertools.chain(*rows_of(folder).values()):
        template = cv2.imread(str(picture_of(checkout, row["topic_id"])))
        drawn = cv2.imread(str(folder / "images" / row["image"]))
        expected = cv2.resize(template, drawn.shape[1::-1], interpolation=cv2.INTER_AREA)
        change = np.abs(drawn.astype(int) - expected).max(axis=2) > 60
        height = len(drawn)
        assert change[: height // 2].mean() > 0.05 and change[height // 2 :].mean() > 0.05
        assert not change[int(0.47 * height) : int(0.53 * height)].any()


def test_text_beyond_ascii_is_drawn_without_its_accents(tmp_path):
    folders = []
    for number, upper in enumerate(("Pokémon “go”", 'POKEMON "GO"')):
        checkout = write_checkout(tmp_path / f"checkout {number}", memes=3)
        write(
            checkout,
            "memes/Doge.json",
            [entry(f"b{n}", upper, f"text number {n} is an example", "Doge") for n in range(3)],
        )
        folders.append(tmp_path / f"out {number}")
        imgflip.make_community(checkout, folders[-1], size=96)
    one, other = (contents(folder / "images") for folder in folders)
    assert one == other and "Doge/b0.jpg" in one
    assert any(row["text"].startswith("Pokémon “go”") for row in rows_of(folders[0])["train"])


# Many memes: processes, resuming


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """(checkout with enough memes for two processes, the community that one process makes of it)."""
    folder = tmp_path_factory.mktemp("many")
    checkout = write_checkout(folder / "checkout", memes=250)
    imgflip.make_community(checkout, folder / "one", size=200, workers=1)
    return checkout, folder / "one"


def test_any_number_of_workers_writes_the_same(many, tmp_path):
    checkout, one = many
    manifest = imgflip.make_community(checkout, tmp_path / "two", size=200, workers=2)
    assert manifest["drawn"] == 750
    assert contents(tmp_path / "two") == contents(one)


def start(checkout, out):
    command = [
        sys.executable,
        "-m",
        "preprocess.imgflip",
        "--source",
        checkout,
        "--out",
        out,
        "--size",
        "200",
        "--workers",
        "2",
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # background jobs ignore it
    )
    limit = time.monotonic() + 60
    while not any((out / "images").glob("*/*.jpg")):
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.002)
    return process


@pytest.mark.parametrize("whom", ["all", "the main process"])
def test_after_a_kill_the_next_call_goes_on(many, tmp_path, whom):
    checkout, one = many
    out = tmp_path / "out"
    process = start(checkout, out)
    if whom == "all":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()  # the others have its stderr too: returns when all have ended
    there = {path.name: path.stat().st_mtime_ns for path in (out / "images").glob("*/*.jpg")}
    finished = 750 if whom == "all" else 751  # the others may have drawn all that they were given before they ended
    assert 0 < len(there) < finished and not (out / "test.csv").exists()
    manifest = imgflip.make_community(checkout, out, size=200)
    assert manifest["drawn"] == 750 - len(there)
    assert contents(out) == contents(one)
    assert all(
        path.stat().st_mtime_ns == there.get(path.name, path.stat().st_mtime_ns) for path in out.glob("images/*/*")
    )


def test_ctrl_c(many, tmp_path):
    process = start(many[0], tmp_path / "out")
    os.killpg(process.pid, signal.SIGINT)
    _, printed = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in printed and "goes on from there" in printed
    assert not (tmp_path / "out" / "train.csv").exists()


def test_an_error_in_a_process_ends_the_program(many, tmp_path):
    checkout, _ = many
    picture = picture_of(checkout, "Doge")
    jobs = [imgflip_images.Job(str(picture), str(tmp_path / f"images/{n}.jpg"), "A", "B") for n in range(300)]
    jobs[250] = jobs[250]._replace(template="/nowhere.jpg")
    with pytest.raises(InputError, match="/nowhere.jpg: cannot be read: No such file"):
        imgflip_images.draw_missing(jobs, 64, 80, workers=2)


def test_a_second_call_keeps_what_is_there(checkout, tmp_path, capsys):
    flags = ["--source", str(checkout), "--out", str(tmp_path / "out"), "--size", "64"]
    imgflip.main(flags)
    assert "36 used, on 3 templates; 36 drawn now" in capsys.readouterr().out
    before = contents(tmp_path / "out")
    imgflip.main([*flags, "--workers", "1"])
    assert "; 0 drawn now" in capsys.readouterr().out
    images = sorted((tmp_path / "out" / "images").glob("*/*"))
    images[0].unlink()
    images[1].write_bytes(b"")
    (tmp_path / "out" / "val.csv").unlink()
    imgflip.main(flags)
    assert "; 2 drawn now" in capsys.readouterr().out
    assert contents(tmp_path / "out") == before


def test_other_arguments_or_data_are_an_error(checkout, tmp_path):
    out = tmp_path / "out"
    imgflip.make_community(checkout, out, size=64)
    before = contents(out)
    for arguments, message in (
        ({"seed": 1}, "seed 0, not 1, data"),
        ({"kind": "titles"}, "kind topics, not titles"),
        ({"size": 65}, "size 64, not 65;"),
        ({"quality": 50}, "quality 88, not 50;"),
    ):
        with pytest.raises(InputError, match=f"out was made with other arguments or data: {message}"):
            imgflip.make_community(checkout, out, **{"size": 64} | arguments)
    changed = write_checkout(tmp_path / "changed")
    picture = picture_of(changed, "Doge")
    cv2.imwrite(str(picture), cv2.imread(str(picture)) // 2)
    with pytest.raises(InputError, match="other arguments or data: data "):
        imgflip.make_community(changed, out, size=64)
    assert contents(out) == before
    for manifest in ("", "[]", '{"arguments": 3}', "[" * 100_000):
        (out / "imgflip.json").write_text(manifest)
        with pytest.raises(InputError, match="is not empty and not made by this program"):
            imgflip.make_community(checkout, out, size=64)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file"):
        imgflip.make_community(checkout, tmp_path / "file", size=64)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".imgflip.json.partial").touch()  # killed in the very first moment
    imgflip.make_community(checkout, tmp_path / "killed", size=64)
    assert {name.split("/")[0] for name in contents(tmp_path / "killed")} == {
        "images",
        "imgflip.json",
        "train.csv",
        "val.csv",
        "test.csv",
    }


# Command line


def test_what_is_printed(checkout, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("preprocess.building.summary.path_of", lambda name: tmp_path / "no-weights.pt")
    imgflip.main(["--source", str(checkout), "--out", str(tmp_path / "out"), "--size", "64", "--kind", "titles"])
    printed = capsys.readouterr().out
    assert "templates left out, as the table has no row for them: Made-Up-Template\n" in printed
    assert "45 memes read\n" in printed and "36 clean\n" in printed
    assert "18 used, which have a title of their own, on 3 templates; 18 drawn now" in printed
    for reason in DIRTY:
        assert f"        1   dropped: {reason}\n" in printed
    assert re.search(r"records +topics\ntrain +14 +14\nval +2 +2\ntest +2 +2\n", printed)
    command = shlex.split(printed.splitlines()[-1])
    assert command[:5] == ["python", "main_task_retrieval.py", "--do_train", "--data_path", str(tmp_path / "out")]
    args, _ = parse_arguments(command[2:])
    assert (args.pretrained_clip_name, args.batch_size, args.output_dir) == ("ViT-tiny/8", 8, "runs/out")  # of 14
    manifest = json.loads((tmp_path / "out" / "imgflip.json").read_text())
    assert manifest["dropped"] == {reason.replace(" ", "_"): 1 for reason in DIRTY}
    assert manifest["templates"]["without_a_row"] == ["Made-Up-Template"]
    assert not names_with_spaces(manifest)


def test_templates_without_a_row_are_used_if_asked_for(checkout, tmp_path, capsys):
    out = tmp_path / "out"
    imgflip.main(["--source", str(checkout), "--out", str(out), "--size", "64", "--all_templates"])
    assert "of which nothing is said but their name, without emotions: Made-Up-Template\n" in capsys.readouterr().out
    rows = pandas.concat([pandas.read_csv(out / f"{split}.csv") for split in ("train", "val", "test")])
    added = rows[rows.topic_id == "Made-Up-Template"]
    assert len(added) >= 3 and set(added.emotions) == {"[]"}
    for text, captions in zip(added.text, added.captions, strict=True):
        assert json.loads(captions) == [f'The meme template Made Up Template. The text reads: "{text}"']
    assert all((out / "images" / image).is_file() for image in added.image)
    assert json.loads((out / "imgflip.json").read_text())["templates"]["used"] == 4


@pytest.mark.parametrize(
    "flags", [["--limit", "0"], ["--size", "63"], ["--quality", "101"], ["--kind", "x"], ["--workers", "0"]]
)
def test_bad_flags(flags, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        imgflip.main(["--source", "x", "--out", str(tmp_path / "out"), *flags])
    assert stopped.value.code == 2


def test_help_needs_no_opencv():
    code = "import sys, preprocess.imgflip; sys.exit(bool({'cv2', 'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
