"""A run's curves for TensorBoard (`--tensorboard`): the lines of losses.jsonl and metrics.jsonl as scalars."""

import importlib.util
import os
import shutil
from collections.abc import Mapping
from typing import Any

from util import InputError


def check_package() -> None:
    """InputError where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard: TensorBoard is not installed: pip install -r requirements-tensorboard.txt")


class TensorBoardCurves:
    """Event files in `folder`, begun anew: a resumed run adds its earlier lines first. Steps are a stage's own."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(folder)

    def add_losses(self, line: Mapping[str, Any]) -> None:
        """A line of losses.jsonl: the losses, α, the learning rates, the records per second."""
        values = {f"loss/{name}": value for name, value in line["losses"].items()}
        values |= {f"lr/{name}": value for name, value in line["lr"].items()}
        self._add(line, values | {"alpha": line["alpha"], "records per second": line["records_per_second"]})

    def add_evaluation(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl: every metric of every score on val, query to meme, and α's mean."""
        values = {
            f"val {score}/{name.replace('@', ' at ')}": value
            for score, directions in line["scores"].items()
            for name, value in directions["query_to_meme"]["metrics"].items()
        }
        self._add(line, values | {"val alpha": line["alpha"] and line["alpha"]["mean"]})

    def _add(self, line: Mapping[str, Any], values: Mapping[str, float | None]) -> None:
        for tag, value in values.items():
            if value is not None:
                self.writer.add_scalar(f"{line['stage']}/{tag}", value, line["step"])
        self.writer.flush()
