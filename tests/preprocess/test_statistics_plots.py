"""The plots as pictures: they show something, the cut is where it belongs, Chinese words do not break them."""

import warnings
from collections import Counter

import cv2
import numpy as np
import pytest

from dataloaders.meme_records import Meme
from preprocess.measuring.counts import Lengths, Measures
from preprocess.measuring.duplicate_sheet import MOST_PAIRS, write_sheet
from preprocess.measuring.plots import CUT_COLOUR, label, plot_all
from preprocess.measuring.quality import Pair

RED = tuple(int(CUT_COLOUR[place : place + 2], 16) for place in (5, 3, 1))  # as BGR


def lengths(tokens):
    return Lengths.of([(1, n, -1, -1) for n in tokens])


def measures(tokens=(5, 20, 60), emotions=None):
    return Measures(
        records=3,
        memes_per_topic=np.array([1, 2, 2, 40]),
        captions_per_meme=np.ones(3, int),
        persons=np.ones(3, int),
        queries=lengths(tokens),
        captions=lengths(tokens),
        text=lengths(tokens),
        emotions=Counter(emotions or {}),
        width=np.ones(3, int),
        height=np.ones(3, int),
        formats=Counter(PNG=3),
        animated=0,
        unreadable=0,
    )


def plots(folder, part, limits):
    """{kind: pixels (H, W, 3)} of the three plots."""
    files = plot_all(
        folder, "name", {"train": part, "total": part}, dict.fromkeys(("queries", "captions", "text"), limits)
    )
    return {kind: cv2.imread(str(folder / file)) for kind, file in files.items()}


def cut_columns(pixels):
    """The places of the lines in the cut's colour: columns where it fills at least a third of the picture."""
    columns = np.flatnonzero((pixels == RED).all(axis=2).mean(axis=0) > 1 / 3)
    return [int(group.mean()) for group in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1) if len(group)]


def test_every_plot_shows_something(tmp_path):
    for kind, pixels in plots(tmp_path, measures(emotions={"happy": 2, "sad": 1}), {77: "CLIP 77"}).items():
        assert (pixels != 255).any(axis=2).mean() > 0.02, kind
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10, kind


def test_the_cut_is_marked_where_it_is(tmp_path):
    lines = {}
    for limit in (20, 40, 60):
        lines[limit] = cut_columns(plots(tmp_path, measures(tokens=(5, 80)), {limit: "here"})["token_lengths"])
        assert len(lines[limit]) == 3  # one for each kind of text
    steps = np.diff([lines[20], lines[40], lines[60]], axis=0)
    assert np.ptp(steps) <= 2 and steps.min() > 20  # 20 tokens are as wide everywhere
    assert cut_columns(plots(tmp_path, measures(), {30: "here"})["memes_per_topic"]) == []


def test_both_limits_are_marked(tmp_path):
    assert len(cut_columns(plots(tmp_path, measures(), {32: "--max_words 32", 77: "CLIP 77"})["token_lengths"])) == 6


def test_nothing_to_show_is_no_error(tmp_path):
    assert len(plots(tmp_path, measures(tokens=()), {77: "CLIP 77"})) == 3


def test_chinese_and_odd_words_need_no_glyph_that_is_missing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots(tmp_path, measures(emotions={"开心": 2, "$x^": 1, "a$b$": 1, "😀": 1, "\\frac": 1}), {77: "CLIP 77"})


def test_label():
    assert label("happy") == "happy"
    assert label("a$b$") == r"a\$b\$"
    assert label("\U000f0000") == r"\U000f0000"  # of private use: no font has it


@pytest.mark.parametrize("count", [1, 3, MOST_PAIRS + 5])
def test_the_sheet_shows_the_pairs(tmp_path, count):
    (tmp_path / "images").mkdir()
    colours = ((200, 30, 30), (30, 180, 30))
    for name, colour in zip("ab", colours, strict=True):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.full((60, 100, 3), colour, np.uint8))
    a, b, absent = (Meme(f"表{name}" * 30, f"{name}.png", (), (), "") for name in ("a", "b", "absent"))
    pairs = [Pair("near", a, absent if i == 2 else b, ("train",), ("train", "val"), 3, 0.05) for i in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_sheet(tmp_path / "sheet.png", "name", pairs, tmp_path / "images")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    shown = [
        cv2.connectedComponents((np.abs(sheet.astype(int) - colour).max(axis=2) < 12).astype(np.uint8))[0] - 1
        for colour in colours
    ]
    assert shown == [min(count, MOST_PAIRS), min(count, MOST_PAIRS) - (count > 2)]


def test_without_pairs_an_old_sheet_goes(tmp_path):
    (tmp_path / "sheet.png").write_bytes(b"old")
    write_sheet(tmp_path / "sheet.png", "name", [], tmp_path)
    assert not (tmp_path / "sheet.png").exists()
