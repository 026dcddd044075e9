"""The report in a real browser, headless and offline: what a reader sees, clicks, types and prints."""

import json
import re
from collections import Counter

import cv2
import numpy as np
import pytest

from scripts.report import main
from tests.browser import needs_browser
from tests.scripts.run_folders import community_relevance, evaluation, loss, slow_ranks, write_community, write_run_on
from tests.tiny_community import read_csv

pytestmark = needs_browser
HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 2"> \'"`',
    "مرحبا بالعالم \u202e abc",
    "first line\nsecond line",
    "long " * 400,
    "w" * 500,
    "今天也要加油鸭 🙃",
]
QUERIES = [*HOSTILE, *(f"query {number} about {'cats' if number % 3 else 'dogs'}" for number in range(40))]
WORDS = ["happy", "sad", "angry", ""]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on 47 queries of 3 memes each, with random scores; (community, [folders], relevance, {run: scores})."""
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    memes = [
        {
            "captions": [f"caption {n} {HOSTILE[n % 7]}"],
            "emotions": [w for w in rng.choice(WORDS, 2) if w and n // 3 % 9],
            "text": f"text {n}",
        }
        for n in range(3 * len(QUERIES))
    ]
    pairs = [(n // 3, n) for n in range(len(memes))]
    community = write_community(root / "community", QUERIES, memes, pairs)
    _, _, relevance = community_relevance(community)
    relevant = np.zeros(relevance.shape)
    relevant[relevance.query, relevance.meme] = 1
    scores = {}
    for name in ("first", "second"):
        qi, qc = (relevant * 1.6 + rng.normal(size=relevance.shape) for _ in range(2))
        scores[name] = {"qi": qi, "qc": qc, "fused": (qi + qc) / 2}
    words = [
        [("<start>", 0.1), *((f"{word} ", 0.4) for word in query.split()[:2]), ("<end>", 0.1)] for query in QUERIES
    ]
    curve = {
        "evaluations": [evaluation("joint", epoch, 8 * epoch, 0.5, qi=10, qc=15, fused=20 * epoch) for epoch in (1, 2)],
        "losses": [loss("joint", step / 8, step, 0.5, total=5, fused=3, qi=1, qc=1) for step in range(2, 18, 2)],
        "changes": {"best_epoch": {"stage": "joint", "epoch": 1, "val": {"mAP": 20.0}}},
    }
    alpha = [0.5] * len(QUERIES)
    folders = [
        write_run_on(root / name, community, scores[name], alpha, words, emotion_fusion=fusion, **curve)
        for name, fusion in (("first", "channel"), ("second", "none"))
    ]
    main([str(folders[0]), "--out", str(root / "one.html")])
    main([*map(str, folders), "--out", str(root / "two.html")])
    return community, root, relevance, scores


@pytest.fixture
def opened(browser, runs):
    """`opened(name, **settings of the browser)`: the page; at the end no complaint and no request may have come."""
    complaints, contexts = [], []

    def open_page(name, **settings):
        context = browser.new_context(offline=True, **({"viewport": {"width": 1280, "height": 900}} | settings))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or complaints.append(r.url))
        page.goto((runs[1] / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.hacked") is None
        context.close()
    assert complaints == []


def shown(page):
    """The numbers of the queries in the gallery, in order."""
    return [int(card.get_attribute("data-query")) for card in page.locator("#queries > article").all()]


def all_pages(page):
    found = shown(page)
    while page.locator("button[data-step='1']").first.is_enabled():
        page.locator("button[data-step='1']").first.click()
        found += shown(page)
    return found


def emotion_of(community):
    """{query: its most frequent emotion word, or none}, from the CSV."""
    words = {}
    for row in read_csv(community / "test.csv"):
        words.setdefault(int(row["topic_id"][1:]), []).extend(json.loads(row["emotions"]))
    counts = {query: Counter(sorted(of_query)) for query, of_query in words.items()}
    return {query: max(count, key=count.get) if count else "none" for query, count in counts.items()}


def precision(scores, relevance):
    """Each query's average precision, in [0, 1], by a plain sort."""
    _, ranks = slow_ranks(scores, relevance)
    of_query = [sorted(ranks[relevance.query == query]) for query in range(relevance.shape[0])]
    return np.array([np.mean([(n + 1) / rank for n, rank in enumerate(ranks)]) for ranks in of_query])


def by(values):
    """Queries by ascending value; equal ones as in the CSV."""
    return sorted(range(len(values)), key=lambda query: (round(float(values[query]), 6), query))


def test_a_filter_shows_exactly_its_queries(opened, runs):
    community, _, relevance, scores = runs
    page = opened("one.html")
    assert sorted(all_pages(page)) == list(range(len(QUERIES)))
    emotions = emotion_of(community)
    for emotion in ("happy", "none"):
        page.select_option("#group-emotion", label=emotion)
        wanted = [query for query in by(precision(scores["first"]["fused"], relevance)) if emotions[query] == emotion]
        assert all_pages(page) == wanted and wanted
    page.select_option("#group-script", label="Latin")
    latin = [q for q in range(len(QUERIES)) if emotions[q] == "none" and QUERIES[q] not in (HOSTILE[2], HOSTILE[6])]
    assert sorted(all_pages(page)) == latin
    page.click("#show-all")
    page.select_option("#misses", label="only these")
    ranks = slow_ranks(scores["first"]["fused"], relevance)[1].reshape(-1, 3)
    assert sorted(all_pages(page)) == np.flatnonzero((ranks > 10).all(axis=1)).tolist() != []


def test_a_click_on_a_group_filters_the_gallery(opened, runs):
    community, *_ = runs
    page = opened("one.html")
    emotions = emotion_of(community)
    page.locator("#breakdown button", has_text="angry").click()
    wanted = [query for query, emotion in emotions.items() if emotion == "angry"]
    assert sorted(all_pages(page)) == wanted
    row = page.locator("#breakdown tr", has_text="angry").locator("td").first
    assert row.inner_text() == str(len(wanted))


def test_search(opened):
    page = opened("one.html")
    page.fill("#search", "ABOUT DOGS")
    dogs = [query for query, text in enumerate(QUERIES) if "about dogs" in text]
    assert sorted(shown(page)) == dogs
    for query in (0, 6):
        page.fill("#search", {0: "<SCRIPT>", 6: "加油"}[query])
        assert shown(page) == [query]
    page.fill("#search", "no query has this")
    assert shown(page) == [] and "no query is like this" in page.locator(".status").first.inner_text()
    page.press("#search", "Enter")  # sends no form
    assert page.locator("#search").input_value() == "no query has this"


def test_orders_and_pages(opened, runs):
    _, _, relevance, scores = runs
    page = opened("two.html")
    first, second = (precision(scores[name]["fused"], relevance) for name in ("first", "second"))
    qi = precision(scores["first"]["qi"], relevance)
    orders = {
        "worst first: first": by(first),
        "best first: second": by(-second),
        "as in the CSV": list(range(len(QUERIES))),
        "gained most from first to second": by(first - second),
        "lost most from QC: first": by(first - qi),
    }
    for label, wanted in orders.items():
        page.select_option("#order", label=label)
        assert page.locator(".status").first.inner_text() == "queries 1 to 20 of 47"
        assert len(shown(page)) == 20
        assert all_pages(page) == wanted
    assert page.locator(".status").last.inner_text() == "queries 41 to 47 of 47"
    page.locator("button[data-step='-1']").last.click()
    assert shown(page) == orders["lost most from QC: first"][20:40]


def test_a_query_of_a_list_is_shown_alone(opened, runs):
    _, _, relevance, scores = runs
    page = opened("two.html")
    first, second = (precision(scores[name]["fused"], relevance) for name in ("first", "second"))
    page.locator("#gains .gain").first.locator("ol").first.locator("button").first.click()
    assert shown(page) == by(first - second)[:1]
    assert page.locator(".status").first.inner_text() == "one query, chosen above"
    page.click("#show-all")
    assert len(shown(page)) == 20


def test_the_cards_of_a_query(opened, runs):
    community, _, relevance, scores = runs
    page = opened("two.html")
    page.select_option("#order", label="as in the CSV")
    for query in range(7):
        card = page.locator(f"article[data-query='{query}']")
        assert card.locator("h3").evaluate("node => node.textContent") == QUERIES[query]
        for place, name in enumerate(("first", "second")):
            column = card.locator(".ranking").nth(place)
            assert column.locator("h4").inner_text() == name
            value = 100 * precision(scores[name]["fused"], relevance)[query]
            shown_value = float(column.locator("p").first.inner_text().split()[1])
            assert shown_value == pytest.approx(value, abs=0.051)
            own = {score: slow_ranks(matrix, relevance)[0][query] for score, matrix in scores[name].items()}
            wanted = []
            for meme in np.argsort(own["fused"])[:10].tolist():
                relevant = "relevant" if meme // 3 == query else "not relevant"
                ranks = f"rank {own['fused'][meme]}, {relevant}, QI {own['qi'][meme]}, QC {own['qc'][meme]}"
                wanted.append(f"{ranks}, meme m{meme}")
            memes = column.locator(".meme")
            assert [meme.get_attribute("aria-label") for meme in memes.all()] == wanted
            marked = ["✓" in meme.inner_text() for meme in memes.all()]
            assert marked == ["not relevant" not in label for label in wanted]
            below = sorted(rank for rank in own["fused"][relevance.meme[relevance.query == query]] if rank > 10)
            if below:
                assert column.locator(".further").inner_text().endswith(f" {', '.join(map(str, below))}")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_tips_of_memes_with_the_mouse_and_the_keyboard(opened):
    page = opened("one.html")
    tip, meme = page.locator("#tip"), page.locator(".meme").nth(3)
    number = int(meme.get_attribute("data-id")[1:])
    assert tip.is_hidden()
    meme.hover()
    caption = tip.locator("dt", has_text="Captions").locator("+ dd")
    assert caption.evaluate("node => node.textContent").startswith(f"caption {number} {HOSTILE[number % 7]}"[:300])
    assert f"text {number}" in tip.inner_text() and "Emotions" in tip.inner_text()
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    meme.click()
    page.mouse.move(5, 5)
    assert tip.is_visible()  # a click keeps it
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.dataset.id")
    assert focused == page.locator(".meme").nth(4).get_attribute("data-id") and focused in tip.inner_text()
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"


def test_a_tap_on_a_phone(opened):
    page = opened("one.html", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    tip, meme = page.locator("#tip"), page.locator(".meme").nth(2)
    meme.tap()
    assert meme.get_attribute("data-id") in tip.inner_text()
    box = tip.bounding_box()
    assert box["y"] > 200 and box["y"] + box["height"] <= 741 and box["width"] == 360
    meme.tap()
    assert tip.is_hidden()


@pytest.mark.parametrize("name", ["one.html", "two.html"])
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_nothing_is_wider_than_the_screen(opened, name, width):
    page = opened(name, viewport={"width": width, "height": 800})
    page.select_option("#order", label="as in the CSV")  # the long queries first
    page.locator(".meme").first.hover()
    wide = """[...document.querySelectorAll("body *")].filter((element) =>
        !element.closest(".scroll, .contents") && element.getBoundingClientRect().right > innerWidth + 0.5)
        .map((element) => element.outerHTML.slice(0, 80))"""
    assert page.evaluate(wide) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_table_that_is_cut_off_has_a_shade_at_that_edge(opened):
    page = opened("two.html", viewport={"width": 360, "height": 740})
    assert page.get_by_role("region", name="results, query to meme").is_visible()
    box = page.get_by_role("region", name="run facts")
    page.add_style_tag(content=".scroll table, .scroll table * { visibility: hidden; }")  # the ground alone
    shaded = []
    for scheme, place in (("light", 0), ("light", 40), ("light", 10_000), ("dark", 40)):
        page.emulate_media(color_scheme=scheme)
        box.evaluate("(node, place) => node.scrollTo(place, 0)", place)
        row = cv2.imdecode(np.frombuffer(box.screenshot(), np.uint8), cv2.IMREAD_COLOR)[20].astype(int)
        ground = [int(n) for n in re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))]
        shaded.append([bool(np.abs(row[edge] - ground[::-1]).max() > 25) for edge in (1, -2)])
    assert shaded == [[False, True], [True, True], [True, False], [True, True]]
    box.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("node => node.scrollLeft < 40", arg=box.element_handle())


def test_chart_values_under_the_mouse(opened):
    page = opened("one.html")
    chart = page.locator("#curves figure", has_text="mAP on val")
    chart.locator(".spot").last.hover()
    assert page.locator("#tip").inner_text() == "epoch 2\nfused  40\nQI  10\nQC  15"
    assert chart.locator(".spot .cursor").last.evaluate("node => getComputedStyle(node).visibility") == "visible"


def test_word_weights(opened):
    page = opened("one.html")
    page.fill("#search", "query 7 ")
    words = page.locator(".words > span")
    assert words.all_inner_texts() == ["<start>", "query", "7", "<end>"]
    assert words.nth(1).get_attribute("title") == "weight 0.400"
    shades = [word.evaluate("node => getComputedStyle(node).backgroundColor") for word in words.all()]
    assert shades[1] == shades[2] != shades[0] == shades[3]
    page.check("#weights")
    assert '0.400"' in words.nth(1).evaluate("node => getComputedStyle(node, '::after').content")


def test_directions_of_the_table(opened):
    page = opened("one.html")
    panels = page.locator("#results .panel")
    assert [panel.is_visible() for panel in panels.all()] == [True, False]
    page.get_by_role("button", name="Meme to query").click()
    assert [panel.is_visible() for panel in panels.all()] == [False, True]


def test_dark_and_light(opened):
    colours = {}
    for scheme in ("light", "dark"):
        page = opened("one.html", color_scheme=scheme)
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colours["light"] == "rgb(255, 255, 255)" and colours["dark"] != colours["light"]


@pytest.mark.parametrize("name", ["one.html", "two.html"])
def test_print(opened, name):
    page = opened(name, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert all(panel.is_visible() for panel in page.locator("#results .panel").all())  # both directions
    for gone in (".controls", ".contents", ".tabs", ".pager button"):
        assert page.locator(gone).first.is_hidden()
    page.set_viewport_size({"width": 1032, "height": 700})  # A4, landscape, within its margins
    cut = """[...document.querySelectorAll("table")].filter((table) => table.getBoundingClientRect().right > innerWidth)
        .length"""
    assert page.evaluate(cut) == 0
    pdf = page.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
