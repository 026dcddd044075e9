"""What is counted: against numbers counted by hand, pandas on the CSVs, and OpenAI's own tokenizer."""

import json
import random

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dataloaders.meme_records import read_splits
from modules.tokenizer import Tokenizer
from preprocess.comparing.quotation import quotation
from preprocess.measuring.counts import Lengths, TextLengths, cut, measure, spread, summary, total, words
from tests.tiny_community import COLUMNS, draw_community, write_csv

SPLITS = ("train", "val", "test")
CHINESE = "一只猫趴在电脑上看着人，大家都在笑它太懒了，上面写着“今天我不想上班了”"


@pytest.fixture(scope="module")
def clip_tokens(published_tokenizer):
    return lambda text: len(published_tokenizer.encode(text)) + 2


def measures_of(folder, image_facts=None, shortest_limit=20):
    splits, _ = read_splits({name: folder / f"{name}.csv" for name in SPLITS}, folder / "images", read_captions=False)
    return measure(splits, image_facts or {}, TextLengths(Tokenizer(), shortest_limit))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat, on a  sofa!", ["A", "cat,", "on", "a", "sofa!"]),
        ("don't well-known", ["don't", "well-known"]),
        ("- … !!! 😀 —", []),
        ("“yes” (no)", ["yes”", "no)"]),
        ("打工人的周一 monday", ["打", "工", "人", "的", "周", "一", "monday"]),
        ("ねこ、カメラ", ["ね", "こ", "カ", "メ", "ラ"]),
        ("一cat二2", ["一", "cat", "二", "2"]),
        ("고양이가 잔다", ["고양이가", "잔다"]),
        ("été naïve", ["été", "naïve"]),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_a_community_that_can_be_counted_by_hand(tmp_path):
    def row(image_id, topic, query, captions, emotions="", text=""):
        cells = (image_id, f"{image_id}.png", topic, query, json.dumps(captions), emotions, text)
        return dict(zip(COLUMNS, cells, strict=True))

    both = row("m1", "t1", "one two", ["a", "b c"], '["happy", "happy"]', "x y z")
    write_csv(
        tmp_path / "train.csv",
        [both, both | {"topic_id": "t2", "query": "三"}, row("m2", "t1", "one two", [], "sad")],
    )
    write_csv(tmp_path / "val.csv", [row("m3", "t1", "other query now", ["d"])])
    write_csv(tmp_path / "test.csv", [both, row("m4", "t3", "one", ["e f g h"])])
    facts = {"m1.png": (100, 50, "PNG", 1), "m3.png": (10, 20, "GIF", 3), "m4.png": (30, 20, "PNG", 1)}
    found = {name: summary(part, 32, 77) for name, part in measures_of(tmp_path, facts).items()}
    assert list(found) == ["train", "val", "test", "total"]
    train, everything = found["train"], found["total"]
    assert (train["records"], train["topics"], train["memes"]) == (3, 2, 2)
    assert (everything["records"], everything["topics"], everything["memes"]) == (6, 3, 4)
    assert train["memes_per_topic"] == {"min": 1, "q1": 1.25, "median": 1.5, "q3": 1.75, "max": 2, "mean": 1.5}
    # t1 has m1, m2, m3 (m1 is there in train and in test), t2 m1, t3 m4
    assert everything["memes_per_topic"]["max"] == 3 and everything["memes_per_topic"]["mean"] == pytest.approx(5 / 3)
    # "one two", "三", "other query now" and "one": t1 has another query in val
    assert everything["queries"]["count"] == 4 and everything["queries"]["words"]["mean"] == (2 + 1 + 3 + 1) / 4
    assert train["queries"]["count"] == 2
    assert everything["captions"]["count"] == 4 and everything["captions"]["words"]["mean"] == (1 + 2 + 1 + 4) / 4
    assert everything["captions"]["memes_without"] == 1 and everything["captions"]["per_meme"]["max"] == 2
    assert everything["text"]["count"] == 1 and everything["text"]["memes_without"] == 3
    assert everything["text"]["words"]["max"] == 3
    assert everything["emotions"] == {"happy": 2, "sad": 1}
    assert everything["persons_per_meme"] == {"0": 2, "1": 1, "2": 1}
    images = everything["images"]
    assert images["formats"] == {"PNG": 2, "GIF": 1} and images["animated"] == 1 and images["unreadable"] == 1
    assert images["width"]["median"] == 30 and images["height"]["max"] == 50


