"""Towers of transformers through the program: trained on Chinese queries, evaluated from the checkpoint alone."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F

from engine import checkpoint
from engine.arguments import parse_arguments
from engine.build_model import build_model
from modules.backbones.protocol import Needs
from modules.backbones.sources import load_backbone
from tests import tower_models
from tests.processes import program, run_by_one_and_by_two
from tests.tiny_community import COLOURS, Place, assert_evaluates_alone, read_csv, run, write_csv

tower_models.import_transformers()
CHINESE = dict(zip(COLOURS, "红绿蓝黄紫白黑橙", strict=True))
SETTINGS = {
    "channel": ("chinese_clip", []),
    "token, patch": ("siglip", ["--emotion_fusion", "token", "--visual_tokens", "patch", "--freeze_layer_num", "1"]),
    "qc": ("metaclip_2", ["--branches", "qc"]),
    "qi, bf16": ("altclip", ["--branches", "qi", "--precision", "bf16", "--emotion_fusion", "none"]),
}


def in_chinese(row):
    """The same record, in Chinese where it names its colour."""
    colour = next(colour for colour in CHINESE if colour in row["image_id"])
    captions = [f"一张{CHINESE[colour]}色的梗图 {number}" for number, _ in enumerate(json.loads(row["captions"]))]
    query = next(colour for colour in CHINESE if colour in row["query"])
    return row | {"query": f"老板说今天不加班，{CHINESE[query]}色", "captions": json.dumps(captions)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("hf"), topics=4)
    for split in ("train", "val", "test"):
        write_csv(place.data / f"{split}.csv", [in_chinese(row) for row in read_csv(place.data / f"{split}.csv")])
    yield place
    shutil.rmtree(place.folder)


def flags_of(place, name, output):
    """A run's command line; the folder of its towers is made beside."""
    kind, flags = SETTINGS[name]
    folder = place.folder / f"model of {output}"
    tower_models.write_model(folder, kind, dropout=0.3)
    return [*place.flags(output, "--epochs", "1", *flags), "--pretrained_clip_name", f"hf:{folder}"], folder


@pytest.fixture(scope="module")
def trained(place):
    """{setting: (the run's folder, what it printed, the towers' folder)}, the towers still there."""
    found = {}
    for name in SETTINGS:
        flags, folder = flags_of(place, name, name.replace(", ", "_"))
        code, printed = run(flags)
        assert code == 0, printed
        found[name] = place.folder / name.replace(", ", "_"), printed, folder
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_says_where_its_weights_are_from_and_moves_them(trained, name):
    run_folder, printed, towers = trained[name]
    assert f"{towers} (" in printed and "of transformers" in printed
    before = load_backbone(f"hf:{towers}", Needs(), [])[0].state_dict()
    after = checkpoint.load(run_folder / "checkpoint_best.pt")["model"]
    moved = {key for key in before if f"backbone.{key}" in after and not before[key].equal(after[f"backbone.{key}"])}
    assert any(key.startswith("text.tower.") and ".encoder." in key for key in moved)
    assert any(key.startswith("visual.tower.encoder.") for key in moved) == (name != "qc")
    if "--freeze_layer_num" in SETTINGS[name][1]:
        assert not [key for key in moved if "embeddings." in key or ".layers.0." in key]
    assert any("visual" in key for key in after) == (name != "qc")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_evaluates_without_the_towers_folder_and_a_network(trained, place, name, monkeypatch):
    run_folder, _, towers = trained[name]
    assert_evaluates_alone(place, run_folder, towers, monkeypatch)


@pytest.mark.parametrize("kind", tower_models.KINDS)
@torch.no_grad()
def test_emotions_that_are_not_trained_yet_leave_the_towers_as_they_are(place, kind):
    folder = place.folder / f"untrained {kind}"
    tower_models.write_model(folder, kind, dropout=0.3)
    flags = [*place.flags("unused"), "--pretrained_clip_name", f"hf:{folder}"]
    model, *_ = build_model(parse_arguments(flags)[0], ["happy", "sad"])
    library, _ = load_backbone(f"hf:{folder}", Needs(), [])
    pixels = torch.randint(0, 256, (2, 3, tower_models.SIZE, tower_models.SIZE), dtype=torch.uint8)
    ids = torch.tensor([model.train().backbone.tokenizer.encode("今天不加班")] * 2)
    tokens = model.frame_features(pixels, torch.ones(2, 1, dtype=torch.bool), torch.tensor([[1], [0]]))
    expected = library.encode_image(library.normalise(pixels))[0]
    assert tokens.squeeze(1).equal(expected)
    sentence = library.encode_text(ids, ids >= 0)[1]
    assert model.encode_queries(ids, ids >= 0)["sentence"].equal(F.normalize(sentence, dim=-1))


def test_two_processes_train_as_one(place):
    run_by_one_and_by_two(program, lambda processes: flags_of(place, "channel", f"of_{processes}")[:1], place.folder)
    one, two = (
        checkpoint.load(place.folder / f"of_{processes}" / "checkpoint_last.pt")["model"] for processes in (1, 2)
    )
    start = load_backbone(f"hf:{place.folder / 'model of of_1'}", Needs(), [])[0].state_dict()
    for key, tensor in one.items():
        moved = (tensor - start[key.removeprefix("backbone.")]).norm() if key.startswith("backbone.") else tensor.norm()
        assert (two[key] - tensor).norm() <= 1e-2 * moved + 1e-5, key


def test_the_program_names_what_is_wrong_with_a_folder(place):
    folder = place.folder / "damaged"
    tower_models.write_model(folder, "clip")
    (folder / "model.safetensors").unlink()
    code, printed = run([*place.flags("unused"), "--pretrained_clip_name", f"hf:{folder}"])
    assert code == 2 and f"hf:{folder}" in printed and "Traceback" not in printed
