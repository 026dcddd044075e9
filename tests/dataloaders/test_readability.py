"""Which texts a tower cannot read: scripts, shares counted by hand, and what a user is told."""

import pytest

from dataloaders.readability import readability, readability_lines, script_of
from dataloaders.token_table import TokenTable
from modules.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("when the deadline is tomorrow", "Latin"),
        ("Straße, déjà vu", "Latin"),
        ("当老板说周末加班", "Chinese"),
        ("这个 bug 是谁写的 git blame", "Chinese"),
        ("I love 上海 so much, it is a wonderful city", "Latin"),
        ("猫がかわいい", "Japanese"),
        ("월요일 아침", "Korean"),
        ("عندما يتأخر الباص", "Arabic"),
        ("когда дедлайн завтра", "Cyrillic"),
        ("სამუშაო", "other"),
        ("あ한汉عдα", "Japanese"),  # a sixth of each
        ("あ한汉عдαдα", "Cyrillic"),
        ("123 😂!!", "none"),
        ("", "none"),
    ],
)
def test_the_script_of_a_text(text, script):
    assert script_of(text) == script


class Letters:
    """A token per letter between a start and an end; "x" is unknown."""

    def tokenize(self, text, max_tokens):
        return [1, *map(ord, text[: max_tokens - 2]), 2], max(0, len(text) + 2 - max_tokens)

    def unreadable(self, ids):
        return sum(number == ord("x") for number in ids)


def test_tokens_are_counted_by_script_as_the_tower_gets_them():
    texts = ["axxb", "我x", "aaaaaaaxxxx", "x", "我我"]
    table = TokenTable(texts, Letters(), 10)
    assert readability(texts, table, Letters()) == {
        "Latin": {"texts": 3, "tokens": 6 + 10 + 3, "unreadable_tokens": 2 + 1 + 1},
        "Chinese": {"texts": 2, "tokens": 4 + 4, "unreadable_tokens": 1},
    }


def counts_of(queries, captions=()):
    tokenizer = Tokenizer()
    tables = {"queries": queries, "captions": captions}
    return {
        f"{kind}_read": readability(texts, TokenTable(texts, tokenizer, 32), tokenizer)
        for kind, texts in tables.items()
        if texts
    }


def test_clip_reads_chinese_as_bytes_and_the_line_names_the_way_out():
    text = "老板说周末"
    ids = Tokenizer().encode(text)
    found = counts_of([text])["queries_read"]["Chinese"]
    assert found["tokens"] == len(ids) + 2
    assert found["unreadable_tokens"] >= 0.8 * len(ids)
    lines = list(readability_lines([counts_of([text] * 3 + ["a cat"]), counts_of([text])]))
    share = 100 * found["unreadable_tokens"] / found["tokens"]
    assert len(lines) == 2 and "--pretrained_clip_name hf:" in lines[1]
    assert f"{share:.1f} % in 4 Chinese ones, 0.0 % in 1 Latin ones" in lines[0] and "queries" in lines[0]


def test_nothing_is_said_of_texts_that_are_read_and_no_way_out_of_few():
    english = ["when the deadline is tomorrow and you have not begun"] * 40
    assert list(readability_lines([counts_of(english, english)])) == []
    lines = list(readability_lines([counts_of(english, [*english, "老板"])]))
    assert len(lines) == 1 and "captions" in lines[0]
