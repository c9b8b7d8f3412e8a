"""Does the model see? Numbers that tell it while it trains, before a single answer is scored.

A model that ignores its pictures has the same loss with another picture. One whose visual tokens are all alike, or many
times as long as words, cannot tell pictures apart: a real Qwen2.5-0.5B answered 200 questions alike with any picture
while its training loss fell from 2.4 to 0.5. docs/sight.md has the runs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from model.adapters import base_of
from model.model import MMultiModal

# Where a warning begins. In the blind run of docs/sight.md visual tokens were 41 times as long as words and differed by
# 7 % of their length; in the run that saw, 2 to 3 times and by 90 %. Long ones that differ by more than their length
# have no large common part: in a run of the demo they were 12 times as long and differed by 112 %, and 0.987 of the
# answers were right.
LONGEST, LEAST_SPREAD = 10.0, 0.1
SIGHT = 0.1  # nats a token: a gap above this by more than two standard errors is sight
IMAGES_TO_SIGHT = 1000  # the runs of docs/sight.md that saw had a gap above 0 after 150 to 400 training pictures


class PictureGap:
    """How much the loss of a token rises when another picture is shown, summed over batches.

    ``sums`` adds up over processes.
    """

    def __init__(self) -> None:
        # batches, labels, own loss, difference, difference^2, difference * labels, labels^2
        self.sums = torch.zeros(7, dtype=torch.float64)

    def add(self, own: float, other: float, labels: int) -> None:
        """Mean losses of a batch's ``labels`` supervised tokens, with their own and with other pictures."""
        difference = (other - own) * labels
        values = (1.0, labels, own * labels, difference, difference**2, difference * labels, labels**2)
        self.sums += torch.tensor(values, dtype=torch.float64)

    def result(self) -> tuple[float, float] | None:
        """The gap and its standard error, in nats a token; None where no batch showed another picture.

        The error is that of a ratio of sums over batches (Cochran, Sampling Techniques, 3rd ed., eq. 6.9), infinite for
        a single batch.
        """
        batches, labels, _, difference, squares, products, labels_squared = self.sums.tolist()
        if not labels:
            return None
        gap = difference / labels
        if batches < 2:
            return gap, math.inf
        residuals = max(0.0, squares - 2 * gap * products + gap**2 * labels_squared)
        return gap, math.sqrt(residuals * batches / (batches - 1)) / labels


class OtherPictures:
    """Shows each picture of a batch as another one.

    The pictures of a batch form a ring, and each is replaced by the next that belongs to another tree. A batch with too
    few pictures borrows those of the batch before it.
    """

    def __init__(self) -> None:
        self.earlier: torch.Tensor | None = None

    def swap(self, pictures: torch.Tensor, images_per_tree: int) -> torch.Tensor | None:
        """``pictures`` [U, ...], pixels or features -> as many others [U, ...]; None if there are no others yet."""
        count = len(pictures)
        earlier, self.earlier = self.earlier, pictures
        if count >= 2 * images_per_tree:
            return pictures.roll(images_per_tree, dims=0)
        return None if earlier is None else earlier[torch.arange(count) % len(earlier)]


class TokenShape(NamedTuple):
    """Visual tokens beside the language model's words."""

    length: float  # mean L2 norm of a visual token
    spread: float  # mean distance of a visual token from the mean of all of them
    word_length: float  # median L2 norm of a row of the embedding matrix

    @property
    def lengths(self) -> float:
        """A visual token's length, in lengths of words."""
        return self.length / self.word_length

    @property
    def relative_spread(self) -> float:
        """The spread as a share of the length: 0 if all tokens are alike."""
        return self.spread / self.length if self.length else 0.0


def token_shape(model: MMultiModal, tokens: torch.Tensor) -> TokenShape:
    """``tokens`` [..., D] of several pictures, and the words of ``model``."""
    flat = tokens.detach().float().flatten(0, -2)  # [M, D]
    embeddings = base_of(model.language).get_input_embeddings().weight  # [V, D]
    words = embeddings.detach()[:: max(1, len(embeddings) // 4096)].float()  # 4,096 rows are enough for a median
    spread = (flat - flat.mean(0)).norm(dim=1).mean()
    return TokenShape(flat.norm(dim=1).mean().item(), spread.item(), words.norm(dim=1).median().item())


def warnings_of(gap: tuple[float, float] | None, shape: TokenShape | None, images: int | None = None) -> list[str]:
    """What is wrong with these numbers, each with what to try; often empty.

    ``images`` is the number of training pictures so far: before IMAGES_TO_SIGHT nothing is a fault yet. None: the
    training is over.
    """
    if images is not None and images < IMAGES_TO_SIGHT:
        return []
    found = []
    if gap is not None and math.isfinite(gap[1]) and gap[0] <= 2 * gap[1]:
        after = "" if images is None else f"after {images:,} training pictures "
        numbers = f"({gap[0]:+.4f} nats, standard error {gap[1]:.4f})"
        if 2 * gap[1] > SIGHT:
            found.append(
                f"{after}the loss is not clearly higher with another picture {numbers}: these are too few questions to "
                "tell whether the model looks at the pictures; hold out more of them"
            )
        else:
            found.append(
                f"{after}the loss is the same with another picture {numbers}: the model does not look at them; try "
                "projector.standardize=true, a projector.learning_rate of 3e-4, or captions before questions"
            )
    if shape is not None and shape.lengths > LONGEST and shape.relative_spread < 1:
        found.append(
            f"visual tokens are {shape.lengths:.0f} times as long as words: the language model sees their common part "
            "alone; try projector.standardize=true, or a lower projector.learning_rate"
        )
    if shape is not None and shape.relative_spread < LEAST_SPREAD:
        found.append(
            f"visual tokens differ by {shape.relative_spread:.0%} of their length: pictures look alike to the language "
            "model; try projector.standardize=true, or a lower projector.learning_rate"
        )
    return found
