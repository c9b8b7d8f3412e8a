"""Imitated pictures for the language model's pretraining: visual tokens that are mixtures of words' embeddings.

A trained projector makes such tokens. After ``projector.align_steps`` on the worlds of demo/elsewhere.py, the best of a
picture's tokens had a cosine of 0.34 to 0.54 with a word that is true of it, and 0.20 to 0.25 with the other words of
the same attribute. In 200 pictures drawn here, with four attributes, the means were 0.49 and 0.24.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dataset.prompt import encode_as_word
from demo.scenes import PICTURE_SIZE
from demo.texts import FIRST, encode_words
from demo.vision import PATCH
from qwen.tokenizer import Tokenizer

SIDE = PICTURE_SIZE // PATCH  # 8 patches
LENGTH = 2.0  # of a visual token, in lengths of words; training/align.py draws the projector's to the same
UNTRUE = 0.6  # the most that words which are not true of a picture weigh in it


class Picture(NamedTuple):
    """What the 64 visual tokens of a picture are made of; or, with one more dimension, those of B pictures."""

    words: torch.Tensor  # [n, L] int64: token ids of n words, padded with -1
    weights: torch.Tensor  # [64, n] of the words in each patch; 0 in the background
    vector: torch.Tensor  # [64] of a vector that is the same in the whole picture
    noise: torch.Tensor  # [64] of a vector of each patch alone
    lengths: torch.Tensor  # [64], in lengths of words


def draw_picture(
    objects: Sequence[tuple[Sequence[int], Sequence[str]]],
    others: Sequence[str],
    tokenizer: Tokenizer,
    rng: random.Random,
    unclear: float = 1.0,
) -> Picture:
    """An object is the numbers of its patches and the words that are true of it; ``others`` are not true of any.

    A patch of an object is a mixture of most of its words, of a little of all words, and of noise. With ``unclear`` 0
    it has nothing of the others and at most half of the noise. Where only four in ten of the words were in a patch,
    fewer answers were right.
    """
    texts = list(dict.fromkeys([*(word for _, own in objects for word in own), *others]))
    # As training/align.py takes an answer. A private character is one token wherever it stands.
    ids = [
        encode_words(tokenizer, text) if ord(text[0]) >= FIRST else encode_as_word(tokenizer, text) for text in texts
    ]
    longest = max(map(len, ids))
    draw = np.random.default_rng(rng.getrandbits(64))
    weights = np.zeros((SIDE**2, len(texts)))
    vector, noise = np.full(SIDE**2, rng.uniform(0.3, 1)), np.full(SIDE**2, rng.uniform(0.2, 1))
    shares, untrue = rng.uniform(0.65, 1), rng.uniform(0, UNTRUE * unclear)
    for patches, own in objects:
        shape = (len(patches), len(own))
        named = (draw.random(shape) < shares) * (0.4 + 1.2 * draw.random(shape))
        weights[np.ix_(patches, [texts.index(word) for word in own])] += named
        weights[patches] += untrue
        vector[patches], noise[patches] = rng.uniform(0, 0.3 * unclear), rng.uniform(0.1, 0.4 + 0.4 * unclear)
    return Picture(
        torch.tensor([[*own, *[-1] * (longest - len(own))] for own in ids]),
        *(torch.from_numpy(values).float() for values in (weights, vector, noise, 0.8 + 0.4 * draw.random(SIDE**2))),
    )


def stack(pictures: Sequence[Picture]) -> Picture:
    """B pictures as one, with words of weight 0 where a picture has fewer than others."""
    most, longest = (max(picture.words.shape[axis] for picture in pictures) for axis in (0, 1))
    words = [
        F.pad(one.words, (0, longest - one.words.shape[1], 0, most - one.words.shape[0]), value=-1) for one in pictures
    ]
    weights = [F.pad(one.weights, (0, most - one.weights.shape[1])) for one in pictures]
    rest = zip(*((one.vector, one.noise, one.lengths) for one in pictures), strict=True)
    return Picture(torch.stack(words), torch.stack(weights), *(torch.stack(values) for values in rest))


def imitate(pictures: Picture, table: torch.Tensor) -> torch.Tensor:
    """Visual tokens [B, 63, D] of B pictures; ``table`` [V, D] are the embeddings. The first patch is dropped.

    A word's direction is that of its tokens' mean embedding, seen from the mean of all words. Seen from the mean of
    the table, after 1,500 steps the directions of different words had a cosine of 0.7.
    """
    given = pictures.words >= 0  # [B, n, L]
    vectors = table[pictures.words.clamp(min=0)] * given[..., None]  # [B, n, L, D]
    means = vectors.sum(2) / given.sum(2, keepdim=True).clamp(min=1)  # [B, n, D]
    centre = means.sum((0, 1)) / given.any(2).sum()  # [D]
    mixed = pictures.weights @ F.normalize(means - centre, dim=-1)  # [B, 64, D]
    count, patches, width = mixed.shape
    size = mixed.norm(dim=-1, keepdim=True)
    size = torch.where(size > 0, size, 1.0)  # [B, 64, 1]
    vector = F.normalize(torch.randn(count, 1, width, device=table.device), dim=-1)
    noise = F.normalize(torch.randn(count, patches, width, device=table.device), dim=-1)
    tokens = mixed + size * (pictures.vector[..., None] * vector + pictures.noise[..., None] * noise)
    lengths = LENGTH * table.norm(dim=1).median() * pictures.lengths  # [B, 64]
    return (F.normalize(tokens, dim=-1) * lengths[..., None])[:, 1:]


def draw_patches(rng: random.Random) -> list[int]:
    """The numbers of the patches in a rectangle of 4 to 25, or of all."""
    if rng.random() < 0.1:
        return list(range(SIDE**2))
    width, height = rng.randint(2, 5), rng.randint(2, 5)
    x, y = rng.randint(0, SIDE - width), rng.randint(0, SIDE - height)
    return [SIDE * row + column for row in range(y, y + height) for column in range(x, x + width)]
