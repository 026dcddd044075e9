"""The parts of a step: their shares by a clock that the test sets, and the line of the log."""

import pytest
import torch

from engine import step_clock
from engine.step_clock import StepClock


def test_shares_are_those_of_the_steps_since_the_last_call(monkeypatch):
    times = iter([10, 11, 14, 15, 100, 100, 102, 103])  # what is between two steps, an evaluation, counts for none
    monkeypatch.setattr(step_clock.time, "perf_counter", lambda: float(next(times)))
    clock = StepClock(torch.device("cpu"))
    for _ in range(2):
        clock.start()
        for part in ("data", "forward and backward", "optimiser"):
            clock.end_of(part)
    assert clock.shares() == pytest.approx({"data": 1 / 8, "forward and backward": 5 / 8, "optimiser": 2 / 8})
    assert clock.shares() == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_a_gpus_own_clock_sees_its_work():
    device = torch.device("cuda")
    clock, matrix = StepClock(device), torch.randn(4096, 4096, device=device)
    for _ in range(2):  # the first time includes the library's start
        clock.start()
        clock.end_of("data")
        for _ in range(20):
            matrix @ matrix
        clock.end_of("work")
        shares = clock.shares()
    assert shares["work"] > 0.9
