"""`import torchvision` beside a torch that it was not built for."""

import importlib.util
import subprocess
import sys

import pytest

from tests.conftest import ROOT

NO_TORCHVISION = importlib.util.find_spec("torchvision") is None


@pytest.mark.skipif(NO_TORCHVISION, reason="torchvision is not installed")
def test_torchvision_operators_are_left_alone_where_they_exist():
    """In a process of its own: operators cannot be taken back. Declaring one twice would be an error."""
    code = """
import importlib.util, pathlib, torch
from modules import torchvision_ops
if not torchvision_ops.library_loads(pathlib.Path(importlib.util.find_spec("torchvision").origin).parent):
    theirs = torch.library.Library("torchvision", "DEF")  # as its library would, were it one for this torch
    for declaration in torchvision_ops.DECLARATIONS:
        theirs.define(declaration)
assert torchvision_ops.import_torchvision().transforms
assert torchvision_ops.declare_operators.cache_info().currsize == 0
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
