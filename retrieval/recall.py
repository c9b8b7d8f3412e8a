"""Recall@k: is what belongs to a query among the k nearest?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from evaluation.significance import clustered_mean

if TYPE_CHECKING:
    from retrieval.encoder import Encoder

KS = (1, 5, 10)


@dataclass
class Captioned:
    """A picture and its captions."""

    path: str
    captions: list[str] = field(default_factory=list)


@dataclass
class Similarities:
    """Each picture compared with each of the distinct captions.

    A caption that several pictures have is right for each of them.
    """

    pictures: Sequence[Captioned]
    texts: list[str]
    captions: np.ndarray  # [m, D] float32, the vectors of the texts
    cosines: np.ndarray  # [n, m] float32
    right: np.ndarray  # [n, m] bool


def similarities(images: np.ndarray, captions: np.ndarray, pictures: Sequence[Captioned]) -> Similarities:
    """From vectors of the pictures [n, D] and of the captions [m, D], which are in the order of :func:`distinct`."""
    texts = distinct(pictures)
    numbers = {text: number for number, text in enumerate(texts)}
    right = np.zeros((len(pictures), len(texts)), bool)
    for row, picture in enumerate(pictures):
        right[row, [numbers[text] for text in picture.captions]] = True
    return Similarities(pictures, texts, captions, images @ captions.T, right)


def similarities_of(
    encoder: Encoder, pictures: Sequence[Captioned], problems: dict[Path, str], bars: bool = False
) -> Similarities:
    """:func:`similarities` of two towers. Pictures that cannot be read are left out, and go into ``problems``.

    ``bars``: show how far it is.

    Raises:
        UserError: none can be read.
    """
    names = ("pictures", "captions") if bars else (None, None)
    batches = list(encoder.images([Path(picture.path) for picture in pictures], problems, names[0]))
    if not batches:
        raise UserError(f"none of {len(pictures)} pictures can be read; the first: {next(iter(problems.values()))}")
    usable = [picture for picture in pictures if Path(picture.path) not in problems]
    images = np.concatenate([vectors for _, vectors in batches])  # [n, D]
    return similarities(images, encoder.texts(distinct(usable), names[1]), usable)


def recall(found: Similarities) -> dict[str, dict[str, float]]:
    """Recall at KS both ways: over all captions of all pictures, and over all pictures.

    Standard errors are clustered by picture; one picture has none. ``chance_at_1`` is that of a random first.
    """
    numbers = {text: number for number, text in enumerate(found.texts)}
    by_text = first_right(found.cosines.T, found.right.T)  # [m]: how many come before the first right picture
    by_image = first_right(found.cosines, found.right)  # [n]
    rows = [row for row, picture in enumerate(found.pictures) for _ in picture.captions]
    asked = [numbers[text] for picture in found.pictures for text in picture.captions]
    return {
        "text_to_image": summary(by_text[asked], rows, found.right.mean(0)[asked]),
        "image_to_text": summary(by_image, range(len(by_image)), found.right.mean(1)),
    }


def distinct(pictures: Sequence[Captioned]) -> list[str]:
    """All captions, each once."""
    return list(dict.fromkeys(text for picture in pictures for text in picture.captions))


def first_right(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each row of ``scores`` [q, n], how many wrong columns score at least as much as the best right one."""
    best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    return ((scores >= best) & ~right).sum(1)


def nearest(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The column with the highest of each row of ``scores`` [q, n]; of a tie a wrong one, as in :func:`first_right`."""
    highest = scores == scores.max(1, keepdims=True)
    return np.where(highest, np.where(right, np.int8(1), np.int8(2)), np.int8(0)).argmax(1)


def summary(ranks: np.ndarray, groups: Sequence[int], chances: np.ndarray) -> dict[str, float]:
    """Recall at KS of queries with these ``ranks`` [q] of their first right answer, clustered by ``groups``."""
    found: dict[str, float] = {"n": len(ranks), "chance_at_1": float(chances.mean())}
    for k in KS:
        found[f"recall_at_{k}"], error = clustered_mean((ranks < k).astype(float).tolist(), groups)
        if math.isfinite(error):
            found[f"standard_error_at_{k}"] = error
    return found
