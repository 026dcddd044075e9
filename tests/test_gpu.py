"""What a GPU may do otherwise: kernels, precisions, processes. `sh run_gpu_checks.sh` runs these tests there.

Without a GPU they run on the CPU as far as that goes: precisions, a killed run, two processes; what remains is skipped.
"""

import copy
import datetime
import json
import os
import shutil
import signal
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist

import metrics
from benchmarks.train_step import VIT_B_32
from dataloaders.token_table import pad
from engine import distributed
from engine.training_step import TrainingStep
from evaluation import eval_loop
from modules.backbones.openai import CLIP
from modules.backbones.protocol import Needs
from modules.backbones.sources import load_backbone
from modules.tf32 import tf32
from tests import tower_models
from tests.engine.test_resume import run_and_die
from tests.model_parts import batch_of, encoded, random_records, randomised, small_model, words_of
from tests.processes import finish, program, ranks_environment, run_chains, start_process
from tests.recommend.models import indexed, save_model
from tests.tiny_community import Place, prepared, read_json, run

pytestmark = pytest.mark.gpu
HAS_GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="torch sees no GPU here")
SETTINGS = {
    "channel, wti": [],
    "token": ["--emotion_fusion", "token"],
    "patches, 3d": ["--visual_tokens", "patch", "--linear_patch", "3d"],
    "ti, seqLSTM": ["--interaction", "ti", "--sim_header", "seqLSTM"],
    "dp, meanP, cdcr": ["--interaction", "dp", "--sim_header", "meanP", "--cdcr_lambda", "0.1"],
    "tightTransf": ["--sim_header", "tightTransf"],
    "query, weight_l": ["--fusion", "query", "--text_pool_type", "weight_l"],
    "qc": ["--branches", "qc"],
}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# How far scores (absolute, they are cosines) and the whole gradient (share of its norm) may be from float64 on the CPU.
# fp32 rounds to 6e-8, fp16 and TF32 to 5e-4, bf16 to 4e-3 at each of some dozen layers.
SCORES = {"fp32": 1e-5, "tf32": 5e-3, "bf16": 5e-2, "fp16": 5e-3}
GRADIENT = {"fp32": 1e-4, "tf32": 0.02, "bf16": 0.15, "fp16": 0.02}


@pytest.fixture(scope="module")
def device():
    """The GPU as the program sets it up (no TF32), or the CPU."""
    return distributed.setup("cuda" if HAS_GPU else "cpu")


