"""Every frame of animated GIFs, PNGs and WebPs against the one that Chromium shows on a white page."""

import base64

import numpy as np
import pytest

from dataloaders.image_transform import read_frames
from tests.browser import needs_browser
from tests.dataloaders import animations

pytestmark = needs_browser
FILES = 40
TYPES = {"GIF": "image/gif", "PNG": "image/png", "WEBP": "image/webp"}
FRAMES = """async ([data, type]) => {
  const decoder = new ImageDecoder({data: Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), type});
  await Promise.all([decoder.completed, decoder.tracks.ready]);
  const frames = [];
  for (let frameIndex = 0; frameIndex < decoder.tracks.selectedTrack.frameCount; frameIndex++) {
    const {image} = await decoder.decode({frameIndex});
    const {displayWidth: width, displayHeight: height} = image;
    const page = new OffscreenCanvas(width, height).getContext("2d");
    page.fillStyle = "white";
    page.fillRect(0, 0, width, height);
    page.drawImage(image, 0, 0);
    frames.push([height, width, btoa(String.fromCharCode(...page.getImageData(0, 0, width, height).data))]);
  }
  return frames;
}"""


@pytest.fixture(scope="module")
def frames_in_chromium(browser):
    page = browser.new_page()
    page.route("https://images.test/", lambda route: route.fulfill(body="<p>"))  # ImageDecoder wants https
    page.goto("https://images.test/")

    def frames(data, kind):
        shown = page.evaluate(FRAMES, [base64.b64encode(data).decode(), TYPES[kind]])
        return [
            np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(height, width, 4)[..., :3]
            for height, width, pixels in shown
        ]

    return frames


def animation(kind, rng):
    """An animation with parts anywhere, of all kinds of transparency, each undone or painted over as it likes."""
    width, height = rng.integers(8, 40, 2).tolist()
    parts = animations.random_parts(kind, rng, width, height, count=6)
    if kind != "GIF":
        return {"PNG": animations.png, "WEBP": animations.webp}[kind](width, height, parts)
    disposals = rng.choice([0, 1, 5]), 2, rng.choice([3, 4])  # 0: not said; 4 and 5: not defined
    trailer = b";" if rng.integers(2) else b""
    return animations.gif(width, height, rng.integers(0, 256, (16, 3), np.uint8), parts, trailer, disposals=disposals)


@pytest.mark.parametrize("kind", TYPES)
def test_animations_look_as_chromium_shows_them(tmp_path, frames_in_chromium, kind):
    for seed in range(FILES):
        data = animation(kind, np.random.default_rng(seed))
        (tmp_path / "file").write_bytes(data)
        got, expected = read_frames(tmp_path / "file", 6), frames_in_chromium(data, kind)
        assert [frame.shape for frame in got] == [frame.shape for frame in expected], seed
        assert np.abs(np.array(got, int) - np.array(expected)).max() <= 1, seed


@pytest.mark.parametrize("place", [(0, 0), (6, 6), (20, 20)])
def test_a_gif_with_a_part_beyond_its_canvas(tmp_path, frames_in_chromium, place):
    """The first part may make the canvas larger, a later one not."""
    rng = np.random.default_rng(0)
    for first in (8, 12):
        sizes = ((first, 0, 0), (10, *place), (3, 0, 0))
        parts = [animations.Part(rng.integers(0, 16, (side, side)), x, y, animations.KEEP) for side, x, y in sizes]
        data = animations.gif(8, 8, rng.integers(0, 256, (16, 3), np.uint8), parts)
        (tmp_path / "file").write_bytes(data)
        got, expected = read_frames(tmp_path / "file", 3), frames_in_chromium(data, "GIF")
        assert np.array_equal(got, expected) and got[0].shape == (first, first, 3)
