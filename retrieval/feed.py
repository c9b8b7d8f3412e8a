"""Batches of pictures with one caption each, for the loop of training/.

Each step shows every process as many pictures, none of them twice in an epoch: a second copy in a batch would be taught
as a wrong answer. What is left over at the end of an epoch is left out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from common.errors import UserError
from common.hashing import hash_files
from dataset.collate import BatchInfo, Counts
from retrieval.encoder import Encoder
from retrieval.recall import Captioned
from settings import Config
from training.distributed import rank, world_size
from training.feed import Batch, data_seed


class PairFeed:
    """The training captions, epoch after epoch; a picture with several captions shows another one in each epoch."""

    def __init__(self, config: Config, pictures: Sequence[Captioned], encoder: Encoder) -> None:
        self.config, self.pictures, self.encoder = config, list(pictures), encoder
        self.data_hash = hash_files([config.data.image_map, config.data.annotations])
        self.size = config.train.per_device_train_batch_size * world_size()  # pictures of a batch, in all processes
        self.accumulation = config.train.gradient_accumulation_steps
        self.steps = len(self.pictures) // (self.size * self.accumulation)  # of an epoch
        self.number, self.turn = 0, 0  # the epoch, and the steps of it that are done
        if not self.steps:
            raise UserError(
                f"{len(self.pictures)} pictures with captions, but a step shows {self.size * self.accumulation}: "
                "lower train.per_device_train_batch_size or train.gradient_accumulation_steps"
            )

    @property
    def epoch(self) -> float:
        return self.number + self.turn / self.steps

    @property
    def epoch_ended(self) -> bool:
        return self.turn == self.steps

    def step(self) -> list[Batch]:
        if self.epoch_ended:
            self.number, self.turn = self.number + 1, 0
        order = list(range(len(self.pictures)))
        random.Random(f"{data_seed(self.config)} {self.number}").shuffle(order)
        start = self.turn * self.size * self.accumulation
        self.turn += 1
        own = self.size // world_size()
        starts = [start + batch * self.size + rank() * own for batch in range(self.accumulation)]
        return [self.batch([self.pictures[i] for i in order[at : at + own]]) for at in starts]

    def batch(self, pictures: Sequence[Captioned]) -> Batch:
        """Tensors of pictures and of one caption each. A picture that cannot be read is shown as a black one.

        It stays a wrong answer to the other texts, which it is, and every process keeps as many rows.
        """
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(lambda picture: self.encoder.pixels(picture.path), pictures))
        shape = next((pixels.shape for pixels in read if isinstance(pixels, torch.Tensor)), None)
        if shape is None:
            raise UserError(f"none of the {len(read)} pictures of a step can be read; the first: {read[0]}")
        pixels = torch.stack([one if isinstance(one, torch.Tensor) else torch.zeros(shape) for one in read])
        tokens = self.encoder.towers.tokenize([p.captions[self.number % len(p.captions)] for p in pictures])
        info = BatchInfo(
            ids=[picture.path for picture in pictures],
            skipped=[f"{p.path}: {why}" for p, why in zip(pictures, read, strict=True) if isinstance(why, str)],
            counts=Counts(tokens=tokens["input_ids"].numel()),
        )
        return {
            "pixel_values": pixels,
            "images_per_row": torch.ones(len(pictures), dtype=torch.long),
            **tokens,
            "info": info,
        }

    def position(self) -> dict[str, Any]:
        return {"epoch": self.number, "steps": self.turn, "of": self.steps, "data": self.data_hash}

    def resume(self, progress: dict[str, Any]) -> None:
        """With batches of another size, or other data: at the same share of the epoch."""
        self.number, self.turn = progress["epoch"], progress["steps"]
        if progress["of"] != self.steps:
            self.turn = min(self.steps, round(self.turn / progress["of"] * self.steps))

    def total_steps(self, done: int) -> int:
        train = self.config.train
        if train.max_steps is not None:
            return train.max_steps
        here = self.number * self.steps + self.turn
        return done + max(0, round(train.num_train_epochs * self.steps) - here)
