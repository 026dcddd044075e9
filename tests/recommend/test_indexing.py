"""An index follows its folder: what is new is encoded, once; what a killed process leaves does no harm."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from recommend import Recommender, Request, indexing
from recommend.export import export
from recommend.gallery import Gallery
from recommend.model import ModelInUse
from recommend.store import Store
from tests.processes import finish, run_by_one_and_by_two, start_process
from tests.recommend.models import indexed, save_model
from tests.tiny_community import Place, read_csv, write_csv
from util import InputError, sha256_of, take_lock


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("indexing"), train=1, val=1, test=2)


@pytest.fixture(scope="module")
def checkpoint_file(place):
    return save_model(place, "model")[0]


@pytest.fixture
def community(place, tmp_path):
    return shutil.copytree(place.data, tmp_path / "community")


def answers(recommender):
    """{id: (score, emotions, captions, text)} of all memes for one sentence."""
    found = recommender.search("memes for when life is red", top=1000, duplicates=True)
    return {meme.id: (meme.score, meme.emotions, meme.captions, meme.text) for meme in found}


def same(one, other, tolerance=1e-6):
    return one.keys() == other.keys() and all(
        abs(one[key][0] - other[key][0]) <= tolerance and one[key][1:] == other[key][1:] for key in one
    )


def test_a_second_call_encodes_what_is_new_or_changed(checkpoint_file, community, tmp_path):
    memes = len({row["image_id"] for split in ("train", "val", "test") for row in read_csv(community / f"{split}.csv")})
    summary, first = indexed(checkpoint_file, tmp_path / "index", data_path=community)
    assert (summary.memes, summary.encoded, summary.kept, summary.dropped) == (memes, memes, 0, 0)
    summary, _ = indexed(checkpoint_file, tmp_path / "index", data_path=community)
    assert (summary.memes, summary.encoded, summary.kept, summary.dropped) == (memes, 0, memes, 0)

    rows = read_csv(community / "test.csv")
    chosen = sorted({row["image_id"] for row in rows})[:5]
    changed, with_emotion, moved, gone, new = chosen
    for row in rows:
        if row["image_id"] == changed:
            row["captions"] = '["another caption"]'
        if row["image_id"] == with_emotion:
            row["emotions"] = '["happy", "happy", "sad"]'
        if row["image_id"] == moved:
            target = f"elsewhere/{row['image']}"
            (community / "images" / "elsewhere").mkdir(exist_ok=True)
            if (community / "images" / row["image"]).exists():
                shutil.move(community / "images" / row["image"], community / "images" / target)
            row["image"] = target
    image = next(row["image"] for row in rows if row["image_id"] == gone)
    rows = [row for row in rows if row["image_id"] != gone]
    (community / "images" / image).unlink()
    write_csv(community / "test.csv", rows)
    touched = next(row["image"] for row in rows if row["image_id"] == new)
    os.utime(community / "images" / touched, (1, 1))
    shutil.copy(community / "images" / touched, community / "images" / "unnamed.png")  # no captions: features differ
    summary, updated = indexed(checkpoint_file, tmp_path / "index", data_path=community)
    assert (summary.memes, summary.encoded, summary.dropped) == (memes, 3, 1)
    assert summary.without_captions == 1
    _, fresh = indexed(checkpoint_file, tmp_path / "fresh", data_path=community)
    assert same(answers(updated), answers(fresh))
    assert set(answers(updated)) == set(answers(first)) - {gone} | {"unnamed.png"}


def test_what_is_no_more_in_use_is_removed_in_the_end(checkpoint_file, community, tmp_path, monkeypatch):
    monkeypatch.setattr("recommend.store.FEW", 3)
    indexed(checkpoint_file, tmp_path / "index", data_path=community)
    before = Recommender.open(tmp_path / "index", device="cpu")
    expected = answers(before)
    for split in ("train", "val", "test"):
        rows = read_csv(community / f"{split}.csv")
        write_csv(community / f"{split}.csv", [row | {"captions": f'["{row["image_id"]} again"]'} for row in rows])
    summary, after = indexed(checkpoint_file, tmp_path / "index", data_path=community)
    assert summary.encoded == summary.memes
    assert len(after.store.rows) == len(after)  # the old rows are gone
    assert [path.name for path in (tmp_path / "index").glob("data-*")] == ["data-2"]
    _, fresh = indexed(checkpoint_file, tmp_path / "fresh", data_path=community)
    assert same(answers(after), answers(fresh))
    assert answers(before) == expected  # an open reader keeps what it has
    assert {after.thumbnail(image_id) for image_id in expected} == {before.thumbnail(i) for i in expected}


def test_an_index_of_a_vector_per_caption(place, community, tmp_path, monkeypatch):
    """It follows its folder, is exported, compared with its own memes, and not read where its files do not agree."""
    monkeypatch.setattr("recommend.store.FEW", 3)
    folder, path = tmp_path / "index", save_model(place, "nearest", "--text_pool_type", "max")[0]
    indexed(path, folder, data_path=community)
    rows = read_csv(community / "test.csv")
    moved = rows[-1]["image"]
    shutil.move(community / "images" / moved, community / "images" / f"moved-{moved}")
    rows = [row | {"image": f"moved-{moved}"} if row["image"] == moved else row for row in rows]
    kept = {row["image_id"] for row in rows[-4:]}
    some = [row | ({} if row["image_id"] in kept else {"captions": '["one", "two", "three"]'}) for row in rows]
    write_csv(community / "test.csv", some)
    summary, updated = indexed(path, folder, data_path=community)
    assert summary.kept and summary.encoded and updated.store.data.name == "data-2"  # all were copied
    _, fresh = indexed(path, tmp_path / "fresh", data_path=community)
    assert same(answers(updated), answers(fresh))

    export(updated.store, tmp_path / "features.npz")
    with np.load(tmp_path / "features.npz", allow_pickle=False) as file:
        own = dict(zip(file["ids"], np.split(file["caption"], file["captions_per_meme"].cumsum()[:-1]), strict=True))
    assert {len(captions) for captions in own.values()} >= {1, 3}
    assert all(len(own[key]) == max(1, len(captions)) for key, (_, _, captions, _) in answers(updated).items())
    like = next(key for key, captions in own.items() if len(captions) == 3)
    sentence = own[like].mean(axis=0) / np.linalg.norm(own[like].mean(axis=0))
    found = updated.search(Request(like=str(like)), top=1000, duplicates=True)
    assert len(found) == len(own) - 1
    for meme in found:
        assert meme.qc == pytest.approx((own[meme.id] @ sentence).max(), abs=1e-6)

    with open(folder / "data-2" / "caption_counts.bin", "r+b") as file:
        file.write(np.int32(9).tobytes())
    with pytest.raises(InputError, match="caption.bin has"):
        Store.open(folder)
    state = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    state["bytes"]["caption_counts.bin"] -= 4
    (folder / "index.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(InputError, match="caption_counts.bin is not of its rows"):
        Store.open(folder)


@pytest.mark.parametrize(
    "flags",
    [("--sim_header", "tightTransf", "--cross_num_hidden_layers", "1", "--rerank_top", "3"), ("--branches", "qc")],
)
def test_memes_that_are_gone_have_no_part_in_a_search(place, community, tmp_path, flags):
    path = save_model(place, flags[1], *flags)[0]
    _, before = indexed(path, tmp_path / "index", data_path=community)
    best = list(answers(before))[:4]  # with a cross encoder, those that it scores
    for split in ("train", "val", "test"):
        rows = [row for row in read_csv(community / f"{split}.csv") if row["image_id"] not in best]
        for row in read_csv(community / f"{split}.csv"):
            if row["image_id"] in best:
                (community / "images" / row["image"]).unlink(missing_ok=True)
        write_csv(community / f"{split}.csv", rows)
    summary, after = indexed(path, tmp_path / "index", data_path=community)
    assert summary.dropped == 4 and len(after.store.rows) == len(after) + 4
    _, fresh = indexed(path, tmp_path / "fresh", data_path=community)
    assert same(answers(after), answers(fresh)) and list(answers(after)) == list(answers(fresh))
    shares = [[meme.below for meme in each.search("a red picture", top=60)] for each in (after, fresh)]
    assert shares[0] == shares[1]


def test_a_folder_of_images_is_enough(checkpoint_file, community, tmp_path):
    images = community / "images"
    (images / "a folder").mkdir()
    for name, content in {
        "broken.png": b"\x89PNG\r\n\x1a\n broken",
        "empty.jpg": b"",
        "notes.txt": b"no image",
    }.items():
        (images / name).write_bytes(content)
    shutil.copy(next(images.glob("*.gif")), images / "a folder" / "ein Bär.gif")
    (images / ".hidden.png").write_bytes(b"")
    (images / "out.png").symlink_to(next((community.parent / "community").glob("test.csv")))
    outside = tmp_path / "outside.png"
    shutil.copy(next(images.glob("test*.png")), outside)
    (images / "link.png").symlink_to(outside)
    summary, recommender = indexed(checkpoint_file, tmp_path / "index", images)
    names = {path.name for path in images.glob("t*_*")} | {path.name for path in images.glob("val_*")}
    assert set(answers(recommender)) == names | {"a folder/ein Bär.gif"}
    assert set(summary.bad) == {"broken.png", "empty.jpg"}
    assert "empty" in summary.bad["empty.jpg"]
    assert summary.without_captions == summary.memes
    assert recommender.image_path("a folder/ein Bär.gif").read_bytes()[:4] == b"GIF8"
    for path in ("../outside.png", "link.png", "out.png", "/etc/passwd", "nothing"):
        with pytest.raises(InputError, match="no meme of the index"):
            recommender.image_path(path)


def test_images_that_another_run_has_decoded_are_not_decoded_again(checkpoint_file, community, tmp_path, monkeypatch):
    def forbidden(*arguments, **settings):
        raise AssertionError("not to be decoded")

    cache = tmp_path / "cache"
    _, plain = indexed(checkpoint_file, tmp_path / "plain", data_path=community)
    _, first = indexed(checkpoint_file, tmp_path / "first", data_path=community, image_cache=cache)
    monkeypatch.setattr("recommend.indexing.frames_of", forbidden)
    monkeypatch.setattr("dataloaders.image_store.frames_of", forbidden)
    summary, again = indexed(checkpoint_file, tmp_path / "again", data_path=community, image_cache=cache)
    assert summary.encoded == summary.memes and not summary.bad
    assert same(answers(first), answers(plain)) and same(answers(again), answers(plain))
    assert [again.store.rows[name].tobytes() for name in ("key", "phash")] == [
        plain.store.rows[name].tobytes() for name in ("key", "phash")
    ]


def test_a_path_that_leaves_its_folder_later_is_refused(checkpoint_file, community, tmp_path):
    _, recommender = indexed(checkpoint_file, tmp_path / "index", community / "images")
    name = next(iter(answers(recommender)))
    target = tmp_path / "elsewhere.png"
    shutil.move(community / "images" / name, target)
    (community / "images" / name).symlink_to(target)
    with pytest.raises(InputError, match="expected a file inside"):
        recommender.image_path(name)


def annotation(path, **row):
    return json.dumps({"image": path.name, "sha256": sha256_of(path), "status": "ok", **row})


def test_annotations_are_taken_by_the_files_content(checkpoint_file, community, tmp_path):
    images = sorted((community / "images").glob("*.png"))
    lines = [
        annotation(images[0], captions=["early"], emotions=["sad"]),
        annotation(images[1], captions=["grüße 中文 \ud83d"], text="SO RED", emotions=["Joyful", "none"]),
        annotation(images[2], status="blocked", error="no"),
        annotation(images[0], captions=["late", "and more"], emotions=[]),
    ]
    file = tmp_path / "annotations.jsonl"
    file.write_text("\n".join(lines) + '\n{"image": "torn', encoding="utf-8")
    summary, recommender = indexed(checkpoint_file, tmp_path / "index", community / "images", annotations=file)
    found = answers(recommender)
    assert found[images[0].name][1:] == ((), ("late", "and more"), "")
    assert found[images[1].name][1:] == (("happy",), ("grüße 中文 \ud83d",), "SO RED")  # the table's word for it
    assert found[images[2].name][1:] == ((), (), "")
    assert summary.without_captions == summary.memes - 2
    file.write_text(file.read_text(encoding="utf-8").replace("late", "later"), encoding="utf-8")
    summary, _ = indexed(checkpoint_file, tmp_path / "index", community / "images", annotations=file)
    assert (summary.encoded, summary.kept) == (1, summary.memes - 1)
    file.write_text("\n".join([*lines[:2], "no JSON", lines[3]]), encoding="utf-8")
    with pytest.raises(InputError, match=r"annotations\.jsonl, line 3"):
        Gallery(community / "images", annotations=file)


def test_bad_galleries_are_refused(community, tmp_path):
    images = community / "images"
    for arguments, message in (
        ((None,), "give --images"),
        ((tmp_path / "nowhere",), "no such folder"),
        ((images, tmp_path / "none.jsonl"), "cannot be read"),
        ((images, None, images), "found none of train.csv"),
        ((images, tmp_path / "a", tmp_path), "exclude each other"),
    ):
        with pytest.raises(InputError, match=message):
            Gallery(*arguments)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found no image"):
        list(Gallery(tmp_path / "empty").memes())


def test_an_index_of_another_model_or_precision_is_refused(place, checkpoint_file, community, tmp_path):
    other = save_model(place, "other", "--seed", "3", "--interaction", "ti")[0]
    indexed(checkpoint_file, tmp_path / "index", community / "images")
    with pytest.raises(InputError, match=r"(?s)model\.pt.*other\.pt"):
        indexed(other, tmp_path / "index", community / "images")
    with pytest.raises(InputError, match="full precision, not half"):
        indexed(checkpoint_file, tmp_path / "index", community / "images", full=False)
    with pytest.raises(InputError, match=r"(?s)model\.pt.*other\.pt"):
        Recommender.open(tmp_path / "index", model=other)
    moved = shutil.copy(checkpoint_file, tmp_path / "moved.pt")
    assert len(Recommender.open(tmp_path / "index", model=moved, device="cpu"))


def test_folders_that_are_no_index_are_refused(checkpoint_file, community, tmp_path):
    with pytest.raises(InputError, match="holds no index"):
        Recommender.open(tmp_path)
    (tmp_path / "run" / "data-7").mkdir(parents=True)
    (tmp_path / "run" / "data-7" / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "run" / ".lock").write_text("", encoding="utf-8")  # a run's folder has one
    (tmp_path / "run" / "checkpoint_best.pt").write_bytes(b"")
    for other in (community, tmp_path / "run"):
        before = sorted(other.rglob("*"))
        with pytest.raises(InputError, match="holds other files"):
            indexed(checkpoint_file, other, community / "images")
        assert sorted(other.rglob("*")) == before
    for inside in (community / "images" / "index", community / "images"):
        with pytest.raises(InputError, match="lies in the folder of the images"):
            indexed(checkpoint_file, inside, community / "images")
    folder = tmp_path / "index"
    indexed(checkpoint_file, folder, community / "images")
    whole = (folder / "index.json").read_text(encoding="utf-8")
    for text, message in (("{", "no valid JSON"), ("{}", "found format None"), ("[]", "expected an index")):
        (folder / "index.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            Store.open(folder)
    for part, value in (
        ("data", "../data-1"),
        ("live", "/etc/passwd"),
        ("model", {}),
        ("bytes", {"rows.bin": "1"}),
        ("precision", []),
        ("features", {"../a": [3]}),
    ):
        (folder / "index.json").write_text(json.dumps(json.loads(whole) | {part: value}), encoding="utf-8")
        with pytest.raises(InputError, match=f"a damaged index: '{part}'"):
            Store.open(folder)
    (folder / "index.json").write_text(json.dumps(json.loads(whole) | {"live": "live-77.npy"}), encoding="utf-8")
    with pytest.raises(InputError, match="damaged index"):
        Store.open(folder)
    (folder / "index.json").write_text(whole, encoding="utf-8")
    with open(folder / "data-1" / "tokens.bin", "r+b") as file:
        file.truncate(10)
    with pytest.raises(InputError, match="damaged index"):
        Store.open(folder)


def test_there_is_one_writer(checkpoint_file, community, tmp_path):
    folder = tmp_path / "index"
    indexed(checkpoint_file, folder, community / "images")
    with take_lock(folder / ".lock", "another indexing"), pytest.raises(InputError, match="another indexing"):
        indexed(checkpoint_file, folder, community / "images")
    assert len(Store.open(folder))


def index_slowly(checkpoint_file, folder, data):
    """Index in rounds of three memes, and be slow."""
    keep = indexing._Update._keep

    def slowly(self, *arguments):
        keep(self, *arguments)
        time.sleep(0.2)

    indexing._Update._keep, indexing.ROUND = slowly, 3
    indexed(checkpoint_file, Path(folder), data_path=Path(data))
    return 0


def rows_kept(folder):
    try:
        return json.loads((folder / "progress.json").read_text(encoding="utf-8"))["bytes"].get("rows.bin", 0)
    except (OSError, ValueError):
        return 0


def test_a_killed_call_is_gone_on_with(checkpoint_file, community, tmp_path):
    folder = tmp_path / "index"
    process = start_process(index_slowly, checkpoint_file, folder, community, log=tmp_path / "log.txt")
    wait_until(lambda: rows_kept(folder) > 0, process)
    with pytest.raises(InputError, match="being written: process"):
        indexed(checkpoint_file, folder, data_path=community)
    with pytest.raises(InputError, match="not finished"):
        Store.open(folder)
    os.kill(process.pid, signal.SIGKILL)
    assert finish(process, tmp_path / "log.txt")[0] == -signal.SIGKILL
    with open(folder / "data-1" / "caption.bin", "ab") as file:
        file.write(b"torn")
    (folder / "data-1" / "memes.jsonl").open("ab").write(b'{"torn')
    summary, recommender = indexed(checkpoint_file, folder, data_path=community)
    assert 0 < summary.encoded < summary.memes == summary.encoded + summary.kept
    _, fresh = indexed(checkpoint_file, tmp_path / "fresh", data_path=community)
    assert same(answers(recommender), answers(fresh))


def test_readers_see_the_last_whole_index_while_another_is_made(checkpoint_file, community, tmp_path):
    folder = tmp_path / "index"
    indexed(checkpoint_file, folder, data_path=community)
    before = answers(Recommender.open(folder, device="cpu"))
    rows = read_csv(community / "test.csv")
    write_csv(community / "test.csv", [row | {"captions": '["other"]'} for row in rows])
    process = start_process(index_slowly, checkpoint_file, folder, community, log=tmp_path / "log.txt")
    kept = rows_kept(folder)
    wait_until(lambda: rows_kept(folder) > kept > 0 or rows_kept(folder) > 3000, process)
    assert answers(Recommender.open(folder, device="cpu")) == before
    os.kill(process.pid, signal.SIGKILL)
    finish(process, tmp_path / "log.txt")
    assert answers(Recommender.open(folder, device="cpu")) == before
    summary, recommender = indexed(checkpoint_file, folder, data_path=community)
    assert summary.dropped == 0
    _, fresh = indexed(checkpoint_file, tmp_path / "fresh", data_path=community)
    assert same(answers(recommender), answers(fresh))


def wait_until(condition, process, limit=120):
    started = time.monotonic()
    while not condition():
        assert process.is_alive() and time.monotonic() - started < limit
        time.sleep(0.01)


def test_a_progress_of_an_earlier_turn_is_not_gone_on_with(checkpoint_file, community, tmp_path):
    folder = tmp_path / "index"
    process = start_process(index_slowly, checkpoint_file, folder, community, log=tmp_path / "log.txt")
    wait_until(lambda: rows_kept(folder) > 0, process)
    early = (folder / "progress.json").read_bytes()
    code, printed = finish(process, tmp_path / "log.txt")
    assert code == 0, printed
    whole = answers(Recommender.open(folder, device="cpu"))
    (folder / "progress.json").write_bytes(early)  # as if the process had been killed before it removed it
    summary, recommender = indexed(checkpoint_file, folder, data_path=community)
    assert summary.encoded == 0
    assert answers(recommender) == whole


def index_for_processes(checkpoint_file, folder, data):
    from engine import distributed

    distributed.setup("cpu")
    indexing.ROUND = 8
    summary, _ = indexed(checkpoint_file, Path(folder), data_path=Path(data))
    distributed.tear_down(False)
    assert summary.encoded == summary.memes
    assert set(summary.bad) == {"broken.png"}
    return 0


def test_two_processes_make_the_index_of_one(checkpoint_file, community, tmp_path):
    (community / "images" / "broken.png").write_bytes(b"no image")
    run_by_one_and_by_two(
        index_for_processes, lambda processes: (checkpoint_file, tmp_path / f"index {processes}", community), tmp_path
    )
    one, two = (Recommender.open(tmp_path / f"index {processes}", device="cpu") for processes in (1, 2))
    assert same(answers(one), answers(two))
    assert [one.store.meme(row) for row in range(len(one.store.rows))] == [
        two.store.meme(row) for row in range(len(two.store.rows))
    ]


def test_a_full_disk_leaves_the_last_whole_index(checkpoint_file, community, tmp_path, monkeypatch):
    folder = tmp_path / "index"
    indexed(checkpoint_file, folder, data_path=community)
    before = answers(Recommender.open(folder, device="cpu"))
    shutil.copy(next((community / "images").glob("*.gif")), community / "images" / "new.gif")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises((InputError, OSError), match="No space left"):
            indexed(checkpoint_file, folder, data_path=community)
    assert answers(Recommender.open(folder, device="cpu")) == before
    summary, _ = indexed(checkpoint_file, folder, data_path=community)
    assert summary.encoded == 1


def test_what_is_kept_of_a_meme(checkpoint_file, community, tmp_path):
    import cv2

    from preprocess.comparing.image_facts import image_facts

    _, recommender = indexed(checkpoint_file, tmp_path / "index", community / "images", full=False)
    store = recommender.store
    names = sorted(answers(recommender))
    facts = image_facts(community / "images", names, progress=False)
    for number, name in enumerate(names):
        row = store.rows[store.row_of(name)]
        assert row["file"].tobytes().hex() == facts.sha256[number]
        assert row["phash"] == facts.phash[number]
        picture = cv2.imdecode(np.frombuffer(recommender.thumbnail(name), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[:2] == (facts.height[number], facts.width[number])
    assert store.features.arrays["tokens"].dtype == np.float16
    assert {type(array) for array in store.features.arrays.values()} == {np.memmap}


def test_threads_may_search_at_the_same_time(checkpoint_file, community, tmp_path):
    _, recommender = indexed(checkpoint_file, tmp_path / "index", data_path=community)
    queries = [f"memes for when life is {colour}" for colour in ("red", "green", "blue", "black")]
    expected = {query: recommender.search(query, top=5) for query in queries}
    wrong = []

    def ask(start):
        for number in range(12):
            query = queries[(start + number) % len(queries)]
            if recommender.search(query, top=5) != expected[query]:
                wrong.append(query)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_rows_of_a_model_with_other_features_are_refused(checkpoint_file, community, tmp_path):
    from recommend.store import Damaged, Writer

    indexed(checkpoint_file, tmp_path / "index", community / "images")
    model = ModelInUse(checkpoint_file, "cpu")
    settings = indexing._settings(model, Gallery(community / "images"), True)
    writer = Writer(tmp_path / "index", settings)
    row = writer.store.row(0, writer.store.meme(0), (1, 2), [])
    wrong = row._replace(features={"pooled": np.zeros(3, np.float32)})
    with pytest.raises(Damaged, match="holds features"):
        writer.append([wrong])
