"""All queries asked: the content of the result file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.questions import Question, choose_metrics
from evaluation.report import build_result
from evaluation.resuming import questions_hash
from retrieval.captions import captioned
from retrieval.encoder import Encoder
from retrieval.queries import METRIC, add_floors, caption_queries, label_queries
from retrieval.recall import recall, similarities_of
from retrieval.zero_shot import label_vectors
from settings import Config


def result_of_captions(encoder: Encoder, questions: Sequence[Question], config: Config, split: str) -> dict[str, Any]:
    """Both directions on the captions of ``questions``, those of captions.caption_questions.

    Raises:
        UserError: none of the pictures can be read.
    """
    problems: dict[Path, str] = {}
    found = similarities_of(encoder, captioned(questions), problems, bars=True)
    queries = caption_queries(found, questions, problems)
    blind = found.texts[int((found.captions @ encoder.grey()).argmax())]
    facts = {
        "data": f"{config.data.annotations.as_posix()} ({split})",
        "seed": config.data.seed,
        "metrics": dict.fromkeys(choose_metrics(questions, config, ()), METRIC),
        "recall": recall(found),
        "baselines_fitted_on": add_floors(queries, blind, config.data.seed),
    }
    return _result(encoder, queries, problems, facts)


def result_of_labels(encoder: Encoder, classes: Sequence[Path], templates: Sequence[str]) -> dict[str, Any]:
    """Zero-shot classification of the pictures in ``classes``, folders that are named after their label.

    Raises:
        UserError: a template has no {}, or none of the pictures can be read.
    """
    problems: dict[Path, str] = {}
    wanted = label_vectors(encoder, [folder.name for folder in classes], templates)  # [labels, D]
    queries = label_queries(encoder, classes, wanted, problems)
    blind = classes[int((wanted @ encoder.grey()).argmax())].name
    facts = {
        "data": f"{classes[0].parent.as_posix()} ({len(classes)} labels)",
        "seed": 0,
        "metrics": {query.source: query.metric for query in queries},
        "baselines_fitted_on": add_floors(queries, blind, seed=0),
    }
    return _result(encoder, queries, problems, facts)


def _result(
    encoder: Encoder, queries: Sequence[Question], problems: Mapping[Path, str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    own = {
        "complete": True,
        "device": str(encoder.towers.device),
        "max_pixels": encoder.max_pixels,
        "limit": None,
        "system": "",
        "generate": {},
        "questions_sha256": questions_hash(queries),
    }
    unreadable = {path.as_posix(): why for path, why in problems.items()}
    return build_result(queries, unreadable, {**own, **facts})
