"""Sets too large to index: WebDataset tar shards or Parquet files, read in order as they stand on the disk.

    data.stream: /data/shards/*.tar            # or *.parquet; instead of image_map and annotations
    python -m dataset.streaming --config demo.yaml --output data/demo/shards   # writes such shards from the JSON files

A record is an image with what is said about it: ``key.jpg`` and ``key.json`` in a tar, a row with an ``image`` and a
``conversations`` or ``caption`` column in Parquet. An epoch goes through the shards in an order that depends on the
seed and the epoch alone. So many records at a time (``data.stream_window``) are a window, which is a small
:class:`ImageCaptionDataset`: its trees, its batches of like length, their order. A position in the stream is therefore
where a window began and how many of its batches were taken: a few numbers, the same for any number of processes.

Every process reads and measures all records, 1.2 ms each (with nine conversations), and prepares the images of its own
batches alone, 23 ms each (docs/scaling.md): so no process has to know of another. ``datasets`` reads the shards; its
own shuffling is not used, because after a resume a shuffle buffer is filled with other records.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import importlib.util
import io
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset, get_worker_info

from common.errors import UserError
from dataset.batches import share_out
from dataset.collate import Position, collate
from dataset.conversations import checked, read_conversations
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.records import KINDS, SURROGATE, RecordError, Turns, caption_or_turns
from dataset.trees import plan_batches
from settings import SHARDS, Config, add_config_arguments, load_config, require_paths

IMAGES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "jp2", "avif", "tga"}
TEXTS = {"json", "txt"}
PICKLES = {"pickle", "pkl", "pyd", "pth", "pt"}  # may run code when they are read, so they are not
LARGEST_MEMBER = 256 * 2**20  # bytes; the largest photo that data.max_pixels lets through has some tens of millions


# ---------------------------------------------------------------------------------------------- shards


def find_shards(patterns: list[Path] | None, key: str) -> list[Path]:
    """The files that ``patterns`` name, each once, in order.

    Raises:
        UserError: ``datasets`` is missing, a pattern fits nothing, or a file of another kind.
    """
    if patterns is None:
        raise UserError(f"{key}: expected {SHARDS}")
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"{key}: shards are read with the datasets library; pip install datasets==5.2.0")
    found: dict[str, Path] = {}
    for pattern in patterns:
        text = os.fspath(pattern)
        files = [text] if os.path.isfile(text) else sorted(glob.glob(text, recursive=True))
        if not files:
            raise UserError(f'{key} = "{text}": no such file; expected shards, such as data/shards/*.tar')
        for file in files:
            if not file.endswith((".tar", ".parquet")) or not os.path.isfile(file):
                raise UserError(f"{key}: {file} is not a shard; expected files that end in .tar or .parquet")
            found.setdefault(os.path.realpath(file), Path(file))
    return list(found.values())


def read_shard(path: Path, skip: int = 0) -> Iterator[dict]:
    """The records of a shard behind the first ``skip``, nothing in them decoded; whatever is wrong is raised."""
    from datasets.data_files import DataFilesDict, DataFilesList

    full = os.path.abspath(path)
    files = DataFilesDict({"train": DataFilesList([full], [(full,)])})
    builder = _parquet_reader() if path.suffix == ".parquet" else _tar_reader()
    with tempfile.TemporaryDirectory() as aside:  # for the lock of a cache that streaming does not fill
        records = builder(cache_dir=aside, data_files=files).as_streaming_dataset(split="train")
    if records.features is not None:
        records = records.decode(False)  # bytes: dataset/image.py is the one place where they become pixels
    # Not plainly `for record in records`: in a worker of a DataLoader that gives each worker records of its own.
    for batch in records.skip(skip).iter(batch_size=1):
        yield {key: values[0] for key, values in batch.items()}


@cache
def _tar_reader():
    """``datasets``' reader of WebDataset tars, without its decoders: a member that is damaged costs its record, and not
    the rest of the shard, and what could hold a pickle or a bomb is never opened."""
    from datasets import SplitGenerator
    from datasets.builder import Key
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    class Members(WebDataset):
        DECODERS = {}

        def _split_generators(self, dl_manager) -> list:
            (paths,) = dl_manager.download(self.config.data_files).values()
            archives = [dl_manager.iter_archive(path) for path in paths]
            return [SplitGenerator(name="train", gen_kwargs={"tar_paths": paths, "tar_iterators": archives})]

        def _generate_examples(self, tar_paths, tar_iterators) -> Iterator:
            for shard, (path, members) in enumerate(zip(tar_paths, tar_iterators, strict=True)):
                for number, record in enumerate(self._get_pipeline_from_tar(path, _known(members))):
                    yield Key(shard, number), record

    return Members


def _known(members) -> Iterator[tuple[str, io.BytesIO]]:
    """Of the members (name, file) of a tar those that are read; of pickles and of what is too large the name alone."""
    for name, file in members:
        kind = _kind(name)
        if kind in PICKLES:
            yield name, io.BytesIO()
        elif kind in IMAGES | TEXTS:
            pieces = iter(partial(file.read, 2**20), b"")  # one read of many would take their room at once
            content = b"".join(islice(pieces, LARGEST_MEMBER // 2**20 + 1))
            yield name, io.BytesIO(content if len(content) <= LARGEST_MEMBER else b"")


def _kind(name: str) -> str:
    return name.rpartition(".")[2].lower()


@cache
def _parquet_reader():
    from datasets.packaged_modules.parquet.parquet import Parquet

    return partial(Parquet, batch_size=64)  # rows; by default a whole row group becomes Python objects at once


# ---------------------------------------------------------------------------------------------- records


def contents(row: dict) -> tuple[list[bytes], object]:
    """The images of a record, as files, and what is said about them.

    Raises:
        RecordError: one of them cannot be used.
    """
    pickles = [name for name in row if _kind(name) in PICKLES]
    if "__key__" not in row:  # of a Parquet file
        given = row.get("images") if row.get("images") is not None else [row.get("image")]
        given = [image for image in given if image is not None] if isinstance(given, list) else [given]
        images = [image.get("bytes") if isinstance(image, dict) else image for image in given]
        said = {key: value for key, value in row.items() if value is not None}
        if isinstance(said.get("conversations"), str) and said["conversations"].lstrip().startswith("["):
            said["conversations"] = _parsed(said["conversations"])  # a list kept as text
    elif pickles:
        raise RecordError(f"holds a pickle (.{pickles[0]}), which could run code and is not read")
    else:
        images = [content for name, content in row.items() if _kind(name) in IMAGES]
        said = _parsed(row["json"]) if "json" in row else {"caption": row.get("txt", b"").decode("utf-8", "replace")}
    if not all(isinstance(image, bytes) and image for image in images):
        raise RecordError(f"an image is not in the shard, or empty, or larger than {LARGEST_MEMBER:,} bytes")
    return images, said


def _parsed(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not valid JSON: {' '.join(str(error).split())[:100]}") from None


def parts_of(said: object) -> list:
    """The conversations of a record: it may be one, or a list of them, or hold the list under ``conversations``."""
    if isinstance(said, dict) and "turns" not in said:
        inner = said.get("conversations")
        if isinstance(inner, list) and any(isinstance(part, dict) and "turns" in part for part in inner):
            return inner
    if isinstance(said, list) and any(isinstance(part, dict) and "from" in part for part in said):
        return [{"conversations": said}]  # LLaVA's messages without what is around them
    return said if isinstance(said, list) else [said]


def turns_in(part: object, images: int, seed: str, keep_all_captions: bool) -> Turns:
    """The turns of a conversation in our own format, as process_image.py writes it, or in one it reads.

    Raises:
        RecordError: it is in none of them.
    """
    if not isinstance(part, dict):
        raise RecordError(f"is not an object but {KINDS.get(type(part), type(part).__name__)}")
    if part.get("turns") is None:
        if isinstance(part.get("conversations"), list):
            part = {key: value for key, value in part.items() if key != "caption"}
        return caption_or_turns(part, images, seed, keep_all_captions)
    try:
        turns = checked({"turns": part["turns"]})["turns"]
    except (LookupError, TypeError, AttributeError):
        raise RecordError('"turns" are not what process_image.py writes') from None
    return [{"q": SURROGATE.sub("\ufffd", t["q"]), "a": [SURROGATE.sub("\ufffd", a) for a in t["a"]]} for t in turns]


# ---------------------------------------------------------------------------------------------- windows


@dataclass
class Window:
    start: Position
    dataset: ImageCaptionDataset
    batches: list[list[int]] = field(default_factory=list)  # in the order in which they are taken
    skipped: list[str] = field(default_factory=list)  # a line for each record that cannot be used


class StreamedDataset:
    """The shards of a split; :meth:`windows` reads them."""

    def __init__(self, config: Config, tokenizer, image_processor, split: str = "train") -> None:
        self.config, self.tokenizer, self.image_processor, self.split = config, tokenizer, image_processor, split
        key = "stream" if split == "train" else "stream_held_out"
        self.shards = find_shards(getattr(config.data, key), f"data.{key}")
        self.bytes = sum(path.stat().st_size for path in self.shards)

    def __str__(self) -> str:
        return f"{len(self.shards):,} shards of {self.bytes / 2**30:,.2f} GiB in all"

    def fingerprint(self) -> str:
        """Of everything that says what stands at a :class:`Position`."""
        data, train = self.config.data, self.config.train
        settings = [data.seed, data.stream_window, data.message_trees, data.images_first, data.tokens_per_batch]
        settings += [data.keep_all_captions, data.images_per_conversation, self.config.language.max_length]
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

        The last takes in what would be less than half a window: a sample that cannot be used needs another to stand in.
        """
        size, room = self.config.data.stream_window, self.config.data.stream_window * 3 // 2
        records = self._records(position, self.order(position.epoch, seed))
        waiting: list[tuple[int, int, str, dict | Exception]] = []
        number = position.window
        while True:
            waiting += islice(records, room - len(waiting))
            if not waiting:
                return
            taken = waiting[: size if len(waiting) == room else room]
            yield self._window(Position(position.epoch, *taken[0][:2], number), taken)
            del waiting[: len(taken)]
            number += 1

    def _records(self, position: Position, order: list[Path]) -> Iterator[tuple[int, int, str, dict | Exception]]:
        """(shard, record, name, row) from a position on; where a shard is damaged, what is wrong is its last row."""
        for shard in range(position.shard, len(order)):
            path, record = order[shard], position.record if shard == position.shard else 0
            try:
                for row in read_shard(path, record):
                    yield shard, record, f"{path.name}/{row.get('__key__', record)}", row
                    record += 1
            except (UserError, MemoryError):
                raise
            except Exception as error:  # a damaged file makes tarfile, zlib and pyarrow raise nearly anything
                if isinstance(error, OSError) and error.errno:  # the disk's trouble, not the data's: it may be mended
                    reason = f"{error.strerror}; mend that and go on with --resume"
                    raise UserError(f"data.stream: {path} cannot be read: {reason}") from None
                yield shard, record, f"{path.name} from record {record} on", error

    def _window(self, start: Position, rows: list[tuple[int, int, str, dict | Exception]]) -> Window:
        images: dict[int, str | bytes] = {}
        conversations: list[tuple[str, dict]] = []
        skipped: list[str] = []
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
                    conversations += self._conversation(f"{name}/{number}", part, list(ids))
                except RecordError as error:
                    skipped.append(f"{name}/{number}: {error}")
        given = (images, conversations)
        dataset = ImageCaptionDataset(self.config, self.tokenizer, self.image_processor, self.split, given)
        dataset.unusable = skipped + dataset.unusable
        if dataset.unusable and not dataset.trees and len(rows) >= 100:
            reason = dataset.unusable[0]
            raise UserError(f"data.stream: {len(rows)} records in a row cannot be used; the first: {reason}")
        return Window(start, dataset, skipped=dataset.unusable)

    def _conversation(self, name: str, part: object, images: list[int]) -> list[tuple[str, dict]]:
        """(name, conversation), or nothing where process_image.py has kept it from training."""
        if self.split == "train" and isinstance(part, dict) and part.get("split") == "held_out":
            return []
        seed = f"{self.config.data.seed}:{name}"
        turns = turns_in(part, len(images), seed, self.config.data.keep_all_captions)
        return [(name, {"turns": turns, "images": images})]


