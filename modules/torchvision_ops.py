"""`import torchvision` where its compiled library does not load.

torchvision wheels of most package indexes are built for CUDA. Beside a CPU build of torch their library cannot be
opened, and the import stops with "operator torchvision::nms does not exist", though nothing that IEF or transformers
use needs the library. Declaring the two operators that the import looks up is enough. Where the library loads, on
GPU machines above all, nothing is declared.
"""

import functools
import importlib
import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from util import InputError

DECLARATIONS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_torchvision() -> ModuleType:
    """The torchvision module. Raises ImportError if it is not installed."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:  # None: a folder of that name, without any code
        raise ImportError("torchvision is not installed")
    if not library_loads(Path(spec.origin).parent):
        declare_operators()
    return importlib.import_module("torchvision")


def import_beside_torchvision(name: str, missing: str) -> Any:
    """A module that imports torchvision, and would fail where its library does not load.

    Raises InputError, which says `missing`, if it or torchvision is not installed.
    """
    try:
        import_torchvision()
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(missing) from error


def library_loads(folder: Path) -> bool:
    """Whether torchvision's operators are there, or come with its library, which this opens as torchvision would."""
    if operators_exist():
        return True
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        library = folder / f"_C{suffix}"
        if library.is_file():
            try:
                torch.ops.load_library(str(library))
            except OSError:
                return False
            return operators_exist()
    return False


def operators_exist() -> bool:
    return hasattr(torch.ops.torchvision, "nms")


@functools.cache
def declare_operators() -> torch.library.Library:
    """Declare the operators without an implementation; calling one is an error. The result keeps them alive."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for declaration in DECLARATIONS:
        library.define(declaration)
    return library
