"""Boxes in answers: how well they fit those of the reference, and what can be said without looking at the picture.

The score of a question is its accuracy at IoU 0.5: how many boxes of the answer and the reference can be paired one to
one with an IoU of 0.5 or more, over the larger of the two numbers. With one box each it is 1 or 0, as for RefCOCO; too
many boxes and too few both cost. The IoU of two boxes is the area of what they share over the area that they cover.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dataset.boxes import Box, boxes_in

if TYPE_CHECKING:
    from evaluation.questions import Question

THRESHOLD = 0.5
MOST = 200  # boxes that a commonest box is chosen from, and that each of them is compared with: 40,000 pairs, 0.1 s


def iou(a: Box, b: Box) -> float:
    """From 0 to 1. Corners are edges: two boxes that touch share nothing."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (a, b)]
    return width * height / (sum(areas) - width * height)


def has_boxes(references: Sequence[str]) -> bool:
    """Whether a question asks for boxes: every reference answer holds some."""
    return bool(references) and all(boxes_in(text) for text in references)


def box_accuracy(answer: str, references: Sequence[str], language: str = "en") -> float:
    """Pairs with an IoU of 0.5 or more over the larger number of boxes; of the reference that fits best."""
    return _best(answer, references, lambda found, wanted: _pairs(found, wanted) / max(len(found), len(wanted)))


def box_recall(answer: str, references: Sequence[str], language: str = "en") -> float:
    """How many of the reference's boxes are found, paired one to one, with an IoU of 0.5 or more."""
    return _best(answer, references, lambda found, wanted: _pairs(found, wanted) / len(wanted))


def box_iou(answer: str, references: Sequence[str], language: str = "en") -> float:
    """The mean IoU of boxes that are paired from the best pair on; a box without a partner counts as 0."""
    return _best(answer, references, _mean_iou)


def _best(answer: str, references: Sequence[str], score: Callable[[list[Box], list[Box]], float]) -> float:
    found, best = boxes_in(answer), 0.0
    for text in references:
        wanted = boxes_in(text)
        best = max(best, score(found, wanted) if wanted else float(text.strip() == answer.strip()))  # "not there"
    return best


def _pairs(found: Sequence[Box], wanted: Sequence[Box]) -> int:
    """The most pairs with an IoU of at least THRESHOLD in which no box occurs twice (Kuhn's augmenting paths)."""
    fits = [[n for n, other in enumerate(wanted) if iou(box, other) >= THRESHOLD] for box in found]
    owner: dict[int, int] = {}  # number of a wanted box -> number of the found box that it is paired with

    def place(box: int, tried: set[int]) -> bool:
        for n in fits[box]:
            if n not in tried:
                tried.add(n)
                if n not in owner or place(owner[n], tried):
                    owner[n] = box
                    return True
        return False

    return sum(place(box, set()) for box in range(len(found)))


def _mean_iou(found: Sequence[Box], wanted: Sequence[Box]) -> float:
    pairs = sorted(((iou(a, b), i, j) for i, a in enumerate(found) for j, b in enumerate(wanted)), reverse=True)
    total, used, met = 0.0, set(), set()
    for value, i, j in pairs:
        if i not in used and j not in met:
            total += value
            used.add(i)
            met.add(j)
    return total / max(len(found), len(wanted))


# ---------------------------------------------------------------------------------------------- without looking


def commonest_boxes(asked: Sequence[Question], train: Sequence[Question] | None) -> list[tuple[str, str]]:
    """For each question that asks for boxes, two answers that need no picture.

    The first is the commonest box of its type in its language: of the references, the one that scores best as an answer
    to all the others. The second is that of the questions with the same text; of an unknown text, the first.
    Without ``train`` the references are those of ``asked``, without those of the same picture.
    """
    pool = [question for question in (asked if train is None else train) if has_boxes(question.references)]
    by_type: dict[tuple[str, str], list[Question]] = defaultdict(list)
    by_text: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for question in pool:
        by_type[question.language, question.type].append(question)
        by_text[question.language, question.words.lower()].append(question)
    types = {key: _Commonest(questions) for key, questions in by_type.items()}
    texts = {key: _Commonest(questions) for key, questions in by_text.items()}
    answers = []
    for question in asked:
        without = question.group if train is None else None
        keys = [(texts, (question.language, question.words.lower())), (types, (question.language, question.type))]
        by = [table[key].answer(without) if key in table else "" for table, key in keys]
        answers.append((by[1], by[0] or by[1]))
    return answers


class _Commonest:
    """Of the references of some questions, the one that scores best as an answer to them all."""

    def __init__(self, questions: Sequence[Question]) -> None:
        some = questions if len(questions) <= MOST else random.Random(0).sample(list(questions), MOST)
        self.groups = [question.group for question in some]
        self.texts = [question.references[0] for question in some]
        self.scores = [[box_accuracy(text, [other]) for other in self.texts] for text in self.texts]
        self.kept: dict[str | None, str] = {}

    def answer(self, without: str | None) -> str:
        """ "" where there is none but those of the picture ``without``."""
        key = without if without in self.groups else None
        if key not in self.kept:
            others = [number for number, group in enumerate(self.groups) if group != key]
            best = max(others, key=lambda number: sum(self.scores[number][other] for other in others), default=None)
            self.kept[key] = "" if best is None else self.texts[best]
        return self.kept[key]
