"""The benchmark of searches, small: its figures add up, and its model finds what a search of single precision finds."""

from benchmarks import machine
from benchmarks.recommend import RandomModel, main, write_index
from recommend import Recommender
from recommend.store import Store


def test_it_prints_a_figure_for_each_size(capsys, monkeypatch):
    monkeypatch.setattr(machine, "ROWS", 64)
    main(["--memes", "300", "700", "--queries", "3", "--repeats", "1", "--repeats_many", "1"])
    out = capsys.readouterr().out
    for memes in (300, 700):
        assert f"{memes} memes, a query of 12 words" in out and f"{memes} memes, a query of 32 words" in out
        assert f"{memes} memes, 3 queries of 12 words at once" in out
        assert f"{memes} memes, memory of an opened index" in out
    assert "700 memes, first ten of 3 queries in half precision" in out


def test_the_first_meme_is_that_of_the_plain_formula(tmp_path):
    recommender = Recommender(Store.open(write_index(tmp_path / "index", 500, full=True)), RandomModel("cpu"))
    queries, _ = recommender.model.encode_texts(["3 12"])
    features = recommender.store.features.arrays
    cosines = queries["words"][0].numpy() @ features["tokens"].T
    qi = (queries["word_weight"][0].numpy() @ cosines + cosines.max(axis=0)) / 2
    fused = (qi + queries["sentence"][0].numpy() @ features["caption"].T) / 2
    [found] = recommender.search("3 12", top=1)
    assert found.id == f"{fused.argmax()}.jpg"
    assert abs(found.score - fused.max()) < 1e-5
