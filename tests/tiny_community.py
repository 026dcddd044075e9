"""A tiny community drawn into a folder, a tiny CLIP in a file, and the program run on them in a moment."""

import contextlib
import csv
import functools
import io
import json
import logging
import shutil
import socket
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from dataloaders.communities import SPLITS
from engine.arguments import parse_arguments
from modules.backbones.openai import CLIP, ClipSizes
from tests.model_parts import write_archive
from util import set_seed

COLOURS = {  # RGB
    "red": (230, 20, 20),
    "green": (20, 200, 30),
    "blue": (20, 40, 230),
    "yellow": (240, 230, 20),
    "purple": (140, 20, 160),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
    "orange": (250, 140, 10),
}
ALONE = ("", '["happy"]', "Angry ", '{"person1": "sad"}')
TOGETHER = ('{"person1": "sad", "person2": "Happy"}', '[{"person1": "angry"}, {"person2": "sad"}, {"a": "happy"}]')
COLUMNS = ("image_id", "image", "topic_id", "query", "captions", "emotions", "text")
TINY = ClipSizes(
    embed_dim=32,
    image_size=32,
    patch_size=16,
    vision_width=64,
    vision_layers=2,
    text_width=8,  # the word table has 49,408 rows: width is what a checkpoint's size depends on
    text_layers=1,
)


def draw_community(folder, train=5, val=2, test=2, topics=8, animated=5, first_seed=0):
    """Topics, each about one colour, with so many memes per topic in each split; returns the folder.

    Besides, each topic's first meme of a split is posted in the next topic too. Every `animated`-th meme is a GIF of
    2 or 3 frames (0: none is). Queries, captions, emotions and texts differ in number and length.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True)
    for number, (split, per_topic) in enumerate({"train": train, "val": val, "test": test}.items()):
        rng = np.random.default_rng(first_seed + number)
        queries = [topic_cells(topic, colour) for topic, colour in enumerate(COLOURS)][:topics]
        rows = []
        for topic, colour in list(enumerate(COLOURS))[:topics]:
            for index in range(per_topic):
                frames = 1 if not animated or (topic * per_topic + index) % animated else 2 + topic % 2
                meme = draw_meme(folder / "images", f"{split}_{colour}_{index}", colour, frames, rng)
                rows.append(queries[topic] | meme)
                if index == 0:
                    rows.append(queries[(topic + 1) % topics] | meme)
        write_csv(folder / f"{split}.csv", rows)
    return folder


def topic_cells(topic, colour):
    words = ["memes", "for", "when", "life", "is", colour, "and", "nothing", "helps"]
    return {"topic_id": f"t{topic}", "query": " ".join(words[5 - topic % 4 : 6 + topic % 3])}


def draw_meme(folder, name, colour, frames, rng):
    """Draw one image file; returns the cells that describe it."""
    pictures = []
    for _ in range(frames):
        picture = np.full((40 + rng.integers(20), 48, 3), COLOURS[colour], np.uint8)
        picture = np.clip(picture + rng.integers(-12, 13, picture.shape), 0, 255).astype(np.uint8)
        centre = tuple(map(int, rng.integers(8, 36, 2)))
        cv2.circle(picture, centre, int(rng.integers(3, 9)), (128, 128, 128), -1)
        pictures.append(picture[:40, :, ::-1].copy() if frames > 1 else picture[..., ::-1].copy())
    file = f"{name}.{'gif' if frames > 1 else 'png'}"
    write_image(folder / file, pictures)
    captions = [  # the number makes each meme's captions its own: no two memes score alike
        f"a {colour} picture" + " with a grey ball" * int(rng.choice([0, 0, 0, 0, 0, 1, 1, 1, 2, 4]))
        for _ in range(rng.choice([1, 1, 1, 1, 1, 2, 2, 2, 4]))
    ]
    captions[-1] += f" {rng.integers(1000)}"
    return {
        "image_id": name,
        "image": file,
        "captions": json.dumps(captions),
        "emotions": str(rng.choice(TOGETHER if rng.random() < 0.1 else ALONE)),
        "text": f"so {colour}" if rng.integers(2) else "",
    }


def write_image(path, frames):
    if len(frames) == 1:
        assert cv2.imwrite(str(path), frames[0])
        return
    animation = cv2.Animation()
    animation.frames, animation.durations = frames, [100] * len(frames)
    assert cv2.imwriteanimation(str(path), animation)


def write_csv(path, rows, columns=COLUMNS):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rows_of(folder):
    """{split: the rows of its CSV} of a community."""
    return {split: read_csv(folder / f"{split}.csv") for split in SPLITS}


@functools.cache
def clip_archive(sizes, seed):
    """The bytes of `write_clip`'s file."""
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        path = Path(folder) / "clip.pt"
        write_archive(path, CLIP(sizes).state_dict(), sizes, torch.float32)
        return path.read_bytes()


