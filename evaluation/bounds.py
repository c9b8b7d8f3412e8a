"""Chance and ceiling: what guessing scores, and the most that any answers can score, where these can be known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from dataset.choices import LABELS
from dataset.normalise import normalise
from evaluation.questions import Question

_YES_NO = {
    "en": [("yes", "no")],
    "zh": [("是", "不是"), ("是", "否"), ("是的", "不是"), ("有", "没有"), ("对", "不对")],
}


def chance(question: Question) -> float | None:
    """The mean score of guessing among the options, or between yes and no where the references say one of them."""
    if question.chance is not None:
        return question.chance
    guesses: Sequence[str] = LABELS[: len(question.options)]
    if not guesses:
        given = {normalise(reference, question.language) for reference in question.references}
        guesses = next((pair for pair in _YES_NO[question.language] if given <= set(pair)), ())
    scores = [score for guess in guesses if (score := question.score_of(guess)) is not None]
    return sum(scores) / len(scores) if scores else None


def set_ceilings(questions: Iterable[Question]) -> None:
    """Write into each question what the best answer to it scores.

    It is below 1 where one answer cannot agree with all references: ten people who disagree, by VQA accuracy, or the
    same question about the same picture with two answers.
    """
    same: dict[tuple, list[Question]] = defaultdict(list)
    for question in questions:
        if question.type != "caption":
            same[(*question.images, " ".join(question.text.lower().split()), *question.options)].append(question)
    for alike in same.values():
        candidates = dict.fromkeys(reference for question in alike for reference in question.references)
        best = max(candidates, key=lambda answer: sum(q.score_of(answer) or 0.0 for q in alike))
        for question in alike:
            question.ceiling = question.score_of(best)
