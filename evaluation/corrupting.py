"""Does it hold when the picture is worse? The same questions about pictures with noise, blur, grey parts, fewer pixels.

The most looked-at parts are covered only for a model that says where it looks (a checkpoint's). The answers are kept in
the questions, so that an interrupted evaluation resumes here too.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from common.errors import UserError
from dataset.corruptions import KINDS, STRENGTHS, corrupted
from dataset.prompt import Request, Turn
from evaluation.answerer import Answerer
from evaluation.asking import Pictures, ask_shared
from evaluation.questions import Question
from evaluation.result import Mean
from evaluation.verdict import mean_of
from settings import Config

QUESTIONS = 500  # a standard error of about 0.02
LOOKED_AT = "most looked at"


class Corrupted(TypedDict):
    """The scores with one kind of corruption, at strength 0 (none), 1, 2 and 3."""

    kind: str
    scores: list[Mean]


class Corruptions(TypedDict):
    """``blind`` is what the best answer per question text scores on the same questions."""

    blind: Mean
    kinds: list[Corrupted]


@dataclass(frozen=True, eq=False)
class Case:
    """One question about one worse picture."""

    question: Question
    kind: str
    strength: int

    @property
    def name(self) -> str:
        """What its answer is kept under in ``Question.corrupted``."""
        return f"{self.kind} {self.strength}"


def ask_corrupted(
    answerer: Answerer, questions: Sequence[Question], config: Config, pictures: Pictures, save: Callable[[], None]
) -> bool:
    """Ask the chosen questions about worse pictures, and keep the answers that they lack in ``Question.corrupted``.

    The worse pictures are deterministic by ``data.seed``. Returns False if Ctrl-C ended it early.
    """
    try:
        cases = missing_cases(choose_questions(questions, config.data.seed))
        if not looks_somewhere(answerer, [case.question for case in cases if case.kind == LOOKED_AT], pictures):
            cases = [case for case in cases if case.kind != LOOKED_AT]
        request = request_maker(answerer, pictures, config.data.seed)
        ask_shared(answerer, cases, "worse pictures", request, _record, config, save)
    except KeyboardInterrupt:
        return False
    return True


def choose_questions(questions: Sequence[Question], seed: int) -> list[list[Question]]:
    """QUESTIONS of those that have a picture and a score, or all of them: a list for each picture that is drawn.

    With all questions of a picture, its worse copies and the keys and values of their tokens serve several questions.
    """
    by_picture: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        if question.images and question.score() is not None:
            by_picture[question.group].append(question)
    groups = list(by_picture.values())
    random.Random(seed).shuffle(groups)
    chosen, missing = [], QUESTIONS
    for group in groups:
        chosen.append(group[:missing])
        missing -= len(chosen[-1])
        if not missing:
            break
    return chosen


def missing_cases(groups: Sequence[list[Question]]) -> list[Case]:
    """The cases without an answer; those about the same worse picture one after another."""
    cases = [
        Case(question, kind, strength)
        for group in groups
        for kind in (*KINDS, LOOKED_AT)
        for strength in STRENGTHS
        for question in group
        if kind != LOOKED_AT or (len(question.images) == 1 and question.prediction)
    ]
    return [case for case in cases if case.name not in case.question.corrupted]


def looks_somewhere(answerer: Answerer, questions: Sequence[Question], pictures: Pictures) -> bool:
    """Whether the model says where it looks; tried with the first question."""
    if not questions or not hasattr(answerer, "where_it_looks"):
        return False
    try:
        where_it_looks(answerer, questions[0], pictures)
    except UserError:  # this model has no map of a picture
        return False
    return True


def where_it_looks(answerer: Any, question: Question, pictures: Pictures) -> np.ndarray:
    """Where the model looked for its own answer, [rows, columns]. Raises UserError if it does not say."""
    request = Request([Turn(question.asked, question.prediction)], [pictures(question.images[0])], question.system)
    return answerer.where_it_looks(request).of()


def request_maker(answerer: Answerer, pictures: Pictures, seed: int) -> Callable[[Case], Request]:
    """A function that makes the request of a case.

    A worse picture is made once for all questions about it. The most looked-at parts are each question's own.
    """
    maps: dict[str, np.ndarray] = {}  # by the question's id

    @lru_cache(maxsize=8)  # 8 pictures of 12 million pixels are 288 MB
    def worse(path: str, kind: str, strength: int, looked_at: str | None) -> Image.Image:
        shown_map = maps[looked_at] if looked_at is not None else None
        return corrupted(pictures(path), kind, strength, f"{seed}:{kind}:{strength}:{path}", shown_map)

    def request(case: Case) -> Request:
        question, looked_at = case.question, None
        if case.kind == LOOKED_AT:
            looked_at = question.id
            if looked_at not in maps:
                maps[looked_at] = where_it_looks(answerer, question, pictures)
        shown = [worse(path, case.kind, case.strength, looked_at) for path in question.images]
        return Request([Turn(question.asked)], shown, question.system)

    return request


def _record(case: Case, answer: str | None, problem: str | None) -> None:
    if answer is not None:
        case.question.corrupted[case.name] = answer


def score_corruptions(questions: Sequence[Question]) -> Corruptions:
    """The scores of the answers about worse pictures."""
    chosen = [question for question in questions if question.corrupted]
    found: list[Corrupted] = []
    for kind in (*KINDS, LOOKED_AT):
        names = [f"{kind} {strength}" for strength in STRENGTHS]
        asked = [question for question in chosen if names[0] in question.corrupted]
        if asked:
            found.append({"kind": kind, "scores": [mean_of(asked), *(_score(asked, name) for name in names)]})
    return {"blind": mean_of(chosen, lambda question: question.baseline_score("question_only")), "kinds": found}


def _score(questions: Sequence[Question], name: str) -> Mean:
    return mean_of(questions, lambda question: question.score_of(question.corrupted.get(name)))


def show_corruptions(found: Corruptions) -> str:
    """A line for each kind, for a terminal."""
    blind = found["blind"]["mean"]
    lines = [f"Worse pictures, at strength 0 to 3 (best answer per question text: {blind or 0:.3f}):"]
    for row in found["kinds"]:
        numbers = "  ".join(f"{mean['mean'] or 0:.3f}" for mean in row["scores"])
        lines.append(f"  {row['kind']:16}{numbers}  ± {row['scores'][0]['standard_error'] or 0:.3f}")
    return "\n".join(lines)
