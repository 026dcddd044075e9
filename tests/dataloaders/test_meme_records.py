"""CSV reading: what pandas writes comes back unchanged, and every kind of bad row is named with its place."""

import csv
import json
import os
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dataloaders.cells import BadCell, ImageFolder, parse_captions, parse_emotions
from dataloaders.communities import COMMUNITIES, missing_data_message
from dataloaders.meme_records import COLUMNS, Meme, emotion_vocabulary, read_splits, texts
from tests.conftest import ROOT
from util import InputError

HEADER = "image_id,image,topic_id,query,captions,emotions"
GOOD = 'm0,a.jpg,t0,a query,a caption,"[""happy""]"'


def read(tmp_path, *contents, **kwargs):
    """Write one CSV per content (str or bytes), read them all: train, val, test."""
    paths = {}
    for name, content in zip(("train", "val", "test"), contents, strict=False):
        paths[name] = tmp_path / f"{name}.csv"
        paths[name].write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_splits(paths, tmp_path / "images", **kwargs)


def error_of(tmp_path, *contents, **kwargs):
    with pytest.raises(InputError) as caught:
        read(tmp_path, *contents, **kwargs)
    return str(caught.value)


def row(**cells):
    """A good record with some cells replaced, quoted as RFC 4180 wants it."""
    values = {
        "image_id": "m1",
        "image": "b.jpg",
        "topic_id": "t1",
        "query": "q",
        "captions": "c",
        "emotions": "",
    }
    values |= cells
    return ",".join('"' + value.replace('"', '""') + '"' for value in values.values())


def test_records_topics_and_memes_in_order_of_first_appearance(tmp_path):
    lines = [
        HEADER + ",text",
        "m2,b.jpg,t9,later,c2,Sad ,",
        "m1,./x//a.jpg,t1,now,c1,,HELLO",
        "m2,b.jpg,t1,now,c2,sad,",
    ]
    splits, notes = read(tmp_path, "\n".join(lines))
    split = splits["train"]
    assert (split.name, len(split), notes) == ("train", 3, [])
    assert (split.topic_ids, split.queries) == (["t9", "t1"], ["later", "now"])
    assert split.memes == [
        Meme("m2", "b.jpg", ("c2",), ("sad",), ""),
        Meme("m1", "x/a.jpg", ("c1",), (), "HELLO"),
    ]
    assert split.record_topic.tolist() == [0, 1, 1] and split.record_topic.dtype == np.int64
    assert split.record_meme.tolist() == [0, 1, 0] and split.record_meme.dtype == np.int64


def random_text(rng):
    alphabet = "ab ,\"\n\r\n“”'\\/[]{}:;\t=我很累了😀👩‍👩‍👧é\u2028\u200b\x0b#&amp;0"
    text = "".join(rng.choices(alphabet, k=rng.randint(1, 30)))
    return "x" + text + "y"  # not blank, and bare captions do not begin with a bracket


@pytest.mark.parametrize("seed", range(20))
def test_what_pandas_writes_comes_back_unchanged(tmp_path, seed):
    rng = random.Random(seed)
    memes, used = {}, set()
    rows = {"train": [], "val": [], "test": []}
    queries = {f"t{i} {random_text(rng)}": random_text(rng) for i in range(8)}
    for i in range(40):
        captions = [random_text(rng) for _ in range(rng.randint(1, 4))]
        words = [rng.choice(["happy", "sad", "难过", "very angry"]) for _ in range(rng.randint(0, 3))]
        forms = [words, [{f"person{k}": word.upper()} for k, word in enumerate(words)]]
        forms.append({f"person{k}": f" {word}" for k, word in enumerate(words)})
        meme = Meme(
            f"m{i} {random_text(rng)}",
            f"d{i % 3}/{i} 图,.jpg",
            tuple(captions),
            tuple(words),
            random_text(rng),
        )
        bare = len(captions) == 1 and rng.random() < 0.5
        captions_cell = captions[0] if bare else json.dumps(captions, ensure_ascii=rng.random() < 0.5)
        memes[meme.image_id] = meme, captions_cell, json.dumps(rng.choice(forms))
    for _ in range(100):
        name, topic = rng.choice(list(rows)), rng.choice(list(queries))
        meme, captions_cell, emotions_cell = rng.choice(list(memes.values()))
        if (name, topic, meme.image_id) not in used:
            used.add((name, topic, meme.image_id))
            record = (
                meme.image_id,
                meme.image,
                topic,
                queries[topic],
                captions_cell,
                emotions_cell,
                meme.text,
            )
            rows[name].append(dict(zip(COLUMNS, record, strict=True)))
    columns = rng.sample(COLUMNS, len(COLUMNS))
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    if any("\r" in value for record in sum(rows.values(), []) for value in record.values()):
        quoting = csv.QUOTE_ALL  # Python before 3.13 leaves a lone carriage return unquoted
    for name, records in rows.items():
        frame = pd.DataFrame(records, columns=columns)
        encoding = rng.choice(["utf-8", "utf-8-sig"])
        ending = rng.choice(["\n", "\r\n"])
        frame.to_csv(tmp_path / f"{name}.csv", index=False, encoding=encoding, lineterminator=ending, quoting=quoting)
    splits, _ = read_splits({name: tmp_path / f"{name}.csv" for name in rows}, tmp_path)
    for name, records in rows.items():
        split = splits[name]
        pairs = zip(split.record_topic, split.record_meme, strict=True)
        read_back = [(split.topic_ids[t], split.queries[t], split.memes[m]) for t, m in pairs]
        assert read_back == [(r["topic_id"], r["query"], memes[r["image_id"]][0]) for r in records]


