"""Which records make which batch: a function of the seed and the step alone, whatever the number of processes."""

import argparse
from collections.abc import Iterator

import torch

from dataloaders.meme_records import Split
from util import InputError


class BatchPlan:
    """The records of every optimisation step of a run.

    Each epoch is a fresh permutation of all records; its last incomplete batch is left out. The global batch is
    cut into `accumulation` pieces, and each piece into one share per process.
    """

    def __init__(self, records: int, batch_size: int, accumulation: int = 1, processes: int = 1, seed: int = 0) -> None:
        if batch_size % (accumulation * processes):
            raise InputError(
                f"--batch_size {batch_size} is global and must divide evenly by {processes} process(es) x "
                f"{accumulation} accumulation step(s) = {processes * accumulation}"
            )
        if records < batch_size:
            raise InputError(f"--batch_size {batch_size} is more than the {records} records of the train split")
        self.records = records
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.share = batch_size // (accumulation * processes)
        self.seed = seed
        self.steps_per_epoch = records // batch_size

    @classmethod
    def of(cls, args: argparse.Namespace, split: Split, processes: int) -> "BatchPlan":
        """The plan that the flags describe for a train split."""
        plan = cls(len(split), args.batch_size, args.gradient_accumulation_steps, processes, args.seed)
        if args.memory_batch and args.memory_batch >= plan.share:
            raise InputError(
                f"--memory_batch {args.memory_batch} saves no memory: a process has {plan.share} records at a time "
                "(--batch_size by processes and --gradient_accumulation_steps)"
            )
        return plan

    def permutation(self, epoch: int) -> list[int]:
        """The order of the records in an epoch, as indices."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.records, generator=generator).tolist()

    def shares(self, rank: int, first_step: int, last_step: int) -> Iterator[list[tuple[int, int]]]:
        """This process's shares of the steps in [first_step, last_step), as lists of (epoch, record).

        Per step there are `accumulation` of them.
        """
        epoch = -1  # before the first
        order: list[int] = []
        for step in range(first_step, last_step):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self.permutation(epoch)
            start = step % self.steps_per_epoch * self.batch_size
            for piece in range(self.accumulation):
                first = start + piece * (self.batch_size // self.accumulation) + rank * self.share
                yield [(epoch, record) for record in order[first : first + self.share]]
