"""How an answer is scored: exact match, VQA accuracy, a number within 5 %, ANLS, or boxes. Pure functions of text.

A new metric is one function that gives an answer a score from 0 to 1, and one entry in :data:`METRICS`. A source
chooses its metric with ``data.sources[].metric``; tables, baselines and verdict work with any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from common.errors import UserError
from dataset.boxes import boxes_in
from dataset.normalise import normalise, vqa_text
from evaluation.boxes import box_accuracy, box_iou, box_recall, has_boxes
from settings import Source


def exact_match(answer: str, references: Sequence[str], language: str) -> float:
    """1 if the answer equals any of the references after :func:`normalise`, else 0."""
    said = normalise(answer, language)
    return float(any(said == normalise(reference, language) for reference in references))


def vqa_accuracy(answer: str, references: Sequence[str], language: str = "en") -> float:
    """The official VQA v2 accuracy: min(people who gave it / 3, 1), averaged over leaving out each person.

    As in the official evaluator, if all ten answers are the same they are compared without normalisation: "Net." does
    not match ten times "net". Answers in Chinese, which that evaluator does not know, are normalised as Chinese.
    """
    if language == "zh":
        said, given = normalise(answer, "zh"), [normalise(text, "zh") for text in references]
    else:
        said, given = _trimmed(answer), [_trimmed(text) for text in references]
        if len(set(given)) > 1:
            said, given = vqa_text(said), [vqa_text(text) for text in given]
    same = [text == said for text in given]
    return sum(min((sum(same) - own) / 3, 1.0) for own in same) / len(same)


def _trimmed(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def relaxed_accuracy(answer: str, references: Sequence[str], language: str) -> float:
    """1 if the answer is within 5 % of a reference that is a number, or matches another exactly, else 0.

    The metric of ChartQA (Masry et al. 2022). "12%" is 0.12, and a reference of 0 is met by 0 alone.
    """
    said = _number(answer, language)
    for reference in references:
        number = _number(reference, language)
        if said is None or number is None:
            if exact_match(answer, [reference], language):
                return 1.0
        elif abs(said - number) <= 0.05 * abs(number):
            return 1.0
    return 0.0


def _number(text: str, language: str) -> float | None:
    """The number that a text is, such as "$1,200.50", "-3", "12 %" or "二十三"; None if it is not one."""
    text = text.strip().rstrip(".。").strip()
    sign = -1 if text[:1] in ("-", "−", "－") else 1
    bare = text.lstrip("-−－$€£¥ ").replace("％", "%")
    share = bare.endswith("%")
    try:
        number = sign * float(normalise(bare.removesuffix("%"), language))
    except ValueError:
        return None
    return (number / 100 if share else number) if math.isfinite(number) else None


def anls(answer: str, references: Sequence[str], language: str) -> float:
    """Average normalised Levenshtein similarity (Biten et al. 2019): spelling nearly right counts in part.

    1 less the edits from the answer to the nearest reference over the length of the longer; 0 from half on.
    Case and runs of white space do not count.
    """
    said = " ".join(answer.lower().split())
    best = 0.0
    for reference in references:
        wanted = " ".join(reference.lower().split())
        longest = max(len(said), len(wanted))
        best = max(best, 1 - _edits(said, wanted) / longest if longest else 1.0)
    return best if best > 0.5 else 0.0


def top_1(answer: str, references: Sequence[str], language: str) -> float:
    """1 if the first of a ranking is one of the right ones, to the letter: Recall@1, and zero-shot accuracy."""
    return float(answer in references)


def _edits(a: str, b: str) -> int:
    """The Levenshtein distance: the fewest insertions, deletions and replacements that make ``b`` of ``a``."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


@dataclass(frozen=True)
class Metric:
    """A score from 0 to 1 of one answer.

    ``score`` takes the answer, the reference answers and the language; ``heading`` is the column in the printed table.
    ``beside``: whether questions with these references are scored by it too where their source has another metric.
    ``alone``: questions of this metric are scored by no other.
    """

    heading: str
    score: Callable[[str, Sequence[str], str], float]
    beside: Callable[[Sequence[str]], bool] = lambda references: False
    alone: bool = False


METRICS = {
    "exact_match": Metric("exact", exact_match, beside=lambda references: not has_boxes(references)),
    "vqa_accuracy": Metric("VQA", vqa_accuracy, beside=lambda references: len(references) == 10),
    "relaxed_accuracy": Metric("relaxed", relaxed_accuracy),
    "anls": Metric("ANLS", anls),
    "top_1": Metric("top 1", top_1, alone=True),
    "box_accuracy": Metric("IoU .5", box_accuracy, beside=has_boxes),
    "box_iou": Metric("mean IoU", box_iou, beside=has_boxes),
    "box_recall": Metric(
        "recall", box_recall, beside=lambda references: has_boxes(references) and _several(references)
    ),
}
BOX_METRICS = ("box_accuracy", "box_iou", "box_recall")
DEFAULT_METRIC = "exact_match"


def _several(references: Sequence[str]) -> bool:
    return any(len(boxes_in(text)) > 1 for text in references)


def metric_for(references: Sequence[str], chosen: str) -> str:
    """The metric of a question whose source has the metric ``chosen``: answers that are boxes have their own."""
    boxes = has_boxes(references)
    if boxes != (chosen in BOX_METRICS):
        return BOX_METRICS[0] if boxes else DEFAULT_METRIC
    return chosen


def check_metric(name: str, key: str) -> None:
    """Raises UserError, which names the ``key`` that set it, if there is no such metric."""
    if name not in METRICS:
        raise UserError(f"{key} = {name!r}: no such metric; choose one of {', '.join(METRICS)}")


def check_metrics(sources: Iterable[Source]) -> None:
    """:func:`check_metric` of all sources of a config, before hours of training and not after them."""
    for number, source in enumerate(sources):
        check_metric(source.metric, f"data.sources.{number}.metric")
