"""Weights files of strangers: nothing of them runs, they cost no more than their size, and are named for what they
are."""

import dataclasses
import json
import os
import pickle
import re
import struct
import time
import tracemalloc
import warnings
import zipfile

import pytest
import torch

from modules.backbones.names import SOURCES
from modules.backbones.openai import CLIP, build_clip
from modules.backbones.weights_file import read_archive, read_weights
from tests.model_parts import write_archive
from tests.modules.test_openai import FILED, KNOWN, refusal, shaken
from util import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:Detected pickle protocol")


@pytest.fixture(scope="module")
def state():
    return shaken(CLIP(FILED)).state_dict()


# --- archives that would run code --------------------------------------------------------------------------------


class RunsCode:
    """A pickle which makes a folder when it is read."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("container", ["pickle", "torch", "torch legacy", "looks like an archive"])
def test_a_pickle_that_would_run_code_does_not(tmp_path, state, container):
    path, folder = tmp_path / "x.pt", tmp_path / "made by the pickle"
    content = {"extra": RunsCode(folder), "text_projection": state["text_projection"]}
    if container == "pickle":
        path.write_bytes(pickle.dumps(RunsCode(folder)))
    elif container == "looks like an archive":
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("data.pkl", "constants.pkl"):
                archive.writestr(f"x/{name}", pickle.dumps(RunsCode(folder), protocol=2))
            archive.writestr("x/version", "3\n")
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "torch")
    message = refusal(path)
    assert not folder.exists()
    assert "weights_only" not in message and "trust" not in message, "torch's advice would run the code"
    assert "mkdir" in message or container == "pickle"
    with open(path, "rb") as file:
        if container == "pickle":  # the danger is real: a plain unpickling does make the folder
            pickle.load(file)
            assert folder.exists()


class WritesAFile(torch.nn.Module):
    """TorchScript whose __setstate__ overwrites the beginning of a file that is there."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = bool(torch.from_file(self.path, True, 4, dtype=torch.uint8).fill_(35).sum() > 0)


