"""The tokenizer against OpenAI's own, and the merge algorithm against a slow, obvious one."""

import hashlib
import pickle
import random
import subprocess
import sys

import pytest

from modules import tokenizer as tokenizer_module
from modules.tokenizer import VOCABULARY_FILE, Tokenizer, apply_merges, clean
from tests.conftest import ROOT

SCRIPTS = {
    "ascii": (0x20, 0x7F),
    "control": (0x00, 0x20),
    "latin and c1": (0x7F, 0x250),
    "combining": (0x300, 0x370),
    "greek and cyrillic": (0x370, 0x530),
    "hebrew and arabic": (0x590, 0x700),
    "devanagari and thai": (0x900, 0xE80),
    "punctuation and symbols": (0x2000, 0x2800),
    "kana and hangul": (0x3000, 0x3200),
    "chinese": (0x4E00, 0x9FFF),
    "hangul": (0xAC00, 0xD7A4),
    "surrogates": (0xD800, 0xE000),
    "full width": (0xFF00, 0xFFF0),
    "old scripts": (0x10000, 0x10400),
    "mathematical": (0x1D400, 0x1D800),
    "emoji": (0x1F000, 0x1FB00),
    "everything": (0x0, 0x110000),
}
TEXTS = [
    "",
    " \t\r\n ",
    "a",
    "A man looks at his phone. The text reads: WHEN THE CODE WORKS ON THE FIRST TRY!!!",
    "they're we've I'm he'll she'd it's don't DON'T 'S'T 'ſ rock'n'roll ''' 'd'll",
    "当老板说“今天不加班”的时候，我的表情：哈哈哈哈！",
    "😂😂😂 👩‍👩‍👧‍👦 🇨🇳 ☕️ 1️⃣",
    "Tom &amp; Jerry &amp;amp; co &lt;b&gt; &#x1F602; &eacute; &nbsp; &notanentity; &#0; &#x1c; &#12; &",
    "<b>bold</b> &lt;kept&gt; &amp;lt;",
    "one line <b>\nanother &lt; line\r\nthird\u2028fourth\x85fifth",
    "\x00\x01bell\x07 \x1b[31mred\x1b[0m \x7f end \ufeff \x1c\x1d\x1e\x1f",
    "<|endoftext|> a<|startoftext|>b <|ENDOFTEXT|> <|endoftext| > <|ſtartoftext|> <|endoftext|><|endoftext|>",
    "voilÃ  le cafÃ© â€œquotedâ€\x9d",
    "ﬁne ﬂow ＬＯＵＤ　ＮＯＩＳＥＳ ｶﾀｶﾅ e\u0301 \u212bngstr\u00f6m İstanbul ΟΔΟΣ ΟΔΟΣ. STRASSE ß",
    "2024 ½ ² Ⅷ ٣ 一二三 1,000.50 $3.99 100%",
    "snake_case http://example.com/a?b=c&d=e#f @user #tag :-) ¯\\_(ツ)_/¯",
    "</w> a</w> Ġ Ċ Ā",
    "\ud83d\ude02 \ud800 lone \udc00",
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer()


@pytest.mark.parametrize("text", TEXTS)
def test_texts_equal_the_published_tokenizer(tokenizer, published_tokenizer, text):
    assert tokenizer.encode(text) == published_tokenizer.encode(text)


@pytest.mark.parametrize("script", SCRIPTS)
def test_random_texts_equal_the_published_tokenizer(tokenizer, published_tokenizer, script):
    draw = random.Random(script)
    first, end = SCRIPTS[script]
    common = "aeinst EINST  '&#;<|>.,!0123\n"
    for _ in range(250):
        foreign = draw.random()
        text = "".join(
            chr(draw.randrange(first, end)) if draw.random() < foreign else draw.choice(common)
            for _ in range(draw.randrange(1, 60))
        )
        assert tokenizer.encode(text) == published_tokenizer.encode(text), ascii(text)


def test_random_words_equal_the_published_tokenizer(tokenizer, published_tokenizer):
    """Words of frequent letters take many merges, whole and broken words of the vocabulary take deep ones."""
    draw = random.Random(0)
    known = [symbol.removesuffix("</w>") for symbol in published_tokenizer.encoder if symbol.isascii()]
    for _ in range(1500):
        letters = "".join(draw.choice("aaeehilnorst") for _ in range(draw.randrange(1, 24)))
        pieces = "".join(draw.choice(known)[: draw.randrange(1, 9)] for _ in range(draw.randrange(1, 4)))
        for text in (letters, pieces, letters.upper() + pieces):
            assert tokenizer.encode(text) == published_tokenizer.encode(text), text


@pytest.mark.parametrize("word", ["a", "ha", "哈", "😂", "!?", "abcdefghij"])
def test_ten_thousand_characters_without_a_space(tokenizer, published_tokenizer, word):
    text = (word * 10_000)[:10_000]
    if word == "abcdefghij":
        draw = random.Random(1)
        text = "".join(draw.choice(word) for _ in range(10_000))
    assert tokenizer.encode(text) == published_tokenizer.encode(text)


def test_white_space_never_reaches_a_token(tokenizer, published_tokenizer):
    """The published code collapses it first, this one does not (what follows a sigma matters to lower())."""
    for space in filter(str.isspace, map(chr, range(0x110000))):
        for text in (f"ΟΔΟΣ{space}{space}Α", f"{space}ΟΔΟΣ{space}", f"a{space}'s{space}1"):
            assert tokenizer.encode(text) == published_tokenizer.encode(text), ascii(text)


def slow_merges(symbols, ranks):
    """The definition: join the pair of lowest rank wherever it occurs, from left to right; start again."""
    while pairs := [pair for pair in zip(symbols, symbols[1:], strict=False) if pair in ranks]:
        best, joined, i = min(pairs, key=ranks.get), [], 0
        while i < len(symbols):
            width = 2 if tuple(symbols[i : i + 2]) == best else 1
            joined.append("".join(symbols[i : i + width]))
            i += width
        symbols = joined
    return symbols


def test_merges_equal_the_slow_definition():
    """Random merge tables in which a symbol can be made in several ways, so that lower ranks appear late."""
    draw = random.Random(2)
    late = 0
    for _ in range(400):
        symbols = ["a", "b"]
        pairs = []
        for _ in range(30):
            pair = (draw.choice(symbols), draw.choice(symbols))
            if pair not in pairs and len("".join(pair)) <= 6:
                pairs.append(pair)
                symbols.append("".join(pair))
        draw.shuffle(pairs)
        ranks = {pair: rank for rank, pair in enumerate(pairs)}
        ids = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
        names = list(ids)
        merges = {(ids[a], ids[b]): (rank, ids[a + b]) for (a, b), rank in ranks.items()}
        late += len(ids) < len(symbols)
        for _ in range(10):
            word = [draw.choice("ab") for _ in range(draw.randrange(1, 30))]
            got = [names[number] for number in apply_merges([ids[letter] for letter in word], merges)]
            assert got == slow_merges(word, ranks), (word, pairs)
    assert late > 200  # the tables did hold such symbols


def test_a_long_word_takes_a_number_of_steps_in_proportion_to_its_length(tokenizer):
    class Counted(dict):
        looked_up = 0

        def get(self, key):
            self.looked_up += 1
            return super().get(key)

    draw = random.Random(3)
    merges = Counted(tokenizer._merges)
    letters = [tokenizer._byte_ids[draw.choice(b"abcdefghij")] for _ in range(20_000)]
    assert len(apply_merges(letters, merges)) < len(letters)
    assert merges.looked_up < 6 * len(letters)


def test_the_quick_way_leaves_out_only_what_changes_nothing():
    import ftfy

    draw = random.Random(4)
    quick = [chr(code) for code in range(0x20, 0x7F) if chr(code) != "&"] + ["\n"]
    for _ in range(3000):
        text = "".join(draw.choice(quick) for _ in range(draw.randrange(80)))
        assert ftfy.fix_text(text) == text
        assert clean(text) == text.lower()
    assert clean("Tom &amp;amp; Jerry") == "tom & jerry"
    assert clean("\x1b[31mRED\x07") == "red"
    assert clean("voilÃ\xa0") == "voilà"


def test_a_long_text_keeps_its_end_token_and_counts_what_it_lost(tokenizer):
    text = "one two three four five"
    words = tokenizer.encode(text)
    assert len(words) == 5
    assert tokenizer.tokenize(text, 7) == ([49406, *words, 49407], 0)
    assert tokenizer.tokenize(text, 77) == ([49406, *words, 49407], 0)
    assert tokenizer.tokenize(text, 6) == ([49406, *words[:4], 49407], 1)
    assert tokenizer.tokenize(text, 2) == ([49406, 49407], 5)
    assert tokenizer.tokenize("", 2) == ([49406, 49407], 0)
    with pytest.raises(ValueError, match="max_tokens is 1"):
        tokenizer.tokenize(text, 1)


def test_sizes(tokenizer):
    assert (tokenizer.vocab_size, tokenizer.start_id, tokenizer.end_id) == (49408, 49406, 49407)


def test_the_cache_is_bounded_and_changes_nothing(published_tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "CACHED_WORDS", 10)
    tokenizer = Tokenizer()
    draw = random.Random(5)
    texts = [" ".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(4)) for _ in range(200)]
    texts += ["<|endoftext|>", "z" * 100]
    for text in texts:
        assert tokenizer.encode(text) == published_tokenizer.encode(text)
        assert len(tokenizer._cache) <= 10


def test_the_result_belongs_to_the_caller(tokenizer):
    expected = list(tokenizer.encode("meme"))
    tokenizer.encode("meme").append(0)
    assert tokenizer.encode("meme") == expected


def test_a_pickled_tokenizer_is_the_same(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("memes for when the deadline is tomorrow") == tokenizer.encode(
        "memes for when the deadline is tomorrow"
    )


def test_the_vocabulary_is_the_documented_file():
    digest = hashlib.sha256(VOCABULARY_FILE.read_bytes()).hexdigest()
    assert digest in VOCABULARY_FILE.with_name("bpe_simple_vocab_16e6.md").read_text()


def test_the_tokenizer_does_not_import_torch():
    code = "import sys, modules.tokenizer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
