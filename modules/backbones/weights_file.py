"""Reads files of weights, trusted or not: OpenAI's TorchScript archives, state dicts of torch.save, safetensors.

An archive is a zip with a pickle of its modules and a file per storage. `_modules_of` reads the pickle by the few
opcodes that TorchScript writes and makes nothing but containers, names and the places of tensors; the archive's code/
is never looked at. All other files are opened by torch with `weights_only=True`. Work and memory are in proportion to
the file's size.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from modules.backbones.names import SOURCES
from modules.backbones.published import PUBLISHED
from util import InputError, first_line

ARCHIVE_ENTRIES = ("input_resolution", "context_length", "vocab_size")
MAX_PICKLE = 1 << 20  # bytes; one takes some 100 per tensor, ViT-L/14 has 590 of them
MAX_DEPTH, MAX_ATTRIBUTES, MAX_NAME = 64, 200_000, 300  # of modules in modules; of all of them; letters of a name
STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Float": torch.float32,
        "Double": torch.float64,
        "Byte": torch.uint8,
        "Char": torch.int8,
        "Short": torch.int16,
        "Int": torch.int32,
        "Long": torch.int64,
    }.items()
}
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
ORDERED_DICT = "collections.OrderedDict"
LISTS = {f"torch.jit._pickle.{name}" for name in ("build_intlist", "build_boollist", "build_doublelist")}
LISTS |= {"torch.jit._pickle.build_tensorlist", "torch.jit._pickle.restore_type_tag"}
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")  # keys under which others keep a state dict


class WeightsFile(NamedTuple):
    """state: names to tensors, fp32. entries: the three numbers of OpenAI's archives, None in any other file.
    notes: what was unwrapped, for the log."""

    state: dict[str, torch.Tensor]
    entries: dict[str, int] | None
    notes: list[str]


def read_weights(path: str | os.PathLike[str]) -> WeightsFile:
    """Read a file of CLIP's weights. InputError, which says what it is, where it holds no state dict of a CLIP ViT."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: {_why_no_file(path)}")
    try:
        if what := what_it_is(path):
            raise InputError(what)
        try:
            archive = is_torchscript(path)
            content = read_archive(path) if archive else load_tensors(path)
        except InputError as error:
            raise InputError(f"cannot be read as a TorchScript archive or a state dict of tensors: {error}") from error
        state, notes = unwrapped(content)
        check_tensors(state, os.path.getsize(path))
        if what := what_the_names_are(state):
            raise InputError(what)
        entries = {name: int(state.pop(name)) for name in ARCHIVE_ENTRIES if _is_whole(state.get(name))}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return WeightsFile(_fp32(state), entries if archive and len(entries) == len(ARCHIVE_ENTRIES) else None, notes)


def read_state(path: str | os.PathLike[str], notes: list[str]) -> dict[str, torch.Tensor]:
    """Read a file of any network's weights: names to tensors, fp32. `notes` gets what was unwrapped.

    InputError, which says what the file is, where it holds none.
    """
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            content: Any = load_file(path)
        elif what := what_it_is(path):
            raise InputError(what)
        else:
            content = read_archive(path) if is_torchscript(path) else load_tensors(path)
        state, more = unwrapped(content)
        check_tensors(state, os.path.getsize(path))
    except Exception as error:  # safetensors' own, which is no kind of another
        raise InputError(f"{path}: cannot be read as weights: {first_line(error)}") from error
    notes += [f"{path}: {note}" for note in more]
    return _fp32({name: tensor for name, tensor in state.items() if name not in ARCHIVE_ENTRIES})