def test_an_archive_that_would_write_into_a_file_does_not(tmp_path):
    target, path = tmp_path / "script.sh", tmp_path / "x.pt"
    target.write_text("exit\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(WritesAFile(str(target))).save(str(path))
    message = refusal(path)
    assert target.read_text() == "exit\n"
    assert "__setstate__" in message
    torch.jit.load(str(path))
    assert target.read_text() == "####\n", "the danger is real"


def opcodes(*parts):
    """A pickle by hand: bytes as they are, text and numbers as what pushes them."""

    def push(part):
        if isinstance(part, bytes):
            return part
        if isinstance(part, str):
            return b"X" + struct.pack("<I", len(part)) + part.encode()
        if -(2**31) <= part < 2**31:
            return b"J" + struct.pack("<i", part)
        return b"\x8a\x09" + part.to_bytes(9, "little")

    return b"\x80\x02" + b"".join(map(push, parts)) + b"."


MODULE = b"c__torch__.m\nM\n)\x81}"  # a new object and an empty dict; then items, `u` and `b`


def stored(key="0", count=4, kind=b"ctorch\nFloatStorage\n"):
    return b"(", "storage", kind, key, "cpu", count, b"tQ"


def tensor(sizes=(4,), strides=(1,), offset=0, storage=None):
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(",
        *(storage or stored()),
        *(offset, b"(", *sizes, b"t(", *strides, b"t\x89", b"ccollections\nOrderedDict\n)RtR"),
    )


def with_tensor(*what):
    return opcodes(MODULE + b"(", "w", *what, b"ub")


FOUR = struct.pack("<4f", 1, 2, 3, 4)


def write_zip(path, pickled, files=(("data/0", FOUR),), compression=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore", UserWarning)  # of a name that is there twice
        for name, content in (("data.pkl", pickled), ("constants.pkl", b"\x80\x02)."), *files):
            archive.writestr(f"x/{name}", content)
    return path


def refused(path):
    """The message; reading the archive takes neither long nor much memory."""
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as error:
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 20
    assert str(path) in str(error.value)
    return str(error.value)


def test_the_hand_made_archive_is_one(tmp_path):
    path = write_zip(tmp_path / "x.pt", with_tensor(*tensor((2, 2), (1, 2))))
    assert read_archive(path)["w"].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize("name", ["os\nsystem", "posix\nsystem", "builtins\neval", "torch\nload", "torch\nfrom_file"])
def test_an_archive_asks_for_nothing_but_tensors(tmp_path, name):
    pickled = opcodes(b"c" + name.encode() + b"\n(", str(tmp_path / "made"), b"tR")
    assert repr(name.replace("\n", ".")) in refused(write_zip(tmp_path / "x.pt", pickled))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "pickled",
    {
        "a storage of other objects": opcodes(b"(", "storage", b"ccollections\nOrderedDict\n", "0", "cpu", 4, b"tQ"),
        "a call of one of its classes": opcodes(b"c__torch__.m\nM\n", b")R"),
        "a state for a tensor": with_tensor(*tensor(), b"}b"),
        "a state for a function": opcodes(b"ctorch._utils\n_rebuild_tensor_v2\n}b"),
        "another opcode": opcodes(b"(", "os", "system", b"i"),
        "an extension": opcodes(b"\x82\x01"),
        "no end": opcodes(b"]")[:-1],
        "nothing": b"",
        "an empty stack": opcodes(b"tR"),
        "a mark too few": opcodes(MODULE, b"ub"),
        "a memo that is none": opcodes(b"h\x07"),
        "no module": opcodes(b"}"),
        "names that are none": opcodes(MODULE + b"(", 3, *tensor(), b"ub"),
        "a list as a name": opcodes(MODULE + b"(]", *tensor(), b"ub"),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_pickle_that_torchscript_would_not_write(tmp_path, pickled):
    assert "cannot be read" in refused(write_zip(tmp_path / "x.pt", pickled[1]))


# --- archives that would take for ever ---------------------------------------------------------------------------


def test_modules_within_themselves_end(tmp_path):
    loop = opcodes(b"c__torch__.m\nM\n)\x81q\x00}(", "again", b"h\x00ub")
    assert "go on and on" in refused(write_zip(tmp_path / "loop.pt", loop))
    doubled = MODULE + b"(" + opcodes("w", *tensor())[2:-1] + b"ub"
    for number in range(60):
        doubled += b"r" + struct.pack("<I", number)
        doubled += MODULE + b"(" + opcodes("a", b"j" + struct.pack("<I", number), "b")[2:-1]
        doubled += b"j" + struct.pack("<I", number) + b"ub"
    path = write_zip(tmp_path / "doubled.pt", b"\x80\x02" + doubled + b".")
    assert "cannot be read" in refused(path)


def test_a_deep_nest_a_large_memo_and_many_opcodes(tmp_path):
    deep = opcodes(b")" + b"\x85" * 100_000)
    assert "no module" in refused(write_zip(tmp_path / "deep.pt", deep))
    far = opcodes(MODULE + b"r\xff\xff\xff\xff(", "w", *tensor(storage=stored(count=9)), b"ub")
    assert "cannot be read" in refused(write_zip(tmp_path / "far.pt", far))
    many = opcodes(b"]0" * 2_000_000)
    assert "more than 1,048,576 bytes" in refused(write_zip(tmp_path / "many.pt", many))


@pytest.mark.parametrize(
    "what",
    {
        "a storage larger than its file": tensor(storage=stored(count=2**40)),
        "a storage smaller than its file": tensor(storage=stored(count=3)),
        "a storage without a file": tensor(storage=stored(key="1")),
        "a storage elsewhere": tensor(storage=stored(key="../data.pkl")),
        "a tensor larger than its storage": tensor((5,)),
        "an offset": tensor(offset=1),
        "a stride": tensor((2,), (4,)),
        "numbers that are used again and again": tensor((2**40,), (0,)),
        "sizes beyond all bounds": tensor((2**40, 2**40), (0, 0)),
        "a negative size": tensor((-4,)),
        "a negative offset": tensor(offset=-1),
        "one stride too many": tensor((4,), (1, 1)),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_tensor_lies_within_the_file(tmp_path, what):
    assert "cannot be read" in refused(write_zip(tmp_path / "x.pt", with_tensor(*what[1])))


def test_many_names_of_one_tensor_are_no_more_than_the_file(tmp_path):
    content = struct.pack("<65536f", *range(65536))
    names = [part for number in range(500) for part in (f"w{number}", b"h\x07")]
    first = tensor((65536,), storage=stored(count=65536))
    pickled = opcodes(MODULE + b"(", "w", *first, b"q\x07", *names, b"ub")
    assert "more than the file has" in refused(write_zip(tmp_path / "x.pt", pickled, [("data/0", content)]))


def test_compressed_and_repeated_and_overlapping_entries(tmp_path):
    bomb = [("data/0", bytes(64 << 20))]
    pickled = with_tensor(*tensor((16 << 20,), storage=stored(count=16 << 20)))
    path = write_zip(tmp_path / "bomb.pt", pickled, bomb, zipfile.ZIP_DEFLATED)
    assert "claims to hold more" in refused(path)
    path = write_zip(tmp_path / "packed.pt", with_tensor(*tensor()), [("data/0", b"abcd" * 4)], zipfile.ZIP_DEFLATED)
    assert "16 uncompressed bytes are expected" in refused(path)
    path = write_zip(tmp_path / "twice.pt", with_tensor(*tensor()), [("data/0", FOUR), ("data/0", FOUR)])
    assert "a name twice" in refused(path)
    path = write_zip(tmp_path / "two.pt", with_tensor(*tensor()), [("y/data.pkl", b""), ("data/0", FOUR)])
    assert "cannot be read" not in str(read_archive(path))  # a deeper one is another file
    torch.save({"w": torch.zeros(16 << 20)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "small.pt", "w", 8) as small:
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    assert "claims to hold more" in refused(tmp_path / "small.pt")


def test_damage_within_an_archive_is_noticed(tmp_path, state):
    path = tmp_path / "x.pt"
    write_archive(path, state, FILED)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "cannot be read" in refused(path)


# --- what is as before -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_an_archive_has_the_bits_that_torch_reads_from_it(tmp_path, state, dtype):
    path = tmp_path / "x.pt"
    odd = state | {"visual.proj": state["visual.proj"].T.contiguous().T, "logit_scale": torch.tensor(4.6)}
    write_archive(path, odd, FILED, dtype)
    expected, found = torch.jit.load(str(path)).state_dict(), read_archive(path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert torch.equal(found[name], value), name
    read = read_weights(path)
    assert read.entries == {"input_resolution": 16, "context_length": 20, "vocab_size": 49408}
    assert read.state.keys() == state.keys() and read.notes == []


# --- files of others ---------------------------------------------------------------------------------------------

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LFS, "Git LFS pointer"),
        ("<!DOCTYPE html>\n<html><body>404</body></html>", "HTML"),
        ("\n<html>", "HTML"),
        (json.dumps({"test": 1}), "JSON file"),
        (b"", "empty"),
        (struct.pack("<Q", 30) + b'{"a":{"dtype":"F32"}}'.ljust(80), "safetensors"),
        (b"PK\x03\x04" + bytes(100), "cut short"),
    ],
)
def test_a_file_is_named_for_what_it_is(tmp_path, content, words):
    path = tmp_path / "x.pt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert words in refused(path)


def test_a_folder_is_named_and_so_are_the_names_that_there_are(tmp_path):
    assert "this is a folder" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "Hugging Face folder" in refusal(tmp_path)
    for name in ("ViT-B-16", "vit-b/32", "RN50", "openclip:ViT-B-32/openai", "huggingface:someone/clip", "SMALL"):
        with pytest.raises(InputError) as error:
            build_clip(name)
        assert all(word in str(error.value) for word in (name, "ViT-B/16", "ViT-L/14@336px", "ViT-tiny/8"))
        assert all(word in str(error.value) for word in (*(f"{source}:" for source in SOURCES), "small"))
        assert "preprocess.download" not in str(error.value)


@pytest.mark.parametrize("name", ["ViT-B/16", "ViT-L/14@336px"])
def test_a_published_file_that_is_missing_is_fetched_by_its_name(tmp_path, name):
    with pytest.raises(InputError, match=re.escape(f"`python -m preprocess.download clip {name}`")):
        build_clip(name, weights_folder=tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["visual.layer1.0.conv1.weight", "visual.attnpool.c_proj.weight", "text_projection"], "ResNet"),
        (["text_model.embeddings.token_embedding.weight", "logit_scale"], "Hugging Face"),
        (["visual.trunk.patch_embed.proj.weight", "text.transformer.x"], "open_clip"),
    ],
)
def test_another_network_is_named(tmp_path, names, words):
    assert words in refusal(tmp_path / "x.pt", {name: torch.zeros(2) for name in names})


def test_a_checkpoint_of_this_program_is_named(tmp_path, state):
    content = {"format": 1, "model": state, "arguments": {}, "emotion_words": []}
    assert "--init_model" in refusal(tmp_path / "x.pt", content)


@pytest.mark.parametrize(
    ("wrapped", "notes"),
    [
        (lambda state: {"state_dict": state, "epoch": 3}, ["'state_dict'"]),
        (lambda state: {"model": state}, ["'model'"]),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, ["'module.'"]),
        (
            lambda state: {f"clip.{k}": v for k, v in state.items()} | {"transformerClip.w": torch.ones(1)},
            ["'clip.'; 1 others, such as 'transformerClip.w', were left out"],
        ),
        (
            lambda state: {"state_dict": {f"module.clip.{name}": value for name, value in state.items()}},
            ["'state_dict'", "'module.'", "'clip.'"],
        ),
    ],
)
def test_wrappers_are_taken_off_and_told(tmp_path, state, wrapped, notes):
    path, told = tmp_path / "x.pt", []
    torch.save(wrapped(state), path)
    clip, _ = build_clip(str(path), **KNOWN, notes=told)
    assert all(torch.equal(value, state[name]) for name, value in clip.state_dict().items())
    assert len(told) == len(notes)
    assert all(str(path) in line and note in line for line, note in zip(told, notes, strict=True))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["archive", "state dict"])