def test_against_pandas_and_openais_tokenizer(tmp_path, clip_tokens):
    folder = draw_community(tmp_path / "c", train=4, val=2, test=1)
    frames = {name: pd.read_csv(folder / f"{name}.csv", keep_default_na=False) for name in SPLITS}
    sizes = {}
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            sizes[path.name] = (*image.size, image.format, getattr(image, "n_frames", 1))
    found = {name: summary(part, 8, 16) for name, part in measures_of(folder, sizes).items()}
    frames["total"] = pd.concat(frames.values())
    for name, frame in frames.items():
        memes, topics = frame.drop_duplicates("image_id"), frame.groupby("topic_id").image_id.nunique()
        queries, part = frame.drop_duplicates(["topic_id", "query"]), found[name]
        captions = memes.captions.map(json.loads).explode()
        assert (part["records"], part["topics"], part["memes"]) == (len(frame), len(topics), len(memes))
        quartiles = topics.quantile([0, 0.25, 0.5, 0.75, 1]).tolist()
        assert list(part["memes_per_topic"].values()) == pytest.approx([*quartiles, topics.mean()])
        assert part["captions"]["words"]["mean"] == pytest.approx(captions.str.split().str.len().mean())
        for kind, texts in (
            ("queries", queries["query"]),
            ("captions", captions),
            ("text", memes.text[memes.text != ""]),
        ):
            tokens = texts.map(clip_tokens)
            assert part[kind]["count"] == len(tokens)
            assert part[kind]["tokens"]["median"] == tokens.median() and part[kind]["tokens"]["max"] == tokens.max()
            limit = 8 if kind == "queries" else 16
            assert [entry["limit"] for entry in part[kind]["cut"]] == [limit, 77]
            entry = part[kind]["cut"][0]
            assert entry["cut"] == (tokens > limit).sum()
            assert entry["share"] == pytest.approx((tokens > limit).mean())
            assert entry["tokens_lost"] == (tokens - limit).clip(lower=0).sum()
            assert entry["most_lost_by_one"] == max(0, tokens.max() - limit)
        assert part["images"]["width"]["mean"] == pytest.approx(memes.image.map(lambda image: sizes[image][0]).mean())
        formats = memes.image.map(lambda image: sizes[image][2]).value_counts().to_dict()
        assert part["images"]["formats"] == formats
        assert part["images"]["animated"] == memes.image.map(lambda image: sizes[image][3] > 1).sum() > 0
    assert found["total"]["captions"]["cut"][0]["cut"] > 0  # else nothing was compared


def test_several_communities_are_added(tmp_path):
    parts = [
        measures_of(draw_community(tmp_path / name, topics=topics, animated=0, first_seed=topics))["total"]
        for name, topics in (("a", 3), ("b", 5))
    ]
    alone, together = [summary(part, 8, 77) for part in parts], summary(total(parts), 8, 77)
    for key in ("records", "topics", "memes"):
        assert together[key] == sum(part[key] for part in alone)
    assert together["queries"]["cut"][0]["cut"] == sum(part["queries"]["cut"][0]["cut"] for part in alone)
    weighted = [part["captions"]["words"]["mean"] * part["captions"]["count"] for part in alone]
    assert together["captions"]["words"]["mean"] == pytest.approx(sum(weighted) / together["captions"]["count"])
    for word in together["emotions"]:
        assert together["emotions"][word] == sum(part["emotions"].get(word, 0) for part in alone)


def test_a_chinese_caption_of_36_characters_overflows_and_loses_what_it_quotes(clip_tokens):
    assert len(CHINESE) == 36 and clip_tokens(CHINESE) == 81
    n_words, tokens, start, end = TextLengths(Tokenizer(), 77)(CHINESE, "")
    assert (n_words, tokens) == (32, 81)  # without the two commas and the two quotation marks
    opening = CHINESE.index("“") + 1
    assert start == clip_tokens(CHINESE[:opening]) - 1 and end == 81 - 2  # before the closing mark and the end token
    found = cut(Lengths.of([(n_words, tokens, start, end)]), 77)
    assert found["cut"] == found["quoting"] == found["quotation_cut"] == 1
    assert found["tokens_lost"] == 4  # of 79 tokens with a meaning 75 are kept: the mark and three of the quotation go
    assert found["quotation_tokens_lost"] == 3 and found["quotation_lost"] == 0
    assert cut(Lengths.of([(n_words, tokens, start, end)]), 40)["quotation_lost"] == 1


def test_cut_quotations_against_decoding_what_is_kept(published_tokenizer):
    """Words of one token each: what is left of the quotation can be read off the decoded tokens."""
    rng = random.Random(0)
    tokenizer = Tokenizer()
    lengths = TextLengths(tokenizer, 2)
    for _ in range(200):
        before = ["cat"] * rng.randint(0, 12)
        quoted = ["dog"] * rng.randint(1, 12)
        after = ["cow"] * rng.randint(0, 3)
        caption = " ".join([*before, '"', *quoted, '"', *after])
        limit = rng.randint(3, 30)
        kept, lost = tokenizer.tokenize(caption, limit)
        found = cut(Lengths.of([lengths(caption, " ".join(quoted) if rng.random() < 0.5 else "")]), limit)
        left = published_tokenizer.decode(kept[1:-1]).split().count("dog")
        assert found["tokens_lost"] == lost
        assert found["quoting"] == found["cut"] == (lost > 0)
        assert found["quotation_tokens_lost"] == (len(quoted) - left if lost else 0)
        assert found["quotation_cut"] == (left < len(quoted))
        assert found["quotation_lost"] == (left == 0)


@pytest.mark.parametrize(
    ("caption", "text", "expected"),
    [
        ('A man. The text reads: "GO HOME"', "GO HOME", "GO HOME"),
        ("A man says go\nhome now", "GO  HOME", "go\nhome"),  # any case and white space, no marks needed
        ('Goes; the text "go" is on it', "go", "go"),  # words of their own
        ("他说我很累了", "我很累", "我很累"),
        ('Top: "A B", bottom: "C D".', "A B\nC D", 'A B", bottom: "C D'),  # line by line
        ('It reads "one" and "two".', "", "two"),
        ('It reads "one" and “two', "else", "two"),  # never closed
        ("写着「很累」。", "", "很累"),
        ('It reads "".', "", None),
        ("No quotation at all", "", None),
        ("a (b", "(b", "(b"),  # nothing in a text is a pattern
    ],
)
def test_quotation(caption, text, expected):
    place = quotation(caption, text)
    assert (place and caption[slice(*place)]) == expected


def test_spread_of_nothing():
    assert spread(np.array([])) is None
    assert cut(Lengths.of([]), 77)["share"] == 0
