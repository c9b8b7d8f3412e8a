"""Which batches a process gets, and when: the same order for any number of processes.

The batches of an epoch are planned once (:func:`dataset.trees.plan_batches`) and come in an order that is a pure
function of (seed, epoch). Every optimiser step takes the next ``processes x accumulation`` of them. So a place in the
epoch is one number, the batches taken so far, which means the same to a run of one process and to one of eight.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property

import torch
from torch.utils.data import Sampler


class EpochBatches(Sampler):
    """The batches of one process, each a list of ``epoch * length + index``.

    Where an epoch's batches do not divide among the processes, some get the smallest batch once more, which must count
    for nothing: :meth:`take` says which are real.

    Args:
        batches: indices of samples, each batch of like length.
        lengths: of all samples, in tokens.
        seed: of the order; None keeps the batches as they are.
        processes, rank: how many processes share the batches, and which of them this is.
        accumulation: batches that each process takes for one optimiser step.
    """

    batch_size, drop_last = None, False  # asked for by accelerate

    def __init__(
        self,
        batches: list[list[int]],
        lengths: Sequence[int],
        seed: int | None,
        processes: int = 1,
        rank: int = 0,
        accumulation: int = 1,
    ) -> None:
        self.batches, self.length, self.seed = batches, len(lengths), seed
        self.processes, self.rank, self.accumulation = processes, rank, accumulation
        self.costs = [len(batch) * max(lengths[i] for i in batch) for batch in batches]
        self.resumed = (0, 0)  # in this epoch, so many batches were taken before
        self.set_epoch(0)

    def __len__(self) -> int:
        return -(-len(self.batches) // self.processes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the batches and their order: where it differs, a number of batches taken means other samples."""
        return hashlib.sha256(json.dumps([self.seed, self.batches]).encode()).hexdigest()

    def resume(self, epoch: int, taken: int) -> int:
        """Go on behind the first ``taken`` batches of an epoch; how many of this process's batches are to be skipped.

        It is a multiple of the accumulation, as the Trainer wants it. Where ``taken`` is not (another number of
        processes), the next step is the smaller one.
        """
        self.resumed = (epoch, taken)
        self.set_epoch(epoch)
        return self._skipped

    def set_epoch(self, epoch: int) -> None:
        """Plan an epoch: for each of this process's turns a batch or None, and the batches taken behind each step."""
        self.epoch, taken = epoch, self.resumed[1] if epoch == self.resumed[0] else 0
        order = list(range(len(self.batches)))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + 1_000_003 * epoch)
            order = torch.randperm(len(order), generator=generator).tolist()
        left = -(-(len(order) - taken) // self.processes)
        self._skipped = self.turn = (len(self) - left) // self.accumulation * self.accumulation
        self.turns: list[int | None] = [None] * self._skipped
        self.taken_behind = {self._skipped: taken}
        missing = len(self) - self._skipped - left  # turns of the first step that have no batch
        while len(self.turns) < len(self):
            turns = min(self.accumulation, len(self) - len(self.turns))
            step = order[taken : taken + (turns - missing) * self.processes]
            shares = share_out([self.costs[number] for number in step], self.processes, turns)
            mine = [step[place] for place in shares[self.rank]]
            self.turns += mine + [None] * (turns - len(mine))
            taken, missing = taken + len(step), 0
            self.taken_behind[len(self.turns)] = taken

    def take(self, turns: int) -> list[bool]:
        """Note that so many batches were fetched; for each whether it is real."""
        real = [number is not None for number in self.turns[self.turn : self.turn + turns]]
        self.turn += turns
        return real

    @property
    def position(self) -> tuple[int, int]:
        """The epoch, and how many of its batches all processes have taken, behind the latest step."""
        taken = self.taken_behind[self.turn]
        return (self.epoch + 1, 0) if taken == len(self.batches) else (self.epoch, taken)

    def __iter__(self):
        """The batches of the epoch's turns after those that were skipped."""
        smallest = min(range(len(self.batches)), key=self.costs.__getitem__)
        for number in self.turns[self._skipped :]:
            batch = self.batches[smallest if number is None else number]
            yield [self.epoch * self.length + index for index in batch]


def share_out(costs: Sequence[int], processes: int, turns: int) -> list[list[int]]:
    """Which of a step's batches each process takes, at most ``turns`` each, so that all take about as long.

    The dearest first, each to the process with the least so far; processes meet only at the end of the step.
    """
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for place in sorted(range(len(costs)), key=lambda place: (-costs[place], place)):
        open_ = [rank for rank in range(processes) if len(shares[rank]) < turns]
        rank = min(open_, key=lambda rank: (loads[rank], rank))
        shares[rank].append(place)
        loads[rank] += costs[place]
    return [sorted(share) for share in shares]
