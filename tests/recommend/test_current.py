"""A server's index is the one that is there now: what another process has changed is seen, and what it broke is not."""

import pytest

from recommend.serving import current
from recommend.serving.current import Current
from tests.recommend.models import indexed, save_model
from tests.recommend.servers import ask_json, served
from tests.tiny_community import Place, read_csv, write_csv

QUERY = "memes for when life is red"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("current"), train=1, val=1, test=1)


@pytest.fixture
def folder(place, tmp_path):
    indexed(save_model(place, "model")[0], tmp_path / "index", data_path=place.data)
    return tmp_path / "index"


@pytest.fixture
def recommender(place, folder):
    return indexed(place.folder / "model.pt", folder, data_path=place.data)[1]


def captions(recommender):
    return {caption for meme in recommender.search(QUERY, top=1000, duplicates=True) for caption in meme.captions}


@pytest.fixture
def change(place, folder):
    """Call it to index the memes anew, all with another caption."""
    rows = read_csv(place.data / "test.csv")

    def changed(caption):
        write_csv(place.data / "test.csv", [row | {"captions": f'["{caption}"]'} for row in rows])
        indexed(place.folder / "model.pt", folder, data_path=place.data)

    yield changed
    write_csv(place.data / "test.csv", rows)


def test_a_server_finds_what_was_indexed_since(recommender, change, monkeypatch):
    monkeypatch.setattr(current, "SECONDS", 0)
    query = {"text": QUERY, "top": 1000, "duplicates": "true"}
    with served(recommender) as address:
        before = ask_json(address, "/api/search", **query)[1]
        assert ask_json(address, "/api/search", **query)[1] == before
        change("a new one")
        after = ask_json(address, "/api/search", **query)[1]
        assert not [meme for meme in before["memes"] if "a new one" in meme["captions"]]
        assert {meme["id"] for meme in after["memes"] if meme["captions"] == ["a new one"]}
        (recommender.images / "added.png").write_bytes(next(recommender.images.glob("*.png")).read_bytes())
        try:
            change("a new one")
            assert ask_json(address, "/api/index")[1]["memes"] == before["gallery"] + 1
            assert ask_json(address, "/api/search", like="added.png")[0] == 200
        finally:
            (recommender.images / "added.png").unlink()
    assert "a new one" not in captions(recommender)  # a search under way keeps what it has begun with


def test_it_looks_once_a_second_at_most(recommender, change, monkeypatch):
    clock = 100.0
    monkeypatch.setattr(current.time, "monotonic", lambda: clock)
    now = Current(recommender)
    change("a new one")
    assert now() is recommender
    clock += 0.99
    assert now() is recommender
    clock += 0.02
    newer = now()
    assert newer is not recommender and newer.model is recommender.model and "a new one" in captions(newer)
    clock += 5
    assert now() is newer


def test_an_index_that_cannot_be_opened_is_told_once_and_not_served(place, folder, recommender, monkeypatch, capsys):
    monkeypatch.setattr(current, "SECONDS", 0)
    now = Current(recommender)
    whole = (folder / "index.json").read_text(encoding="utf-8")
    for broken, told in (("{", "no valid JSON"), (whole.replace(recommender.model.sha256, "0" * 64), "with the model")):
        (folder / "index.json").write_text(broken, encoding="utf-8")
        assert now() is now() is recommender
        err = capsys.readouterr().err
        assert told in err and "goes on with the index as it was" in err and err.count("\n") == 1
    (folder / "index.json").unlink()
    assert now() is recommender and "holds no index" in capsys.readouterr().err
    (folder / "index.json").write_text(whole, encoding="utf-8")
    assert now() is not recommender and captions(now()) == captions(recommender)
    assert capsys.readouterr().err == ""
