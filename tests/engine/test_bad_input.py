"""Bad input through the program: the message names the place, exit code 2, no traceback, and nothing half-written."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from engine import checkpoint
from modules.backbones.weights_file import read_weights
from tests.processes import finish, program, ranks_environment, start_process
from tests.tiny_community import (
    Place,
    read_csv,
    read_json,
    run,
    write_csv,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A community, a CLIP and the checkpoints of a run."""
    place = Place(tmp_path_factory.mktemp("original"), train=2, val=1, test=1)
    code, printed = run(place.flags("run", "--epochs", "1", "--cross_num_hidden_layers", "1"))
    assert code == 0, printed
    return place


@pytest.fixture
def place(original, tmp_path):
    """The same in a folder that a test may spoil; the community and the weights are copies."""
    place = Place.__new__(Place)
    place.folder = tmp_path
    place.data = Path(shutil.copytree(original.data, tmp_path / "community"))
    place.clip = original.clip
    return place


@pytest.fixture
def refused(place):
    """`refused(argv, *parts)`: the program stops with 2, its message holds the parts, it leaves nothing half-written.

    Returns what it printed.
    """

    def check(argv, *parts):
        code, printed = run(argv)
        assert code == 2, printed
        for part in parts:
            assert str(part) in printed
        assert "Traceback" not in printed
        assert "training" not in printed.lower().replace("holds a training run", "")  # it stopped before
        leftovers = {path.name for path in place.folder.rglob("*") if path.name.endswith(".partial")}
        assert not leftovers
        output = place.folder / "run"
        assert {path.name for path in output.glob("*")} <= {"args.json", "log.txt", ".lock"}
        return printed

    return check


def change(csv, row, **cells):
    """Replace cells of one row (0: the first below the header)."""
    rows = read_csv(csv)
    rows[row] |= cells
    write_csv(csv, rows)


# CSVs


def test_all_bad_rows_of_all_files_are_named_with_their_places(place, refused):
    change(place.data / "train.csv", 0, captions="[broken")
    change(place.data / "train.csv", 3, query="")
    change(place.data / "val.csv", 1, emotions='{"person1": 3}')
    change(place.data / "test.csv", 2, image="../outside.png")
    refused(
        place.flags("run"),
        "bad rows",
        f"{place.data / 'train.csv'}, line 2, column 'captions': found '[broken'",
        f"{place.data / 'train.csv'}, line 5, column 'query'",
        f"{place.data / 'val.csv'}, line 3, column 'emotions'",
        f"{place.data / 'test.csv'}, line 4, column 'image': found '../outside.png'",
    )


@pytest.mark.parametrize("path", ["/etc/passwd", "../community/images/x.png", "C:\\x.png", "link.png"])
def test_an_image_path_that_leaves_its_folder(place, refused, path):
    (place.folder / "secret.png").write_bytes(b"secret")
    (place.data / "images" / "link.png").symlink_to(place.folder / "secret.png")
    change(place.data / "train.csv", 5, image=path)
    printed = refused(place.flags("run"), "train.csv, line 7, column 'image': found")
    assert "--skip_bad_images" not in printed


def test_an_empty_split(place, refused):
    write_csv(place.data / "val.csv", [])
    refused(place.flags("run"), place.data / "val.csv", "found no record below it")
    (place.data / "val.csv").write_bytes(b"")
    refused(place.flags("run"), place.data / "val.csv", "header: found nothing")


def test_a_missing_csv_or_folder_is_named_with_what_belongs_there(place, refused):
    refused(place.flags("run", "--data_path", str(place.folder / "nowhere")), place.folder / "nowhere", "--data_path")
    (place.data / "test.csv").unlink()
    refused(place.flags("run"), f"{place.data / 'test.csv'} does not exist", "train.csv  val.csv  test.csv")


@pytest.mark.parametrize("more", [[], ["--train_csv", "a.csv"]])
def test_without_data_path(place, refused, more):
    argv = place.flags("run", *more)
    at = argv.index("--data_path")
    refused(argv[:at] + argv[at + 2 :], "--data_path is not given")


def test_a_split_without_captions(place, refused):
    write_csv(place.data / "test.csv", [row | {"text": " "} for row in read_csv(place.data / "test.csv")])
    refused(place.flags("run", "--caption_source", "text"), "test split: no meme has a caption")


def test_a_community_without_any_captions(place, refused):
    for split in ("train", "val", "test"):
        path = place.data / f"{split}.csv"
        write_csv(path, [row | {"captions": "[]"} for row in read_csv(path)])
    printed = refused(place.flags("run"), "line 2, column 'captions'")
    assert "error: No meme has a caption that can be read. To do without: --caption_source text" in printed
    change(place.data / "val.csv", 0, captions="one caption")
    assert "No meme has a caption" not in refused(place.flags("run"), "line 2, column 'captions'")


