"""Towers of open_clip through the program: trained, evaluated from the checkpoint alone, by one process and by two."""

import shutil

import pytest
import torch

from dataloaders.meme_dataset import RecordDataset, collate
from engine import checkpoint, distributed
from engine.training_step import TrainingStep
from modules.backbones.protocol import Needs
from modules.backbones.sources import load_backbone
from tests.engine.test_distributed import BATCHES, evaluation, take_steps
from tests.open_clip_towers import import_open_clip, write_towers
from tests.processes import run_by_one_and_by_two
from tests.tiny_community import Place, assert_evaluates_alone, prepared, run

import_open_clip()
SETTINGS = {
    "CLIP": ["--emotion_fusion", "token", "--visual_tokens", "patch", "--freeze_layer_num", "1"],
    "ResNet": [],
    "SigLIP": ["--branches", "qi", "--emotion_fusion", "token", "--precision", "bf16"],
    "MobileCLIP": ["--visual_tokens", "patch", "--freeze_layer_num", "1"],
    "xlm-roberta": [],
    "mt5": ["--branches", "qc"],
}
every_setting = pytest.mark.parametrize("kind", SETTINGS)
# statistics of a batch in the first, drop path in the second, dropout in the third: none of them may be in use
SHARED = {"ResNet": [], "MobileCLIP": ["--visual_tokens", "patch"], "xlm-roberta": ["--emotion_fusion", "token"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("open_clip"), topics=4)
    yield place
    shutil.rmtree(place.folder)


@pytest.fixture(scope="module")
def trained(place):
    """{kind: (the run's folder, what it printed, the folder of its towers)}."""
    found = {}
    for kind, flags in SETTINGS.items():
        config, _, name = write_towers(place.folder / f"towers {kind}", kind)
        code, printed = run([*place.flags(kind, "--epochs", "1", *flags), "--pretrained_clip_name", name])
        assert code == 0, printed
        found[kind] = place.folder / kind, printed, config.parent
    return found


@every_setting
def test_a_run_says_where_its_weights_are_from_and_moves_them(trained, kind):
    folder, printed, towers = trained[kind]
    assert str(towers / "weights.safetensors") in printed
    before, _ = load_backbone(f"open_clip:{towers / 'towers.json'}@{towers / 'weights.safetensors'}", Needs(), [])
    after = checkpoint.load(folder / "checkpoint_best.pt")["model"]
    moved = {
        name
        for name, tensor in before.state_dict().items()
        if f"backbone.{name}" in after and not tensor.equal(after[f"backbone.{name}"])
    }
    assert any(name.startswith("text.tower.transformer.") for name in moved)
    assert any(name.startswith("visual.tower.") for name in moved) == (kind != "mt5")
    assert not any("running" in name for name in moved)
    assert not (kind == "CLIP" and any("positional" in name or "resblocks.0." in name for name in moved))
    assert any("visual" in name for name in after) == (kind != "mt5")


@every_setting
def test_a_checkpoint_evaluates_without_the_towers_files_and_a_network(trained, place, kind, monkeypatch):
    folder, _, towers = trained[kind]
    assert_evaluates_alone(place, folder, towers, monkeypatch)


def test_the_program_names_what_is_wrong(place, tmp_path):
    config, weights, name = write_towers(tmp_path, "ResNet")
    for flags, message in (
        (["--pretrained_clip_name", "open_clip:ViT-B-32/nowhere"], "no weights 'nowhere' of ViT-B-32"),
        (["--pretrained_clip_name", name, "--emotion_fusion", "token"], "takes no further token"),
        (["--pretrained_clip_name", name, "--linear_patch", "3d"], "--linear_patch 3d is of OpenAI's towers"),
        (["--pretrained_clip_name", f"open_clip:{config}@{config}"], "JSON file, not weights"),
    ):
        code, printed = run([*place.flags("unused"), *flags])
        assert code == 2 and message in printed and "Traceback" not in printed


def work(folder, processes):
    """What each process does: save the steps and evaluations of SHARED under `folder`."""
    distributed.setup("cpu")
    place = Place.__new__(Place)
    place.folder, place.data, place.clip = folder, folder / "community", folder / "tiny_clip.pt"
    found = {}
    for kind, flags in SHARED.items():
        towers = folder / f"shared {kind}"
        name = f"open_clip:{towers / 'towers.json'}@{towers / 'weights.safetensors'}"
        flags = [*BATCHES, *flags, "--pretrained_clip_name", name]
        args, data, model = prepared(place.flags("unused", *flags))
        found[kind] = evaluation(args, data, model), take_steps(args, data, model.double(), torch.float64)
    torch.save(found, folder / f"found_{processes}_{distributed.rank()}.pt")
    distributed.tear_down()


@pytest.fixture(scope="module")
def found(place):
    """By number of processes and rank, what `work` found."""
    for kind in SHARED:
        write_towers(place.folder / f"shared {kind}", kind)
    run_by_one_and_by_two(work, lambda processes: (place.folder, processes), place.folder)
    return {
        key: torch.load(place.folder / f"found_{key[0]}_{key[1]}.pt", weights_only=False)
        for key in ((1, 0), (2, 0), (2, 1))
    }


@pytest.mark.parametrize("kind", SHARED)
def test_two_processes_take_the_steps_of_one_and_see_its_scores(found, kind):
    (seen, one), (seen_by_both, two), (_, other) = (found[key][kind] for key in ((1, 0), (2, 0), (2, 1)))
    assert one["parameters"].keys() == two["parameters"].keys()
    for name, parameter in one["parameters"].items():
        torch.testing.assert_close(two["parameters"][name], parameter, rtol=1e-7, atol=1e-10)
        assert torch.equal(two["parameters"][name], other["parameters"][name])
    assert two["losses"] == pytest.approx(one["losses"], abs=2e-6)
    for side in ("memes", "queries"):
        for feature, tensor in seen[side].items():
            torch.testing.assert_close(seen_by_both[side][feature], tensor, rtol=1e-4, atol=1e-5)
    assert seen_by_both["ranks"] == seen["ranks"]


def test_a_step_reaches_all_that_is_trained_where_words_alone_are_compared(place):
    """Processes wait for each parameter's gradient, that of a layer behind the sentence alone too."""
    _, _, name = write_towers(place.folder / "bert", "bert")
    branch = ["--branches", "qi", "--caption_fusion", "none", "--emotion_fusion", "none", "--max_frames", "1"]
    args, data, model = prepared([*place.flags("unused", *branch), "--pretrained_clip_name", name])
    records = RecordDataset(data["train"], seed=0, caption_augmentation=False)
    loss, _ = TrainingStep(model, (0, 1, 0))(collate([records[(1, record)] for record in range(8)]))
    loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("pooler" in name for name in trained)
    assert not [
        name for name, parameter in trained.items() if name != "backbone.logit_scale" and parameter.grad is None
    ]