def test_numbers_that_are_none_are_found(tmp_path, state, kind, number):
    name, path = "transformer.resblocks.1.mlp.c_fc.bias", tmp_path / "x.pt"
    spoiled = state | {name: torch.where(torch.arange(len(state[name])) == 3, number, state[name])}
    if kind == "archive":
        write_archive(path, spoiled, FILED)
    with pytest.raises(InputError, match=f"{name}: 1 of its numbers are NaN or infinite"):
        if kind == "state dict":
            torch.save(spoiled, path)
            build_clip(str(path), **KNOWN)
        else:
            build_clip(str(path))


# --- what tensors do not tell ------------------------------------------------------------------------------------


def test_a_plain_state_dict_is_not_tried(tmp_path, state):
    path = tmp_path / "x.pt"
    torch.save(state, path)
    for given in ({}, {"activation": "gelu"}, {"heads": (1, 1)}):
        with pytest.raises(InputError) as error:
            build_clip(str(path), **given)
        for part in (str(path), "--clip_activation quick_gelu or gelu", "--clip_heads 1 1"):
            assert part in str(error.value)
    clip, _ = build_clip(str(path), activation="gelu", heads=(2, 4))
    assert (clip.sizes.activation, clip.sizes.heads) == ("gelu", (2, 4))
    with pytest.raises(InputError, match="5 heads do not divide the text tower's width of 32"):
        build_clip(str(path), activation="gelu", heads=(2, 5))


