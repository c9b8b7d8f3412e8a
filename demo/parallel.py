"""Pictures drawn in chunks by worker processes, whose number changes nothing but the time."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from tqdm import tqdm

CHUNK = 250  # pictures, 10 MB; an even number, as some are drawn in pairs
Drawn = TypeVar("Drawn")  # a dataclass of tensors whose first dimension is the pictures
Task = tuple[Callable[[int, random.Random], object], int, str]
Arrays = dict[str, NDArray[Any]]


def draw_in_chunks(
    kind: type[Drawn], draw: Callable[[int, random.Random], Drawn], count: int, seed: str, workers: int
) -> Drawn:
    """``count`` pictures that ``draw`` draws in ``workers`` processes. Each chunk has a generator of its own.

    ``draw`` is sent to the processes, so it has to be a module's function or a ``partial`` of one.
    """
    tasks: list[Task] = [(draw, min(CHUNK, count - start), f"{seed} {start}") for start in range(0, count, CHUNK)]
    whole: dict[str, torch.Tensor] = {}
    with tqdm(total=count, desc=f"drawing {seed}", unit="picture") as progress:
        for start, arrays in zip(range(0, count, CHUNK), _chunks(tasks, workers), strict=True):
            for name, array in arrays.items():
                part = torch.from_numpy(array)
                if start == 0:
                    whole[name] = torch.empty(count, *part.shape[1:], dtype=part.dtype)
                whole[name][start : start + len(part)] = part
            progress.update(len(part))
    return kind(**whole)


def _chunks(tasks: list[Task], workers: int) -> Iterator[Arrays]:
    """The chunks in order. One worker is this process; of several, each has one thread, as all cores are taken."""
    if workers == 1:
        yield from map(_chunk, tasks)
        return
    spawned = multiprocessing.get_context("spawn")  # a fork of a process with threads can wait for ever
    with spawned.Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.imap(_chunk, tasks)


def _chunk(task: Task) -> Arrays:
    """A chunk as arrays: tensors would go through shared memory, of which a container often has only 64 MB."""
    draw, count, seed = task
    return {name: values.numpy() for name, values in vars(draw(count, random.Random(seed))).items()}
