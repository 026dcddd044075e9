"""The search page in a real browser, headless, which reaches our server alone: what a user sees, types and drops."""

import base64
import re

import cv2
import numpy as np
import pytest

from recommend import Request
from tests.browser import needs_browser
from tests.recommend.servers import HOSTILE, hostile_index, served

pytestmark = needs_browser
QUERY = "memes for when life is red"
DROP = """([target, base64, type]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "dropped", { type }));
  const how = { dataTransfer: data, bubbles: true, cancelable: true };
  for (const kind of ["dragover", "drop"]) document.querySelector(target).dispatchEvent(new DragEvent(kind, how));
}"""


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    return hostile_index(tmp_path_factory.mktemp("page"))[0]


@pytest.fixture(scope="module")
def address(recommender):
    with served(recommender) as address:
        yield address


@pytest.fixture
def opened(browser, address):
    """`opened(path, **settings of the browser)`: the page. At the end nothing may have complained, nor asked elsewhere.

    A test that has the browser complain of what it asked for puts that into `opened.expected`.
    """
    complaints, contexts = [], []

    def open_page(path="", **settings):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | settings))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request", lambda r: r.url.startswith((address, "data:", f"blob:{address}")) or complaints.append(r.url)
        )
        page.goto(address + path)
        return page

    open_page.expected = []
    yield open_page
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("() => window.hacked") is None
        context.close()
    assert [text for text in complaints if not any(known in text for known in open_page.expected)] == []


def shown(page, count=None):
    """The ids of the memes on the page, once the search has come to its end (and shows so many)."""
    settled(page)
    if count is not None:
        page.locator(".meme").nth(count - 1).wait_for()
    return [meme.get_attribute("data-id") for meme in page.locator(".meme").all()]


def settled(page):
    page.locator("#results:not([aria-busy=true])").wait_for()
    page.wait_for_load_state("networkidle")


def search(page, text=QUERY):
    page.fill("#text", text)
    page.keyboard.press("Enter")
    return shown(page)


def ids(recommender, *args, **options):
    return [meme.id for meme in recommender.search(*args, **({"top": 20} | options))]


