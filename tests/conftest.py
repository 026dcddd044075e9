"""What many tests share: where the project is, OpenAI's tokenizer, and one thread for each process that they start.

Small tensors gain nothing from a second thread, and tests that start processes of their own would fight for the cores.
"""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the processes that tests start

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
LONGEST = (
    *("test_train_loop", "test_distributed", "test_resume", "test_reproduce", "test_each_part_learns"),
    *("test_open_clip_towers", "test_pair_towers", "test_hf_towers", "test_gpu", "test_walk_through"),
)


def pytest_collection_modifyitems(items):
    """The files that take longest come first: else one process may end long after the others."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def names_with_spaces(record):
    """The names in a JSON value, at any depth, in which there is white space."""
    if isinstance(record, dict):
        here = {name for name in record if len(name.split()) != 1}
        return here.union(*map(names_with_spaces, record.values()))
    return set().union(*map(names_with_spaces, record)) if isinstance(record, list) else set()


@pytest.fixture(scope="module")
def browser():
    from tests.browser import launched

    with launched() as browser:
        yield browser


@pytest.fixture(scope="session")
def published_tokenizer():
    """OpenAI's SimpleTokenizer, loaded alone: the package around it imports torchvision."""
    file = importlib.metadata.distribution("clip-anytorch").locate_file("clip/simple_tokenizer.py")
    spec = importlib.util.spec_from_file_location("published_tokenizer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


@pytest.fixture
def no_saved_progress(monkeypatch):
    """No checkpoint_last.pt, which is written twice an epoch: of many short epochs that is most of the time."""
    from engine.train_loop import Trainer

    monkeypatch.setattr(Trainer, "_save_progress", lambda *_: None)
