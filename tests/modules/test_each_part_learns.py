"""Each part alone carries a small set by heart: memes that differ in one thing only, and a model that reads it or not.

A part that is said to bring nothing on some data has to be able to bring something: here nothing else can.
"""

import dataclasses
import json

import numpy as np
import pytest

from tests.tiny_community import COLOURS, COLUMNS, TINY, read_json, run, write_clip, write_csv, write_image

pytestmark = pytest.mark.usefixtures("no_saved_progress")
WORDS = ("happy", "sad", "angry", "bored", "proud", "scared")
MEMES = 16  # of each word


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP whose text tower is wide enough to tell the words apart."""
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny.pt", dataclasses.replace(TINY, text_width=32))


def write_set(folder, emotion=None, captions=None, colour=None, query=None):
    """One CSV, used as all three splits: for each word MEMES memes. Each argument gives, for (number of the word,
    number of the meme), what they have there; what is left out is the same for all.
    """
    (folder / "images").mkdir(parents=True)
    rows = []
    for word, name in enumerate(WORDS):
        for meme in range(MEMES):
            image = np.full((32, 32, 3), COLOURS["white"], np.uint8)
            if colour is not None and (chosen := colour(word, meme)) is not None:
                image[:] = COLOURS[chosen]
            write_image(folder / "images" / f"{word}_{meme}.png", [image])
            rows.append(
                {
                    **{"image_id": f"m{word}_{meme}", "image": f"{word}_{meme}.png", "topic_id": f"t{word}"},
                    "query": query(word) if query else name,
                    "captions": json.dumps(captions(word, meme) if captions else ["a picture"]),
                    "emotions": json.dumps([emotion(word, meme)] if emotion else []),
                }
            )
    for split in ("train", "val", "test"):
        write_csv(folder / f"{split}.csv", rows, [column for column in COLUMNS if column != "text"])
    return folder


def learned(folder, clip, *flags, epochs=18):
    """metrics.json's results on the set that was trained on, and the run's folder."""
    output = folder / "run"
    code, printed = run(
        [
            *(
                "--do_train",
                "--data_path",
                str(folder),
                "--output_dir",
                str(output),
                "--pretrained_clip_name",
                str(clip),
            ),
            *("--coef_lr", "1", "--lr", "1e-3", "--epochs", str(epochs), "--batch_size", "24"),
            *("--num_thread_reader", "0", "--warmup_proportion", "0.05", *flags),
        ]
    )
    assert code == 0, printed
    return read_json(output / "metrics.json"), output


def mean_precision(results, score="fused"):
    return results["test"]["scores"][score]["query_to_meme"]["metrics"]["mAP"]


SMALL = ("--max_frames", "1", "--cross_num_hidden_layers", "1")
ONLY_QI = (*SMALL, "--branches", "qi")
EMOTIONS_DECIDE = {
    "channel": ("--emotion_fusion", "channel", "--emotion_encoder", "learned"),
    "channel, clip": ("--emotion_fusion", "channel", "--emotion_encoder", "clip"),
    "token": ("--emotion_fusion", "token", "--emotion_encoder", "learned"),
}


@pytest.mark.parametrize("name", [*EMOTIONS_DECIDE, "none"])
def test_emotions_alone(tmp_path, clip, name):
    folder = write_set(tmp_path / "set", emotion=lambda word, _: WORDS[word])
    flags = EMOTIONS_DECIDE.get(name, ("--emotion_fusion", "none"))
    results, _ = learned(folder, clip, *ONLY_QI, "--caption_fusion", "none", *flags)
    assert (mean_precision(results) > 95) == (name != "none")


@pytest.mark.parametrize("fusion", ["co_attention", "none"])
def test_captions_in_the_image_alone(tmp_path, clip, fusion):
    folder = write_set(tmp_path / "set", captions=lambda word, _: ["a picture", f"someone looks {WORDS[word]}"])
    results, _ = learned(folder, clip, *ONLY_QI, "--emotion_fusion", "none", "--caption_fusion", fusion)
    assert (mean_precision(results) > 95) == (fusion == "co_attention")


@pytest.mark.parametrize("pooling", ["transf_avg", "avg", "weight_l", "max", "clip_top1"])
def test_captions_as_a_second_score_alone(tmp_path, clip, pooling):
    """The second caption says it; the pooling that reads only the first cannot know."""
    folder = write_set(tmp_path / "set", captions=lambda word, _: ["a picture", f"someone looks {WORDS[word]}"])
    results, _ = learned(folder, clip, "--branches", "qc", "--text_pool_type", pooling)
    assert (mean_precision(results) > 95) == (pooling != "clip_top1")


def test_weights_go_to_the_score_that_knows(tmp_path, clip):
    """Only the colour tells the memes apart, so α goes to QI; only the captions do, and it goes to QC."""
    colours = list(COLOURS)
    image = write_set(tmp_path / "image", colour=lambda word, _: colours[word])
    caption = write_set(tmp_path / "caption", captions=lambda word, _: [f"someone looks {WORDS[word]}"])
    flags = (*SMALL, "--emotion_fusion", "none", "--caption_fusion", "none", "--fusion_lr", "0.1")
    for folder, low, high in ((image, 0.51, 1), (caption, 0, 0.49)):
        results, _ = learned(folder, clip, *flags)
        assert mean_precision(results) > 95
        assert low < results["trained_alpha"] < high
        assert low <= results["alpha"]["mean"] <= high


def test_weights_per_query_go_to_the_score_that_knows_for_that_query(tmp_path, clip):
    """Half of the topics differ in colour only, the other half in captions only: two queries, two weights."""
    from evaluation.query_record import QueryRecord

    colours = list(COLOURS)
    folder = write_set(
        tmp_path / "set",
        colour=lambda word, _: colours[word] if word < 3 else None,
        captions=lambda word, _: [f"someone looks {WORDS[word]}" if word >= 3 else "a picture"],
        query=lambda word: (
            f"{'a picture in' if word < 3 else 'someone who looks'} {(colours[:3] + list(WORDS[3:]))[word]}"
        ),
    )
    flags = (*SMALL, "--emotion_fusion", "none", "--caption_fusion", "none", "--fusion", "query")
    flags += ("--fusion_data", "train", "--fusion_lr", "0.03")  # six queries on val are too few to hold some out
    results, output = learned(folder, clip, *flags, epochs=24)
    alpha = QueryRecord.load(output).alpha
    assert mean_precision(results) > 90
    assert alpha[:3].min() > alpha[3:].max() + 0.1
