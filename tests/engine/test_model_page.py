"""docs/MODEL.md lists what the program takes: each method, each value of a flag that names a part, the defaults."""

import re

import pytest

from engine.arguments import METHOD_NAMES, build_parser
from engine.methods import METHODS
from modules.backbones.names import SOURCES
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "MODEL.md").read_text(encoding="utf-8")
FLAGS = {action.dest: action for action in build_parser()._actions}


def rows_after(text):
    """The rows of the first table behind a text that the page has once: lists of cells, the heading left out."""
    assert PAGE.count(text) == 1, text
    table = re.search(r"(?:^\|.*\n)+", PAGE.partition(text)[2], re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_every_method_has_a_row_with_its_title_and_flags():
    listed = {}
    for name, *middle, flags in rows_after("## Methods as settings") + rows_after("Ablations change one part"):
        listed[name.strip("`")] = [*middle, flags.strip("`")]
    expected = {}
    for name in METHOD_NAMES:
        method = METHODS[name]
        titles = [method.changes, method.title] if method.changes else [method.title]
        expected[name] = [*titles, " ".join(method.flags) or "(none)"]
    assert listed == expected


@pytest.mark.parametrize(
    ("flag", "before"),
    [
        ("emotion_encoder", "Each word of the vocabulary has a vector:"),
        ("sim_header", "**Aggregator** ("),
        ("interaction", "**QI** ("),
        ("text_pool_type", "**QC** ("),
    ],
)
def test_every_value_of_a_flag_has_a_row(flag, before):
    assert sorted(row[0].strip("`") for row in rows_after(before)) == sorted(FLAGS[flag].choices)


def test_every_way_of_emotions_into_the_image_is_listed():
    section = PAGE.partition("**Emotion-embedded image**")[2].partition("\n\n**")[0]
    assert sorted(re.findall(r"^- `(\w+)`", section, re.MULTILINE)) == sorted(FLAGS["emotion_fusion"].choices)


def test_the_flags_are_there_and_the_defaults_are_theirs():
    assert set(re.findall(r"--(\w+)", PAGE)) <= FLAGS.keys()
    found = re.findall(r"`--(\w+)` \(`?([^`;,)]+)", " ".join(row[-1] for row in rows_after("## Symbols")))
    found = [(flag, default) for flag, default in found if FLAGS[flag].default is not None]
    assert len(found) > 15
    for flag, default in found:
        assert default == shown(FLAGS[flag].default), flag


def shown(default):
    if isinstance(default, str):
        return default
    if default is False:
        return "off"
    numbers = default if isinstance(default, list) else [default]
    return " ".join(f"{number:g}" for number in numbers).replace("-", "−")


def test_the_page_of_towers_has_every_source():
    towers = (ROOT / "docs" / "TOWERS.md").read_text(encoding="utf-8")
    assert [source for source in SOURCES if f"`{source}:" not in towers] == []