def test_an_archive_of_openais_is_known_and_the_flags_do_not_contradict_it(tmp_path, state):
    path = tmp_path / "x.pt"
    write_archive(path, state, FILED)
    clip, _ = build_clip(str(path), **KNOWN)
    assert (clip.sizes.activation, clip.sizes.heads) == ("quick_gelu", (1, 1))
    with pytest.raises(InputError, match="--clip_activation gelu, but an archive in OpenAI's layout has quick_gelu"):
        build_clip(str(path), activation="gelu")
    with pytest.raises(InputError, match="--clip_heads 2 2, but an archive in OpenAI's layout has 1 1"):
        build_clip(str(path), heads=[2, 2])
    with pytest.raises(InputError, match="ViT-tiny/8 starts from scratch"):
        build_clip("ViT-tiny/8", activation="gelu")


def test_the_entries_of_an_archive_are_those_of_its_tensors(tmp_path, state):
    path = tmp_path / "x.pt"
    write_archive(path, state, dataclasses.replace(FILED, image_size=24))
    assert "its entries say" in refusal(path)


@pytest.mark.parametrize("rows", [250_000, 32_000, 49_409])
def test_another_vocabulary_is_refused(tmp_path, state, rows):
    width = state["token_embedding.weight"].shape[1]
    message = refusal(tmp_path / "x.pt", state | {"token_embedding.weight": torch.zeros(rows, width)})
    assert f"a vocabulary of {rows:,}" in message


@pytest.mark.parametrize(
    ("name", "shape"),
    [("visual.conv1.weight", (1_000_000, 3, 1, 1)), ("ln_final.weight", (10_000_000,)), ("text_projection", (0, 32))],
)
def test_sizes_that_would_fill_the_memory_are_refused_before(tmp_path, state, name, shape):
    assert "in the file" in refusal(tmp_path / "x.pt", state | {name: torch.zeros(shape)})


def test_too_many_layers_are_no_clip(tmp_path, state):
    more = {f"transformer.resblocks.{number}.ln_1.bias": torch.zeros(1) for number in range(1000)}
    assert "1000 layers" in refusal(tmp_path / "x.pt", state | more)
