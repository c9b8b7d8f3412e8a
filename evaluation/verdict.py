"""Does the model look at the picture? Its scores compared with each baseline's, and the verdict in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

from evaluation.baselines import BASELINES, PROBES
from evaluation.questions import Question
from evaluation.scores import clearly_above

FEW_IMAGES = 10


class Comparison(TypedDict):
    """The model and a baseline, over the questions that both answered."""

    n: int
    images: int
    model: float
    baseline: float
    difference: float
    standard_error: float | None  # None: infinite, from a single picture
    clearly_above: bool


def judge(questions: Sequence[Question]) -> dict:
    """Whether the model looks at the picture (None: unknown), the verdict as a sentence, and the comparisons."""
    comparisons = {name: found for name in BASELINES if (found := compare(questions, name)) is not None}
    looks, words = verdict(comparisons)
    return {"looks_at_the_picture": looks, "verdict": words, "baselines": comparisons}


def compare(questions: Sequence[Question], baseline: str) -> Comparison | None:
    """None if there is no question about a picture that both the model and the baseline answered."""
    chosen, own, other = [], [], []
    for question in questions:
        score, baseline_score = question.score(), question.baseline_score(baseline)
        if question.images and score is not None and baseline_score is not None:
            chosen.append(question)
            own.append(float(score))
            other.append(float(baseline_score))
    if not chosen:
        return None
    groups = [question.group for question in chosen]
    difference, error, clear = clearly_above(own, other, groups)
    return {
        "n": len(chosen),
        "images": len(set(groups)),
        "model": sum(own) / len(own),
        "baseline": sum(other) / len(other),
        "difference": difference,
        "standard_error": finite(error),
        "clearly_above": clear,
    }


def verdict(comparisons: Mapping[str, Comparison]) -> tuple[bool | None, str]:
    """The comparisons in a sentence: True or False if they tell whether the model looks, None if they do not."""
    if not comparisons:
        return None, "Whether the model looks at the picture is unknown: no short answer about a picture was scored."
    images = min(row["images"] for row in comparisons.values())
    if images < 2:
        return None, "Whether the model looks at the picture cannot be told from a single picture."
    few = f" Only {images} pictures were used: this is weak evidence." if images < FEW_IMAGES else ""
    not_beaten = [
        f"{BASELINES[name].words} ({row['model']:.2f} against {row['baseline']:.2f}, "
        f"difference {row['difference']:+.2f}, standard error {row['standard_error']:.2f})"
        for name, row in comparisons.items()
        if not row["clearly_above"]
    ]
    if not_beaten:
        return False, (
            f"This model is NOT clearly better than {' or '.join(not_beaten)}: "
            f"its answers may not come from the picture.{few}"
        )
    listed = ", ".join(f"{row['baseline']:.2f} ({BASELINES[name].heading})" for name, row in comparisons.items())
    scores = f"{next(iter(comparisons.values()))['model']:.2f} against {listed}."
    if not PROBES.keys() <= comparisons.keys():
        return None, (
            f"The model is clearly better than the baselines: {scores} "
            f"It was not asked again with another picture and with none.{few}"
        )
    return True, f"The model looks at the picture: {scores}{few}"


def finite(number: float) -> float | None:
    """None for infinity, which JSON does not have."""
    return number if math.isfinite(number) else None
