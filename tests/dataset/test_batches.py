"""Which batches a process gets: the same order for any number of processes, and nothing lost or repeated."""

from __future__ import annotations

import random

import pytest

from dataset.batches import EpochBatches, batch_cost, plan_batches, share_out


def test_batches_hold_rows_of_like_length_and_every_row_once():
    lengths = [7, 100, 8, 101, 7, 300, 9]
    batches = plan_batches(lengths, size=2, budget=None, seed=0)
    assert sorted(i for batch in batches for i in batch) == list(range(7)) and all(len(b) <= 2 for b in batches)
    assert sorted(lengths[i] for i in batches[0]) == [7, 7] and {1, 3} in map(set, batches)
    packed = plan_batches(lengths, size=2, budget=210, seed=0)
    assert all(len(b) * max(lengths[i] for i in b) <= 210 for b in packed if len(b) > 1)
    assert sorted(map(len, packed)) == [1, 2, 4]  # 300 alone, 100 and 101, the four short ones
    assert plan_batches([5] * 20, size=5, budget=None, seed=0) != plan_batches([5] * 20, size=5, budget=None, seed=1)


def test_packed_rows_hold_every_sample_once_and_are_full():
    rng = random.Random(0)
    lengths = [rng.randint(100, 1500) for _ in range(5000)] + [20_000]
    batches = plan_batches(lengths, size=4, budget=16_384, seed=0, packed=True)
    assert sorted(i for batch in batches for i in batch) == list(range(5001))
    costs = [batch_cost(lengths, batch, packed=True) for batch in batches]
    assert sorted(costs)[-1] == 20_000 and [5000] in batches  # longer than the budget: alone
    rest = sorted(cost for cost in costs if cost <= 16_384)
    assert len(rest) == len(batches) - 1 and sum(rest) / len(rest) / 16_384 > 0.99
    assert batches != plan_batches(lengths, size=4, budget=16_384, seed=1, packed=True)


def test_processes_get_packed_rows_of_nearly_equal_cost():
    rng = random.Random(0)
    lengths = [rng.randint(100, 1500) for _ in range(4000)]
    batches = plan_batches(lengths, size=4, budget=16_384, seed=0, packed=True)
    loads = []
    for rank in range(4):
        mine = EpochBatches(batches, lengths, 0, processes=4, rank=rank, accumulation=2, packed=True)
        taken = list(mine)[:40]
        loads.append(sum(lengths[i] for batch in taken for i in batch))
    assert min(loads) / max(loads) > 0.97  # 0.9996 without the one row that is not full


def test_every_epoch_sees_every_batch_once_in_its_own_order():
    planned = [[2 * i, 2 * i + 1] for i in range(25)]
    batches = EpochBatches(planned, [1] * 50, seed=0)
    first = list(batches)
    batches.set_epoch(3)
    fourth = list(batches)
    assert sorted(first) == planned and sorted(fourth) == [[150 + i for i in batch] for batch in planned]
    assert [[i - 150 for i in batch] for batch in fourth] != first
    again = EpochBatches(planned, [1] * 50, seed=0)
    again.set_epoch(3)
    assert list(again) == fourth and list(EpochBatches(planned, [1] * 50, seed=None)) == planned


BATCHES = [[0, 1], [2], [3], [4, 5], [6], [7], [8]]


LENGTHS = [5, 6, 7, 8, 9, 10, 11, 12, 13]


def taken_by_all(processes: int, accumulation: int, epoch: int, taken: int, steps: int | None) -> tuple[list, tuple]:
    """Samples that count in the following steps of an epoch, in any order, and the position after them."""
    samples, positions = [], set()
    for rank in range(processes):
        sampler = EpochBatches(BATCHES, LENGTHS, 3, processes, rank, accumulation)
        skipped = sampler.resume(epoch, taken)
        assert skipped % accumulation == 0 and len(sampler.turns) == len(sampler)
        end = len(sampler) if steps is None else min(len(sampler), skipped + steps * accumulation)
        rows = iter(sampler)
        turn = skipped
        while turn < end:
            size = min(accumulation, len(sampler) - turn)
            for real in sampler.take(size):
                row = next(rows)
                samples += [key - epoch * len(LENGTHS) for key in row] if real else []
            turn += size
        positions.add(sampler.position)
    assert len(positions) == 1  # all agree
    return samples, positions.pop()


@pytest.mark.parametrize("first", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("second", [(1, 1), (1, 3), (2, 1), (3, 1), (3, 2), (4, 2)])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_another_number_of_processes_continues_the_epoch_without_loss_or_repetition(first, second, steps):
    before, (epoch, taken) = taken_by_all(*first, 2, 0, steps)
    if epoch == 3:
        assert sorted(before) == list(range(9)) and taken == 0
        return
    after, position = taken_by_all(*second, 2, taken, None)
    assert sorted(before + after) == list(range(9)) and position == (3, 0)


def test_no_step_is_without_a_real_batch():
    for taken in range(len(BATCHES)):
        for processes, accumulation in ((1, 3), (2, 2), (3, 2), (2, 4)):
            counts: dict[int, int] = {}
            for rank in range(processes):
                sampler = EpochBatches(BATCHES, LENGTHS, 0, processes, rank, accumulation)
                sampler.resume(0, taken)
                for turn in range(sampler.turn, len(sampler)):
                    step = turn // accumulation
                    counts[step] = counts.get(step, 0) + (sampler.turns[turn] is not None)
            assert counts and min(counts.values()) > 0


def test_order_does_not_depend_on_the_number_of_processes_but_on_the_epoch():
    steps = {}
    for processes, accumulation in ((1, 2), (2, 1)):
        epochs = []
        for epoch in (0, 1):
            samplers = [EpochBatches(BATCHES, LENGTHS, 0, processes, r, accumulation) for r in range(processes)]
            for sampler in samplers:
                sampler.set_epoch(epoch)
            width = len(samplers[0].turns) // accumulation
            groups = [
                {n for s in samplers for n in s.turns[i * accumulation : (i + 1) * accumulation] if n is not None}
                for i in range(width)
            ]
            epochs.append(groups)
        steps[processes] = epochs
        assert epochs[0] != epochs[1]
    for one, two in zip(steps[1], steps[2], strict=True):
        assert one == two[: len(one)]


def test_costs_of_a_step_are_shared_evenly():
    costs = [100, 10, 90, 20, 80, 30, 70, 40]
    shares = share_out(costs, 2, 4)
    assert sorted(number for share in shares for number in share) == list(range(8))
    loads = [sum(costs[number] for number in share) for share in shares]
    assert max(loads) - min(loads) <= 20 and [len(share) for share in shares] == [4, 4]
    assert share_out([5, 5, 5], 2, 2) == [[0, 2], [1]]
