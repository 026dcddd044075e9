"""`--memory_batch n`: the step of a large batch in the memory of a small one (Gao et al. 2021, GradCache).

The towers are asked for a few items at a time and keep no activations. Everything behind them, the exchange between
processes and the losses included, then runs once on the whole batch and leaves its gradient at the towers' features.
With that the towers are asked again, piece by piece, this time for the gradients of their parameters. They draw nothing
at random, so that both times give the same features.
"""

from collections.abc import Mapping

import numpy as np
import torch

from engine.training_step import TrainingStep
from modules.tower_pieces import Piece, image_pieces, lengths_of, put_together, sizes_of, text_pieces


class TowersInPieces:
    """Asks the towers for what a step reads of a batch, at most `size` texts or memes at a time.

    features: what to join to the batch before the step, on the device. Call `backward` after the step's own.
    """

    def __init__(self, step: TrainingStep, batch: Mapping[str, torch.Tensor], size: int) -> None:
        model = step.model
        texts = model.texts_to_ask(batch)
        pieces: dict[str, list[Piece]] = {"text": [], "image": []}
        if texts:
            lengths = lengths_of(texts)
            groups = np.split(np.argsort(-lengths, kind="stable"), range(size, len(lengths), size))
            pieces["text"] = list(text_pieces(model.text_features, texts, lengths, groups))
        if step.reads_images and "pixels" in batch:
            pieces["image"] = list(image_pieces(model.frame_features, batch, size))
        self.features: dict[str, torch.Tensor] = {}
        self.trained: list[Piece] = []
        for tower, of_tower in pieces.items():
            with torch.no_grad():
                found = put_together(of_tower, sizes_of(texts, batch))
            if model.trains(tower):
                self.trained += of_tower
                for tensor in found.values():
                    tensor.requires_grad_()
            self.features |= found

    def backward(self) -> None:
        """Add to the parameters' gradients what follows from the gradient that the features have got."""
        for piece in self.trained:
            outputs, gradients = [], []
            for name, (rows, features) in piece().items():
                gradient = self.features[name].grad
                if gradient is not None and features.requires_grad:
                    outputs.append(features)
                    gradients.append(gradient[rows, : features.shape[1]])
            torch.autograd.backward(outputs, gradients)
