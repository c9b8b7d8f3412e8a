"""Which batches a process gets, and when: the same order for any number of processes.

The batches of an epoch are planned once (:func:`plan_batches`) and come in an order that is a pure
function of (seed, epoch). Every optimiser step takes the next ``processes x accumulation`` of them. So a position in
the epoch is one number, the batches taken so far, which means the same to a run of one process and to one of eight.
"""

from __future__ import annotations

import hashlib
import json
import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch.utils.data import Sampler


def plan_batches(
    lengths: Sequence[int], *, size: int, budget: int | None, seed: int, packed: bool = False
) -> list[list[int]]:
    """Batches of rows of similar length, for little padding: ``size`` rows each, or as many as fit ``budget`` tokens.

    The tokens of a batch are its longest row times its number of rows, padding included. A row longer than the budget
    is a batch alone. Rows of equal length are shuffled by the seed.

    ``packed``: a batch is one row without padding, so rows of any lengths whose sum fits ``budget`` go together.
    """
    rng = random.Random(seed)
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], rng.random()))
    if packed and budget is not None:
        return fill_rows(lengths, order[::-1], budget)
    batches: list[list[int]] = [[]]
    for index in order:  # ascending: this row is the longest of its batch
        rows = len(batches[-1]) + 1
        full = rows > size if budget is None else rows * lengths[index] > budget
        if batches[-1] and full:
            batches.append([])
        batches[-1].append(index)
    return batches if order else []


def fill_rows(lengths: Sequence[int], order: Sequence[int], budget: int) -> list[list[int]]:
    """Best fit: each index of ``order``, longest first, goes into the fullest row that still holds it.

    With 500,000 trees of 100 to 1,500 tokens and a budget of 16,384, rows are 99.9 % full, after 2 seconds.
    """
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # free tokens -> rows that have so many
    free: list[int] = []  # the keys of open_rows, ascending
    for index in order:
        at = bisect_left(free, lengths[index])
        if at == len(free):
            row, left = len(rows), max(0, budget - lengths[index])
            rows.append([])
        else:
            row, left = open_rows[free[at]].pop(), free[at] - lengths[index]
            if not open_rows[free[at]]:
                del open_rows[free.pop(at)]
        rows[row].append(index)
        if left not in open_rows:
            open_rows[left] = []
            insort(free, left)
        open_rows[left].append(row)
    return rows


def batch_cost(lengths: Sequence[int], batch: Sequence[int], packed: bool) -> int:
    """Tokens of a batch, padding included."""
    return sum(lengths[i] for i in batch) if packed else len(batch) * max(lengths[i] for i in batch)


class EpochBatches(Sampler[list[int]]):
    """The batches of one process, each a list of ``epoch * length + index``.

    If the number of batches is no multiple of the processes, some processes get the smallest batch a second time, which
    must count for nothing: :meth:`take` says which batches are real.

    Args:
        batches: indices of samples; the samples of a batch have similar lengths, or are ``packed`` into one row.
        lengths: of all samples, in tokens.
        seed: of the order; None keeps the order of ``batches``.
        processes, rank: how many processes share the batches, and which of them this is.
        accumulation: batches that each process takes for one optimiser step.
    """

    def __init__(
        self,
        batches: list[list[int]],
        lengths: Sequence[int],
        seed: int | None,
        processes: int = 1,
        rank: int = 0,
        accumulation: int = 1,
        packed: bool = False,
    ) -> None:
        self.batches, self.length, self.seed = batches, len(lengths), seed
        self.processes, self.rank, self.accumulation = processes, rank, accumulation
        self.costs = [batch_cost(lengths, batch, packed) for batch in batches]
        self.resumed = (0, 0)  # an epoch, and how many of its batches an earlier run has taken
        self.set_epoch(0)

    def __len__(self) -> int:
        return -(-len(self.batches) // self.processes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the batches and their order. If it differs, the same position means other samples."""
        return hashlib.sha256(json.dumps([self.seed, self.batches]).encode()).hexdigest()

    def resume(self, epoch: int, taken: int) -> int:
        """Continue after the first ``taken`` batches of an epoch.

        If ``taken`` is no multiple of ``processes x accumulation`` (the earlier run had another number of processes),
        the next step is a smaller one.

        Returns:
            How many of this process's turns are over: a multiple of the accumulation.
        """
        self.resumed = (epoch, taken)
        self.set_epoch(epoch)
        return self._skipped

    def set_epoch(self, epoch: int) -> None:
        """Plan an epoch: a batch or None for each of this process's turns, and the batches taken after each step."""
        self.epoch, taken = epoch, self.resumed[1] if epoch == self.resumed[0] else 0
        order = list(range(len(self.batches)))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + 1_000_003 * epoch)
            order = torch.randperm(len(order), generator=generator).tolist()
        left = -(-(len(order) - taken) // self.processes)
        self._skipped = self.turn = (len(self) - left) // self.accumulation * self.accumulation
        self.turns: list[int | None] = [None] * self._skipped
        self.taken_after = {self._skipped: taken}  # turns -> batches that all processes have taken
        missing = len(self) - self._skipped - left  # turns of the first step that have no batch
        while len(self.turns) < len(self):
            turns = min(self.accumulation, len(self) - len(self.turns))
            step = order[taken : taken + (turns - missing) * self.processes]
            shares = share_out([self.costs[number] for number in step], self.processes, turns)
            mine = [step[number] for number in shares[self.rank]]
            self.turns += mine + [None] * (turns - len(mine))
            taken, missing = taken + len(step), 0
            self.taken_after[len(self.turns)] = taken

    def take(self, turns: int) -> list[bool]:
        """Record that so many batches were fetched; returns for each whether it is real."""
        real = [number is not None for number in self.turns[self.turn : self.turn + turns]]
        self.turn += turns
        return real

    @property
    def position(self) -> tuple[int, int]:
        """The epoch, and how many of its batches all processes have taken, after the latest step."""
        taken = self.taken_after[self.turn]
        return (self.epoch + 1, 0) if taken == len(self.batches) else (self.epoch, taken)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch's turns after those that were skipped."""
        smallest = min(range(len(self.batches)), key=self.costs.__getitem__)
        for number in self.turns[self._skipped :]:
            batch = self.batches[smallest if number is None else number]
            yield [self.epoch * self.length + index for index in batch]


def share_out(costs: Sequence[int], processes: int, turns: int) -> list[list[int]]:
    """Which of a step's batches each process takes, at most ``turns`` each, so that all need about the same time.

    The most expensive batch goes first, to the process with the lowest cost so far: processes wait for each other only
    at the end of the step.
    """
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for number in sorted(range(len(costs)), key=lambda number: (-costs[number], number)):
        open_ = [rank for rank in range(processes) if len(shares[rank]) < turns]
        rank = min(open_, key=lambda rank: (loads[rank], rank))
        shares[rank].append(number)
        loads[rank] += costs[number]
    return [sorted(share) for share in shares]