BAD_ROWS = {
    "empty id": (row(image_id=""), "column 'image_id': found '', expected an id that is not empty"),
    "spaces around an id": (row(topic_id="t1 "), "column 'topic_id': found 't1 ', expected an id"),
    "empty image": (row(image=" "), "column 'image': found ' ', expected the path of an image file"),
    "folder as image": (row(image="./"), "column 'image': found './', expected the path of an image file"),
    "absolute image": (
        row(image="/etc/a.jpg"),
        "column 'image': found '/etc/a.jpg', expected a path relative to ",
    ),
    "image with a drive": (
        row(image="C:\\a.jpg"),
        r"column 'image': found 'C:\\a.jpg', expected a path relative to ",
    ),
    "image on a server": (
        row(image="\\\\s\\a.jpg"),
        r"column 'image': found '\\\\s\\a.jpg', expected a path relative",
    ),
    "image above": (
        row(image="x/../../a.jpg"),
        "column 'image': found 'x/../../a.jpg', expected a path that stays",
    ),
    "image above, backslash": (
        row(image="..\\a.jpg"),
        r"column 'image': found '..\\a.jpg', expected a path that",
    ),
    "blank query": (row(query=" \n"), r"column 'query': found ' \n', expected a text that is not empty"),
    "empty captions": (row(captions=""), "column 'captions': found no caption in '', expected at least one"),
    "no captions": (row(captions="[]"), "column 'captions': found no caption in '[]', expected at least one"),
    "captions of Python": (
        row(captions="['a']"),
        "column 'captions': found \"['a']\", which is not valid JSON (Expecting value at character 2), expe",
    ),
    "bracketed caption": (
        row(captions="[cat] on a sofa"),
        "column 'captions': found '[cat] on a sofa', which is not",
    ),
    "rest after captions": (
        row(captions='["a"] b'),
        "not valid JSON (Extra data at character 7), expected a JSON list",
    ),
    "captions as an object": (
        row(captions='{"a": "b"}'),
        "column 'captions': found the JSON object '{\"a\": \"b\"}'",
    ),
    "number as a caption": (
        row(captions='["a", 3]'),
        "column 'captions': found '[\"a\", 3]', whose element 2 is not a",
    ),
    "list as a caption": (
        row(captions='[["a"]]'),
        "whose element 1 is not a text, expected a JSON list of texts",
    ),
    "blank caption": (
        row(captions='["a", " "]'),
        "column 'captions': found '[\"a\", \" \"]', whose element 2 is empty",
    ),
    "half a character": (row(captions='["\\ud83d"]'), "whose element 1 holds half of a character"),
    "deep captions": (
        row(captions="[" * 90_000),
        "column 'captions': found '" + "[" * 60 + "'…, which is not valid",
    ),
    "broken emotions": (
        row(emotions='["happy"'),
        "column 'emotions': found '[\"happy\"', which is not valid JSON",
    ),
    "mixed emotions": (
        row(emotions='["a", {"p": "b"}]'),
        "whose element 2 is not a text, expected a JSON list of words",
    ),
    "null as emotion": (
        row(emotions='{"person1": null}'),
        "column 'emotions': found '{\"person1\": null}', whose elem",
    ),
    "blank emotion": (
        row(emotions='{"a": ""}'),
        "column 'emotions': found '{\"a\": \"\"}', whose element 1 is empty",
    ),
    "nobody in a list": (
        row(emotions="[{}]"),
        "column 'emotions': found an object without a person in '[{}]'",
    ),
    "person twice": (
        row(emotions='{"a": "b", "a": "c"}'),
        "(a name occurs twice in one object), expected a JSON list",
    ),
    "too few fields": (
        "m1,b.jpg,t1,q,c",
        "fields: found 5, the last one 'c', expected 6: image_id,image,topic_id,",
    ),
    "too many fields": (
        "m1,b.jpg,t1,q,c,d,",
        "fields: found 7, the last one '', expected 6: image_id,image,topic_id,",
    ),
    "commas only": (",,,,,", "column 'query': found '', expected a text that is not empty"),
    "text after a quote": (
        'm1,b.jpg,t1,"a "b" c",c,',
        'the record \'m1,b.jpg,t1,"a "b" c",c,\': found broken quoting',
    ),
    "lone return": (
        "m1,b.jpg,t1,a\rb,c,",
        "found a carriage return without a line feed, expected such text to be quo",
    ),
    "NUL": (row(query="a\0b"), r"column 'query': found a NUL byte in b'a\x00b' in line 6, expected text"),
    "Latin-1": (
        row(query="café").encode("latin-1"),
        r"column 'query': found b'caf\xe9' in line 6, which is not UTF-8, exp",
    ),
    "GBK": (
        row(captions="好").encode("gbk"),
        r"column 'captions': found b'\xba\xc3' in line 6, which is not UTF-8, exp",
    ),
    "pair again": (
        row(topic_id="t0", query="a query") + "\n" + row(topic_id="t0", query="a query"),
        "columns 'topic_id', 'image_id': found 't0', 'm1' again, expected each pair once; it is in line 6",
    ),
    "another query": (
        row(topic_id="t0", query="A query"),
        "column 'query': found 'A query', expected 'a query' as in line 5: topic 't0' has one query",
    ),
}


