"""A headless Chromium without a network (the fixture `browser` of conftest.py), and where there is none."""

import contextlib
import shutil

import pytest

try:
    from playwright import sync_api as playwright
except ImportError:
    playwright = None

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
WHY_NOT = (
    "playwright is not installed (requirements-dev.txt)"
    if playwright is None
    else f"no browser: none of {', '.join(NAMES)} is on PATH"
)
needs_browser = pytest.mark.skipif(playwright is None or CHROMIUM is None, reason=WHY_NOT)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
)


@contextlib.contextmanager
def launched():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()