def write_clip(path, sizes=TINY, seed=0):
    """An archive in OpenAI's layout of a CLIP with random weights, in fp32; returns its path."""
    Path(path).write_bytes(clip_archive(sizes, seed))
    return path


class Place:
    """A community, a CLIP file and a folder for runs: what the program is started with."""

    def __init__(self, folder, **community):
        self.folder = Path(folder)
        self.data = draw_community(self.folder / "community", **community)
        self.clip = write_clip(self.folder / "tiny_clip.pt")

    def flags(self, output, *more):
        """A training run's command line: 2 epochs of batches of 8, all parts at one rate, no loader processes."""
        return [
            *("--do_train", "--data_path", str(self.data), "--output_dir", str(self.folder / output)),
            *("--pretrained_clip_name", str(self.clip), "--coef_lr", "1", "--lr", "1e-3", "--epochs", "2"),
            *("--batch_size", "8", "--batch_size_val", "8"),
            *("--num_thread_reader", "0", *more),
        ]

    def eval_flags(self, output, model, *more):
        return [
            *("--do_eval", "--data_path", str(self.data), "--output_dir", str(self.folder / output)),
            *("--init_model", str(self.folder / model), "--num_thread_reader", "0", *more),
        ]


def prepared(flags):
    """(arguments, data, model) as the program makes them, but with nothing left at its initial zero."""
    from main_task_retrieval import prepare, read_data

    args, given = parse_arguments(flags)
    set_seed(args.seed)
    _, splits, lines = read_data(args)
    data, _, model = prepare(
        args, given, torch.device("cpu"), None, splits, lines, logging.Logger("quiet", logging.ERROR)
    )
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return args, data, model


def run(argv):
    """main(argv) in this process: (exit code, what it printed on both streams)."""
    from main_task_retrieval import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code
    return code, printed.getvalue()


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def comparable(metrics):
    """metrics.json's content without what differs between equal runs: times, memory, the command."""
    differing = ("seconds", "records_per_second", "peak_memory_mib", "command")
    return {key: value for key, value in metrics.items() if key not in differing}


def assert_evaluates_alone(place, run_folder, towers, monkeypatch):
    """A run's best checkpoint gives the run's scores where its towers' folder is away, and the network too."""
    output = f"again {run_folder.name}"
    shutil.move(towers, hidden := towers.with_name("hidden"))
    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    try:
        code, printed = run(place.eval_flags(output, run_folder / "checkpoint_best.pt", "--batch_size_val", "8"))
    finally:
        shutil.move(hidden, towers)
    assert code == 0, printed
    again, first = (comparable(read_json(folder / "metrics.json")) for folder in (place.folder / output, run_folder))
    assert again["test"]["scores"] == first["test"]["scores"]


def same_tensors(one, other):
    """Whether two nests of dicts and lists hold the same tensors and values, to the last bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and one.keys() == other.keys() and all(same_tensors(one[k], other[k]) for k in one)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_tensors, one, other))
    return one == other