@pytest.mark.parametrize("bad, message", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named_with_file_line_column_and_what_was_found(tmp_path, bad, message):
    good = 'm0,a.jpg,t0,a query,a caption,"[""happy""]"'
    three_lines = row(image_id="m5", query="one\ntwo\nthree", topic_id="t5")  # lines 2 to 4
    bad = bad if isinstance(bad, bytes) else bad.encode()
    after = row(image_id="m6", image="/refused.jpg")  # the rows after a bad one are still read
    content = b"\n".join([HEADER.encode(), three_lines.encode(), good.encode(), bad, after.encode(), b""])
    error = error_of(tmp_path, content)
    line = 7 if message.startswith("columns") else 6
    assert f"{tmp_path / 'train.csv'}, line {line}, " in error
    assert message in error
    after_line = content.split(after.encode())[0].count(b"\n") + 1
    assert f"train.csv, line {after_line}, column 'image': found '/refused.jpg'" in error
    assert error.startswith("2 bad rows:\n")


def test_byte_that_is_not_utf8_deep_inside_a_record_names_the_records_first_line(tmp_path):
    bad = row(query="one\ntwo\nthr\xe9e").encode("latin-1")
    error = error_of(tmp_path, b"\n".join([HEADER.encode(), GOOD.encode(), bad]))
    assert error.splitlines()[1:] == [
        f"  {tmp_path / 'train.csv'}, line 3, column 'query': found b'one\\ntwo\\nthr\\xe9e' in line 5,"
        " which is not UTF-8, expected UTF-8"
    ]


def test_a_quote_that_is_never_closed_is_named_and_the_rows_after_it_are_checked(tmp_path):
    error = error_of(tmp_path, "\n".join([HEADER, GOOD, 'm1,b.jpg,t1,"q,c,', "m2,c.jpg,t1,,c,", "m3,d.jpg,t1,q,c,"]))
    assert error.startswith("2 bad rows:\n")
    assert "line 3, the record 'm1,b.jpg,t1,\"q,c,': found a quote that is never closed" in error
    assert "line 4, column 'query': found ''" in error


def test_a_very_large_field_is_refused_and_the_bound_is_said(tmp_path):
    before = csv.field_size_limit()
    large = row(captions="x" * 1_000_001)
    error = error_of(tmp_path, "\n".join([HEADER, GOOD, large, row(query="")]))
    assert "line 3, the record " in error and "found a field of more than 1,000,000 characters" in error
    assert "line 4, column 'query'" in error
    assert len(error) < 1000
    splits, _ = read(tmp_path, "\n".join([HEADER, row(captions="x" * 1_000_000)]))
    assert len(splits["train"].memes[0].captions[0]) == 1_000_000
    assert csv.field_size_limit() == before


BAD_HEADERS = {
    "empty file": ("", "line 1, header: found nothing, expected image_id,image,"),
    "blank lines only": ("\n\n", "line 1, header: found nothing, expected image_id,image,"),
    "no record": (HEADER + "\n\n", "line 1, header: found no record below it, expected at least one"),
    "missing columns": (
        "image_id,image,topic_id,query\nm,a,t,q",
        "expected also the columns 'captions', 'emotions'",
    ),
    "no header": (
        GOOD,
        "line 1, header: found 'm0,a.jpg,t0,a query,a caption,[\"happy\"]', expected also the columns",
    ),
    "semicolons": (
        HEADER.replace(",", ";"),
        "found 'image_id;image;topic_id;query;captions;emotions', expected also",
    ),
    "repeated column": (HEADER + ",query\n", "emotions,query', expected the columns 'query' once"),
    "after blank lines": (
        "\n\nimage_id\n",
        "line 3, header: found 'image_id', expected also the columns 'image', ",
    ),
    "UTF-16": ((HEADER + "\n" + GOOD).encode("utf-16"), "line 1, header: found UTF-16, expected UTF-8"),
    "not UTF-8": (
        (HEADER + ",é\n" + GOOD + ",\n").encode("latin-1"),
        "line 1, field 7: found b'\\xe9' in line 1, which is",
    ),
    "unclosed": ('"' + HEADER + "\n" + GOOD + "\n", "line 1, the record '\"image_id,image,"),
}


@pytest.mark.parametrize("content, message", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_bad_header_or_an_empty_split_is_named_once(tmp_path, content, message):
    error = error_of(tmp_path, "\n".join([HEADER, GOOD]), content)
    assert error.startswith(f"1 bad row:\n  {tmp_path / 'val.csv'}, line ")
    assert message in error


def test_blank_lines_bom_and_other_columns_are_no_errors(tmp_path):
    header = "likes,image_id,image,topic_id,query,captions,emotions,,date"
    lines = ["\ufeff" + header, "", "1,m0,a.jpg,t0,q,c,,,2020", "   ", "2,m1,b.jpg,t0,q,c,,,2021", ""]
    splits, notes = read(tmp_path, "\r\n".join(lines), "\n".join([header, "3,m0,a.jpg,t0,q,c,,,2022"]))
    assert [meme.image_id for meme in splits["train"].memes] == ["m0", "m1"]
    assert notes == ["Columns that are not used: 'likes', '', 'date'."]
    assert splits["val"].memes[0] is splits["train"].memes[0]


AGREEMENT = {
    "image": ({"image": "c.jpg"}, "column 'image': found 'c.jpg', expected 'b.jpg' as in "),
    "captions": (
        {"captions": '["c", "d"]'},
        "column 'captions': found '[\"c\", \"d\"]', expected '[\"c\"]' as in ",
    ),
    "emotions": ({"emotions": "sad"}, "column 'emotions': found '[\"sad\"]', expected '[]' as in "),
    "text": ({"text": "HI"}, "column 'text': found 'HI', expected '' as in "),
}


@pytest.mark.parametrize("cells, message", AGREEMENT.values(), ids=AGREEMENT)
@pytest.mark.parametrize("across", [False, True], ids=["one split", "two splits"])
def test_rows_of_one_image_id_agree(tmp_path, cells, message, across):
    first, second = row(text=""), row(**({"topic_id": "t2", "text": ""} | cells))
    header = HEADER + ",text"
    contents = ["\n".join([header, first]), "\n".join([header, "", second])]
    place = f"{tmp_path / 'val.csv'}, line 3, "
    if not across:
        contents = ["\n".join([header, first, second])]
        place = f"{tmp_path / 'train.csv'}, line 3, "
    error = error_of(tmp_path, *contents)
    assert error.startswith("1 bad row:\n")
    assert f"{place}{message}{tmp_path / 'train.csv'}, line 2: rows of image_id 'm1' agree" in error


def test_a_difference_at_the_end_of_long_captions_is_visible(tmp_path):
    cells = [row(topic_id=f"t{i}", captions="x" * 500 + end) for i, end in enumerate("ab")]
    error = error_of(tmp_path, "\n".join([HEADER, *cells]))
    assert "xxxb\"]', expected …'" in error and "xxxa\"]' as in" in error


def test_a_bad_row_hides_no_contradiction_of_the_others(tmp_path):
    rows = [
        row(topic_id="t1", query="", captions="["),  # the first row of its topic and of its meme
        row(topic_id="t1", query="a", image_id="m2"),
        row(topic_id="t1", query="b", image_id="m3"),
        row(topic_id="t2", image="other.jpg"),
    ]
    error = error_of(tmp_path, "\n".join([HEADER, *rows]))
    assert error.startswith("3 bad rows:\n")
    assert "line 2, column 'query': found ''" in error and "line 2, column 'captions': found '['" in error
    assert "line 4, column 'query': found 'b', expected 'a' as in line 3" in error
    assert "line 5, column 'image': found 'other.jpg', expected 'b.jpg' as in" in error


def test_of_a_thousand_bad_rows_in_two_files_twenty_are_shown(tmp_path):
    bad = [row(image_id=f"m{i}", query="") for i in range(500)]
    error = error_of(tmp_path, "\n".join([HEADER, *bad]), "\n".join([HEADER, *bad]))
    lines = error.splitlines()
    assert lines[0] == "1,000 bad rows, the first 20 of them:"
    assert [f", line {i + 2}, column 'query': found ''" in line for i, line in enumerate(lines[1:21])] == [True] * 20
    assert lines[21:] == ["  and 980 more bad rows"]


def test_bad_rows_of_all_files_are_reported_together(tmp_path):
    error = error_of(tmp_path, "\n".join([HEADER, row(query="")]), "image_id", "\n".join([HEADER, row(image="/x")]))
    places = [line.split(", ")[0].strip() for line in error.splitlines()[1:]]
    assert places == [f"{tmp_path / name}.csv" for name in ("train", "val", "test")]


def test_an_unreadable_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="train.csv: found no readable file .No such file"):
        read_splits({"train": tmp_path / "train.csv"}, tmp_path)
    with pytest.raises(InputError, match="found no readable file .Is a directory"):
        read_splits({"train": tmp_path}, tmp_path)


def test_captions_may_be_empty_where_nothing_reads_them(tmp_path):
    content = "\n".join([HEADER, row(captions=""), row(image_id="m2", captions="[]")])
    splits, _ = read(tmp_path, content, read_captions=False)
    assert [meme.captions for meme in splits["train"].memes] == [(), ()]
    assert "column 'captions'" in error_of(tmp_path, "\n".join([HEADER, row(captions="[1]")]), read_captions=False)


def test_symbolic_links_are_followed_and_must_stay_inside(tmp_path):
    images, outside = tmp_path / "images", tmp_path / "outside"
    (images / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.jpg").touch()
    (images / "real" / "a.jpg").touch()
    os.symlink(outside, images / "folder")
    os.symlink(outside / "secret.jpg", images / "file.jpg")
    os.symlink(images / "folder", images / "twice")
    os.symlink(outside / "absent.jpg", images / "dangling.jpg")
    os.symlink("loop.jpg", images / "loop.jpg")
    os.symlink("real", images / "inner")
    os.symlink("inner/a.jpg", images / "inner.jpg")
    os.symlink(images, tmp_path / "link to images")
    for root in (images, tmp_path / "link to images"):
        folder = ImageFolder(root)
        for path in ("real/a.jpg", "inner/a.jpg", "inner.jpg", "absent.jpg", "absent/b.jpg", "..a.jpg"):
            assert folder.parse_path(path) == path
        assert folder.parse_path("folder/../real\\./a.jpg") == "real/a.jpg"
        for path in (
            "folder/secret.jpg",
            "folder/absent.jpg",
            "file.jpg",
            "twice/secret.jpg",
            "dangling.jpg",
        ):
            with pytest.raises(BadCell, match=rf"found '{path}', which is linked to '.*outside/.*', expected a file"):
                folder.parse_path(path)
    sibling = tmp_path / "images2"
    sibling.mkdir()
    os.symlink(sibling / "a.jpg", images / "sibling.jpg")
    with pytest.raises(BadCell, match="images2"):
        ImageFolder(images).parse_path("sibling.jpg")


@pytest.mark.parametrize(
    "cell, words",
    [
        ("", ()),
        (" ", ()),
        ("[]", ()),
        ("{}", ()),
        ("Happy ", ("happy",)),
        ("难过", ("难过",)),
        ('"happy"', ('"happy"',)),
        (' ["Happy", " sad "]', ("happy", "sad")),
        ('["happy", "happy"]', ("happy", "happy")),
        ('[{"person1": "Happy"}, {"person2": "sad"}]', ("happy", "sad")),
        ('[{"person2": "a", "person1": "b"}, {"person3": "c"}]', ("a", "b", "c")),
        ('{"person1": "happy", "person2": "SAD"}', ("happy", "sad")),
        ('["\\u96be\\u8fc7"]', ("难过",)),
    ],
)
def test_emotion_cells(cell, words):
    assert parse_emotions(cell) == words


@pytest.mark.parametrize(
    "cell, captions",
    [
        ("", ()),
        ("\n", ()),
        ("[ ]", ()),
        ("a cat, “here”\n[x]", ("a cat, “here”\n[x]",)),
        ('"a"', ('"a"',)),
        (' ["a "]\n', ("a ",)),
        ('["a", "a", "\\ud83d\\ude00"]', ("a", "a", "😀")),
    ],
)
def test_caption_cells(cell, captions):
    assert parse_captions(cell) == captions


def test_texts_and_vocabulary(tmp_path):
    lines = [
        HEADER + ",text",
        row(emotions='["b", "None", "a"]', text="HI"),
        row(image_id="m2", emotions="Unknown", text=" "),
    ]
    split = read(tmp_path, "\n".join(lines))[0]["train"]
    assert emotion_vocabulary(split) == ["a", "b"]
    first, second = split.memes
    assert [texts(first, source) for source in ("caption", "text", "both")] == [("c",), ("HI",), ("c", "HI")]
    assert [texts(second, source) for source in ("caption", "text", "both")] == [("c",), (), ("c",)]
    with pytest.raises(ValueError, match="'captions'"):
        texts(first, "captions")


def test_missing_data_is_explained_for_every_community():
    slugs = "douban_memers english_memes nobody_gets_my_memes humans_love_memes recent_popular_memes"
    slugs += " lets_exchange_memes"
    assert list(COMMUNITIES)[:6] == slugs.split()
    for slug, community in COMMUNITIES.items():
        message = missing_data_message(community, "/data/x/train.csv")
        assert message.startswith("/data/x/train.csv does not exist.") and slug in message
        assert "train.csv  val.csv  test.csv" in message and "--data_path" in message
        assert ("No official link is published" in message) == (slug in slugs.split())
    assert COMMUNITIES["douban_memers"].language == "zh"


def test_the_file_and_the_error_in_the_documentation_are_real(tmp_path, monkeypatch):
    document = (ROOT / "docs" / "DATA.md").read_text(encoding="utf-8")
    example = document.split("```csv\n")[1].split("```")[0]
    splits, _ = read(tmp_path, example)
    assert (len(splits["train"]), len(splits["train"].memes), splits["train"].queries[2]) == (
        4,
        3,
        "打工人的周一",
    )

    fear = 'm1,m1.jpg,t1,a query,"[""A cat stares at a laptop.""]","{""person1"": ""fear""}",one more hour'
    train = [
        HEADER + ",text",
        fear,
        "m2,../m2.jpg,t1,a query,['A man runs.'],happy,",
        "m3,m3.jpg,t2,,A dog, in a hat,,",
    ]
    val = [HEADER + ",text", fear.replace('"{""person1"": ""fear""}"', '"[""fear"", ""sad""]"')]
    monkeypatch.chdir(tmp_path)
    Path("data/cats").mkdir(parents=True)
    for name, lines in (("train", train), ("val", val)):
        Path(f"data/cats/{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_splits({name: f"data/cats/{name}.csv" for name in ("train", "val")}, "data/cats/images")
    assert f"```\n{caught.value}\n```".replace(str(tmp_path), "/home/me") in document
