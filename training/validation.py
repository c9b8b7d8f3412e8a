"""The loss of the validation split, with each sample's own pictures and once more with others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from model.sight import OtherPictures, PictureGap, TokenShape, token_shape, warnings_of
from training.feed import Batch, image_count, label_count

if TYPE_CHECKING:
    from training.loop import Loop

PICTURES = ("pixel_values", "image_features")


@torch.no_grad()
def validate(loop: Loop) -> dict[str, float] | None:
    """``eval_loss`` and what it says of the pictures; None if a signal came to any process.

    ``eval_loss`` is the mean cross entropy over every supervised token, ``eval_loss_other_picture`` the same with
    another picture in each sample. ``eval_gap`` is their difference over the samples that have pictures, and
    ``eval_gap_error`` its standard error, which is left out where a single batch had pictures.

    The loop's warnings are printed by its first process.
    """
    total, gap, others = torch.zeros(2, dtype=torch.float64), PictureGap(), OtherPictures()
    shape: TokenShape | None = None
    for batch in loop.feed.validation():
        if loop.all_stop():
            return None
        loop.warn_of_skipped(batch)
        labels = label_count(batch) if batch["info"].real else 0
        own = batch_loss(loop, batch)
        total += torch.tensor((own * labels, labels), dtype=torch.float64) if labels else 0.0
        swapped = with_other_pictures(batch, others)
        # Under FSDP every process runs every pass, because each gathers weights that the others hold.
        other = batch_loss(loop, swapped or batch) if swapped or loop.sharded else own
        if swapped and labels:
            gap.add(own, other, labels)
        shown = loop.model.projector.in_sequence and not loop.config.train.qformer_alone
        if shape is None and image_count(batch) and shown and not loop.sharded:
            shape = shape_of(loop, batch)
    total, gap.sums = loop.sum_over_processes(total), loop.sum_over_processes(gap.sums)
    loss, found = (total[0] / total[1]).item(), gap.result()
    values = {"eval_loss": loss, "eval_perplexity": math.exp(min(loss, 50.0))}
    if found is not None:
        # Samples without pictures keep their loss.
        values["eval_loss_other_picture"] = loss + (gap.sums[3] / total[1]).item()
        values["eval_gap"] = found[0]
        if math.isfinite(found[1]):  # from a single batch it is not, and JSON has no infinity
            values["eval_gap_error"] = found[1]
    if shape is not None:
        values |= {"visual_token_lengths": shape.lengths, "visual_token_spread": shape.relative_spread}
    values["images"] = loop.images_seen()
    loop.warn(warnings_of(found, shape, loop.images_seen()))
    return values


def batch_loss(loop: Loop, batch: Batch) -> float:
    return float(loop.model(**loop.to_device(batch)).loss)


def with_other_pictures(batch: Batch, others: OtherPictures) -> Batch | None:
    """The batch with each picture replaced by another; None if it has none, or there are no others yet."""
    for name in PICTURES:
        if name in batch:
            swapped = others.swap(batch[name], batch["info"].images_per_tree)
            return None if swapped is None else {**batch, name: swapped}
    return None


def shape_of(loop: Loop, batch: Batch) -> TokenShape:
    """Of the visual tokens of a batch's pictures."""
    inputs = loop.to_device(batch)
    if "image_features" in inputs:
        return token_shape(loop.model, loop.model.project(inputs["image_features"]))
    return token_shape(loop.model, loop.model.encode_images(inputs["pixel_values"]))
