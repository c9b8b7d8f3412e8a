"""Batches for the loop: from the two files (:class:`EpochFeed`) or from a stream of shards (:class:`StreamFeed`).

A feed gives the batches of one optimiser step at a time, epoch after epoch. It knows its position in the data, which a
checkpoint keeps. The position is the same for any number of processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object

from common.command import resume_command
from common.errors import UserError
from dataset.batches import EpochBatches, plan_batches
from dataset.collate import Position
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.loader import open_loader
from dataset.streaming import StreamedBatches, StreamedDataset
from settings import Config
from training.distributed import rank, world_size

logger = logging.getLogger(__name__)
Batch = dict[str, Any]  # tensors for the model, and "info" (dataset.collate.BatchInfo)


def label_count(batch: Batch) -> int:
    """Supervised tokens of a batch. The first token of a row is never predicted."""
    return int((batch["labels"][:, 1:] != -100).sum())


def image_count(batch: Batch) -> int:
    return int(batch["images_per_row"].sum())


class Feed(Protocol):
    known: ImageCaptionDataset  # the training data, or a stream's first window: what is known before training
    data_hash: str  # of the files that hold the data

    @property
    def validation_dataset(self) -> ImageCaptionDataset | StreamedDataset | None:
        """None where nothing is evaluated."""

    @property
    def epoch(self) -> float:
        """How far the run has come, in epochs."""

    @property
    def epoch_ended(self) -> bool:
        """Whether the latest step was the last one of its epoch."""

    def step(self) -> list[Batch]:
        """This process's batches of the next optimiser step."""

    def validation(self) -> Iterator[Batch]:
        """This process's batches of the validation split."""

    def position(self) -> dict[str, Any]:
        """The position after the latest step, for progress.json. All processes must call it."""

    def resume(self, progress: dict[str, Any]) -> None:
        """Continue from the position in a checkpoint's progress.json."""

    def total_steps(self, done: int) -> int:
        """Optimiser steps of the whole run, of which ``done`` were done where this run begins."""


def plan(config: Config, dataset: ImageCaptionDataset, size: int) -> list[list[int]]:
    """Batches of like length: ``size`` samples, or as many as ``data.tokens_per_batch`` holds."""
    data = config.data
    return plan_batches(
        dataset.lengths, size=size, budget=data.tokens_per_batch, seed=data.seed, packed=dataset.packing
    )


def data_seed(config: Config) -> int:
    return config.train.seed if config.train.data_seed is None else config.train.data_seed


def loader(
    config: Config, source: ImageCaptionDataset | StreamedBatches, batches: EpochBatches | None = None
) -> Iterable[Batch]:
    """Not accelerate's: which process gets which batch is decided in dataset/batches.py and dataset/streaming.py."""
    train = config.train
    return open_loader(
        source,
        batches,
        workers=train.dataloader_num_workers,
        pin_memory=train.dataloader_pin_memory and torch.cuda.is_available(),
        persistent_workers=train.dataloader_persistent_workers,
        prefetch_factor=train.dataloader_prefetch_factor,
    )


