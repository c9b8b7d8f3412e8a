"""Losses that compare pictures with texts. Picture i belongs to text i, and to no other text of the step.

Every process hands in its own pairs, equally many. The loss is over the pairs of all processes and is the same in each.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as group
import torch.nn.functional as F
from torch import Tensor

MAX_LOG_SCALE = 4.6052  # ln 100: CLIP (2103.00020, section 2.5) lets the temperature fall to 0.01 and no further


class _GatherRows(torch.autograd.Function):
    """Every process computes the same loss, so each knows the gradient of its own rows, and nothing is exchanged.

    It is multiplied by the number of processes, because DDP and FSDP divide the sum of gradients by it.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        rows = [torch.empty_like(own) for _ in range(group.get_world_size())]
        group.all_gather(rows, own.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].chunk(group.get_world_size())[group.get_rank()] * group.get_world_size()


def gather_rows(own: Tensor) -> Tensor:
    """The rows [n, D] of all processes [n * processes, D], in the order of the ranks, with gradients."""
    if not (group.is_available() and group.is_initialized()) or group.get_world_size() == 1:
        return own
    return _GatherRows.apply(own)


def similarities(texts: Tensor, images: Tensor, log_scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """exp(log_scale) times the cosines, plus ``bias``: [texts, images], from vectors [texts, D] and [images, D]."""
    cosines = F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
    logits = cosines * log_scale.exp()
    return logits if bias is None else logits + bias


def softmax_loss(texts: Tensor, images: Tensor, log_scale: Tensor) -> Tensor:
    """CLIP's loss (:func:`softmax_of`) of the pairs of all processes, from vectors [n, D] of this one's.

    ``log_scale`` is the logarithm of 1 / temperature and is learnt; above ln 100 it has no effect.
    """
    return softmax_of(similarities(gather_rows(texts), gather_rows(images), log_scale.clamp(max=MAX_LOG_SCALE)))


def sigmoid_loss(texts: Tensor, images: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """SigLIP's loss (:func:`sigmoid_of`) of the pairs of all processes, from vectors [n, D] of this one's."""
    return sigmoid_of(similarities(gather_rows(texts), gather_rows(images), log_scale, bias))


def softmax_of(logits: Tensor) -> Tensor:
    """Which picture belongs to a text, and which text to a picture; the mean of both (2103.00020, figure 3).

    ``logits`` [texts, images] of pairs: the right ones are on the diagonal.
    """
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def sigmoid_of(logits: Tensor) -> Tensor:
    """Does this picture belong to this text, yes or no (2303.15343, algorithm 1)? ``logits`` as in :func:`softmax_of`.

    Summed over all pairs of a text and a picture, and divided by the number of texts.
    """
    signs = 2 * torch.eye(len(logits), device=logits.device) - 1  # 1 on the diagonal, -1 elsewhere
    return -F.logsigmoid(signs * logits).sum() / len(logits)
