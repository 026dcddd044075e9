"""From CSVs and images to batches: what is read, left out, counted and drawn."""

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dataloaders import data_dataloaders as loaders
from dataloaders.batch_plan import BatchPlan
from dataloaders.image_transform import load_image
from dataloaders.meme_dataset import MemeDataset, RecordDataset, collate
from dataloaders.meme_records import texts
from engine.arguments import parse_arguments
from modules.tokenizer import Tokenizer
from tests.tiny_community import draw_community, read_csv, write_csv
from util import InputError

EMOTIONS = {"none": 0, "unknown": 1, "angry": 2, "happy": 3}  # "sad" is not among them


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_community(tmp_path_factory.mktemp("data") / "community", train=3, val=1, test=1)


@pytest.fixture
def copy(folder, tmp_path):
    """The community in a folder that a test may spoil."""
    return Path(shutil.copytree(folder, tmp_path / "community"))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer()


def arguments(folder, *flags):
    argv = ["--do_train", "--output_dir", "unused", "--num_thread_reader", "0"]
    return parse_arguments([*argv, *(["--data_path", str(folder)] if folder else []), *flags])[0]


def ready(folder, tokenizer, *flags, name="train"):
    """(arguments, SplitData, counts) of a split."""
    args = arguments(folder, *flags)
    splits, _ = loaders.read_community(args, [name], captions_needed=True)
    images, splits, _ = loaders.check_images(args, splits, 32, progress=False)
    data, counts = loaders.tokenise(args, splits[name], tokenizer, EMOTIONS, images, captions_needed=True)
    return args, data, counts


def test_csvs_are_looked_for_in_the_folder_unless_named(folder, tmp_path):
    paths = loaders.csv_paths(arguments(folder, "--val_csv", str(folder / "test.csv")), ["train", "val"])
    assert paths == {"train": folder / "train.csv", "val": folder / "test.csv"}
    flags = ["--features_path", str(folder / "images"), "--test_csv", str(folder / "val.csv")]
    assert loaders.csv_paths(arguments(None, *flags), ["test"]) == {"test": folder / "val.csv"}
    with pytest.raises(InputError, match="--data_path is not given"):
        loaders.csv_paths(arguments(None, *flags), ["train", "test"])
    with pytest.raises(InputError, match=r"nowhere.train\.csv does not exist(.|\n)*Give that folder as --data_path"):
        loaders.csv_paths(arguments(tmp_path / "nowhere"), ["train"])


def test_the_folder_of_images_is_missed_by_name(copy):
    (copy / "images").rename(copy / "pictures")
    with pytest.raises(InputError, match=r"images: no such folder of images \(--features_path"):
        loaders.read_community(arguments(copy), ["train"], captions_needed=True)
    args = arguments(copy, "--features_path", str(copy / "pictures"))
    assert len(loaders.read_community(args, ["train"], captions_needed=True)[0]["train"]) == 32


def test_without_the_image_branch_no_folder_of_images_is_needed(copy):
    shutil.rmtree(copy / "images")
    args = arguments(copy, "--branches", "qc")
    assert len(loaders.read_community(args, ["train"], captions_needed=True)[0]["train"]) == 32


def test_captions_may_be_empty_where_nothing_reads_them(copy):
    rows = [row | {"captions": ""} for row in read_csv(copy / "train.csv")]
    write_csv(copy / "train.csv", rows)
    args = arguments(copy)
    with pytest.raises(InputError, match="32 bad rows"):
        loaders.read_community(args, ["train"], captions_needed=True)
    loaders.read_community(args, ["train"], captions_needed=False)
    loaders.read_community(arguments(copy, "--caption_source", "text"), ["train"], captions_needed=True)


def test_a_split_without_any_caption_is_an_error(copy):
    write_csv(copy / "val.csv", [row | {"text": ""} for row in read_csv(copy / "val.csv")])
    args = arguments(copy, "--caption_source", "text")
    with pytest.raises(InputError, match=r"val split: no meme has a caption \(--caption_source text\)"):
        loaders.read_community(args, ["train", "val"], captions_needed=True)


def spoil(folder):
    """An image that is missing, one that is empty, one that is no image; returns their names."""
    missing, empty, corrupt = (f"train_{colour}_1" for colour in ("red", "blue", "black"))
    names = {Path(path).stem: Path(path) for path in (folder / "images").iterdir()}
    names[missing].unlink()
    names[empty].write_bytes(b"")
    names[corrupt].write_bytes(b"not an image")
    return [names[stem].name for stem in (missing, empty, corrupt)]


