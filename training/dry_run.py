"""``train.py --dry-run``: does the run fit into memory, and how long will it take? Leaves nothing in the run's folder.

First the loop takes one step on the longest batch, which needs the most memory. Then it takes real steps on a spread of
batches: at evenly spaced quantiles of their cost, so that the eight steps of a round cover all of them. Loading,
logging and waiting for other processes are part of a step. An evaluation on a spread of validation batches and one
checkpoint are timed too. The time of the run is their sum, each as often as the run does it.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its stubs are not installed
import torch

from dataset.batches import EpochBatches
from dataset.collate import Position, samples_of_batch
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.streaming import StreamedDataset
from model.memory import Batch as BatchShape
from model.memory import estimate
from model.model import quiet_libraries
from model.start_from import find_start
from settings import Config
from training.distributed import leave_together, rank, world_size
from training.feed import Batch, EpochFeed, loader, plan
from training.log import RunLog
from training.loop import Loop
from training.sample_answers import ask_samples
from training.setup import build_loop

STEPS = 8  # of a round
ROUNDS = 25  # at most
ENOUGH, AT_MOST = 20.0, 60.0  # seconds of rounds: enough after two of them, and no more after one
EVALUATED = 16  # validation batches that each process is timed with
# The range that is printed, times the estimate; wider if the rounds differ more. In processor time, runs of 100 and 150
# steps of the demo took 0.99 to 1.11 times the estimate.
LOW, HIGH = 0.9, 1.15


def dry_run(config: Config) -> None:
    """Print memory and time of the run that ``config`` describes.

    Raises:
        UserError: what would end the run too: something is missing, does not fit, or a disk is full.
    """
    quiet_libraries()
    config.train.report_to = []
    start = find_start(config)
    memory = Memory()

    def before_loading(config: Config, dataset: ImageCaptionDataset, dtype: torch.dtype) -> None:
        print_estimate(config, dataset, dtype)
        memory.start()

    # On the disk of the real checkpoints, if they have a folder already: saving is as fast as the disk.
    parent = config.train.output if config.train.output.is_dir() else None
    with tempfile.TemporaryDirectory(prefix=".dry-run-", dir=parent) as folder:
        loop = build_loop(config, Path(folder), before_loading, start)
        with contextlib.closing(RunLog(Path(folder), config, 0)) as loop.log:
            measure(loop, memory)
        leave_together()


def print_estimate(config: Config, dataset: ImageCaptionDataset, dtype: torch.dtype) -> None:
    """What the longest batch will need, from configs alone."""
    longest = max(plan(config, dataset, config.train.per_device_train_batch_size), key=dataset.cost)
    inputs = samples_of_batch(dataset, longest)
    rows, length = inputs["input_ids"].shape
    labels = int((inputs["labels"][:, 1:] != -100).sum())
    shape = BatchShape(rows, length, int(inputs["images_per_row"].sum()), labels)
    found = estimate(config, len(dataset.tokenizer), shape, dtype)
    print(f"estimate  {found} (before loading; {rows} rows of {length} tokens)", flush=True)


# ---------------------------------------------------------------------------------------------- a spread of batches


def spread(batches: list[list[int]], steps: int, each: int) -> list[list[int]]:
    """``each`` batches for every one of ``steps`` steps, at evenly spaced quantiles of ``batches``, which are sorted.

    The quantiles are shifted from step to step, so that all steps together take ``steps * each`` different ones.
    """
    quantiles = [(i + (step + 0.5) / steps) / each for step in range(steps) for i in range(each)]
    return [batches[int(quantile * len(batches))] for quantile in quantiles]


class SpreadFeed(EpochFeed):
    """The longest batch for the first step, then rounds of a spread; and a spread of the validation batches."""

    def __init__(self, config: Config, dataset: ImageCaptionDataset, validation: ImageCaptionDataset | None) -> None:
        super().__init__(config, dataset, validation, data_hash="")
        batches = sorted(self.order.batches, key=dataset.cost)
        each = self.accumulation * world_size()
        self.longest = batches[-1]
        sample = [self.longest] * each + spread(batches, STEPS, each) * ROUNDS
        self.order = EpochBatches(
            sample, dataset.lengths, None, world_size(), rank(), self.accumulation, packed=dataset.packing
        )
        self.loader = loader(config, dataset, self.order)
        self.validation_batches: list[list[int]] = []
        if validation is not None:
            batches = sorted(plan(config, validation, config.train.eval_batch_size), key=validation.cost)
            self.validation_batches = spread(batches, 1, min(len(batches), EVALUATED * world_size()))

    def validation(self) -> Iterator[Batch]:
        dataset = self.validation_dataset
        assert dataset is not None, "validation is asked for only where there is an evaluation"
        order = EpochBatches(
            self.validation_batches, dataset.lengths, None, world_size(), rank(), packed=dataset.packing
        )
        for batch, real in zip(loader(self.config, dataset, order), order.take(len(order)), strict=True):
            batch["info"].real = real
            yield batch


def validation_part(
    config: Config, validation: ImageCaptionDataset | StreamedDataset
) -> tuple[ImageCaptionDataset, int]:
    """The validation split, or of a stream its first window; and the cost of all batches of an evaluation."""
    if isinstance(validation, ImageCaptionDataset):
        parts = [validation]
    else:
        parts = [window.dataset for window in validation.windows(Position(), None) if window.dataset.trees]
    batches = [(part, batch) for part in parts for batch in plan(config, part, config.train.eval_batch_size)]
    return parts[0], sum(part.cost(batch) for part, batch in batches)


# ---------------------------------------------------------------------------------------------- measuring


@dataclass
class Times:
    """Seconds."""

    start: float  # from the start of the process to the first step
    first: float  # the first step, which is on the longest batch
    rounds: list[float]  # of each round, the mean of its steps
    waiting: float  # for data: a share of the steps
    epoch: float = 0.0  # to start the loader's processes, in each epoch
    evaluation: float = 0.0
    save: float = 0.0


def measure(loop: Loop, memory: Memory) -> None:
    """Take the steps, and print what they say."""
    config, feed = loop.config, loop.feed
    loop.prepare()
    validation, whole = validation_part(config, feed.validation_dataset) if feed.validation_dataset else (None, 0)
    loop.feed = trial = SpreadFeed(config, feed.known, validation)
    start = time.time() - psutil.Process().create_time()
    with contextlib.redirect_stdout(io.StringIO()):  # the log's lines
        first = timed_step(loop)
        epoch = loop.throughput.waiting if starts_workers(config) else 0.0
        loop.log_step()
        rounds = timed_rounds(loop)
        loop.log_step()
        times = Times(start, first, rounds, loop.progress.log_history[-1]["waiting_for_data"], epoch)
        if validation is not None:
            ask_samples(loop)  # the first time, it reads their pictures
            asking = timed(lambda: ask_samples(loop))
            growing = timed(loop.evaluate) - asking  # with the split; the number of questions does not
            times.evaluation = growing * whole / sum(map(validation.cost, trial.validation_batches)) + asking
        peak = memory.peak()
        times.save = timed(loop.save)
    tokens = max(feed.known.lengths[index] for index in trial.longest)
    print(f"longest   {len(trial.longest)} samples of up to {tokens} tokens: forward, backward and step fit")
    print(f"memory    {memory.describe(peak)}")
    per_epoch = math.ceil(len(feed.order) / trial.accumulation) if isinstance(feed, EpochFeed) else loop.total
    print("\n".join(describe(times, config, loop.total, per_epoch)))


def starts_workers(config: Config) -> bool:
    """Whether each epoch starts the loader's processes again."""
    return config.train.dataloader_num_workers > 0 and not config.train.dataloader_persistent_workers