# Images


def spoil(place):
    """Make one image of train missing, one of val empty, one of test unreadable; returns their paths."""
    paths = [next((place.data / "images").glob(f"{name}.*")) for name in ("train_red_1", "val_red_0", "test_black_0")]
    paths[0].unlink()
    paths[1].write_bytes(b"")
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    return paths


def test_unusable_images_stop_it_before_training_with_their_paths(place, refused):
    refused(place.flags("run"), "3 of 32 images cannot be used (--skip_bad_images", *spoil(place))


def test_unusable_images_are_left_out_where_that_is_asked_for(place):
    bad = spoil(place)
    code, printed = run(place.flags("run", "--skip_bad_images", "--epochs", "1"))
    assert code == 0, printed
    assert "3 images cannot be used; records left out: {'train': 1, 'val': 2, 'test': 2}" in printed
    assert all(str(path) in printed for path in bad)
    counts = read_json(place.folder / "run" / "metrics.json")["counts"]
    assert [counts[name]["records"] for name in ("train", "val", "test")] == [23, 14, 14]


def test_a_split_of_unusable_images_alone(place, refused):
    for path in (place.data / "images").glob("val_*"):
        path.write_bytes(b"GIF89a")
    refused(place.flags("run", "--skip_bad_images"), "val split: no record is left")


def test_the_image_branch_alone_reads_images(place):
    spoil(place)
    code, printed = run(place.flags("run", "--branches", "qc", "--epochs", "1"))
    assert code == 0, printed


def test_after_a_start_that_failed_the_same_command_starts(place, refused):
    good = (place.data / "train.csv").read_bytes()
    change(place.data / "train.csv", 0, captions="")
    refused(place.flags("run", "--epochs", "1"), "line 2, column 'captions'")
    (place.data / "train.csv").write_bytes(good)
    leftover = place.folder / "run" / ".qi.npy.partial"  # of a process that was killed
    leftover.write_bytes(b"half")
    code, printed = run(place.flags("run", "--epochs", "1"))
    assert code == 0, printed
    assert not leftover.exists()


# Weights files and checkpoints


