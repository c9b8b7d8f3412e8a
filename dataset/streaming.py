"""Training on sets too large to index: shards read in order, a window of records at a time.

    data.stream: /data/shards/*.tar            # or *.parquet; instead of image_map and annotations

An epoch goes through the shards (:mod:`dataset.shards`) in an order that depends on the seed and the epoch alone.
``data.stream_window`` records at a time are a window, which is a small :class:`ImageCaptionDataset`: its trees, its
batches of like length, their order. A position in the stream is therefore where a window begins and how many of its
batches were taken: a few numbers, the same for any number of processes.

Every process reads and measures all records, 1.2 ms each (with nine conversations), and prepares the images of its own
batches alone, 23 ms each (docs/scaling.md), so the processes need not talk to each other. There is no shuffle buffer:
after a resume it would be filled with other records.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset, get_worker_info

from common.command import resume_command
from common.errors import UserError
from dataset.batches import batch_cost, plan_batches, share_out
from dataset.collate import Position, collate
from dataset.conversations import NOT_TRAINED_ON
from dataset.image import ImageProcessor
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.records import RecordError
from dataset.shards import Row, contents, find_shards, parts_of, read_shard, talk_in
from qwen.tokenizer import Tokenizer
from settings import Config

# ---------------------------------------------------------------------------------------------- windows


@dataclass
class Window:
    start: Position
    dataset: ImageCaptionDataset
    batches: list[list[int]] = field(default_factory=list)  # in the order in which they are taken
    skipped: list[str] = field(default_factory=list)  # a line for each record that cannot be used
    changes: Counter[str] = field(default_factory=Counter)  # dataset.preparing.turns.Talk.changes of all records


class StreamedDataset:
    """The shards of a split; :meth:`windows` reads them."""

    def __init__(
        self, config: Config, tokenizer: Tokenizer, image_processor: ImageProcessor, split: str = "train"
    ) -> None:
        self.config, self.tokenizer, self.image_processor, self.split = config, tokenizer, image_processor, split
        key = "stream" if split == "train" else "stream_validation"
        self.shards = find_shards(getattr(config.data, key), f"data.{key}")
        self.bytes = sum(path.stat().st_size for path in self.shards)

    def __str__(self) -> str:
        return f"{len(self.shards):,} shards of {self.bytes / 2**30:,.2f} GiB in all"

    def fingerprint(self) -> str:
        """A hash of everything that decides which sample is at a :class:`Position`."""
        data, train = self.config.data, self.config.train
        settings = [data.seed, data.stream_window, data.message_trees, data.images_first, data.tokens_per_batch]
        settings += [data.keep_all_captions, data.images_per_conversation, self.config.language.max_length]
        settings += [True] if data.packing else []  # absent in checkpoints of versions that could not pack
        settings += [train.per_device_train_batch_size, train.seed, train.data_seed]
        shards = [(path.name, path.stat().st_size) for path in self.shards]
        return hashlib.sha256(json.dumps([settings, shards]).encode()).hexdigest()

    def order(self, epoch: int, seed: int | None) -> list[Path]:
        if seed is None:
            return self.shards
        generator = torch.Generator().manual_seed(seed + 1_000_003 * epoch)
        return [self.shards[i] for i in torch.randperm(len(self.shards), generator=generator).tolist()]

    def first_window(self) -> ImageCaptionDataset:
        """The records at the beginning of the first shard, for what has to be known before training.

        Raises:
            UserError: nothing in it can be used, or more than ``data.max_skipped`` of it cannot.
        """
        skipped: list[str] = []
        for window in self.windows(Position(), None):
            if window.dataset.trees:
                window.dataset.check_unusable(self.config.data.max_skipped, "data.stream: first window")
                return window.dataset
            skipped = skipped or window.skipped[:1]
        if skipped:
            raise UserError(f"data.stream: no record can be used; the first: {skipped[0]}")
        raise UserError(f"data.stream: {self.shards[0]} and the {len(self.shards) - 1} others hold no record")

    def windows(self, position: Position, seed: int | None) -> Iterator[Window]:
        """The windows of an epoch from the one that begins at ``position``.

        A rest of less than half a window is added to the last one, so that no window lacks samples that can stand in.
        """
        size, room = self.config.data.stream_window, self.config.data.stream_window * 3 // 2
        records = self._records(position, self.order(position.epoch, seed))
        waiting: list[tuple[int, int, str, Row | Exception]] = []
        number = position.window
        while True:
            waiting += islice(records, room - len(waiting))
            if not waiting:
                return
            taken = waiting[: size if len(waiting) == room else room]
            yield self._window(Position(position.epoch, *taken[0][:2], number), taken)
            del waiting[: len(taken)]
            number += 1

    def _records(self, position: Position, order: list[Path]) -> Iterator[tuple[int, int, str, Row | Exception]]:
        """(shard, record, name, row) from a position on; the last row of a damaged shard is the error."""
        for shard in range(position.shard, len(order)):
            path, record = order[shard], position.record if shard == position.shard else 0
            try:
                for row in read_shard(path, record):
                    yield shard, record, f"{path.name}/{row.get('__key__', record)}", row
                    record += 1
            except (UserError, MemoryError):
                raise
            except Exception as error:  # a damaged file makes tarfile, zlib and pyarrow raise nearly anything
                if isinstance(error, OSError) and error.errno:  # a fault of the disk, not of the data
                    reason = f"{error.strerror}; fix that, then continue with: {resume_command()}"
                    raise UserError(f"data.stream: {path} cannot be read: {reason}") from None
                yield shard, record, f"{path.name} from record {record} on", error

    def _window(self, start: Position, rows: list[tuple[int, int, str, Row | Exception]]) -> Window:
        images: dict[int, str | bytes] = {}
        conversations: list[tuple[str, dict]] = []
        skipped: list[str] = []
        changes: Counter[str] = Counter()
        for _, _, name, row in rows:
            name = "".join(c if c.isprintable() else "?" for c in name)
            try:
                if isinstance(row, Exception):
                    raise RecordError(f"the shard is damaged: {' '.join(str(row).split())[:160] or type(row).__name__}")
                found, said = contents(row)
                most = self.config.data.images_per_conversation
                if len(found) > most:
                    raise RecordError(f"has {len(found)} images, data.images_per_conversation allows {most}")
            except RecordError as error:
                skipped.append(f"{name}: {error}")
                continue
            ids = range(len(images), len(images) + len(found))
            images.update(zip(ids, found, strict=True))
            for number, part in enumerate(parts_of(said)):
                try:
                    conversations += self._conversation(f"{name}/{number}", part, list(ids), changes)
                except RecordError as error:
                    skipped.append(f"{name}/{number}: {error}")
        given = (images, conversations)
        dataset = ImageCaptionDataset(self.config, self.tokenizer, self.image_processor, self.split, given)
        dataset.unusable = skipped + dataset.unusable
        if dataset.unusable and not dataset.trees and len(rows) >= 100:
            reason = dataset.unusable[0]
            raise UserError(f"data.stream: {len(rows)} records in a row cannot be used; the first: {reason}")
        return Window(start, dataset, skipped=dataset.unusable, changes=changes)

    def _conversation(
        self, name: str, part: object, images: list[int], changes: Counter[str]
    ) -> list[tuple[str, dict]]:
        """(name, conversation), or nothing if it is of a split that is not trained on. Adds to ``changes``."""
        if self.split == "train" and isinstance(part, dict) and part.get("split") in NOT_TRAINED_ON:
            return []
        seed = f"{self.config.data.seed}:{name}"
        talk = talk_in(part, len(images), seed, self.config.data.keep_all_captions)
        changes.update(talk.changes)
        return [(name, {"turns": talk.turns, "images": images[: talk.images], "system": talk.system})]


# ---------------------------------------------------------------------------------------------- batches


class _Planned(NamedTuple):
    window: Window
    number: int  # of the batch in its window
    cost: int  # tokens, padding included
    after: Position


class StreamedBatches(IterableDataset):
    """The batches of one process, collated. ``info.position`` is where the stream is after the batch's step.

    All processes plan the same endless sequence of batches, epoch after epoch. Each optimiser step takes the next
    ``processes x accumulation`` of them, shared out by cost, so all processes always have the same number of batches.

    Args:
        size, budget: samples in a batch, or tokens if ``budget`` is not None (:func:`dataset.batches.plan_batches`).
        seed: of the orders of shards and batches. None: one pass, in order; its last step may repeat a batch, which
            is not ``info.real``.
        processes, rank, accumulation: as in :class:`dataset.batches.EpochBatches`.
    """

    def __init__(
        self,
        dataset: StreamedDataset,
        size: int,
        budget: int | None,
        seed: int | None,
        processes: int = 1,
        rank: int = 0,
        accumulation: int = 1,
    ) -> None:
        self.dataset, self.size, self.budget, self.seed = dataset, size, budget, seed
        self.processes, self.rank, self.accumulation = processes, rank, accumulation
        self.position = Position()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        turn = 0
        for step in self._steps():
            share = share_out([planned.cost for planned in step], self.processes, self.accumulation)[self.rank]
            for number in range(self.accumulation):
                if turn % workers == mine:  # the DataLoader takes batches from its workers in turn
                    real = number < len(share)
                    batch = self._load(step[share[number] if real else 0], real)
                    batch["info"].position = step[-1].after
                    if number == 0:
                        for begun in (planned.window for planned in step if planned.number == 0):
                            batch["info"].changes.update(begun.changes)
                    yield batch
                turn += 1

    def _load(self, planned: _Planned, real: bool) -> dict[str, Any]:
        window, dataset = planned.window, planned.window.dataset
        first = window.start.epoch * len(dataset)
        samples = [dataset[first + index] for index in window.batches[planned.number]]
        batch = collate(samples, dataset.tokenizer.pad_token_id, dataset.packing)
        batch["info"].real = real
        if planned.number == 0 and real:  # all processes have read the window; one reports
            batch["info"].skipped = window.skipped + batch["info"].skipped
        return batch

    def _steps(self) -> Iterator[list[_Planned]]:
        batches = self._batches()
        while step := list(islice(batches, self.processes * self.accumulation)):
            yield step

    def _batches(self) -> Iterator[_Planned]:
        position = Position(*self.position)
        while True:
            begun, found = position.shard or position.record, 0
            skipped: list[str] = []
            for window in self.dataset.windows(position, self.seed):
                self._plan(window)
                window.skipped = skipped + window.skipped
                skipped = [] if window.batches else window.skipped
                lengths = window.dataset.lengths
                for number in range(position.batches, len(window.batches)):
                    batch = window.batches[number]
                    cost = batch_cost(lengths, batch, window.dataset.packing)
                    yield _Planned(window, number, cost, window.start._replace(batches=number + 1))
                position = position._replace(batches=0)
                found += len(window.batches)
            if not found and not begun:
                reason = f"; the first: {skipped[0]}" if skipped else ""
                raise UserError(f"data.stream: no record of {len(self.dataset.shards)} shards can be used{reason}")
            if self.seed is None:
                return
            position = Position(position.epoch + 1)

    def _plan(self, window: Window) -> None:
        """Plan a window's batches, and their order, which is a function of the seed and the window's number alone."""
        lengths, seed = window.dataset.lengths, self.dataset.config.data.seed
        packed = window.dataset.packing
        batches = plan_batches(lengths, size=self.size, budget=self.budget, seed=seed, packed=packed)
        if self.seed is not None:
            number = self.seed + 1_000_003 * window.start.epoch + 1_000_000_007 * window.start.window
            order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(number))
            batches = [batches[i] for i in order.tolist()]
        window.batches = batches

    @property
    def epochs(self) -> float:
        """The position in epochs, by shards."""
        return self.position.epoch + self.position.shard / len(self.dataset.shards)


if __name__ == "__main__":
    sys.exit("error: this command is python -m dataset.write_shards now, with the same options")
