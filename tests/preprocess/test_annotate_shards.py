"""annotate --shard, and the one file that merge_annotations makes of the shards' files."""

import hashlib
import json

import pytest

from preprocess import annotate, merge_annotations
from preprocess.annotation.annotation_file import Annotation, AnnotationFile, read_annotations
from preprocess.annotation.answer import Failure
from preprocess.annotation.shards import Shard, shard, shard_of
from tests.preprocess.test_annotate import FakeModel, draw, environment, flags, run  # noqa: F401

COUNT = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of 12 images with one copy, asked about in one call and in three; one image's first answer failed."""
    images = draw(tmp_path_factory.mktemp("shards") / "images", 12)
    (images / "copy.png").write_bytes((images / "000.png").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "x" * 20)
        assert run(images, FakeModel()) == 0
        whole = images.parent / "a.jsonl"
        whole.rename(images.parent / "whole.jsonl")
        for number in range(1, COUNT + 1):
            assert run(images, FakeModel(*[Failure("blocked", "no")] * (number == 2)), "--shard", f"{number}/3") == 0
        assert run(images, FakeModel(), "--shard", "2/3", "--retry_failed") == 0
    return images


def files(images):
    return [str(images.parent / f"a.{number}-of-3.jsonl") for number in range(1, COUNT + 1)]


def merge(*argv):
    """The exit code, a text if there was an error."""
    try:
        merge_annotations.main([str(each) for each in argv])
    except SystemExit as stop:
        return stop.code
    return 0


def answers(path):
    return {sha256: (row.image, row.captions, row.status) for sha256, row in read_annotations(path).items()}


def test_the_shards_are_the_folder_and_each_image_is_in_one(made, tmp_path):
    whole = answers(made.parent / "whole.jsonl")
    parts = [answers(path) for path in files(made)]
    assert sum(map(len, parts)) == len(whole) == 12 and all(parts)
    out = tmp_path / "all.jsonl"
    assert merge(*files(made), "--images", made, "--out", out) == 0
    assert answers(out) == whole
    first = out.read_bytes()
    assert first.count(b"\n") == 13  # with the answer that failed, which was paid for
    assert merge(*files(made), out, "--images", made, "--out", out) == 0
    assert out.read_bytes() == first


def test_a_shard_depends_on_the_content_alone():
    sums = [hashlib.sha256(bytes([number])).hexdigest() for number in range(200)]
    for count in (1, 2, 7, 64):
        shards = [Shard(number, count) for number in range(1, count + 1)]
        assert all(sum(each.has(sha256) for each in shards) == 1 for sha256 in sums)
    sizes = [sum(Shard(number, 4).has(sha256) for sha256 in sums) for number in range(1, 5)]
    assert max(sizes) < 80  # of 200


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "1/3/4"])
def test_a_shard_that_is_none(text, made, capsys):
    with pytest.raises(SystemExit) as stop:
        annotate.main(flags(made, "--shard", text))
    assert stop.value.code == 2 and "from 1 to N" in capsys.readouterr().err


def test_names():
    assert Shard(2, 8).file("x/annotations.jsonl").name == "annotations.2-of-8.jsonl"
    assert shard_of("x/annotations.2-of-8.jsonl") == shard("2/8") == (2, 8)
    assert shard_of("x/annotations.jsonl") is None


def write(path, *rows):
    with AnnotationFile(path) as file:
        for row in rows:
            file.append(row)
    return path


def row(number, caption="a", status="ok", **more):
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    return Annotation(image=f"{number}.png", sha256=sha256, status=status, captions=(caption,), **more)


def test_what_is_refused(made, tmp_path, monkeypatch):
    out = tmp_path / "all.jsonl"
    assert merge(*files(made)[:2], "--out", out) == "error: no file of the shard 3/3"
    moved = tmp_path / "a.1-of-1.jsonl"
    moved.write_bytes((made.parent / "whole.jsonl").read_bytes())
    assert "files of one division" in merge(*files(made), moved, "--out", out)
    wrong = tmp_path / "a.1-of-2.jsonl"
    wrong.write_bytes(moved.read_bytes())
    assert "which is not in shard 1/2" in merge(wrong, write(tmp_path / "a.2-of-2.jsonl"), "--out", out)
    one, other = write(tmp_path / "1.jsonl", row(1)), write(tmp_path / "2.jsonl", row(1, "b"), row(2))
    assert "1.png: different answers about it in" in merge(one, other, "--out", out)
    mixed = write(tmp_path / "3.jsonl", row(3, model="x"))
    assert "model ''" in merge(one, mixed, "--out", out) and "--allow_mixed" in merge(one, mixed, "--out", out)
    assert "12 of 12 images" in merge(one, "--images", made, "--out", out)
    assert "no row" in merge(write(tmp_path / "4.jsonl"), "--out", out)
    assert "cannot be read" in merge(tmp_path / "5.jsonl", "--out", out)
    assert "holds 1 rows that none of the files has" in merge(one, "--out", mixed)
    with AnnotationFile(one):
        assert "another process is writing" in merge(one, "--out", out)
    assert not out.exists()
    assert merge(one, mixed, "--allow_mixed", "--out", out) == 0 and len(answers(out)) == 2


def test_an_answer_comes_after_a_failure_in_another_file(tmp_path):
    ok = write(tmp_path / "1.jsonl", row(1))
    failed = write(tmp_path / "2.jsonl", row(1, status="blocked", error="no"))
    assert merge(ok, failed, "--out", tmp_path / "all.jsonl") == 0
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["blocked", "ok"]