class EpochFeed:
    """Batches that are planned once and come in another order in each epoch."""

    def __init__(
        self, config: Config, dataset: ImageCaptionDataset, validation: ImageCaptionDataset | None, data_hash: str
    ) -> None:
        self.config, self.known, self.validation_dataset, self.data_hash = config, dataset, validation, data_hash
        self.accumulation = config.train.gradient_accumulation_steps
        batches = plan(config, dataset, config.train.per_device_train_batch_size)
        self.order = EpochBatches(
            batches,
            dataset.lengths,
            data_seed(config),
            world_size(),
            rank(),
            accumulation=self.accumulation,
            packed=dataset.packing,
        )
        self.loader = loader(config, dataset, self.order)
        self.batches: Iterator[Batch] | None = None  # of the current epoch

    def step(self) -> list[Batch]:
        if self.batches is None or self.epoch_ended:
            if self.epoch_ended:
                self.order.set_epoch(self.order.epoch + 1)
            self.batches = iter(self.loader)
        turns = min(self.accumulation, len(self.order) - self.order.turn)
        batches = []
        for real in self.order.take(turns):
            batch = next(self.batches)
            batch["info"].real = real
            batches.append(batch)
        return batches

    def validation(self) -> Iterator[Batch]:
        dataset = self.validation_dataset
        assert dataset is not None, "only where train.eval_strategy is not no"
        batches = plan(self.config, dataset, self.config.train.eval_batch_size)
        order = EpochBatches(batches, dataset.lengths, None, world_size(), rank(), packed=dataset.packing)
        for batch, real in zip(loader(self.config, dataset, order), order.take(len(order)), strict=True):
            batch["info"].real = real
            yield batch

    @property
    def epoch(self) -> float:
        return self.order.epoch + self.order.turn / len(self.order)

    @property
    def epoch_ended(self) -> bool:
        return self.order.turn == len(self.order)

    def position(self) -> dict[str, Any]:
        epoch, taken = self.order.position
        return {"epoch": epoch, "batches": taken, "of": len(self.order.batches), "plan": self._plan()}

    def _plan(self) -> list[str]:
        """If this differs, the same number of batches means other samples."""
        return [self.data_hash, self.order.fingerprint]

    def resume(self, progress: dict[str, Any]) -> None:
        """If the data or the batches are not those of the checkpoint, continue at the same share of the epoch."""
        taken, count = progress["batches"], len(self.order.batches)
        if progress["plan"] != self._plan():
            taken = min(count - 1, round(progress["batches"] / progress["of"] * count))
            if not rank():
                logger.warning(
                    "--resume: the data or their batches (train.per_device_train_batch_size, data.tokens_per_batch, a "
                    "seed) differ from the checkpoint's; continuing at %.0f %% of epoch %d, in which samples may come "
                    "twice or not at all",
                    100 * taken / count,
                    progress["epoch"] + 1,
                )
        self.order.resume(progress["epoch"], taken)

    def total_steps(self, done: int) -> int:
        """``num_train_epochs`` epochs, even if the steps done so far had batches of another size."""
        if self.config.train.max_steps is not None:
            return self.config.train.max_steps
        per_epoch = math.ceil(len(self.order) / self.accumulation)
        wanted = math.ceil(self.config.train.num_train_epochs * per_epoch)
        here = self.order.epoch * per_epoch + self.order.turn // self.accumulation
        return done + max(0, wanted - here)


class StreamFeed:
    """Shards, read without end. The run ends at ``train.max_steps``: how much the shards hold is not known."""

    epoch_ended = False

    def __init__(
        self, config: Config, dataset: StreamedDataset, validation: StreamedDataset | None, data_hash: str
    ) -> None:
        self.config, self.dataset, self.validation_dataset, self.data_hash = config, dataset, validation, data_hash
        self.known = dataset.first_window()
        self.accumulation = config.train.gradient_accumulation_steps
        size = config.train.per_device_train_batch_size
        self.order = self._order(dataset, size, data_seed(config), self.accumulation)
        self.batches: Iterator[Batch] | None = None

    def _order(self, dataset: StreamedDataset, size: int, seed: int | None, accumulation: int) -> StreamedBatches:
        budget = self.config.data.tokens_per_batch
        return StreamedBatches(dataset, size, budget, seed, world_size(), rank(), accumulation)

    def step(self) -> list[Batch]:
        if self.batches is None:
            self.batches = iter(loader(self.config, self.order))
        batches = [next(self.batches) for _ in range(self.accumulation)]
        self.order.position = batches[-1]["info"].position
        return batches

    def validation(self) -> Iterator[Batch]:
        assert self.validation_dataset is not None, "only where train.eval_strategy is not no"
        order = self._order(self.validation_dataset, self.config.train.eval_batch_size, None, 1)
        yield from loader(self.config, order)

    @property
    def epoch(self) -> float:
        return self.order.epochs

    def position(self) -> dict[str, Any]:
        """Raises: UserError: the processes have read different records."""
        everyone = gather_object([self.order.position])
        if any(position != everyone[0] for position in everyone):
            raise UserError(
                "the processes have read different records from the shards: some of them see a damaged or another "
                f"file; fix that, then continue from the last checkpoint with: {resume_command()}"
            )
        return {"stream": {"position": list(self.order.position), "fingerprint": self.dataset.fingerprint()}}

    def resume(self, progress: dict[str, Any]) -> None:
        if progress["stream"]["fingerprint"] != self.dataset.fingerprint():
            raise UserError(
                "--resume: the names or sizes of the shards (data.stream) are not those of the checkpoint; put them "
                "back, or start another run with train.run=NAME"
            )
        stream = progress["stream"]
        self.order.position = Position(*stream.get("position", stream.get("place")))  # "place" in old checkpoints

    def total_steps(self, done: int) -> int:
        assert self.config.train.max_steps is not None, "settings asks for it with data.stream"
        return self.config.train.max_steps