def _fp32(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _is_whole(value: torch.Tensor | None) -> bool:
    return value is not None and value.numel() == 1 and float(value).is_integer()


def check_tensors(state: Mapping[str, torch.Tensor], size: int) -> None:
    """InputError where a file of `size` bytes holds tensors that are no plain numbers of its own."""
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_complex() or tensor.is_quantized:
            raise InputError(f"{name[:MAX_NAME]!r} is no plain tensor of numbers ({tensor.dtype}, {tensor.device})")
    if (wanted := sum(tensor.numel() * tensor.element_size() for tensor in state.values())) > size:
        raise InputError(f"its tensors would take {wanted:,} bytes, more than the file has: they share their numbers")


def _why_no_file(path: Path) -> str:
    if path.is_dir():
        kind = "a Hugging Face folder" if (path / "config.json").is_file() else "a folder"
        return f"this is {kind}; a file of weights in OpenAI's layout is expected"
    names = [name for name, published in PUBLISHED.items() if published.file == path.name]
    if names:
        return (
            f"no CLIP weights here. Fetch them with `python -m preprocess.download clip {names[0]}` or put the file "
            "there by hand (README, 'Weights')"
        )
    return (
        "no CLIP weights here: no such file. --pretrained_clip_name takes the path of a weights file, ViT-tiny/8 "
        f"(from scratch), the name of one that OpenAI published ({', '.join(PUBLISHED)}), or other towers: "
        f"{', '.join(SOURCES.values())}, small (docs/TOWERS.md)"
    )


def what_it_is(path: str | os.PathLike[str]) -> str | None:
    """What a file is that holds no archive or state dict; None where it may hold one."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(1024)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not size:
        return "cannot be read: the file is empty"
    if text.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the file that it stands for: run `git lfs pull` where it comes from"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is an HTML or XML page (of an error or a login?), saved in place of the weights"
    if is_safetensors(path):
        return (
            "this is a safetensors file: of transformers, give its folder (hf:FOLDER), of open_clip open_clip:ARCH@FILE"
        )
    if text.startswith((b"{", b"[")):
        return "this is a JSON file, not weights"
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        return "cannot be read: a zip archive without its end, as a download that was cut short leaves it"
    return None


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as those do: with the length of a JSON header."""
    with open(path, "rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < os.path.getsize(path)


def is_torchscript(path: str | os.PathLike[str]) -> bool:
    """True where `path` is a zip archive with TorchScript's `constants.pkl`."""
    if not zipfile.is_zipfile(path):
        return False
    with _clear_errors(), zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


# --- files that torch.save wrote ---------------------------------------------------------------------------------


def load_tensors(path: str | os.PathLike[str], **options: Any) -> Any:
    """torch.load, on the CPU and of nothing but tensors and plain values; InputError says in our words why not."""
    if is_torchscript(path):
        refuse("it is a TorchScript archive")
    if zipfile.is_zipfile(path):
        with _clear_errors(), zipfile.ZipFile(path) as archive:
            check_zip(archive, os.path.getsize(path))
    try:
        return torch.load(path, map_location="cpu", weights_only=True, **options)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ... by what it met
        raise InputError(why_refused(error)) from error


def why_refused(error: Exception) -> str:
    """Why torch.load refused a file, without its advice to load the file in a way that runs code."""
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it holds {found[1]}, which is no tensor; such a file can run code, and is not read"
    if "weights only" in text.lower() or "weights_only" in text:
        return "it holds something else than tensors and plain values, or is damaged"
    return first_line(error)


def unwrapped(content: object) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Take off what other programs put around a CLIP's state dict: (names to tensors, what was taken off)."""
    notes: list[str] = []
    while isinstance(content, dict) and len(notes) < 4:
        if {"format", "arguments", "emotion_words"} <= content.keys():
            raise InputError("this is a checkpoint of this program: give it with --init_model")
        inner = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = content[inner[0]]
        notes.append(f"the weights are those under {inner[0]!r} in the file")
    if not isinstance(content, Mapping) or not content or not all(map(_is_named_tensor, content.items())):
        raise InputError(f"expected a state dict (names to tensors), found {_described(content)}")
    state = dict(content)
    while prefix := _prefix(state):
        others = [name for name in state if not name.startswith(prefix)]
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        left_out = f"; {len(others)} others, such as {others[0][:MAX_NAME]!r}, were left out" if others else ""
        notes.append(f"the weights are those whose names begin with {prefix!r}{left_out}")
    return state, notes


def _is_named_tensor(item: tuple[object, object]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], torch.Tensor)


def _described(content: object) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    wrong = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if not wrong:
        return "an empty one" if not content else "names that are no text"
    return f"a {type(content[wrong[0]]).__name__} under {str(wrong[0])[:MAX_NAME]!r}"


def _prefix(state: Mapping[str, torch.Tensor]) -> str | None:
    """`module.` where all names have it (DistributedDataParallel's), `clip.` where a CLIP is a part of the model."""
    if all(name.startswith("module.") for name in state):
        return "module."
    return "clip." if "clip.visual.proj" in state and "visual.proj" not in state else None


def what_the_names_are(state: Mapping[str, torch.Tensor]) -> str | None:
    """Which other network the names of a state dict belong to, where it is a known one."""

    def there(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in state)

    if there("visual.layer1.", "visual.attnpool."):
        return "this is a CLIP with a ResNet: give it with open_clip:ARCH@FILE, such as open_clip:RN50@FILE"
    if there("vision_model.", "text_model."):
        return "these are weights under Hugging Face's names (transformers' CLIPModel): give their folder, hf:FOLDER"
    if there("visual.trunk.", "text.transformer."):
        return "these are weights of an open_clip model whose towers are not CLIP's: give them with open_clip:ARCH@FILE"
    return None


# --- TorchScript archives ----------------------------------------------------------------------------------------


class Global(NamedTuple):
    """A name that the pickle asks for. It stays a name: nothing is imported."""

    name: str


class Module:
    """A stand-in for an object of one of the archive's own classes: its attributes by name."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}


class Storage(NamedTuple):
    """A row of numbers in the archive: their type, their file's name in data/, and how many there are."""

    dtype: torch.dtype
    key: str
    length: int


class Place(NamedTuple):
    """Where a tensor lies: in which storage, from which element on, with which sizes and strides."""

    storage: Storage
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """What zipfile, pickletools and an odd order of opcodes raise, as one InputError."""
    try:
        yield
    except InputError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
        raise InputError(f"it is no whole zip archive: {first_line(error)}") from error
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"it is damaged: {first_line(error)[:MAX_NAME]}") from error


