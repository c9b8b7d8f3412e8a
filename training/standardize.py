"""The start of a fresh projector, measured once on training pictures before the first step of a run: the statistics of
the features, and visual tokens as long as words."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import torch
from accelerate.utils import broadcast

from dataset.image_caption_dataset import ImageCaptionDataset
from model.adapters import base_of
from model.model import MMultiModal
from model.statistics import feature_statistics

if TYPE_CHECKING:
    from training.loop import Loop

SCALED = 8  # pictures for the length of tokens: 5,824 tokens with so400m
IMAGES = 128  # 93,184 features with so400m: the mean of each dimension is known to 0.3 % of its deviation


def standardize(loop: Loop) -> None:
    """Give the fresh projector the mean and deviation of features, and let its tokens be as long as words.

    All processes get the numbers of the first. Without any training picture the projector stays as it is. With weights
    from N(0, 0.01) the demo's first visual tokens have a hundredth of a word's length, and so400m's would be several
    times as long.
    """
    model, device = loop.model, loop.accelerator.device
    model.vision.to(device)
    model.projector.to(device)
    pictures = list(islice(training_pictures(loop.feed.known, loop.config.data.seed), IMAGES))
    if not pictures:
        return
    statistics = torch.stack(feature_statistics(model, pictures)).to(device)  # [2, Dv]
    mean, std = broadcast(statistics)
    model.projector.set_statistics(mean, std)
    factor = broadcast(torch.tensor(token_factor(model, pictures[:SCALED]), device=device))
    model.projector.scale_output(float(factor))
    if loop.accelerator.is_main_process:
        print(f"features  standardised by {len(pictures)} training pictures", flush=True)


@torch.no_grad()
def token_factor(model: MMultiModal, pictures: list[torch.Tensor]) -> float:
    """By how much the visual tokens of ``pictures`` must grow for the root mean square of the word embeddings."""
    stacked = torch.stack(pictures).to(model.device)  # [K, 3, H, W], or features [K, N, Dv]
    tokens = model.encode_images(stacked) if stacked.ndim == 4 else model.project(stacked)  # [K, N, Dl]
    words = base_of(model.language).get_input_embeddings().weight  # [V, Dl]
    length = tokens.float().pow(2).mean().sqrt()
    return float(words.float().pow(2).mean().sqrt().to(length) / length)


def training_pictures(dataset: ImageCaptionDataset, seed: int) -> Iterator[torch.Tensor]:
    """The first picture of each sample, in an order that depends on the seed alone: pixels or cached features."""
    for index in random.Random(seed).sample(range(len(dataset)), len(dataset)):
        if pictures := dataset[index]["pixel_values"]:
            yield pictures[0]
