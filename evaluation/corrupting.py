"""Does it hold when the picture is worse? The same questions about pictures with noise, blur, grey parts, fewer pixels.

The most looked-at parts are covered only for a model that says where it looks (a checkpoint's).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from common.errors import UserError
from dataset.corruptions import KINDS, STRENGTHS, corrupted
from dataset.prompt import Request, Turn
from evaluation.answerer import Answerer
from evaluation.asking import Pictures, answers_to
from evaluation.questions import Question, sample
from evaluation.result import Mean
from evaluation.verdict import mean_of
from settings import Config

QUESTIONS = 500  # a standard error of at most 0.022
LOOKED_AT = "most looked at"


class Corrupted(TypedDict):
    """The scores with one kind of corruption, at strength 0 (none), 1, 2 and 3."""

    kind: str
    scores: list[Mean]


class Corruptions(TypedDict):
    """``blind`` is what the best answer per question text scores on the same questions."""

    blind: Mean
    kinds: list[Corrupted]


def measure_corruptions(answerer: Answerer, questions: Sequence[Question], config: Config) -> Corruptions:
    """Ask up to QUESTIONS of the answered questions again, about worse pictures; deterministic by ``data.seed``."""
    usable = [question for question in questions if question.images and question.score() is not None]
    chosen, pictures = sample(usable, QUESTIONS, config.data.seed), Pictures(config.data.max_pixels)
    kinds = [*KINDS, LOOKED_AT]
    maps = looked_at(answerer, chosen, pictures)
    clean = mean_of(chosen)
    found: list[Corrupted] = []
    for kind in kinds if maps else list(KINDS):
        asked = [question for question in chosen if kind != LOOKED_AT or question.id in maps]
        rows = [score(answerer, asked, pictures, config, kind, strength, maps) for strength in STRENGTHS]
        found.append({"kind": kind, "scores": [clean if len(asked) == len(chosen) else mean_of(asked), *rows]})
    blind = mean_of(chosen, lambda question: question.baseline_score("question_only"))
    return {"blind": blind, "kinds": found}


def looked_at(answerer: Answerer, questions: Sequence[Question], pictures: Pictures) -> dict[str, np.ndarray]:
    """Where the model looked for its own answer [rows, columns], by the question's id; empty if it does not say."""
    maps: dict[str, np.ndarray] = {}
    show: Any = getattr(answerer, "where_it_looks", None)
    if show is None:
        return maps
    for question in questions:
        if len(question.images) == 1 and question.prediction:
            request = Request([Turn(question.asked, question.prediction)], [pictures(question.images[0])])
            try:
                maps[question.id] = show(request).of()
            except UserError:  # this model has no map of a picture
                return {}
    return maps


def score(
    answerer: Answerer,
    questions: Sequence[Question],
    pictures: Pictures,
    config: Config,
    kind: str,
    strength: int,
    maps: dict[str, np.ndarray],
) -> Mean:
    """The score with one corruption at one strength."""

    def worse(path: str, question: Question) -> Image.Image:
        # The same picture for all its questions, unless they look at different parts of it.
        seed = f"{config.data.seed}:{kind}:{strength}:{path}"
        return corrupted(pictures(path), kind, strength, seed, maps.get(question.id))

    def request(question: Question) -> Request:
        return Request([Turn(question.asked)], [worse(path, question) for path in question.images], question.system)

    answers = {q.id: answer for q, answer, _ in answers_to(answerer, questions, request, config.generate)}
    return mean_of(questions, lambda question: question.score_of(answers.get(question.id)))


def show_corruptions(found: Corruptions) -> str:
    """A line for each kind, for a terminal."""
    blind = found["blind"]["mean"]
    lines = [f"Worse pictures, at strength 0 to 3 (best answer per question text: {blind or 0:.3f}):"]
    for row in found["kinds"]:
        numbers = "  ".join(f"{mean['mean'] or 0:.3f}" for mean in row["scores"])
        lines.append(f"  {row['kind']:16}{numbers}  ± {row['scores'][0]['standard_error'] or 0:.3f}")
    return "\n".join(lines)
