"""A leaderboard in a real browser, headless, offline and without JavaScript: on a phone, in the dark, by keyboard."""

import cv2
import numpy as np
import pytest

from metrics import shown_metrics
from scripts.leaderboard import main
from tests.browser import needs_browser
from tests.scripts.handed_in import export, hand_in, scores

pytestmark = needs_browser
HOSTILE = '<script>window.hacked = 1</script> <img src=x onerror="window.hacked = 2">'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("leaderboard")
    export(root, "cats")
    texts = [HOSTILE, "w" * 100, "مرحبا \u202e abc", "long " * 20]
    for number, text in enumerate(texts):
        about = {"method": text, "authors": [text] * 3, "trained_on": [["cats", text], None, [], [text]][number]}
        hand_in(root, f"s{number}", {"cats": scores(number)}, **about)
    main([f"--{name}={root / name}" for name in ("submissions", "communities")] + ["--out", str(root / "out")])
    return root / "out"


@pytest.fixture
def opened(browser, folder):
    """`opened(width, scheme)`: the community's page; at the end no complaint and no request may have come."""
    complaints, contexts = [], []

    def open_page(width=1280, scheme="light"):
        settings = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
        context = browser.new_context(offline=True, java_script_enabled=False, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda r: r.url.startswith("file:") or complaints.append(r.url))
        page.goto((folder / "cats.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_but_the_table_is_wider_than_the_screen(opened, width):
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = """[...document.querySelectorAll("body *")].filter((element) =>
        !element.closest(".scroll table") && element.getBoundingClientRect().right > innerWidth + 0.5).length"""
    assert page.evaluate(wide) == 0
    box = page.locator("caption span").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width


def shadow(page):
    """How dark the right edge of the table's box is, between the texts, from 0 to 255."""
    picture = cv2.imdecode(np.frombuffer(page.locator(".scroll").screenshot(), np.uint8), cv2.IMREAD_GRAYSCALE)
    return 255 - float(np.median(picture[:, -2]))


def test_on_a_phone_the_table_scrolls_and_shows_that_it_does(opened):
    page = opened(360)
    box = page.locator(".scroll")
    assert shadow(page) > 60
    for _ in range(9):  # past the links
        page.keyboard.press("Tab")
        if box.evaluate("node => node === document.activeElement"):
            break
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(100)  # it scrolls smoothly
    assert box.evaluate("node => node.scrollLeft") > 0
    box.evaluate("node => { node.scrollLeft = node.scrollWidth }")
    assert shadow(page) < 10
    for name in ("caption span", "tbody th"):  # stay in sight
        seen = page.locator(name).first.bounding_box()
        assert seen["x"] >= 0 and seen["x"] + seen["width"] < 360


def test_a_screen_reader_finds_a_named_table_with_headers(opened):
    page = opened()
    region = page.get_by_role("region", name="cats: submissions by mAP", exact=True)
    table = region.get_by_role("table", name="cats: 4 submissions, by mAP", exact=True)
    columns = table.get_by_role("columnheader").all_inner_texts()
    assert columns[:6] == ["rank", "method", "authors", "trained on", "mAP", "difference to the row above"]
    assert columns[6:] == [name for name in shown_metrics(wide=False) if name != "mAP"]
    assert table.get_by_role("rowheader").count() == 5 == table.get_by_role("row").count() - 1


def test_texts_are_shown_as_they_are(opened):
    page = opened()
    assert page.locator("tbody th bdi").all_inner_texts().count(HOSTILE) == 1
    assert page.locator("img, main script").count() == 0
    marks = page.locator(".mark").all_inner_texts()
    assert sorted(marks) == ["trained on this data", "unknown"]


def test_dark_and_light(opened):
    grounds = [
        opened(scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert grounds[0] == "rgb(255, 255, 255)" and grounds[1] != grounds[0]  # so the policy lets the styles in
