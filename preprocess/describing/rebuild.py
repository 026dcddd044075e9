"""The command that makes a community's folder again, by the arguments that the program which made it left there."""

import shlex
from typing import NamedTuple

from util import InputError, read_json

PROGRAMS = {  # manifest in the folder: (program, the inputs that it needs and does not note by name)
    "build.json": ("preprocess.build_community", ()),
    "imgflip.json": ("preprocess.imgflip", ("source",)),
    "memecap.json": ("preprocess.memecap", ("source", "images")),
    "demo.json": ("preprocess.make_demo", ()),
}
INPUTS = ("source", "records", "annotations", "from_json", "images", "emotion_table", "ocr")  # lie elsewhere for others
CLONES = {"preprocess.imgflip": "schesa/ImgFlip575K_Dataset", "preprocess.memecap": "eujhwang/meme-cap"}
VERSIONS = ("version", "OpenCV", "data")  # noted with the arguments; what they must be, no flags
OWN_MACHINE = ("out", "overwrite", "images_as", "workers")  # change nothing in the files


class Rebuild(NamedTuple):
    """command: lines for a shell, in which words in capitals stand for paths; inputs: these words.

    versions: {what: value} that decides on the pictures' bytes as well.
    """

    command: str
    inputs: tuple
    versions: dict


def rebuild_of(folder):
    """The Rebuild of a folder that one of the PROGRAMS made, None of another one. InputError for a broken manifest."""
    for name, (program, inputs) in PROGRAMS.items():
        if (folder / name).is_file():
            arguments = read_json(folder / name).get("arguments")
            if not isinstance(arguments, dict):
                raise InputError(f"{folder / name}: found no 'arguments', expected what {program} writes")
            return _rebuild(program, dict.fromkeys(inputs, True) | arguments)
    return None


def _rebuild(program, arguments):
    words, inputs = ["python", "-m", program], []
    for name, value in arguments.items():
        if name in (*VERSIONS, *OWN_MACHINE) or value is None or value is False:
            continue
        words.append(f"--{name}")
        if name in INPUTS:
            inputs.append(name.upper())
            words.append(inputs[-1])
        elif value is not True:
            words += map(str, value) if isinstance(value, list) else [str(value)]
    versions = {name: arguments[name] for name in VERSIONS if name in arguments}
    clone = f"git clone https://github.com/{CLONES[program]} SOURCE\n" if program in CLONES else ""
    return Rebuild(clone + shlex.join([*words, "--out", "FOLDER"]), (*inputs, "FOLDER"), versions)
