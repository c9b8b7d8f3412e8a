"""Losses of pictures and texts in pairs. Picture i belongs to text i, and to no other text of the step.

Contrastive losses are over the pairs of all processes and are the same in each; every process hands in its own pairs,
equally many. Matching, generation and masked words are over the pairs of this process.
"""

from __future__ import annotations

from typing import Any, Literal

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


# ---------------------------------------------------------------------------------------------- BLIP-2's first stage
# Li et al. 2023, 2301.12597, section 3.2: queries and words go through one transformer, with a mask for each loss.

LossName = Literal["itc", "itm", "itg", "mlm"]


def query_text_mask(loss: LossName, queries: int, words: Tensor) -> Tensor:
    """Who sees whom, [n, 1, Q + T, Q + T] bool, query by key; ``words`` [n, T] is False at padding (figure 2).

    itc: queries see queries, and words see words. itm and mlm: all see all. itg: queries see queries, and a word sees
    the queries and the words up to itself.
    """
    rows, length = words.shape
    mask = torch.ones(rows, queries + length, queries + length, dtype=torch.bool, device=words.device)
    if loss in ("itc", "itg"):
        mask[:, :queries, queries:] = False
    if loss == "itc":
        mask[:, queries:, :queries] = False
    if loss == "itg":
        mask[:, queries:, queries:] = mask[:, queries:, queries:].tril()
    mask[:, :, queries:] &= words[:, None]
    return mask[:, None]


def query_text_similarities(texts: Tensor, queries: Tensor, log_scale: Tensor) -> Tensor:
    """[texts, pictures] from ``texts`` [n, D] and ``queries`` [m, Q, D]: that of the picture's most similar query."""
    cosines = torch.einsum("td,iqd->tiq", F.normalize(texts, dim=-1), F.normalize(queries, dim=-1))
    return cosines.amax(-1) * log_scale.clamp(max=MAX_LOG_SCALE).exp()


def query_text_loss(texts: Tensor, queries: Tensor, log_scale: Tensor) -> Tensor:
    """Image-text contrastive loss of ``texts`` [n, D] and the ``queries`` [n, Q, D] of their pictures."""
    gathered = gather_rows(queries.flatten(1)).unflatten(1, queries.shape[1:])  # [n * processes, Q, D]
    return softmax_of(query_text_similarities(gather_rows(texts), gathered, log_scale))


def hard_negatives(logits: Tensor) -> tuple[Tensor, Tensor]:
    """For each text another's picture [n], and for each picture another's text [n], from similarities [texts, images].

    Drawn by the softmax of the similarities without the diagonal, so that what is hard to tell apart comes more often.
    """
    others = logits.detach().masked_fill(torch.eye(len(logits), dtype=torch.bool, device=logits.device), -torch.inf)
    return others.softmax(1).multinomial(1)[:, 0], others.T.softmax(1).multinomial(1)[:, 0]


def matching_loss(logits: Tensor, matched: int) -> Tensor:
    """Image-text matching: ``logits`` [pairs, 2] for no and yes; the first ``matched`` pairs belong together."""
    belongs = (torch.arange(len(logits), device=logits.device) < matched).long()
    return F.cross_entropy(logits, belongs)


def generation_loss(logits: Tensor, ids: Tensor, words: Tensor) -> Tensor:
    """Image-grounded text generation: ``logits`` [n, T, V] at each position are for the word ``ids`` [n, T] there.

    The caller puts a start token in front, so that position t has seen the words before t. ``words`` [n, T] is False
    at padding.
    """
    return F.cross_entropy(logits[words], ids[words])


def mask_words(ids: Tensor, words: Tensor, mask_id: int, share: float = 0.15) -> tuple[Tensor, Tensor]:
    """Masked language modelling (Devlin et al. 2019, 1810.04805, section 3.1): inputs and labels [n, T].

    A ``share`` of the words is chosen, at least one in each text. Of these 80 % become ``mask_id``, 10 % another word
    of this batch and 10 % stay. Labels are the chosen words, and -100 elsewhere.
    """
    draw = torch.rand(ids.shape, device=ids.device).masked_fill(~words, 2.0)
    chosen = (draw < share) | (draw == draw.amin(1, keepdim=True)) & words
    how = torch.rand(ids.shape, device=ids.device)
    pool = ids[words]
    other = pool[torch.randint(len(pool), ids.shape, device=ids.device)]
    inputs = torch.where(chosen & (how < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (how >= 0.8) & (how < 0.9), other, inputs)
    return inputs, ids.masked_fill(~chosen, -100)


def masked_words_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy of the chosen words: ``logits`` [n, T, V], ``labels`` [n, T] of :func:`mask_words`."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())
