"""Samples to a batch: tensors for the model, and one object for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from dataset.prompt import IGNORE_INDEX
from qwen.tokenizer import TREE_STRIDE

if TYPE_CHECKING:
    from dataset.image_caption_dataset import ImageCaptionDataset

PADDING = -1  # the segment of padding: neither root nor branch


class Position(NamedTuple):
    """Where a stream of shards is: the beginning of a window, and how many of its batches were taken.

    Plain numbers, for JSON. They mean the same to any number of processes.
    """

    epoch: int = 0
    shard: int = 0  # in the epoch's order
    record: int = 0  # in that shard
    window: int = 0  # in the epoch
    batches: int = 0


class Counts(NamedTuple):
    """Tokens of a batch: the real ones, the visual ones among them, and padding."""

    tokens: int = 0
    visual: int = 0
    padding: int = 0


@dataclass
class BatchInfo:
    """What people and the training loop want to know of a batch; the model gets none of it."""

    ids: list[str] = field(default_factory=list)  # the names of its conversations
    skipped: list[str] = field(default_factory=list)  # one line for each conversation that could not be used
    changes: Counter[str] = field(default_factory=Counter)  # of a stream: in the windows that its step begins
    counts: Counts = Counts()
    images_per_tree: int = 0  # the most that a tree has
    real: bool = True  # False: a repeated batch, which keeps the processes in step and must count for nothing
    position: Position | None = None  # of a stream: where it is after the batch's step


def collate(samples: Sequence[dict], pad_token_id: int, packed: bool = False) -> dict[str, Any]:
    """Stack samples into a batch: a row for each, padded on the right by position, or one row of all if ``packed``.

    Returns:
        ``info``, a :class:`BatchInfo`, and tensors for B rows of at most T tokens with K images in all:

        - ``input_ids``, ``attention_mask``, ``labels``: [B, T] int64
        - ``segments``, ``position_ids``: [B, T] int64, only where a row has several branches or trees
        - ``images_per_row``: [B] int64
        - ``pixel_values``: [U, 3, H, W] float32, or ``image_features`` [U, N, D] where samples bring those: each of U
          different images once; absent without images
        - ``image_index``: [K] int64, which of the U images each of the K is; only where U < K
    """
    ids = [sample["id"] for sample in samples]
    images_per_tree = max(len(sample["images"]) for sample in samples)
    skipped = [line for sample in samples for line in sample["skipped"]]
    if packed and len(samples) > 1:
        samples = [pack(samples)]
    longest = max(len(sample["input_ids"]) for sample in samples)

    def padded(key: str, fill: int) -> torch.Tensor:
        return torch.tensor([sample[key] + [fill] * (longest - len(sample[key])) for sample in samples])  # [B, T]

    lengths = torch.tensor([len(sample["input_ids"]) for sample in samples])  # [B]
    images = [image for sample in samples for image in sample["images"]]
    unique = dict(zip(images, (pixels for sample in samples for pixels in sample["pixel_values"]), strict=True))
    tokens = int(lengths.sum())
    batch: dict[str, Any] = {
        "input_ids": padded("input_ids", pad_token_id),  # [B, T]
        # By position, not by id: the padding token may be a token that also ends answers.
        "attention_mask": (torch.arange(longest)[None, :] < lengths[:, None]).long(),  # [B, T]
        "labels": padded("labels", IGNORE_INDEX),  # [B, T]
        "images_per_row": torch.tensor([len(sample["pixel_values"]) for sample in samples]),  # [B]
        "info": BatchInfo(
            ids=ids,
            images_per_tree=images_per_tree,
            skipped=skipped,
            counts=Counts(tokens, sum(sample["visual_tokens"] for sample in samples), len(samples) * longest - tokens),
        ),
    }
    if any(sample["segments"][-1] > 1 for sample in samples):
        batch["segments"] = padded("segments", PADDING)  # [B, T]
        batch["position_ids"] = padded("position_ids", 0)  # [B, T]
    if unique:
        stacked = torch.stack(list(unique.values()))  # [U, 3, H, W], or [U, N, D]
        batch["pixel_values" if stacked.ndim == 4 else "image_features"] = stacked
    if len(unique) < len(images):
        numbers = {image: number for number, image in enumerate(unique)}
        batch["image_index"] = torch.tensor([numbers[image] for image in images])  # [K]
    return batch


def pack(samples: Sequence[dict]) -> dict[str, Any]:
    """Several samples in one row: their trees one after another, which do not see each other."""
    row: dict[str, Any] = {
        key: [value for sample in samples for value in sample[key]]
        for key in ("input_ids", "labels", "position_ids", "pixel_values", "images")
    }
    row["segments"] = [
        tree * TREE_STRIDE + branch for tree, sample in enumerate(samples) for branch in sample["segments"]
    ]
    row["visual_tokens"] = sum(sample["visual_tokens"] for sample in samples)
    return row


def model_inputs(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a batch, which are the arguments of :meth:`model.model.MMultiModal.forward`."""
    return {key: value for key, value in batch.items() if key != "info"}


def samples_of_batch(dataset: ImageCaptionDataset, indices: Sequence[int]) -> dict[str, torch.Tensor]:
    """The model's inputs for chosen samples of a dataset."""
    return model_inputs(collate([dataset[i] for i in indices], dataset.tokenizer.pad_token_id, dataset.packing))