def test_images_that_cannot_be_used_stop_it_with_their_names(copy):
    bad = spoil(copy)
    args = arguments(copy)
    splits, _ = loaders.read_community(args, ["train", "val"], captions_needed=True)
    with pytest.raises(InputError, match="3 of 32 images cannot be used") as caught:
        loaders.check_images(args, splits, 32, progress=False)
    assert all(str(copy / "images" / name) in str(caught.value) for name in bad)
    assert "--skip_bad_images" in str(caught.value)


def test_of_many_bad_images_the_first_twenty_are_named(copy):
    for path in (copy / "images").glob("train_*"):
        path.write_bytes(b"")
    args = arguments(copy)
    splits, _ = loaders.read_community(args, ["train"], captions_needed=True)
    with pytest.raises(InputError) as caught:
        loaders.check_images(args, splits, 32, progress=False)
    assert str(caught.value).count("the file is empty") == 20
    assert "24 of 24 images" in str(caught.value) and "and 4 more" in str(caught.value)


def test_bad_images_are_left_out_where_that_is_asked_for(copy):
    bad = spoil(copy)
    args = arguments(copy, "--skip_bad_images")
    splits, _ = loaders.read_community(args, ["train", "val"], captions_needed=True)
    images, kept, lines = loaders.check_images(args, splits, 32, progress=False)
    assert "3 images cannot be used; records left out: {'train': 3, 'val': 0}" in lines[0]
    assert all(name in lines[0] for name in bad)
    assert records(kept["train"]) == [record for record in records(splits["train"]) if record[1][1] not in bad]
    assert records(kept["val"]) == records(splits["val"])


def records(split):
    """What the records say, without any index."""
    pairs = zip(split.record_topic, split.record_meme, strict=True)
    return [
        ((split.topic_ids[t], split.queries[t]), (split.memes[m].image_id, split.memes[m].image, split.memes[m]))
        for t, m in pairs
    ]


def test_topics_and_memes_without_a_record_are_gone(copy):
    splits, _ = loaders.read_community(arguments(copy), ["val"], captions_needed=True)
    split = splits["val"]
    # each topic of val has its own meme and the one of the topic before: without two in a row, a topic has none
    bad = {meme.image for meme in split.memes if meme.image_id in ("val_red_0", "val_green_0")}
    kept = loaders.without_images(split, bad)
    assert set(split.topic_ids) - set(kept.topic_ids) == {"t1"}
    assert {meme.image for meme in split.memes} - {meme.image for meme in kept.memes} == bad
    assert sorted(records(kept)) == sorted(record for record in records(split) if record[1][1] not in bad)
    assert set(kept.record_topic.tolist()) == set(range(7)) and set(kept.record_meme.tolist()) == set(range(6))
    with pytest.raises(InputError, match="val split: no record is left"):
        loaders.without_images(split, {meme.image for meme in split.memes})


def test_loader_processes_are_where_something_is_to_decode_or_a_gpu_would_wait(folder, tokenizer, tmp_path):
    args, data, _ = ready(folder, tokenizer, "--num_thread_reader", "2")
    assert loaders._workers(args, data) == 2
    args, data, _ = ready(folder, tokenizer, "--num_thread_reader", "2", "--image_cache", str(tmp_path / "cache"))
    assert loaders._workers(args, data) == 0
    for path in [meme.image for meme in data.split.memes][:6]:
        assert torch.equal(data.images[path], load_image(folder / "images" / path, 32, "crop", 6, 2))
    args.device = "cuda"
    assert loaders._workers(args, data) == 2


def test_texts_are_tokenised_once_cut_and_counted(folder, tokenizer):
    flags = ["--max_words", "5", "--max_caption_words", "6", "--max_captions", "2", "--caption_source", "both"]
    _, data, counts = ready(folder, tokenizer, *flags)
    lost, left_out = [], 0
    for topic, query in enumerate(data.split.queries):
        ids, cut = tokenizer.tokenize(query, 5)
        assert data.queries[topic].tolist() == ids and len(ids) <= 5 and ids[-1] == tokenizer.end_id
        lost += [cut] * (cut > 0)
    assert counts["queries_cut"] == {
        **{"texts": 8, "cut": len(lost), "limit": 5, "tokens_lost": sum(lost), "most_lost_by_one": max(lost)},
    }
    for index, meme in enumerate(data.split.memes):
        captions = [*meme.captions, *([meme.text] if meme.text else [])]
        assert texts(meme, "both") == tuple(captions)
        left_out += max(0, len(captions) - 2)
        expected = [tokenizer.tokenize(caption, 6)[0] for caption in captions[:2]]
        assert [ids.tolist() for ids in data.captions_of(index)] == expected
    assert counts["captions_left_out"] == left_out > 0


