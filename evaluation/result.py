"""The shape of result.json: what evaluate.py writes, and what the HTML report and the comparison of two runs read.

All scores are from 0 to 1. None is a score that does not exist: the question was not answered, or is a caption.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from common.errors import UserError


class Mean(TypedDict):
    """A mean of ``n`` scores; both numbers are None without any score."""

    n: int
    mean: float | None
    standard_error: float | None  # clustered by picture; None: infinite, from a single picture


class BaselineAnswer(TypedDict):
    """What a baseline answers to one question (baselines.BASELINES)."""

    answer: str | None
    score: float | None
    images: NotRequired[list[str]]  # of "other_picture": the paths of what was shown instead


class Prediction(TypedDict):
    """One question and the answers to it."""

    id: str  # the data's own id after its source, "vqa/42", or image/conversation/turn: "7/0/1"
    group: str  # the first picture, or the conversation's name: standard errors are clustered by it
    question: str
    asked: str  # the same with a placeholder for each picture
    options: list[str]  # of a multiple-choice question, in their order
    references: list[str]
    images: list[str]  # paths
    source: str
    language: str  # "en" or "zh"
    type: str
    metric: str  # which of ``scores`` is ``score``
    prediction: str | None
    score: float | None
    scores: dict[str, float]  # by every metric that applies
    baselines: dict[str, BaselineAnswer]  # by name: majority, question_only, other_picture, no_picture
    named: NotRequired[list[str]]  # paths of the pictures that the answer is a name of (retrieval/)
    problem: NotRequired[str]  # why it could not be asked
    corrupted: NotRequired[dict[str, str]]  # with --corrupt: kind and strength, such as "noise 2" -> the answer


class Group(TypedDict):
    """The scores of a group of questions: all, a type, a language or a source."""

    n: int  # questions with a score
    images: int  # pictures of these
    score: float | None  # the mean of each question's own metric
    standard_error: float | None
    metrics: dict[str, Mean]  # by every metric that scored one of them
    baselines: dict[str, Mean]  # the floors, by name; a baseline that was not asked is missing
    chance: float | None  # of guessing among the options; None unless all questions have options
    ceiling: float | None  # of always giving the best answer; below 1 where references disagree
    captions: dict[str, dict[str, float | None]]  # language -> BLEU-1 to 4, ROUGE-L, CIDEr, n


class Scores(TypedDict):
    """The same questions, grouped in four ways."""

    overall: Group
    by_type: dict[str, Group]
    by_language: dict[str, Group]
    by_source: dict[str, Group]


class Comparison(TypedDict):
    """The model and a baseline, over the questions that both answered."""

    n: int
    images: int
    model: float
    baseline: float
    difference: float
    standard_error: float | None
    clearly_above: bool  # of a type: after the correction for several types


class Form(Mean):
    """The score of one form of question within a type, where the usual answer to it is wrong."""

    form: str  # "is there a [color] [shape]"


class Verdict(TypedDict):
    """Whether the model looks at the picture; None: unknown."""

    looks_at_the_picture: bool | None
    verdict: str  # in a sentence
    comparisons: dict[str, Comparison]  # by baseline
    floor_wrong: Mean  # the model's score where the best answer per question text is wrong
    floor_right: Mean  # and where it is right
    weak_forms: list[Form]  # forms of question on which it goes with the usual answer


class Sight(TypedDict):
    """Losses in nats a token of the reference answers; lengths of visual tokens, in lengths of words.

    Lengths and spread are None where the pictures are outside the sequence.
    """

    loss: float
    loss_other_picture: float
    gap: float
    standard_error: float | None  # None: infinite, from a single batch
    visual_token_lengths: float | None
    visual_token_spread: float | None
    warnings: list[str]


class Result(Verdict):
    """The whole file. The verdict's own fields are those of all questions."""

    complete: bool  # False: interrupted
    checkpoint: str
    checkpoint_sha256: str  # of its manifest
    device: str  # or the address of the server
    baseline: NotRequired[str]  # which baseline answered (baselines/); "" if none
    crop: NotRequired[tuple[int, int] | None]  # dataset.boxes.Crop: boxes are of what it leaves of a picture
    tokens: NotRequired[dict[str, int]]  # of a server: what all answers cost, "prompt" and "completion"
    data: str
    questions_sha256: str
    limit: int | None
    seed: int
    max_pixels: int
    system: str
    generate: dict
    metrics: dict[str, str]  # source -> the metric of its questions
    history: str
    versions: dict[str, str]
    normalisation: dict[str, str]
    caption_words: dict[str, str]
    segmenter: str | None
    baselines_fitted_on: str
    questions: int
    answered: int
    unasked: int  # left out of every score
    first_problem: str | None
    unreadable_images: dict[str, str]  # path -> reason
    long_references: int
    seconds: float
    scores: Scores
    verdict_by_type: dict[str, Verdict]
    types_that_do_not_look: list[str]
    sight: Sight | None  # None: not measured
    recall: NotRequired[dict[str, dict[str, float]]]  # of retrieval/: at 1, 5 and 10, both ways
    corruptions: NotRequired[dict]  # corrupting.Corruptions, with --corrupt
    predictions: list[Prediction]


class Difference(TypedDict):
    """Two runs, a and b, over the questions of a group that both have a score for."""

    images: int
    a: Mean
    b: Mean
    difference: float | None  # mean of b less mean of a
    standard_error: float | None  # of the paired differences, clustered by picture
    clear: bool  # more than two standard errors from zero


class Differences(TypedDict):
    """The same questions, grouped in four ways, as in the scores of a result."""

    overall: Difference
    by_type: dict[str, Difference]
    by_language: dict[str, Difference]
    by_source: dict[str, Difference]
    captions: dict[
        str, list[dict[str, float | None]]
    ]  # language -> the scores of a and of b, over the captions of both


def read_result(path: Path) -> Result:
    """The content of a result file.

    Raises:
        UserError: it cannot be read, or is not what evaluate.py writes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = all(isinstance(line["id"], str) and "score" in line for line in content["predictions"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"{path}: cannot be read as a result of evaluate.py ({reason})") from error
    if not known or not isinstance(content.get("scores"), dict):
        raise UserError(f"{path}: not a result of this version of evaluate.py; evaluate again")
    return cast(Result, content)
