"""Which part of the training steps takes the time."""

import time

import torch


class StepClock:
    """Adds up what the parts of steps take, by the GPU's own clock where there is one: nothing waits for it.

    `start` begins a step, `end_of` ends a part of it, which began where the one before ended.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.marks: list[tuple[str, float | torch.cuda.Event]] = []  # (what ended there, when)

    def start(self) -> None:
        self.end_of("")

    def end_of(self, part: str) -> None:
        now: float | torch.cuda.Event = time.perf_counter()
        if self.on_gpu:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self.marks.append((part, now))

    def shares(self) -> dict[str, float]:
        """The share of each part in the time of all steps since the last call."""
        seconds: dict[str, float] = {}
        if self.on_gpu:
            torch.cuda.synchronize()
        for (_, began), (part, ended) in zip(self.marks, self.marks[1:], strict=False):
            if part:
                seconds[part] = seconds.get(part, 0.0) + _between(began, ended)
        self.marks.clear()
        whole = max(sum(seconds.values()), 1e-9)
        return {part: taken / whole for part, taken in seconds.items()}


def _between(began: float | torch.cuda.Event, ended: float | torch.cuda.Event) -> float:
    if isinstance(began, float) or isinstance(ended, float):
        assert isinstance(began, float) and isinstance(ended, float)
        return ended - began
    return began.elapsed_time(ended)  # milliseconds: only shares are told
