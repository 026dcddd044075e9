"""--compile: the towers compute the same, texts of another length need no other code, and a failure changes nothing."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from engine.compiled import compile_towers
from engine.training_step import TrainingStep
from tests.model_parts import batch_of, random_records, randomised, small_model

CPU = torch.device("cpu")


def gradients(model, args, batch):
    model.zero_grad()
    loss, _ = TrainingStep(model, args.loss_weights)(batch)
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.fixture
def model():
    model, args = small_model()
    yield randomised(model).double(), args
    torch._dynamo.reset()


def test_the_step_is_the_same_and_lengths_need_no_code_of_their_own(model):
    """The backend traces as a compiler would, and runs what it traced as it is."""
    model, args = model
    batch = batch_of(random_records())
    names, expected = list(model.state_dict()), gradients(model, args, batch)
    backend = CompileCounterWithBackend("eager")
    line = compile_towers(model, CPU, backend)
    assert "the towers' 4 blocks were compiled in " in line
    compiled = backend.frame_count
    assert compiled == 2  # the blocks of a tower are the same code
    found = gradients(model, args, batch)
    assert backend.frame_count == compiled and list(model.state_dict()) == names
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9)
    for words in range(4, 15):
        ids = torch.ones(words, words, dtype=torch.long)
        model.text_features(ids, ids > 0)
    assert backend.frame_count == compiled


def test_where_it_fails_a_line_says_so_and_the_towers_run_as_they_are(model):
    model, args = model
    batch = batch_of(random_records())
    expected = gradients(model, args, batch)

    def no_compiler(*_):
        raise RuntimeError("no working C++ compiler found\nand so on")

    line = compile_towers(model, CPU, no_compiler)
    assert line.startswith("--compile: torch cannot compile the towers here (") and "\n" not in line
    assert "no working C++ compiler found" in line and line.endswith("they run as they are")
    found = gradients(model, args, batch)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
