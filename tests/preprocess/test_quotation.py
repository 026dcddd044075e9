"""What a caption quotes, and what it costs to look for it."""

import time

import pytest

from preprocess.comparing.quotation import quotation


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("a " * 100_000, "a " * 50_000 + "b"),  # as words, from every place on
        ("x" * 200_000, "\n".join(map(str, range(100_000)))),  # line by line
    ],
)
def test_a_long_text_is_looked_for_in_a_bounded_time(caption, text):
    started = time.process_time()
    assert quotation(caption, text) is None
    assert time.process_time() - started < 2


def test_a_text_of_some_length_is_found_in_a_caption():
    text = "one more hour\nand then " * 20
    caption = f"A cat says {' '.join(text.upper().split())} to the reader."
    assert quotation(caption, text) == (11, 11 + len(" ".join(text.split())))
    long = "word " * 50_000
    assert quotation(f"It says {long.strip()}.", long) == (8, 8 + len(long) - 1)  # as it stands there
