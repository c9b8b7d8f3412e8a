"""PyTorch's DataLoader for our batches, whose workers report an error as one line.

PyTorch raises a worker's exception again in the main process with the worker's whole traceback as its text. Here a
worker returns the failure as a value instead of a batch, and the main process raises it: no class has to be
recognised by its name.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from common.command import resume_command
from common.errors import UserError
from dataset.collate import collate
from dataset.image_caption_dataset import ImageCaptionDataset


@dataclass
class Failure:
    """What is sent to the main process instead of a batch."""

    line: str


def open_loader(
    source: ImageCaptionDataset | IterableDataset,
    batches: Sampler | None,
    *,
    workers: int = 0,
    pin_memory: bool = False,
    persistent_workers: bool = False,
    prefetch_factor: int | None = None,
) -> DataLoader:
    """Collated batches of a dataset, in the order of ``batches``; or of a stream that batches itself (None).

    Iterating raises UserError, in one line, for any error in a worker. Without workers, exceptions are left alone.
    """
    guarded = _GuardedDataset(source) if isinstance(source, ImageCaptionDataset) else _GuardedStream(source)
    return _Loader(
        guarded,
        batch_size=None if batches is None else 1,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and workers > 0,
        prefetch_factor=prefetch_factor,
        worker_init_fn=_ignore_interrupt,
        generator=torch.Generator(),  # otherwise every pass over the data draws a number from the run's own generator
    )


class _Loader(DataLoader):
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # PyTorch declares its private iterator's class
        for batch in super().__iter__():
            if isinstance(batch, Failure):
                raise UserError(batch.line)
            yield batch


def lost_worker(error: RuntimeError) -> UserError | None:
    """The line about a worker that was killed, if that is what ``error`` is about.

    PyTorch raises it from a signal handler, so it may come at any moment, and not from the loader alone.
    """
    reason = " ".join(str(error).split())
    if not reason.startswith("DataLoader worker"):
        return None
    advice = f"if memory was full, lower train.dataloader_num_workers; continue with: {resume_command()}"
    return UserError(f"a process that loads data has ended ({reason[:200]}); {advice}")


class _GuardedDataset(Dataset):
    """A dataset whose ``__getitems__`` collates, so that errors of both are caught."""

    def __init__(self, dataset: ImageCaptionDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: list[int]) -> dict | Failure:
        try:
            return collate(
                [self.dataset[key] for key in keys], self.dataset.tokenizer.pad_token_id, self.dataset.packing
            )
        except Exception as error:
            return _failure(error)


class _GuardedStream(IterableDataset):
    def __init__(self, stream: IterableDataset) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[dict | Failure]:
        try:
            yield from self.stream
        except Exception as error:
            yield _failure(error)


def _failure(error: Exception) -> Failure:
    """The error as a line. In the main process it is raised: nothing has to be carried there."""
    if get_worker_info() is None:
        raise error
    if isinstance(error, UserError):
        return Failure(str(error))
    where = traceback.extract_tb(error.__traceback__)[-1]
    return Failure(f"loading a batch failed: {type(error).__name__}: {error} ({where.filename}, line {where.lineno})")


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_interrupt(number: int) -> None:
    """Ctrl-C goes to all processes of a terminal; what it means is decided in the main process, which still needs data
    to finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
