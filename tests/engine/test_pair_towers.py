"""Pairs of towers through the program: what is trained and what is not, one process and two, the checkpoint alone."""

import shutil

import pytest

from engine import checkpoint
from engine.arguments import parse_arguments
from engine.build_model import build_model
from modules.backbones.protocol import Needs
from modules.backbones.sources import load_backbone
from tests.pair_models import import_timm, write_pair
from tests.processes import program, run_by_one_and_by_two
from tests.tiny_community import Place, assert_evaluates_alone, read_csv, run, write_csv

import_timm()
TUNED = ["--tune_towers", "--visual_tokens", "patch"]
SETTINGS = {
    "channel": ("test_vit", []),
    "no emotions": ("test_efficientnet", ["--emotion_fusion", "none"]),
    "token, tuned": ("test_vit", ["--emotion_fusion", "token", "--freeze_layer_num", "1", *TUNED]),
    "channel, tuned": ("test_resnet", TUNED),
    "qc": ("test_resnet", ["--branches", "qc"]),
}
NEW = {"image_projection.weight", "text_projection.weight", "logit_scale"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("pair"), topics=4)
    yield place
    shutil.rmtree(place.folder)


def flags_of(place, name, output):
    """A run's command line, and the folder of its towers, which is made."""
    image, flags = SETTINGS[name]
    folder = place.folder / f"towers of {output}"
    pair = write_pair(folder, image, dropout=0.3)
    return [*place.flags(output, "--epochs", "1", "--embed_dim", "24", *flags), "--pretrained_clip_name", pair], folder


@pytest.fixture(scope="module")
def trained(place):
    """{setting: (the run's folder, what it printed, the towers' folder)}"""
    found = {}
    for name in SETTINGS:
        flags, folder = flags_of(place, name, name.replace(", ", "_"))
        code, printed = run(flags)
        assert code == 0, printed
        found[name] = place.folder / name.replace(", ", "_"), printed, folder
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_trains_the_projections_and_the_towers_only_where_it_is_asked_to(trained, name):
    run_folder, printed, towers = trained[name]
    image, flags = SETTINGS[name]
    assert "the projections start afresh" in printed
    pair = f"pair:{image}@{towers / 'image.safetensors'}+{towers / 'text'}"
    before = load_backbone(pair, Needs(embed_dim=24), [])[0].state_dict()
    after = checkpoint.load(run_folder / "checkpoint_best.pt")["model"]
    there = {key for key in before if f"backbone.{key}" in after}
    assert any(key.startswith("visual.") for key in there) == (name != "qc")
    moved = {key for key in there if not before[key].equal(after[f"backbone.{key}"])} - NEW
    assert not [key for key in moved if "running_" in key or "num_batches" in key]
    assert bool(moved) == ("--tune_towers" in flags)
    if moved:
        assert {key.split(".")[0] for key in moved} == {"visual", "text"}
    if "--freeze_layer_num" in flags:
        assert not [key for key in moved if "embeddings" in key or "patch_embed" in key or "layer.0." in key]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_evaluates_without_the_towers_files_and_a_network(trained, place, name, monkeypatch):
    run_folder, _, towers = trained[name]
    assert_evaluates_alone(place, run_folder, towers, monkeypatch)


@pytest.mark.parametrize("name", ["channel, tuned", "no emotions"])
def test_two_processes_train_as_one(place, name):
    run_by_one_and_by_two(program, lambda processes: flags_of(place, name, f"{name} of {processes}")[:1], place.folder)
    one, two = (
        checkpoint.load(place.folder / f"{name} of {processes}" / "checkpoint_last.pt")["model"] for processes in (1, 2)
    )
    towers = place.folder / f"towers of {name} of 1"
    pair = f"pair:{SETTINGS[name][0]}@{towers / 'image.safetensors'}+{towers / 'text'}"
    start = load_backbone(pair, Needs(embed_dim=24), [])[0].state_dict()
    for key, tensor in one.items():
        own = key.removeprefix("backbone.")
        tower = key.startswith("backbone.") and own not in NEW
        moved = (tensor - start[own]).float().norm() if tower else tensor.norm()
        assert (two[key] - tensor).float().norm() <= 1e-2 * moved + 1e-5, key


def test_the_program_names_what_is_wrong_before_it_trains(place):
    pair = write_pair(place.folder / "wrong", "test_resnet")
    code, printed = run([*place.flags("unused", "--emotion_fusion", "token"), "--pretrained_clip_name", pair])
    assert code == 2 and "--emotion_fusion token" in printed and "Traceback" not in printed
    (place.folder / "wrong" / "image.safetensors").unlink()
    code, printed = run([*place.flags("unused"), "--pretrained_clip_name", pair])
    assert code == 2 and "image.safetensors: no such file" in printed and "Traceback" not in printed


def test_frozen_towers_are_not_asked_before_a_refusal_and_name_a_flag_without_effect(trained, place):
    run_folder, printed, _ = trained["no emotions"]
    assert "train: " in printed and "encoded once by the frozen tower" in printed
    shorter = place.folder / "shorter.csv"
    write_csv(shorter, read_csv(place.data / "train.csv")[:-1])
    flags, _ = flags_of(place, "no emotions", "no emotions")
    last = run_folder / "checkpoint_last.pt"
    code, printed = run([*flags, "--resume_model", str(last), "--train_csv", str(shorter)])
    assert code == 2 and "the train split is another" in printed
    assert "encoded once" not in printed
    _, _, notes = build_model(parse_arguments([*flags, "--freeze_layer_num", "1"])[0], [])
    assert any("--freeze_layer_num 1 has no effect: the towers are frozen" in note for note in notes)
