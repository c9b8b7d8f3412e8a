"""Recall@k: is what belongs to a query among the k nearest?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError

if TYPE_CHECKING:
    from retrieval.encoder import Encoder

KS = (1, 5, 10)


@dataclass
class Captioned:
    """A picture and its captions."""

    path: str
    captions: list[str] = field(default_factory=list)


def recall(images: np.ndarray, captions: np.ndarray, pictures: Sequence[Captioned]) -> dict[str, dict[str, float]]:
    """Recall at KS both ways, from vectors of the pictures [n, D] and of the distinct captions [m, D].

    ``captions`` are in the order of :func:`distinct`. A caption that several pictures have is right for each of them.
    A picture that has several captions counts once, with the mean of theirs; standard errors are over pictures.
    """
    numbers = {text: number for number, text in enumerate(distinct(pictures))}
    right = np.zeros((len(pictures), len(numbers)), bool)
    for row, picture in enumerate(pictures):
        right[row, [numbers[text] for text in picture.captions]] = True
    cosines = images @ captions.T  # [n, m]
    by_text = first_right(cosines.T, right.T)  # [m]: how many come before the first right picture
    by_image = first_right(cosines, right)  # [n]
    means = {
        "text_to_image": [[by_text[numbers[text]] for text in picture.captions] for picture in pictures],
        "image_to_text": [[rank] for rank in by_image],
    }
    shares = {"text_to_image": right.mean(0), "image_to_text": right.mean(1)}
    return {name: summary(ranks, float(shares[name].mean())) for name, ranks in means.items()}


def recall_of(encoder: Encoder, pictures: Sequence[Captioned]) -> dict[str, dict[str, float]]:
    """:func:`recall` of two towers on pictures with captions; pictures that cannot be read are left out.

    Raises:
        UserError: none can be read.
    """
    problems: dict[Path, str] = {}
    batches = list(encoder.images([Path(picture.path) for picture in pictures], problems))
    if not batches:
        raise UserError(f"none of {len(pictures)} pictures can be read; the first: {next(iter(problems.values()))}")
    usable = [picture for picture in pictures if Path(picture.path) not in problems]
    return recall(np.concatenate([vectors for _, vectors in batches]), encoder.texts(distinct(usable)), usable)


def distinct(pictures: Sequence[Captioned]) -> list[str]:
    """All captions, each once."""
    return list(dict.fromkeys(text for picture in pictures for text in picture.captions))


def first_right(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each row of ``scores`` [q, n], how many wrong columns score at least as much as the best right one."""
    best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    return ((scores >= best) & ~right).sum(1)


def summary(ranks: Sequence[Sequence[int]], chance: float) -> dict[str, float]:
    """``chance`` is that of a random first."""
    found: dict[str, float] = {"n": len(ranks), "chance_at_1": chance}
    for k in KS:
        hits = np.array([np.mean([rank < k for rank in own]) for own in ranks])
        found[f"recall_at_{k}"] = float(hits.mean())
        found[f"standard_error_at_{k}"] = float(hits.std(ddof=1) / len(hits) ** 0.5) if len(hits) > 1 else float("nan")
    return found
