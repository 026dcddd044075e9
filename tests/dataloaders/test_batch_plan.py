"""Which records make a batch depends on the seed and the step alone."""

import re

import pytest

from dataloaders.batch_plan import BatchPlan
from util import InputError


def global_batches(plan, processes, first, last):
    """[step][piece] -> the (epoch, record) pairs of all processes, one process after the other."""
    of_rank = [list(plan.shares(rank, first, last)) for rank in range(processes)]
    pieces = [[pair for share in shares for pair in share] for shares in zip(*of_rank, strict=True)]
    steps = range(0, len(pieces), plan.accumulation)
    return [pieces[start : start + plan.accumulation] for start in steps]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_global_batches_are_those_of_one_process(processes, accumulation):
    alone = global_batches(BatchPlan(100, 24, seed=3), 1, 0, 9)
    shared = global_batches(BatchPlan(100, 24, accumulation, processes, seed=3), processes, 0, 9)
    assert [[pair for piece in step for pair in piece] for step in shared] == [step[0] for step in alone]
    assert {len(piece) for step in shared for piece in step} == {24 // accumulation}


def test_pieces_are_the_same_for_any_number_of_processes():
    """The loss sees a piece: which records share one must not depend on the processes."""
    assert global_batches(BatchPlan(100, 24, 3, 1), 1, 0, 9) == global_batches(BatchPlan(100, 24, 3, 4), 4, 0, 9)


def test_an_epoch_holds_no_record_twice_and_leaves_out_less_than_a_batch():
    plan = BatchPlan(50, 8, seed=1)
    assert plan.steps_per_epoch == 6
    for epoch in range(3):
        first = epoch * plan.steps_per_epoch
        pairs = [pair for share in plan.shares(0, first, first + plan.steps_per_epoch) for pair in share]
        assert {e for e, _ in pairs} == {epoch}
        assert len({record for _, record in pairs}) == 48 and {record for _, record in pairs} <= set(range(50))


def test_epochs_and_seeds_draw_different_orders_and_the_same_one_again():
    orders = [tuple(BatchPlan(50, 8, seed=seed).permutation(epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert tuple(BatchPlan(50, 8, seed=2).permutation(1)) == orders[7]
    assert sorted(orders[0]) == list(range(50))


@pytest.mark.parametrize("step", [0, 1, 5, 6, 7, 12, 17])
def test_a_run_can_begin_at_any_step(step):
    plan = BatchPlan(50, 8, accumulation=2, processes=2, seed=5)
    for rank in range(2):
        assert list(plan.shares(rank, step, 18)) == list(plan.shares(rank, 0, 18))[2 * step :]


def test_the_last_batch_may_be_all_records():
    assert BatchPlan(8, 8).steps_per_epoch == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 16, 1, 3), "--batch_size 16 .* 3 process(es) x 1 accumulation step(s) = 3"),
        ((100, 16, 3, 2), "--batch_size 16 .* 2 process(es) x 3 accumulation step(s) = 6"),
        ((15, 16), "--batch_size 16 is more than the 15 records of the train split"),
    ],
)
def test_a_batch_size_that_cannot_be_is_refused(arguments, message):
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(InputError, match=pattern):
        BatchPlan(*arguments)
