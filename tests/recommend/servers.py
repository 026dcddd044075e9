"""A server of an index in a thread, for tests, and an index whose texts and names try to be more than text."""

import contextlib
import http.client
import json
import threading
import time
from urllib.parse import urlencode, urlsplit

import numpy as np

from recommend.serving.run import address_of, listening, make_server
from tests.recommend.models import indexed, save_model
from tests.tiny_community import Place, read_csv, write_csv, write_image

HOSTILE = [
    '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"> \'"`',
    "مرحبا بالعالم \u202e abc",
    "今天也要加油鸭 🙃",
    "first line\nsecond line\u2028third",
    "w" * 300,
]
ODD_NAMES = ["子/a b&c#?%.png", "<b>.png"]


@contextlib.contextmanager
def served(recommender, names=()):
    """The server's address while it answers."""
    with listening("127.0.0.1", 0) as bound:
        server = make_server(recommender, names)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield address_of(bound)
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


def hostile_index(folder):
    """(Recommender, Place): captions, texts and emotions of some memes are HOSTILE, two images have ODD_NAMES."""
    place = Place(folder, train=1, val=1, test=3)
    rows = read_csv(place.data / "test.csv")
    changed = {}
    for row in rows:
        text = changed.setdefault(row["image_id"], HOSTILE[len(changed) % len(HOSTILE)])
        row["captions"] = json.dumps([f"{row['image_id']} {text}", text])
        row["text"] = text
    write_csv(place.data / "test.csv", rows, list(rows[0]))
    (place.data / "images" / "子").mkdir()
    checkpoint = save_model(place, "model")[0]
    for number, name in enumerate(ODD_NAMES):
        write_image_named(place.data / "images" / name, 40 * number)
    return indexed(checkpoint, place.folder / "index", data_path=place.data)[1], place


def write_image_named(path, shade):
    plain = path.with_name("plain.png")
    write_image(plain, [np.full((50, 60, 3), 90 + shade, np.uint8)])
    plain.rename(path)


def ask(address, path, method="GET", body=None, headers=None, **query):
    """(status, headers, bytes) of a request; lists in the query come several times."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    try:
        target = f"{path}?{urlencode(query, doseq=True)}" if query else path
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def ask_json(address, path, method="GET", body=None, headers=None, **query):
    """(status, what the JSON says)."""
    status, _, data = ask(address, path, method, body, headers, **query)
    return status, json.loads(data)