def timed(action) -> float:
    begin = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def timed_step(loop: Loop) -> float:
    """Seconds of one optimiser step and its log."""

    def step() -> None:
        loop.train_step()
        loop.log.step(loop.progress.step, loop.total)

    return timed(step)


def timed_rounds(loop: Loop) -> list[float]:
    """Of each round, the mean seconds of a step. All processes take as many rounds."""
    rounds: list[float] = []
    begin = time.perf_counter()
    while len(rounds) < ROUNDS:
        rounds.append(sum(timed_step(loop) for _ in range(STEPS)) / STEPS)
        seconds = time.perf_counter() - begin
        done = seconds > AT_MOST or (seconds > ENOUGH and len(rounds) > 1)
        if loop.accelerator.gather(torch.tensor([done], device=loop.accelerator.device)).any():
            break
    return rounds


def describe(times: Times, config: Config, total: int, per_epoch: int) -> list[str]:
    """The lines about time. ``total`` and ``per_epoch`` are optimiser steps of the run and of an epoch."""
    train = config.train
    mean = sum(times.rounds) / len(times.rounds)
    evaluations = how_often(train.eval_strategy, train.steps_per_eval, total, per_epoch)
    saves = how_often(train.save_strategy, train.save_steps, total, per_epoch)
    once = times.start + times.first + math.ceil(total / per_epoch) * times.epoch
    rest = once + evaluations * times.evaluation + saves * times.save
    seconds = rest + total * mean
    low = min(LOW * seconds, rest + total * min(times.rounds))
    high = max(HIGH * seconds, rest + total * max(times.rounds))
    parts = [f"{total:,} steps {clock(total * mean)}"]
    if evaluations:
        parts.append(f"{evaluations:,} evaluations {clock(evaluations * times.evaluation)}")
    if saves:
        parts.append(f"{saves:,} checkpoints {clock(saves * times.save)}")
    parts.append(f"start {clock(once)}")
    many = f"{len(times.rounds)} rounds of {STEPS} steps"
    waiting = f"{times.waiting:.1%} of it waiting for data"
    return [
        f"step      {mean:.3g} s ({min(times.rounds):.3g} to {max(times.rounds):.3g} in {many}), {waiting}",
        f"time      {clock(low)} to {clock(high)} (h:mm:ss): {', '.join(parts)}",
    ]


def how_often(strategy: str, every: int, total: int, per_epoch: int) -> int:
    """How often a run of ``total`` steps evaluates or saves; the last step always counts."""
    return 0 if strategy == "no" else math.ceil(total / (every if strategy == "steps" else per_epoch))


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


class Memory:
    """How much this process holds, and how much of it before the model was loaded."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.before = psutil.Process().memory_info().rss

    def peak(self) -> int:
        """Bytes: the most that the GPU or this process held so far; on Windows what the process holds now."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
        if sys.platform == "win32":
            return psutil.Process().memory_info().rss
        import resource

        scale = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale

    def describe(self, peak: int) -> str:
        parts = "weights, gradients, optimiser and activations"
        if torch.cuda.is_available():
            return f"{gib(peak)} at the peak on the GPU: {parts}; the CUDA context comes on top"
        own = f"{gib(peak - self.before)} {parts}"
        return f"{gib(peak)} at the peak of this process: {gib(self.before)} Python, libraries and data; {own}"


def gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