def read_archive(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a TorchScript archive by their modules' names, as they are stored. Nothing of it is run."""
    with _clear_errors(), zipfile.ZipFile(path) as archive:
        size = os.path.getsize(path)
        entries = {info.filename: info for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(roots) != 1:
            refuse(f"the zip archive has {len(roots)} files <name>/data.pkl, not one")
        root = roots[0]
        check_zip(archive, size, but=f"{root}code/")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder").strip() != b"little":
            refuse("its numbers are not stored in little-endian order")
        if entries[f"{root}data.pkl"].file_size > MAX_PICKLE:
            refuse(f"its data.pkl has more than {MAX_PICKLE:,} bytes")
        places = dict(_named_places(_modules_of(archive.read(f"{root}data.pkl"))))
        return _tensors(archive, entries, f"{root}data/", places, size)


def refuse(why: str) -> NoReturn:
    raise InputError(why)


def check_zip(archive: zipfile.ZipFile, size: int, but: str = "/") -> None:
    """InputError where an archive of `size` bytes would unpack to more than that, or holds a name twice.

    but: the folder that is not read, and may be compressed.
    """
    infos = archive.infolist()
    if len({info.filename for info in infos}) != len(infos):
        refuse("the zip archive holds a name twice")
    if sum(info.file_size for info in infos if not info.filename.startswith(but)) > size:
        refuse(f"the zip archive of {size:,} bytes claims to hold more than that; weights are stored uncompressed")


def _named_places(root: object) -> Iterator[tuple[str, Place]]:
    """Walk the modules: yields (name, place) of each tensor. A loop among the modules ends at MAX_DEPTH."""
    if not isinstance(root, Module):
        refuse("its data.pkl holds no module")
    waiting, met = [("", root, 0)], 0
    while waiting:
        prefix, module, depth = waiting.pop()
        for attribute, value in module.attributes.items():
            met += 1
            name = prefix + attribute if isinstance(value, Place | Module) else ""
            if depth == MAX_DEPTH or met > MAX_ATTRIBUTES or len(name) > MAX_NAME:
                refuse("its modules go on and on")
            if isinstance(value, Place):
                yield name, value
            elif name:
                waiting.append((f"{name}.", value, depth + 1))


def _tensors(
    archive: zipfile.ZipFile,
    entries: Mapping[str, zipfile.ZipInfo],
    folder: str,
    places: Mapping[str, Place],
    size: int,
) -> dict[str, torch.Tensor]:
    """The tensors at `places`; `size`: of the whole file in bytes, which all of them together may not exceed."""
    wanted = sum(place.storage.dtype.itemsize * math.prod(place.sizes) for place in places.values())
    if wanted > size:
        refuse(f"its tensors would take {wanted:,} bytes, more than the file has")
    storages: dict[str, tuple[Storage, torch.Tensor]] = {}
    tensors = {}
    for name, (storage, offset, sizes, strides) in places.items():
        if storage.key not in storages:
            storages[storage.key] = storage, _storage(archive, entries.get(f"{folder}{storage.key}"), storage, name)
        known, values = storages[storage.key]
        last = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=True))
        if known != storage or (all(sizes) and last >= storage.length):
            refuse(f"{name!r} lies outside its storage")
        tensors[name] = values.as_strided(sizes, strides, offset) if all(sizes) else values.new_empty(sizes)
    return tensors