def test_a_search(opened, recommender):
    page = opened()
    assert page.evaluate("() => document.activeElement.id") == "text"
    assert page.locator("#start .chip").count() == len(recommender.emotions) and page.locator("#progress").is_hidden()
    page.keyboard.type(QUERY)
    page.keyboard.press("Enter")
    answer = recommender.search(QUERY, top=20)
    assert shown(page) == [meme.id for meme in answer]
    assert page.locator("#status").inner_text().startswith(f"{len(answer)} of {answer.gallery} memes")
    assert page.title().startswith(QUERY)
    cards = page.locator("#memes > li")
    for place, meme in enumerate(answer):
        figures = cards.nth(place).locator(".ranks").inner_text()
        assert f"{meme.rank} · {meme.score:.3f}" in figures
        assert f"QI {meme.qi:.3f}" in figures and f"QC {meme.qc:.3f}" in figures
        assert cards.nth(place).locator(".chip").all_inner_texts() == list(dict.fromkeys(meme.emotions))
    words = page.locator("#how .words > span")
    assert [word.get_attribute("data-weight") for word in words.all()] == [f"{w:.3f}" for _, w in answer.words]
    assert [name for name, _ in answer.words][:: len(answer.words) - 1] == ["<start>", "<end>"]
    assert words.first.get_attribute("title").endswith(": the token that begins every text")
    assert "<end> is the token that ends every text" in page.locator("#how details").text_content()
    assert f"{answer[0].alpha:.2f} QI" in page.locator("#how").inner_text()
    assert page.evaluate("() => [...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_texts_are_no_markup_and_run_in_their_own_direction(opened, recommender):
    for text in HOSTILE[:3]:
        page = opened()
        assert search(page, text) == ids(recommender, text)
        assert page.locator("#text").input_value() == text
        assert page.locator("#text").evaluate("node => getComputedStyle(node).direction") == (
            "rtl" if text == HOSTILE[1] else "ltr"
        )
        for meme in page.locator(".meme").all()[:6]:
            meme.hover()
            page.locator("#tip dd").first.wait_for()
            assert page.locator("#tip script, #tip img").count() == 0
    arabic = page.locator("#tip dd", has_text="مرحبا")
    found = recommender.search(HOSTILE[1], top=20)
    wanted = next(meme.id for meme in found if meme.text == HOSTILE[1])
    page.fill("#text", HOSTILE[1])
    page.keyboard.press("Enter")
    settled(page)
    page.locator(f".meme[data-id='{wanted}']").hover()
    assert arabic.last.evaluate("node => getComputedStyle(node).direction") == "rtl"
    assert arabic.last.evaluate("node => node.textContent") == HOSTILE[1]


def test_an_emotion_and_back(opened, recommender):
    page = opened()
    first = search(page)
    page.locator("#memes .chip", has_text="happy").first.click()
    page.locator("#chosen li", has_text="prefers: happy").wait_for()
    assert shown(page) == ids(recommender, Request(QUERY, emotion="happy")) != first
    assert page.locator("#memes .chip[aria-pressed=true]").first.inner_text() == "happy"
    page.go_back()
    page.locator("#chosen li").first.wait_for(state="detached")
    assert shown(page) == first and page.locator("#text").input_value() == QUERY
    page.go_forward()
    page.locator("#chosen li").first.wait_for()
    page.get_by_role("button", name="without: prefers: happy").click()
    page.locator("#chosen li").first.wait_for(state="detached")
    assert shown(page) == first
    for _ in range(3):
        page.go_back()
        settled(page)
    page.locator("#start .chip").first.wait_for()
    assert page.locator(".meme").count() == 0 and page.locator("#text").input_value() == ""


def test_a_link_holds_the_query(opened, recommender):
    page = opened()
    search(page)
    page.locator("#options > summary").click()
    page.click("#add")
    page.keyboard.type("a blue picture & more")
    page.locator(".part select").select_option("minus")
    page.locator(".part input[type=number]").fill("0.5")
    page.fill("#emotion", "sad")
    page.fill("#top", "5")
    page.check("#duplicates")
    page.fill("#min_score", "-2")
    page.locator(".part input[type=text]").press("Enter")
    page.locator("#chosen li").first.wait_for()
    assert page.evaluate("() => document.activeElement.ariaLabel") == "a further sentence"
    assert page.title() == f"{QUERY}, but not a blue picture & more, prefers: sad – Memes for a sentence"
    request = Request(
        QUERY, minus=[("a blue picture & more", 0.5)], emotion="sad", top=5, min_score=-2, duplicates=True
    )
    wanted = [meme.id for meme in recommender.search(request)]
    assert shown(page) == wanted
    other = opened(re.sub("^[^?]*", "", page.url))
    assert (
        shown(other, 5) == wanted and other.locator(".part input[type=text]").input_value() == "a blue picture & more"
    )
    assert other.locator("#options").get_attribute("open") is not None and other.locator("#duplicates").is_checked()
    assert "it compares memes within this search alone" in other.locator("#how").text_content()
    taken_away = opened("?minus=a+grey+ball")
    assert shown(taken_away) == ids(recommender, Request(minus=[("a grey ball", 1)]))
    assert "Score = −(" in taken_away.locator("#how").inner_text()
    other.get_by_role("button", name="More memes").click()
    other.locator(".meme").nth(10).wait_for()
    assert len(shown(other)) == 25


def test_more_like_this_and_not_again(opened, recommender):
    page = opened()
    first = search(page)
    page.locator(".more-like").nth(2).click()
    page.locator("#chosen img").wait_for()
    assert shown(page) == ids(recommender, Request(like=first[2]))
    assert page.evaluate("() => document.activeElement.id") == "status"
    assert page.locator("#chosen li").all_inner_texts() == ["like this one\n×"]
    assert page.title() == f"like {first[2]} – Memes for a sentence"
    page.go_back()
    page.locator("#chosen img").wait_for(state="detached")
    assert shown(page) == first
    page.locator(".leave-out").first.click()
    page.locator("#chosen li", has_text="1 left out").wait_for()
    assert shown(page) == ids(recommender, Request(QUERY, seen=[first[0]]))
    page.locator(".more-like").nth(1).click()
    page.locator("#chosen img").wait_for()
    assert shown(page) == ids(recommender, Request(like=first[2], seen=[first[0]]))


def test_a_dropped_picture(opened, recommender):
    unknown = cv2.imencode(".png", np.full((64, 48, 3), (30, 60, 200), np.uint8))[1].tobytes()
    hidden = ids(recommender, Request(like=unknown))[0]
    page = opened(f"?seen={hidden}")
    page.evaluate(DROP, ["body", base64.b64encode(unknown).decode(), "image/png"])
    page.locator("#chosen img[src^='blob:']").wait_for()
    assert shown(page) == ids(recommender, Request(like=unknown, seen=[hidden]))
    assert page.locator("#drop").is_hidden()
    page.fill("#text", QUERY)
    page.keyboard.press("Enter")
    page.locator("#how .words").wait_for()
    assert shown(page) == ids(recommender, Request(QUERY, like=unknown, seen=[hidden]))
    page.go_back()
    page.locator("#how .words").wait_for(state="detached")
    assert shown(page) == ids(recommender, Request(like=unknown, seen=[hidden]))
    page.reload()  # the picture was nowhere but in the page
    page.locator("#error").wait_for()
    assert "drop it again" in page.locator("#error").inner_text()


def test_a_picture_of_the_index_gets_a_link(opened, recommender):
    page = opened()
    known = recommender.search(QUERY, top=1)[0]
    page.set_input_files("#picture", known.path)
    page.wait_for_url("**like=*")
    assert shown(page) == ids(recommender, Request(like=known.id)) and "picture=" not in page.url
    other = opened(re.sub("^[^?]*", "", page.url))
    assert shown(other, 5) == shown(page)


def test_what_is_no_picture(opened):
    page = opened()
    opened.expected.append("status of 400 ")
    page.evaluate(DROP, ["body", base64.b64encode(b"<svg/>").decode(), "image/svg+xml"])
    page.locator("#error").wait_for()
    assert "not a JPEG" in page.locator("#error").inner_text()
    assert page.locator("#error").get_attribute("role") == "alert" and page.locator(".meme").count() == 0
    assert page.title() == "like your picture – Memes for a sentence"
    opened.expected.append("status of 404 ")
    for other in (page, opened("?like=nosuch")):
        other.locator("#error").wait_for()
        other.locator("#chosen img").wait_for(state="detached")
        assert other.locator("#chosen li").count() == 1


def test_errors_and_nothing_found(opened):
    page = opened("?text=x&min_score=50")
    settled(page)
    assert "lower the least score" in page.locator("#status").inner_text()
    opened.expected.append("status of 400 ")
    page = opened("?text=x&emotion=nothing")
    page.locator("#error").wait_for()
    assert page.locator("#error").inner_text().startswith("emotion nothing: none of the model's emotions")
    assert page.locator("#emotion").input_value() == "nothing" and page.locator("#options[open]").count() == 1
    page.fill("#top", "5000")
    page.locator("#options > summary").click()
    page.locator("#text").press("Enter")
    page.locator("#options[open]").wait_for()
    assert page.evaluate("() => document.activeElement.id") == "top" and "top=" not in page.url
    page.fill("#top", "5")
    search(page, QUERY)
    opened.expected.append("net::ERR_FAILED")
    page.route("**/api/search?*", lambda route: route.abort())
    assert search(page, "other") == []
    assert page.locator("#error").inner_text() == "The server does not answer. Does it still run?"


def test_tips_and_the_keyboard(opened, recommender):
    page = opened(viewport={"width": 1280, "height": 420})
    found = recommender.search(QUERY, top=20)
    search(page)
    page.keyboard.press("ArrowDown")
    focused = "() => document.activeElement.dataset.id ?? document.activeElement.id"
    assert page.evaluate(focused) == found[0].id
    assert found[0].captions[0].split()[0] in page.locator("#tip").inner_text()
    page.keyboard.press("ArrowRight")
    columns = page.evaluate("() => getComputedStyle(document.getElementById('memes')).gridTemplateColumns").count("px")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == found[1 + columns].id
    page.keyboard.press("Enter")
    picture = page.locator("#tip img")
    picture.wait_for()
    assert "/api/image?id=" in picture.get_attribute("src")
    page.wait_for_function("() => document.querySelector('#tip img').complete")
    box = page.locator("#tip").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= 420
    assert picture.bounding_box()["width"] >= page.locator(".meme img").first.bounding_box()["width"]
    assert found[1 + columns].id in page.locator("#tip").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("m")
    page.locator("#chosen img").wait_for()
    alike = shown(page)
    assert alike == ids(recommender, Request(like=found[1 + columns].id))
    page.locator(".meme").first.press("Shift+M")
    page.wait_for_url(lambda url: "like=" in url and not url.endswith(found[1 + columns].id))
    assert shown(page) == ids(recommender, Request(like=alike[0]))
    page.keyboard.press("/")
    assert page.evaluate(focused) == "text"
    page.keyboard.type("m/c")
    assert page.locator("#text").input_value() == "m/c"


def test_a_copied_picture(opened, recommender):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    first = search(page)[0]
    page.locator(".copy").first.click()
    page.locator(".copy", has_text="Copied").first.wait_for()
    size = page.evaluate("""async () => {
      const [item] = await navigator.clipboard.read();
      const picture = await createImageBitmap(await item.getType("image/png"));
      return [picture.height, picture.width];
    }""")
    picture = cv2.imread(str(recommender.image_path(first)))
    assert size == list(picture.shape[:2])


def test_a_slow_search_shows_that_it_goes_on(opened):
    page = opened()
    page.route("**/api/search?*", lambda route: (page.locator("#progress").wait_for(), route.continue_()))
    page.fill("#text", QUERY)
    page.keyboard.press("Enter")
    page.locator(".meme").first.wait_for()
    assert page.locator("#progress").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(opened, scheme):
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme=scheme)
    search(page, HOSTILE[4])
    page.locator("#options > summary").click()
    page.click("#add")
    wide = """() => [...document.querySelectorAll("body *")].filter((element) =>
        !element.closest(".unseen") && element.getBoundingClientRect().right > innerWidth + 0.5)
        .map((element) => element.outerHTML.slice(0, 80))"""
    assert page.evaluate(wide) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    tops = (
        "() => [...document.querySelectorAll('.actions')].map((row) => [...row.children].map((one) => one.offsetTop))"
    )
    assert {len(set(row)) for row in page.evaluate(tops)} == {1}
    meme = page.locator(".meme").nth(1)
    meme.tap()
    tip = page.locator("#tip")
    assert meme.get_attribute("data-id") in tip.inner_text()
    box = tip.bounding_box()
    assert box["width"] == 360 and box["y"] + box["height"] <= 741
    meme.tap()
    assert tip.is_hidden()


CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (colour) => colour.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || element.closest(".words, script, noscript, datalist") || !element.getClientRects().length) continue;
    const [one, two] = [light(parse(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => b - a);
    found[`${element.tagName} ${element.className} ${element.textContent.slice(0, 20)}`] = (one + 0.05) / (two + 0.05);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_labels(opened, scheme):
    page = opened(color_scheme=scheme)
    search(page)
    page.locator("#memes .chip").first.click()
    page.locator("#chosen li").first.wait_for()
    page.locator("#options > summary").click()
    page.click("#add")
    low = {name: ratio for name, ratio in page.evaluate(CONTRASTS).items() if ratio < 4.5}  # WCAG 2, level AA
    assert low == {}
    unnamed = """() => [...document.querySelectorAll("button, input, select, [role=group], main section")].filter((e) =>
        !e.ariaLabel && !e.textContent.trim() && !e.labels?.length).map((e) => e.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert page.evaluate("() => [...document.images].every((image) => image.hasAttribute('alt'))")
    assert page.evaluate("() => document.documentElement.lang") == "en"


def test_the_documentation_on_a_phone(opened):
    page = opened("docs", viewport={"width": 360, "height": 740})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert page.locator("h2").first.inner_text() == "GET /api/search"
