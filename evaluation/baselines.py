"""The baselines: four kinds of answers that can be had without looking at the picture.

Two are fitted on questions and reference answers alone: the majority answer, and the best answer per question text.
Two ask the model again: with another picture, and with no picture. A model that looks is clearly above all four.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from PIL import Image

from dataset.choices import LABELS, options_in
from dataset.normalise import normalise
from evaluation.boxes import commonest_boxes, has_boxes
from evaluation.questions import Question


@dataclass(frozen=True)
class Baseline:
    """``heading`` is the column in the printed table; ``words`` name the baseline in the verdict."""

    heading: str
    words: str


FITTED = {
    "majority": Baseline("majority", "the majority answer of its type"),
    "question_only": Baseline("question only", "the best answer per question text"),
}
PROBES = {
    "other_picture": Baseline("other picture", "itself with another picture"),
    "no_picture": Baseline("no picture", "itself with no picture"),
}
BASELINES = FITTED | PROBES
GREY = Image.new("RGB", (64, 64), (128, 128, 128))  # "no picture" for a model that cannot be asked without one


def needs_picture(question: Question) -> bool:
    """Whether the baselines apply: a short question about a picture, which the model has answered."""
    return question.prediction is not None and bool(question.images) and question.type != "caption"


# ---------------------------------------------------------------------------------------------- fitted on text


def fit_baselines(questions: Sequence[Question], train: Sequence[Question] | None) -> str:
    """Write the fitted baselines' answers into the questions. Returns what they were fitted on, for the report."""
    chosen = [question for question in questions if needs_picture(question)]
    pointing = [question for question in chosen if has_boxes(question.references)]
    for question, (majority, question_only) in zip(pointing, commonest_boxes(pointing, train), strict=True):
        question.baselines |= {"majority": majority, "question_only": question_only}
    chosen = [question for question in chosen if not has_boxes(question.references)]
    answers = zip(chosen, majority_answers(chosen, train), question_only_answers(chosen, train), strict=True)
    for question, majority, question_only in answers:
        question.baselines |= {"majority": majority, "question_only": question_only}
    if train is None:
        return "the evaluated questions, each time without those on the same picture"
    return f"the {len(train)} questions of the training split"


def majority_answers(asked: Sequence[Question], train: Sequence[Question] | None = None) -> list[str]:
    """For each question, the most common answer to its type in its language: what a model can say that reads nothing.

    Of multiple-choice questions answers are counted by label: the most common may be "B".

    Without ``train`` the answers are counted in ``asked``, leaving out the questions on the same image. Fitted on the
    very answers that it is scored on, a baseline could not be beaten where every question is unique.
    """
    return _most_common(asked, train, narrowest=1)


def question_only_answers(asked: Sequence[Question], train: Sequence[Question] | None = None) -> list[str]:
    """For each question, the most common answer to the same text: what a model can say that never looks.

    A text that was not seen gets the most common answer of its type in its language, or else of all. Of multiple
    choice it is the most common among the options offered, by their texts, or if none is known the majority's label.
    Without ``train`` as in :func:`majority_answers`.
    """
    by_text = _most_common(asked, train, narrowest=0)
    return [answer or other for answer, other in zip(by_text, majority_answers(asked, train), strict=True)]


def _most_common(asked: Sequence[Question], train: Sequence[Question] | None, narrowest: int) -> list[str]:
    by_text = narrowest == 0
    table = _AnswerTable(asked if train is None else train, by_text)
    same_image: dict[str, _AnswerTable] = {}
    if train is None:
        by_group: dict[str, list[Question]] = defaultdict(list)
        for question in asked:
            by_group[question.group].append(question)
        same_image = {group: _AnswerTable(questions, by_text) for group, questions in by_group.items()}
    answers = []
    for question in asked:
        offered = {normalise(option, question.language) for option in question.options} if by_text else set()
        without = same_image.get(question.group)
        answers.append(table.best(_keys(question)[narrowest:], without, offered))
    return answers


def _keys(question: Question) -> list[Hashable]:
    """What answers are counted under, from the narrowest to the widest."""
    text = options_in(question.words)[0] if question.options else question.words
    text = " ".join(text.lower().split())
    return [("text", question.language, text), ("type", question.language, question.type), "all"]


class _AnswerTable:
    """How often each answer was given: per question text, per question type, and in all.

    ``by_text``: the answer that chooses an option counts as the option's text, and otherwise as its label.
    """

    def __init__(self, questions: Iterable[Question], by_text: bool) -> None:
        self.counts: dict[Hashable, Counter[str]] = defaultdict(Counter)
        self.surface: dict[str, str] = {}  # normalised answer -> the first way it was written
        for question in questions:
            if has_boxes(question.references):  # evaluation/boxes.py fits those
                continue
            # A question with several references is satisfied by any of them, so each counts once.
            written = [
                _option_text(question, text) if by_text else question.chosen(text) for text in question.references
            ]
            distinct = {normalise(text, question.language): text for text in written}
            for answer, text in distinct.items():
                self.surface.setdefault(answer, text)
                for key in _keys(question):
                    self.counts[key][answer] += 1
        self.ranked = {key: sorted(c.items(), key=lambda item: (-item[1], item[0])) for key, c in self.counts.items()}

    def best(self, keys: Iterable[Hashable], without: _AnswerTable | None, offered: Collection[str]) -> str:
        """The most common answer under the first key that has any, less the counts of ``without``; "" if none has.

        With ``offered`` options, the most common of these.
        """
        for key in keys:
            excluded: Mapping[str, int] = without.counts.get(key, Counter()) if without else {}
            best, most = "", 0
            for answer, count in self.ranked.get(key, ()):
                if count <= most:
                    break
                if count - excluded.get(answer, 0) > most and (not offered or answer in offered):
                    best, most = self.surface[answer], count - excluded.get(answer, 0)
            if most:
                return best
        return ""


def _option_text(question: Question, reference: str) -> str:
    """The text of the option that a reference chooses; the reference itself without options."""
    label = question.chosen(reference)
    return question.options[LABELS.index(label)] if question.options else reference


# ---------------------------------------------------------------------------------------------- another picture


def choose_other_images(questions: Sequence[Question], pool: Sequence[Question], seed: int) -> None:
    """Choose the pictures to show instead of each question's own: the same number from the pool, none of its own.

    The pool's pictures are shuffled into a ring and each is replaced by the next, so that all are shown equally often.
    ``other_images`` stays empty if the pool has too few others.
    """
    ring = sorted({image for question in pool for image in question.images})
    random.Random(seed).shuffle(ring)
    position = {image: i for i, image in enumerate(ring)}
    for question in questions:
        start = position[question.images[0]]
        following = (ring[(start + step) % len(ring)] for step in range(1, len(ring)))
        others = list(islice((image for image in following if image not in question.images), len(question.images)))
        question.other_images = others if len(others) == len(question.images) else []