def test_emotions_are_indices_and_unknown_words_are_named(folder, tokenizer):
    _, data, counts = ready(folder, tokenizer)
    for indices, meme in zip(data.emotions, data.split.memes, strict=True):
        assert indices == ([EMOTIONS.get(word, 1) for word in meme.emotions] or [0])
    assert counts["emotions_outside_the_vocabulary"] == ["sad"]
    assert counts["memes_without_emotions"] == sum(not meme.emotions for meme in data.split.memes) > 0
    lines = loaders.count_lines({"train": counts}, emotions_are_read=True)
    assert lines[0] == "train: 32 records, 8 topics, 24 memes"
    assert any("1 emotion words are not in the model's vocabulary, read as unknown: ['sad']" in line for line in lines)
    assert not any("emotion" in line for line in loaders.count_lines({"train": counts}, emotions_are_read=False))


def test_a_batch_holds_the_records_padded(folder, tokenizer):
    _, data, _ = ready(folder, tokenizer)
    dataset = RecordDataset(data, seed=0, caption_augmentation=False)
    wanted = [3, 0, 17, 31, 8]
    batch = collate([dataset[0, record] for record in wanted])
    frames = iter(batch["pixels"])
    for row, record in enumerate(wanted):
        topic, meme = data.split.record_topic[record], data.split.record_meme[record]
        assert (batch["topic"][row], batch["meme"][row]) == (topic, meme)
        ids, cut = tokenizer.tokenize(data.split.queries[topic], 32)
        assert batch["query_ids"][row, : len(ids)].tolist() == ids
        assert batch["query_mask"][row].tolist() == [i < len(ids) for i in range(batch["query_ids"].shape[1])]
        captions = data.split.memes[meme].captions
        present = batch["caption_mask"][row].any(dim=1)
        assert present.tolist() == [k < len(captions) for k in range(len(present))]
        for k, caption in enumerate(captions):
            ids = tokenizer.tokenize(caption, 77)[0]
            assert batch["caption_ids"][row, k][batch["caption_mask"][row, k]].tolist() == ids
        emotions = data.emotions[meme]
        assert batch["emotions"][row].tolist() == emotions + [-1] * (batch["emotions"].shape[1] - len(emotions))
        image = data.images[data.split.memes[meme].image]
        assert batch["frame_mask"][row].tolist() == [i < len(image) for i in range(batch["frame_mask"].shape[1])]
        assert all(torch.equal(next(frames), frame) for frame in image)
    assert next(frames, None) is None
    memes = collate([MemeDataset(data)[i] for i in (2, 1)])
    assert memes["meme"].tolist() == [2, 1] and "query_ids" not in memes and "drawn_caption" not in memes


def test_what_a_setting_does_not_read_is_absent(folder, tokenizer):
    args = arguments(folder)
    splits, _ = loaders.read_community(args, ["train"], captions_needed=False)
    data, counts = loaders.tokenise(args, splits["train"], tokenizer, {}, None, captions_needed=False)
    batch = collate([RecordDataset(data, 0, False)[0, record] for record in range(4)])
    assert set(batch) == {"query_ids", "query_mask", "topic", "meme", "emotions", "row_key"}
    assert "captions_cut" not in counts


def drawn(data, seed, epoch, order):
    dataset = RecordDataset(data, seed, caption_augmentation=True)
    return {record: dataset[epoch, record]["drawn_caption"] for record in order}