# ---------------------------------------------------------------------------------------------- batches


class _Planned(NamedTuple):
    window: Window
    number: int  # of the batch in its window
    cost: int  # tokens, padding included
    after: Position


class StreamedBatches(IterableDataset):
    """The batches of one process, collated. ``info.position`` is where the stream is after the batch's step.

    All processes plan the same endless row of batches, epoch after epoch; each optimiser step takes the next
    ``processes x accumulation`` of them, shared out by cost. So no process ever has a batch less than another.

    Args:
        size, budget: samples in a batch, or tokens if ``budget`` is not None (:func:`dataset.trees.plan_batches`).
        seed: of the orders of shards and batches; None: one pass, in order, whose last step may repeat a batch that is
            not ``real``.
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
                if turn % workers == mine:  # the DataLoader takes from its workers in turn
                    real = number < len(share)
                    batch = self._load(step[share[number] if real else 0], real)
                    batch["info"].position = step[-1].after
                    yield batch
                turn += 1

    def _load(self, planned: _Planned, real: bool) -> dict[str, Any]:
        window, dataset = planned.window, planned.window.dataset
        first = window.start.epoch * len(dataset)
        samples = [dataset[first + index] for index in window.batches[planned.number]]
        batch = collate(samples, dataset.tokenizer.pad_token_id)
        batch["info"].real = real
        if planned.number == 0 and real:  # one process reports what all have seen
            batch["info"].skipped = window.skipped + batch["info"].skipped
        return batch

    def _steps(self) -> Iterator[list[_Planned]]:
        batches = self._batches()
        while step := list(islice(batches, self.processes * self.accumulation)):
            yield step

    def _batches(self) -> Iterator[_Planned]:
        position = Position(*self.position)
        while True:
            begun, found, skipped = position.shard or position.record, 0, []
            for window in self.dataset.windows(position, self.seed):
                self._plan(window)
                window.skipped = skipped + window.skipped
                skipped = [] if window.batches else window.skipped
                lengths = window.dataset.lengths
                for number in range(position.batches, len(window.batches)):
                    batch = window.batches[number]
                    cost = len(batch) * max(lengths[i] for i in batch)
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
        """Batches of like length, and their order, which is a function of the seed and the window's number alone."""
        lengths, seed = window.dataset.lengths, self.dataset.config.data.seed
        batches = plan_batches(lengths, size=self.size, budget=self.budget, seed=seed)
        if self.seed is not None:
            number = self.seed + 1_000_003 * window.start.epoch + 1_000_000_007 * window.start.window
            order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(number))
            batches = [batches[i] for i in order.tolist()]
        window.batches = batches

    # What the Trainer asks of dataset.batches.EpochBatches.

    def set_epoch(self, epoch: int) -> None:
        """The stream knows its epoch."""

    def take(self, turns: int) -> list[bool]:
        return [True] * turns

    @property
    def epochs(self) -> float:
        """How far it has come, in epochs, by shards."""
        return self.position.epoch + self.position.shard / len(self.dataset.shards)


