"""benchmarks.frozen_towers on a tiny community and a tiny pair of towers."""

import json

import pytest

from benchmarks import frozen_towers
from tests.pair_models import import_timm, write_pair
from tests.tiny_community import Place, read_csv


def test_it_prints_and_writes_the_same_figures_of_each_text_and_meme_encoded_once(tmp_path, capsys):
    import_timm()
    place = Place(tmp_path, topics=2)
    flags = ["--data_path", str(place.data), "--towers", write_pair(tmp_path / "pair", "test_efficientnet")]
    frozen_towers.main([*flags, "--batch_size", "8", "--json", str(tmp_path / "figures")])
    printed = capsys.readouterr().out
    epoch, once, memory = json.loads((tmp_path / "figures").read_text())["figures"]
    assert all(text in printed for figure in (epoch, once, memory) for text in figure.values())
    rows = read_csv(place.data / "train.csv")
    assert epoch["what"].startswith(f"epoch of {len(rows)} records, ") and memory["what"] == "peak memory"
    kept, asked, ratio = (float(epoch[name].split()[0]) for name in ("figure", "beside", "ratio"))
    assert kept > 0 and asked / kept == pytest.approx(ratio, rel=0.01 / kept)  # the three are rounded
    memes = {row["image_id"]: json.loads(row["captions"]) for row in rows}
    number = len({row["query"] for row in rows}) + len(memes) + sum(map(len, memes.values()))
    assert once["figure"].endswith(f"s for {number} texts and memes")