class Malicious:
    """What runs a command when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.system, (f"touch '{self.trace}'",)


def write_broken(kind, path, whole, place):
    """One broken file of each kind at `path`; `whole`: a good one."""
    if kind == "missing":
        return
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404 Not Found</html>")
    elif kind == "truncated":
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"format": 1, "model": Malicious(place.folder / "ran")}))
    elif kind == "torch file with a pickle":
        torch.save({"format": 1, "model": Malicious(place.folder / "ran")}, path)
    elif kind == "list":
        torch.save([torch.zeros(3)], path)


# torch warns of a pickle in an odd format before it refuses it
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

BROKEN = ["missing", "empty", "text", "truncated", "pickle", "torch file with a pickle", "list"]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_weights_file_that_is_none(place, refused, kind):
    path = place.folder / "weights.pt"
    write_broken(kind, path, place.clip, place)
    refused(place.flags("run", "--pretrained_clip_name", str(path)), path)
    assert not (place.folder / "ran").exists()


@pytest.mark.parametrize("kind", [*BROKEN, "weights", "older format"])
@pytest.mark.parametrize("task", ["eval", "init", "resume"])
def test_a_checkpoint_that_is_none(place, original, refused, kind, task):
    path = place.folder / "checkpoint_last.pt"
    whole = original.folder / "run" / "checkpoint_last.pt"
    if kind == "weights":
        shutil.copy(place.clip, path)
    elif kind == "older format":
        torch.save(checkpoint.load(whole) | {"format": 0}, path)
    else:
        write_broken(kind, path, whole, place)
    if task == "eval":
        argv = place.eval_flags("run", "checkpoint_last.pt")
    else:
        argv = place.flags("run", "--init_model" if task == "init" else "--resume_model", str(path))
    printed = refused(argv, path)
    if kind in ("weights", "list", "older format"):
        assert "not a checkpoint of this program" in printed
    assert not (place.folder / "ran").exists()
    assert not (place.folder / "run").exists()


def changed_checkpoint(original, path, change):
    state = checkpoint.load(original.folder / "run" / "checkpoint_best.pt")
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state["model"].update({"aggregator.positions.embedding": torch.zeros(7, 32)}),
            "aggregator.positions.embedding: (7, 32) in the file, (6, 32) in the model",
        ),
        (lambda state: state["model"].pop("fusion.theta"), "missing fusion.theta"),
        (lambda state: state["model"].update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda state: state["arguments"].update(max_frames=9), "(6, 32) in the file, (9, 32) in the model"),
    ],
)
def test_a_checkpoint_of_another_shape(place, original, refused, change, message):
    path = place.folder / "model.pt"
    changed_checkpoint(original, path, change)
    refused(place.eval_flags("run", "model.pt"), "checkpoint", message)


def without(name):
    return lambda state: state.pop(name)


def inner(part, name, value):
    return lambda state: state[part].update({name: value})


def size(name, value):
    return lambda state: state["backbone"]["sizes"].update({name: value})


ALTERED = {
    "another source": lambda state: state["backbone"].update(source="another"),
    "no model": without("model"),
    "no arguments": without("arguments"),
    "no sizes": without("backbone"),
    "no words": without("emotion_words"),
    "a list as model": lambda state: state.update(model=[1]),
    "a model of text": inner("model", "backbone.text_projection", "text"),
    "a model by numbers": lambda state: state["model"].update({3: torch.zeros(1)}),
    "flags in a list": lambda state: state.update(arguments=["--interaction", "dp"]),
    "a flag of another kind": inner("arguments", "interaction", 5),
    "a number as text": inner("arguments", "max_frames", "six"),
    "a number below its least": inner("arguments", "max_captions", -1),
    "a switch as text": inner("arguments", "caption_augmentation", "yes"),
    "two weights": inner("arguments", "loss_weights", [1.0, 1.0]),
    "a weight above 1": lambda state: state.update(fitted_alpha=1.5),
    "a weight as text": lambda state: state.update(fitted_alpha="0.5"),
    "another part": lambda state: state.update(better_part="fused"),
    "no branches": inner("arguments", "branches", None),
    "sizes in a list": lambda state: state.update(backbone=[1, 2]),
    "a size as text": size("vision_width", "wide"),
    "a size below 1": size("text_layers", 0),
    "sizes beyond all bounds": size("text_width", 2**22),
    "another activation": size("activation", "swish"),
    "heads of text": size("text_heads", "two"),
    "heads that do not divide": size("vision_heads", 3),
    "an unknown size": size("colour", 3),
    "words that are numbers": lambda state: state.update(emotion_words=[1, 2]),
    "more words than rows": lambda state: state["emotion_words"].append("another"),
    "no rows for the words": lambda state: state["model"].pop("emotion_vectors.rows"),
    "rows that are one": inner("model", "emotion_vectors.rows", torch.zeros(3)),
    "a number that is none": lambda state: state["model"]["backbone.logit_scale"].fill_(float("nan")),
}
ALTERED_LAST = {
    "no progress": without("progress"),
    "progress in a list": lambda state: state.update(progress=[1]),
    "a step of text": inner("progress", "step", "two"),
    "an unknown progress": inner("progress", "colour", 1),
    "a history of numbers": inner("progress", "history", [1]),
    "random states of text": lambda state: state.update(random_states=["text"]),
    "random states of another kind": lambda state: state.update(random_states=[{"cpu": torch.zeros(3)}]),
    "no random states": lambda state: state.update(random_states=[{}]),
    "an optimiser in a list": lambda state: state.update(optimizer=[1]),
    "an empty optimiser": lambda state: state.update(optimizer={}),
    "an optimiser's settings": lambda state: state["optimizer"]["param_groups"][0].update(betas="two"),
    "an optimiser's numbers": lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
    "an optimiser's text": lambda state: state["optimizer"]["state"][0].update(exp_avg="text"),
    "a scaler of text": lambda state: state.update(scaler="text"),
    "records of another kind": lambda state: state.update(records=3),
}


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_a_checkpoint_whose_parts_have_other_types(place, original, refused, change):
    changed_checkpoint(original, place.folder / "model.pt", change)
    refused(place.eval_flags("run", "model.pt"), "checkpoint")


@pytest.mark.parametrize("change", ALTERED_LAST.values(), ids=ALTERED_LAST)
def test_a_checkpoint_whose_state_of_training_has_other_types(place, original, change):
    shutil.copytree(original.folder / "run", place.folder / "run")
    path = place.folder / "run" / "checkpoint_last.pt"
    state = checkpoint.load(path)
    change(state)
    torch.save(state, path)
    argv = place.flags("run", "--epochs", "1", "--cross_num_hidden_layers", "1", "--resume_model", str(path))
    code, printed = run(argv)
    assert code == 2, printed
    assert str(path) in printed and "Traceback" not in printed


@pytest.mark.parametrize("flag", [["--max_frames", "3"], ["--interaction", "dp"], ["--branches", "qi"]])
def test_flags_that_do_not_go_with_the_checkpoint(place, original, refused, flag):
    shutil.copy(original.folder / "run" / "checkpoint_best.pt", place.folder / "model.pt")
    path = place.folder / "model.pt"
    refused(place.eval_flags("run", "model.pt", *flag), f"{path}: the model was made with {flag[0]} ", f"not {flag[1]}")
    argv = place.flags("run", "--init_model", str(path), *flag)
    at = argv.index("--pretrained_clip_name")
    refused(argv[:at] + argv[at + 2 :], f"{path}: the model was made with {flag[0]} ", f"not {flag[1]}")


KNOWN = ["--clip_activation", "quick_gelu", "--clip_heads", "1", "1"]  # of a plain state dict


def test_weights_of_another_shape(place, refused):
    state = read_weights(place.clip).state
    path = place.folder / "weights.pt"
    torch.save(state | {"ln_final.bias": torch.zeros(3)}, path)
    refused(
        place.flags("run", "--pretrained_clip_name", str(path), *KNOWN), path, "ln_final.bias: (3,) in the file, (8,)"
    )
    del state["visual.proj"]
    torch.save(state, path)
    refused(place.flags("run", "--pretrained_clip_name", str(path)), path, "visual.proj")


def test_weights_that_are_no_numbers_are_not_laid_to_the_rate(place, refused):
    state = read_weights(place.clip).state
    state["ln_final.bias"][2] = float("nan")
    torch.save(state, place.folder / "weights.pt")
    argv = place.flags("run", "--pretrained_clip_name", str(place.folder / "weights.pt"), *KNOWN)
    assert "--lr" not in refused(argv, "weights.pt", "ln_final.bias: 1 of its numbers are NaN or infinite")


def test_published_weights_that_are_not_there(place, refused):
    printed = refused(place.flags("run", "--pretrained_clip_name", "ViT-L/14"), "ViT-L-14.pt: no CLIP weights here")
    assert "preprocess.download" in printed


# Numbers


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_size", "25"], "--batch_size 25 is more than the 24 records of the train split"),
        (
            ["--batch_size", "8", "--gradient_accumulation_steps", "3"],
            "--batch_size 8 is global and must divide",
        ),
        (
            ["--batch_size", "8", "--gradient_accumulation_steps", "2", "--memory_batch", "4"],
            "--memory_batch 4 saves no memory: a process has 4 records at a time",
        ),
        (["--max_words", "78"], "--max_words 78 is more than the text tower's context of 77 tokens"),
        (["--max_caption_words", "78"], "--max_caption_words 78 is more than the text tower's context of 77 tokens"),
        (["--max_grad_norm", "0"], "--max_grad_norm 0"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**63)], "--seed"),
        (["--device", "cuda"], "--device cuda: torch sees no GPU here"),
        (["--device", "cpu", "--precision", "tf32"], "--precision tf32 needs a GPU of Nvidia's from Ampere (A100) on"),
    ],
)
def test_numbers_that_cannot_be(place, refused, flags, message):
    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    refused(place.flags("run", *flags), message)


def test_a_loss_that_is_no_number_stops_the_run_with_the_step(place):
    code, printed = run(place.flags("run", "--lr", "1e30", "--warmup_proportion", "0"))
    assert code == 2, printed
    assert (
        "the loss is nan, the gradient's norm nan at step" in printed
        and "try a smaller --lr" in printed
        and "Traceback" not in printed
    )


def test_a_clip_of_a_short_context_reads_no_captions_where_none_are_wanted(place):
    """--max_caption_words is 77 by default, and cannot be given where nothing reads captions."""
    state = read_weights(place.clip).state
    torch.save(state | {"positional_embedding": state["positional_embedding"][:40]}, place.folder / "short.pt")
    flags = ["--pretrained_clip_name", str(place.folder / "short.pt"), "--epochs", "1", "--branches", "qi", *KNOWN]
    code, printed = run(place.flags("run", *flags, "--caption_fusion", "none"))
    assert code == 0, printed


def test_an_output_folder_that_is_a_file(place, refused):
    (place.folder / "run").write_text("a file")
    code, printed = run(place.flags("run"))
    assert code == 2, printed
    assert str(place.folder / "run") in printed and "Traceback" not in printed


# Several processes


def both(place, argv):
    """What the two processes of a run end with: [(exit code, printed)]."""
    started = []
    for rank, environment in enumerate(ranks_environment(2)):
        log = place.folder / f"log_{rank}.txt"
        started.append((start_process(program, argv, log=log, environment=environment), log))
    return [finish(process, log) for process, log in started]


@pytest.mark.parametrize(
    ("spoil_it", "message"),
    [
        (lambda place: change(place.data / "train.csv", 0, captions=""), "line 2, column 'captions'"),
        (lambda place: (place.folder / "run").mkdir(), "holds a run"),
    ],
    ids=["bad row", "folder in use"],
)
def test_two_processes_stop_together_and_one_says_why(place, spoil_it, message):
    spoil_it(place)
    if message == "holds a run":
        (place.folder / "run" / "metrics.json").write_text("{}")
    (code, printed), (other_code, other) = both(place, place.flags("run"))
    assert (code, other_code) == (2, 2), other
    assert message in printed and "Traceback" not in printed
    assert not other