# ---------------------------------------------------------------------------------------------- writing shards


def write_shards(config: Config, output: Path, size: int) -> list[Path]:
    """What process_image.py wrote, as tars of ``size`` images: train-000000.tar, ..., held_out-000000.tar, ..."""
    written: list[Path] = []
    for split in ("train", "held_out"):
        paths, conversations = read_conversations(config.data.image_map, config.data.annotations, split)
        groups: dict[tuple[int, ...], list[dict]] = {}
        for _, conversation in conversations:
            kept = {key: value for key, value in conversation.items() if key != "images"}
            groups.setdefault(tuple(conversation["images"]), []).append(kept)
        entries = iter(groups.items())
        for number in range(-(-len(groups) // size)):
            written.append(output / f"{split}-{number:06}.tar")
            aside = written[-1].with_suffix(".tmp")
            with tarfile.open(aside, "w", dereference=True) as tar:
                for place, (images, talks) in enumerate(islice(entries, size), start=number * size):
                    for part, image in enumerate(images):
                        kind = _kind(str(paths[image]))
                        tar.add(paths[image], f"{place:09}.{part}.{kind if kind in IMAGES else 'jpg'}", recursive=False)
                    text = json.dumps(talks, ensure_ascii=False).encode()
                    member = tarfile.TarInfo(f"{place:09}.json")
                    member.size = len(text)
                    tar.addfile(member, io.BytesIO(text))
            os.replace(aside, written[-1])
    return written


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write what process_image.py wrote as tar shards for data.stream.",
        epilog="example: python -m dataset.streaming --config demo.yaml --output data/demo/shards",
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder for the shards")
    parser.add_argument("--size", type=int, default=1000, help="images in a shard (default: 1000)")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    try:
        config = load_config(args.config, args.overrides)
        require_paths(config, "data.image_map", "data.annotations")
        args.output.mkdir(parents=True, exist_ok=True)
        written = write_shards(config, args.output, max(1, args.size))
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or args.output}: {error.strerror or error}")
    for path in written:
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