def test_drawn_captions_depend_on_seed_epoch_and_meme_alone(copy, tokenizer):
    rows = read_csv(copy / "train.csv")
    write_csv(copy / "train.csv", [row | {"captions": '["a", "b", "c"]'} for row in rows])
    _, data, _ = ready(copy, tokenizer)
    order = list(range(32))
    first = drawn(data, 5, 2, order)
    assert drawn(data, 5, 2, order[::-1]) == first and drawn(data, 5, 2, order[7:9]) == {7: first[7], 8: first[8]}
    assert drawn(data, 5, 3, order) != first and drawn(data, 6, 2, order) != first
    by_meme = {}  # a meme of two topics may be in a batch twice: another draw would let a caption meet itself
    for record, meme in enumerate(data.split.record_meme):
        by_meme.setdefault(int(meme), set()).add(first[record])
    assert len(by_meme) < 32 and all(len(draws) == 1 for draws in by_meme.values())
    counts = Counter(k for epoch in range(30) for k in drawn(data, 5, epoch, order).values())
    assert set(counts) == {0, 1, 2}
    assert all(abs(count - 320) < 5 * (960 * 2 / 9 * 32 / 24) ** 0.5 for count in counts.values())


def test_row_keys_depend_on_seed_epoch_and_record_alone(folder, tokenizer):
    _, data, _ = ready(folder, tokenizer)

    def keys(seed, epoch, order=range(32), caption_augmentation=True):
        dataset = RecordDataset(data, seed, caption_augmentation)
        return {record: dataset[epoch, record]["row_key"] for record in order}

    first = keys(5, 2)
    assert keys(5, 2, range(31, -1, -1), False) == first and keys(5, 2, [7]) == {7: first[7]}
    drawn = [key for seed in (5, 6) for epoch in range(3) for key in keys(seed, epoch).values()]
    assert len(set(drawn)) == 2 * 3 * 32  # no two rows share one, though memes of two topics are in two rows
    assert 0 <= min(drawn) < 2**58 and 2**62 < max(drawn) < 2**63


def test_of_a_meme_without_captions_none_is_drawn(folder, tokenizer):
    _, data, _ = ready(folder, tokenizer, "--caption_source", "text")
    dataset = RecordDataset(data, 0, caption_augmentation=True)
    for record in range(32):
        text = data.split.memes[data.split.record_meme[record]].text
        assert dataset[0, record]["drawn_caption"] == (0 if text else -1)


def batches(data, args, processes=1, first=0, last=8):
    plan = BatchPlan(len(data.split), 8, processes=processes, seed=args.seed)
    return [list(loaders.train_loader(args, data, plan, rank, first, last, False)) for rank in range(processes)]


def test_all_processes_together_load_the_batches_of_one(folder, tokenizer):
    args, data, _ = ready(folder, tokenizer, "--caption_augmentation")
    [alone] = batches(data, args)
    shared = batches(data, args, processes=2)
    assert len(alone) == 8
    for step, batch in enumerate(alone):
        for key in ("topic", "meme", "drawn_caption", "row_key"):
            assert torch.cat([share[step][key] for share in shared]).equal(batch[key])
        assert torch.cat([share[step]["pixels"] for share in shared]).equal(batch["pixels"])
    [rest] = batches(data, args, first=5)
    for early, late in zip(alone[5:], rest, strict=True):
        assert all(early[key].equal(late[key]) for key in early)


def test_loader_processes_bring_the_same_batches_and_leave_the_random_state_alone(folder, tokenizer):
    args, data, _ = ready(folder, tokenizer)
    args.num_thread_reader = 1
    before = torch.get_rng_state()
    [by_worker] = batches(data, args, last=2)
    assert torch.equal(torch.get_rng_state(), before)
    args.num_thread_reader = 0
    [here] = batches(data, args, last=2)
    for one, other in zip(by_worker, here, strict=True):
        assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def test_queries_are_batched_in_order(folder, tokenizer):
    _, data, _ = ready(folder, tokenizer)
    found = list(loaders.query_batches(data, 3))
    assert torch.cat([batch["topic"] for batch in found]).tolist() == list(range(8))
    assert [len(batch["query_ids"]) for batch in found] == [3, 3, 2]
    for batch in found:
        for topic, ids, mask in zip(batch["topic"].tolist(), batch["query_ids"], batch["query_mask"], strict=True):
            assert ids[mask].tolist() == data.queries[topic].tolist()


def test_a_huge_image_is_named_as_bad(copy):
    path = next((copy / "images").glob("train_red_2.*"))
    huge = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    path.write_bytes(huge[:16] + (2**20 + 1).to_bytes(4, "big") * 2 + huge[24:])
    args = arguments(copy)
    splits, _ = loaders.read_community(args, ["train"], captions_needed=True)
    with pytest.raises(InputError, match=f"1 of 24 images cannot be used(.|\n)*{path.name}"):
        loaders.check_images(args, splits, 32, progress=False)