def scores_and_gradient(model, args, batch, device, precision, dtype=torch.float32):
    """One step's scores {name: (B, B)} and all gradients {name: tensor}, float64 on the CPU."""
    model = copy.deepcopy(model).to(device, dtype).train()
    model.tower_dtype, model.tower_tf32 = PRECISIONS.get(precision), precision == "tf32"
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    keys = batch["topic"] * len(batch["topic"]) + batch["meme"]
    weights = args.loss_weights if args.branches == "qi_qc" else (0.0, 0.0, 1.0)
    step = TrainingStep(model, weights, keys, len(batch["topic"]), args.cdcr_lambda)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16", init_scale=2.0**10)
    loss, _ = step(batch)
    with tf32(model.tower_tf32):
        scaler.scale(loss).backward()
    gradients = {name: p.grad / scaler.get_scale() for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        scores = model.similarities(*encoded(model, batch))
    return tuple({name: tensor.double().cpu() for name, tensor in found.items()} for found in (scores, gradients))


@pytest.mark.parametrize("precision", SCORES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_scores_and_gradients_are_those_of_float64_on_the_cpu(device, setting, precision):
    model, args = small_model(*SETTINGS[setting])
    randomised(model)
    batch = batch_of(random_records(), more=2)
    scores, gradients = scores_and_gradient(model, args, batch, device, precision)
    exact_scores, exact = scores_and_gradient(model, args, batch, torch.device("cpu"), "fp32", torch.float64)
    assert scores.keys() == exact_scores.keys() and gradients.keys() == exact.keys()
    for name, expected in exact_scores.items():
        assert (scores[name] - expected).abs().max() <= SCORES[precision], name
    norm = sum(gradient.square().sum() for gradient in exact.values()).sqrt()
    off = sum((gradients[name] - gradient).square().sum() for name, gradient in exact.items()).sqrt()
    assert off <= GRADIENT[precision] * norm


@needs_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_features_of_vit_b_32_are_those_of_the_cpu(device, precision):
    torch.manual_seed(0)
    clip = CLIP(VIT_B_32).eval()
    pixels = torch.randn(4, 3, 224, 224)
    ids = torch.randint(1, 49_000, (4, 32))
    with torch.no_grad():
        expected = clip.visual(pixels), words_of(clip, ids)
        clip.to(device)
        with torch.autocast(device.type, PRECISIONS[precision], enabled=PRECISIONS[precision] is not None):
            found = clip.visual(pixels.to(device)), words_of(clip, ids.to(device))
    for on_device, on_cpu in zip(found, expected, strict=True):
        cosine = torch.cosine_similarity(on_device.float().cpu(), on_cpu, dim=-1)
        assert (1 - cosine).max() <= {"fp32": 1e-5, "bf16": 1e-2, "fp16": 1e-3}[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["chinese_clip", "siglip"])
def test_features_of_transformers_towers_are_those_of_the_cpu(device, precision, kind, tmp_path):
    tower_models.write_model(tmp_path, kind)
    towers, _ = load_backbone(f"hf:{tmp_path}", Needs(patches=True), [])
    ids, mask = pad([np.array(towers.tokenizer.tokenize(text, 20)[0]) for text in tower_models.TEXTS])
    pixels = torch.randn(4, 3, tower_models.SIZE, tower_models.SIZE)
    with torch.no_grad():
        expected = *towers.encode_image(pixels), *towers.encode_text(ids, mask)
        towers.to(device)
        with torch.autocast(device.type, PRECISIONS[precision], enabled=PRECISIONS[precision] is not None):
            found = *towers.encode_image(pixels.to(device)), *towers.encode_text(ids.to(device), mask.to(device))
    for on_device, on_cpu in zip(found, expected, strict=True):
        close = torch.cosine_similarity(on_device.float().cpu(), on_cpu, dim=-1)
        close = close[mask] if close.shape == mask.shape else close
        assert (1 - close).max() <= {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-3}[precision]


def test_a_run_with_transformers_towers(device, place):
    tower_models.write_model(place.folder / "towers", "chinese_clip", dropout=0.3)
    towers = ["--pretrained_clip_name", f"hf:{place.folder / 'towers'}"]
    code, printed = run([*place.flags("with towers", *SHORT, "--precision", "bf16"), *towers])
    assert code == 0, printed
    shutil.rmtree(place.folder / "towers")
    code, printed = run(place.eval_flags("with towers, again", "with towers/checkpoint_best.pt"))
    assert code == 0, printed
    runs = [read_json(place.folder / name / "metrics.json") for name in ("with towers", "with towers, again")]
    one, other = (record["test"]["scores"]["fused"]["query_to_meme"]["metrics"] for record in runs)
    assert one == pytest.approx(other, abs=0.01)


# --- runs --------------------------------------------------------------------------------------------------------

SHORT = ["--save_steps", "2", "--cross_num_hidden_layers", "1", "--n_display", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("gpu"), train=2, val=1, test=1)
    yield place
    shutil.rmtree(place.folder)


def joined_program(argv, backend):
    """main(argv) as a process of a group that distributed.setup would not make: all on the first GPU, or one alone."""
    alone = {"WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # to setup it is the only process of this machine

    def setup(device_type):
        dist.init_process_group(backend, timeout=datetime.timedelta(minutes=2))
        with mock.patch.dict(os.environ, alone):
            return original(device_type)

    original = distributed.setup
    with mock.patch.object(distributed, "setup", setup):
        return program(argv)


@pytest.fixture(scope="module")
def runs(place):
    """{name: [(exit code, output) of each process]} of all runs, two of them side by side."""

    def flags(name, *more):
        return place.flags(name, *SHORT, *more)

    last = str(place.folder / "killed" / "checkpoint_last.pt")
    chains = {precision: [(program, flags(precision, "--precision", precision))] for precision in PRECISIONS}
    chains["killed"] = [
        (run_and_die, flags("killed"), "step", 5),
        (program, [*flags("killed"), "--resume_model", last]),
    ]
    found = run_chains(chains, place.folder)
    groups = {"two on one device": ("gloo", 2)} | ({"nccl": ("nccl", 1)} if HAS_GPU else {})
    for name, (backend, processes) in groups.items():
        started = []
        for rank, environment in enumerate(ranks_environment(processes)):
            log = place.folder / f"log of {name}, rank {rank}.txt"
            arguments = (joined_program, flags(name), backend)
            started.append((start_process(*arguments, log=log, environment=environment), log))
        found[name] = [finish(*each) for each in started]
    return found


def losses(folder):
    """Each step's losses, from losses.jsonl."""
    lines = map(json.loads, (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines())
    return np.array([list(line["losses"].values()) for line in lines])


def assert_same_losses(place, name, tolerance, steps=6):
    """Adam turns rounding of small gradients into steps: from step to step runs drift apart."""
    one, other = (losses(place.folder / run_name) for run_name in ("fp32", name))
    assert len(one) == len(other) == 6 and np.isfinite([one, other]).all()
    np.testing.assert_allclose(other[:steps], one[:steps], rtol=tolerance, atol=tolerance)


# fp16's scaler leaves the first steps out, until its scale suits: later losses are another run's
@pytest.mark.parametrize(("precision", "tolerance", "steps"), [("bf16", 0.05, 6), ("fp16", 0.02, 1)])
def test_a_run_in_half_precision_takes_nearly_the_same_steps(place, runs, precision, tolerance, steps):
    for name in ("fp32", precision):
        [(code, printed)] = runs[name]
        assert code == 0, printed
    assert_same_losses(place, precision, tolerance, steps)


def test_a_killed_run_goes_on_where_it_was(place, runs):
    (killed, _), (code, printed) = runs["killed"]
    assert (killed, code) == (-signal.SIGKILL, 0), printed
    assert_same_losses(place, "killed", 1e-3)
    record = read_json(place.folder / "killed" / "metrics.json")
    assert record["device"].startswith(torch.cuda.get_device_name() if HAS_GPU else "CPU")


def test_two_processes_on_one_device_take_the_step_of_one(place, runs):
    for code, printed in runs["two on one device"]:
        assert code == 0, printed
    assert_same_losses(place, "two on one device", 1e-3)
    assert read_json(place.folder / "two on one device" / "metrics.json")["processes"] == 2


@needs_gpu
def test_one_process_over_nccl_takes_the_same_steps(place, runs):
    [(code, printed)] = runs["nccl"]
    assert code == 0, printed
    assert_same_losses(place, "nccl", 1e-3)


@pytest.mark.parametrize("setting", ["channel, wti", "patches, 3d", "tightTransf"])
def test_an_evaluation_in_tiles_has_the_cpus_scores_and_its_own_ranks(device, place, tmp_path, monkeypatch, setting):
    args, data, model = prepared(place.flags("unused", *SETTINGS[setting]))
    args.output_dir = tmp_path
    monkeypatch.setattr(eval_loop, "TILE_QUERIES", 3)
    monkeypatch.setattr(eval_loop, "TILE_MEMES", 5)
    monkeypatch.setattr(eval_loop, "KEPT_BYTES", 0)  # what is computed twice must be the same to the last bit
    monkeypatch.setitem(eval_loop.CHUNK_ELEMENTS, device.type, 200)
    scores = {}
    for place_of in (torch.device("cpu"), device):
        folder = tmp_path / place_of.type
        folder.mkdir(exist_ok=True)
        split = eval_loop.encode_split(model.to(place_of), data["val"], args, place_of, progress=False)
        ranks = eval_loop.rank_split(model, split, args, save_to=folder, progress=False)
        scores[place_of.type] = {name: np.load(folder / f"{name}.npy") for name in ranks}
    for name, (by_query, by_meme) in ranks.items():
        np.testing.assert_allclose(scores[device.type][name], scores["cpu"][name], atol=1e-4)
        own = scores[device.type][name]
        assert by_query.tolist() == metrics.relevant_ranks(own, split.relevance).tolist()
        transposed = split.relevance.transposed()
        assert by_meme[transposed.source].tolist() == metrics.relevant_ranks(own.T, transposed).tolist()


def test_the_program_has_taken_the_device_that_is_there(place, runs):
    printed = runs["fp32"][0][1]
    assert f"1 process(es) on {'cuda' if HAS_GPU else 'cpu'}" in printed


@pytest.mark.parametrize("name", ["wti", "tightTransf"])
def test_64_searches_at_once_find_on_the_device_what_each_finds_on_the_cpu(tmp_path, name):
    from recommend import Recommender, Request

    place = Place(tmp_path / "place", train=1, val=1, test=3)
    path = save_model(place, name, *SETTINGS.get(name, []))[0]
    device = "cuda" if HAS_GPU else "cpu"
    _, on_device = indexed(path, tmp_path / "index", device=device, data_path=place.data)
    on_cpu = Recommender.open(tmp_path / "index", device="cpu")
    requests = [Request(f"memes for number {number}", top=1000, duplicates=True) for number in range(64)]
    for request, answer in zip(requests, on_device.search_many(requests), strict=True):
        expected = {meme.id: meme.score for meme in on_cpu.search(request)}
        assert {meme.id for meme in answer} == expected.keys()
        assert all(abs(meme.score - expected[meme.id]) < SCORES["fp32"] for meme in answer)