def _storage(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, storage: Storage, name: str) -> torch.Tensor:
    expected = storage.length * storage.dtype.itemsize
    if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size != expected:
        found = "no such file" if info is None else f"{info.file_size:,} bytes"
        refuse(
            f"{name}: {expected:,} uncompressed bytes are expected in data/{storage.key[:MAX_NAME]!r}, found {found}"
        )
    content = bytearray(archive.read(info))
    if len(content) != expected:
        refuse(f"{name!r}: its storage is cut short")
    return torch.frombuffer(content, dtype=storage.dtype) if content else torch.empty(0, dtype=storage.dtype)


def _modules_of(pickled: bytes) -> object:
    """What a TorchScript archive's data.pkl describes: a tree of Module, Place and plain values.

    Each opcode costs no more than its own bytes: objects are shared, never copied, and nothing is called.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    argument: Any

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(io.BytesIO(pickled)):
        match opcode.name:
            case "PROTO":
                pass
            case "MARK":
                marks.append(len(stack))
            case "GLOBAL":
                stack.append(_global(argument.replace(" ", ".")))
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack[-int(opcode.name[-1]) :] = [tuple(stack[-int(opcode.name[-1]) :])]
            case "APPEND":
                item = stack.pop()
                _as(list, stack[-1]).append(item)
            case "APPENDS":
                items = since_mark()
                _as(list, stack[-1]).extend(items)
            case "SETITEM":
                item = stack.pop()
                key = stack.pop()
                _set_items(stack[-1], [key, item])
            case "SETITEMS":
                items = since_mark()
                _set_items(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINPERSID":
                stack.append(_stored(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_made(_as(Global, stack.pop()), _as(tuple, arguments)))
            case "NEWOBJ":
                arguments = stack.pop()
                if arguments != () or not _is_own(cls := _as(Global, stack.pop())):
                    refuse(f"it makes an object of {cls.name[:MAX_NAME]!r}")
                stack.append(Module())
            case "BUILD":
                attributes = stack.pop()
                if not isinstance(attributes, dict) or not isinstance(stack[-1], Module):
                    refuse("it gives an object a state which only code could read (__setstate__)")
                stack[-1].attributes = attributes
            case "STOP":
                [result] = stack
                return result
            case other:
                refuse(f"its data.pkl has an opcode {other}, which TorchScript does not write for modules and tensors")
    raise ValueError("data.pkl has no end")


def _as(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"data.pkl has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _is_own(name: Global) -> bool:
    """Whether it is a class of the archive's own code/."""
    return name.name.startswith("__torch__.")


def _global(name: str) -> Global:
    known = name in STORAGES or name in LISTS or name in (TENSOR, PARAMETER, ORDERED_DICT)
    if not known and not _is_own(Global(name)):
        refuse(f"it asks for {name[:MAX_NAME]!r}, which is no tensor; such a file can run code, and is not read")
    return Global(name)


def _set_items(target: Any, items: list[Any]) -> None:
    for key, item in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, int):
            raise TypeError(f"data.pkl has a {type(key).__name__} as a name")
        _as(dict, target)[key] = item


def _stored(identity: Any) -> Storage:
    """Of ('storage', its kind, its key, the device it was on, its number of elements)."""
    word, kind, key, _, count = _as(tuple, identity)
    if word != "storage" or type(kind) is not Global or kind.name not in STORAGES:
        refuse(f"it asks for a storage that is none of {', '.join(STORAGES)}")
    if type(key) is not str or type(count) is not int or not 0 <= count < 2**48:
        raise ValueError("a storage without a name or a number of elements")
    return Storage(STORAGES[kind.name], key, count)


def _made(function: Global, arguments: tuple[Any, ...]) -> Any:
    """What the few functions give that an archive of tensors calls."""
    if function.name == TENSOR:
        storage, offset, sizes, strides = arguments[:4]
        numbers = (offset, *_as(tuple, sizes), *_as(tuple, strides))
        if type(storage) is not Storage or len(sizes) != len(strides) or len(sizes) > 8:
            raise ValueError("a tensor without a storage, or with odd sizes")
        if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
            raise ValueError("a tensor's sizes are no sizes")
        return Place(storage, offset, sizes, strides)
    if function.name == PARAMETER:
        return _as(Place, arguments[0])
    if function.name in LISTS:
        return arguments[0]
    if function.name == ORDERED_DICT and not arguments:
        return {}
    refuse(f"it calls {function.name[:MAX_NAME]!r}")
