"""A batch of this process -> its share of the global batch's loss.

Each process computes the rows of its own queries against all memes and the columns of its own memes against all
queries; the shares add up to the loss of one process that holds the whole batch, and so do their gradients.
"""

from collections.abc import Sequence

import torch
from torch import nn

from engine import distributed
from modules.ief_model import IEF, known_text
from modules.loss import channel_decorrelation, info_nce, topic_positives

SCORES = ("fused", "qi", "qc")  # the order of --loss_weights


class TrainingStep(nn.Module):
    """`forward(batch) -> (share of the loss, {name: share})`.

    `weights`: of the fused, QI and QC loss; what has weight 0 is not computed. `record_keys`: see
    `loss.topic_positives`; None for plain InfoNCE (`--positives instance`).
    """

    record_keys: torch.Tensor | None  # a buffer

    def __init__(
        self,
        model: IEF,
        weights: Sequence[float],
        record_keys: torch.Tensor | None = None,
        number_of_memes: int = 0,
        cdcr_lambda: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.weights = {name: weight for name, weight in zip(SCORES, weights, strict=True) if weight}
        self.number_of_memes = number_of_memes
        self.reads_images = bool({"fused", "qi"} & self.weights.keys())
        self.cdcr_lambda = cdcr_lambda if self.reads_images else 0.0
        self.register_buffer("record_keys", record_keys, persistent=False)

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        names = tuple(self.weights)
        batch = batch | self.model.encode_texts(batch)
        queries = self.model.encode_queries(batch["query_ids"], batch["query_mask"], known_text(batch, "query"))
        memes = self.model.encode_memes(batch, image=self.reads_images, caption=bool({"fused", "qc"} & set(names)))
        drawn = {name: memes.pop(name) for name in list(memes) if name.startswith("drawn_")}
        drawn = {name.removeprefix("drawn_"): tensor for name, tensor in drawn.items()}
        own = {"topic": batch["topic"], "meme": batch["meme"], "row": self._own_rows(len(batch["topic"]))}
        own["row"] = own["row"].to(batch["topic"].device)
        all_queries, all_memes, everyone = map(distributed.gather, (queries, memes, own))

        rows = self.model.similarities(queries, all_memes, names)
        row_positives = self._positives(own, everyone)
        if distributed.world_size() == 1:
            columns, column_positives = {name: scores.T for name, scores in rows.items()}, row_positives.T
        else:
            columns = self.model.similarities(all_queries, memes, names)
            columns = {name: scores.T for name, scores in columns.items()}
            column_positives = self._positives(everyone, own).T

        batch_size = len(everyone["topic"])
        scale = self.model.backbone.logit_scale.exp()
        losses = {}
        for name in names:
            row_losses = info_nce(scale * rows[name], row_positives)
            if name == "qi" and drawn:
                losses[name] = self._augmented(
                    scale, row_losses, columns[name], column_positives, drawn, memes, all_memes, own, everyone
                )
            else:
                column_losses = info_nce(scale * columns[name], column_positives)
                losses[name] = (row_losses.sum() + column_losses.sum()) / (2 * batch_size)
        total = sum(self.weights[name] * loss for name, loss in losses.items())
        assert isinstance(total, torch.Tensor)  # one of the weights is above 0
        if names == ("qi",):
            # words alone may be compared: processes wait for the gradient (0) of what pools a sentence
            total = total + 0 * queries["sentence"].sum()
        if self.cdcr_lambda:
            share = channel_decorrelation(all_queries["sentence"], all_memes["pooled"]) / distributed.world_size()
            losses["cdcr"] = share
            total = total + self.cdcr_lambda * share
        return total, {name: loss.detach() for name, loss in losses.items()}

    @staticmethod
    def _own_rows(size: int) -> torch.Tensor:
        return torch.arange(size) + distributed.rank() * size

    def _positives(self, queries: dict[str, torch.Tensor], memes: dict[str, torch.Tensor]) -> torch.Tensor:
        """Which memes answer which queries, of two dicts with `topic`, `meme` and `row` of the global batch."""
        if self.record_keys is None:
            return queries["row"][:, None] == memes["row"][None, :]
        return topic_positives(queries["topic"], memes["meme"], self.record_keys, self.number_of_memes)

    def _augmented(
        self,
        scale: torch.Tensor,
        row_losses: torch.Tensor,
        columns: torch.Tensor,
        positives: torch.Tensor,
        drawn: dict[str, torch.Tensor],
        memes: dict[str, torch.Tensor],
        all_memes: dict[str, torch.Tensor],
        own: dict[str, torch.Tensor],
        everyone: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """The QI loss with one drawn caption per meme as a further query; its positive is its own meme."""
        identity = "row" if self.record_keys is None else "meme"
        present = drawn.pop("present")
        all_drawn, all_present = (
            distributed.gather(drawn),
            distributed.gather({"present": present})["present"],
        )
        drawn_rows = self.model.similarities(drawn, all_memes, ("qi",))["qi"]
        drawn_positives = own[identity][:, None] == everyone[identity][None, :]
        drawn_losses = info_nce(scale * drawn_rows, drawn_positives) * present
        drawn_columns = scale * self.model.similarities(all_drawn, memes, ("qi",))["qi"].T
        drawn_columns = drawn_columns.masked_fill(~all_present[None, :], -torch.inf)
        column_losses = info_nce(
            torch.cat([scale * columns, drawn_columns], dim=1),
            torch.cat([positives, drawn_positives & all_present[None, :]], dim=1),
        )
        batch_size = len(everyone["topic"])
        rows = batch_size + all_present.sum()
        return ((row_losses.sum() + drawn_losses.sum()) / rows + column_losses.sum() / batch_size) / 2
