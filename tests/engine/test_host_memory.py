"""What a process asks of the kernel, counted in page faults."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

CODE = """
import resource, torch
from engine.host_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**23)  # 32 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh, kept = faults(), keep_freed_memory()
faults()
print(kept, fresh, faults())
"""


def test_memory_of_freed_tensors_is_used_again():
    pytest.importorskip("resource", reason="page faults are counted on Unix")
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    kept, fresh, again = done.stdout.split()
    if kept == "False":
        pytest.skip("this C library has no mallopt")
    assert int(again) < int(fresh) / 10
