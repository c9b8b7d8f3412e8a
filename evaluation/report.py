"""The report: scores by group, the result file with every prediction, and the tables for a terminal."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import UserError
from common.files import write_json
from evaluation.baselines import BASELINES
from evaluation.captions import CAPTION_TOKENS, caption_packages, caption_scores
from evaluation.question_types import TYPES, is_sentence
from evaluation.questions import HISTORY, Question
from evaluation.scores import MAIN_METRIC, METRICS, NORMALISATION, clustered_mean
from evaluation.verdict import finite, judge

GROUPS = {"by_type": "type", "by_language": "language", "by_source": "source"}  # key in the result -> field

# ---------------------------------------------------------------------------------------------- before asking


def check_packages(questions: Sequence[Question]) -> None:
    """Raises UserError if a package is missing that scoring the captions among the questions needs."""
    languages = caption_languages(questions)
    try:
        if languages:
            caption_packages(languages)
    except ModuleNotFoundError as error:
        raise UserError(f"scoring captions needs the package {error.name}; pip install -r requirements.txt") from error


def check_output(output: Path) -> None:
    """Make the folder of the result file; raises UserError if that fails."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error


def caption_languages(questions: Sequence[Question]) -> set[str]:
    return {question.language for question in questions if question.type == "caption"}


# ---------------------------------------------------------------------------------------------- scores


def score_groups(questions: Sequence[Question]) -> dict:
    """Scores of all questions, and by question type, language and source."""
    groups: dict = {"overall": score(questions)}
    for key, field in GROUPS.items():
        values = {getattr(question, field) for question in questions}
        ordered = [name for name in TYPES if name in values] if field == "type" else sorted(values)
        groups[key] = {value: score([q for q in questions if getattr(q, field) == value]) for value in ordered}
    return groups


def score(questions: Sequence[Question]) -> dict:
    """The mean scores of one group of questions, over those that were answered; None for a score without questions."""
    answered = [question for question in questions if question.prediction is not None]
    row: dict = {}
    for metric in METRICS:
        mean, error, count = _mean([(q.score(metric), q.group) for q in answered])
        if metric == MAIN_METRIC:
            row |= {"n": count, metric: mean, "standard_error": error}
        else:
            row |= {f"{metric}_n": count, metric: mean}
    for name in BASELINES:
        row[name], _, _ = _mean([(q.baseline_score(name), q.group) for q in answered])
    row["captions"] = {}
    for language in sorted(caption_languages(answered)):
        chosen = [q for q in answered if q.type == "caption" and q.language == language]
        captions = [q.prediction or "" for q in chosen]
        row["captions"][language] = caption_scores(captions, [q.references for q in chosen], language)
    return row


def _mean(scored: Sequence[tuple[float | None, str]]) -> tuple[float | None, float | None, int]:
    """Mean and clustered standard error of the (score, group) pairs that have a score, and how many have one."""
    scores = [(float(value), group) for value, group in scored if value is not None]
    if not scores:
        return None, None, 0
    mean, error = clustered_mean([value for value, _ in scores], [group for _, group in scores])
    return mean, finite(error), len(scores)


# ---------------------------------------------------------------------------------------------- the result file


def build_result(questions: Sequence[Question], unreadable_images: Mapping[str, str], facts: Mapping) -> dict:
    """The content of the result file: ``facts`` about the run, then scores, verdict and every prediction."""
    unasked = [q for q in questions if q.prediction is None and q.problem is not None]
    short = [q for q in questions if q.score() is not None]
    packages = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    if languages := caption_languages(questions):
        packages |= caption_packages(languages)
    return {
        **facts,
        "history": HISTORY,
        "versions": {"python": platform.python_version(), **packages},
        "normalisation": NORMALISATION,
        "caption_words": CAPTION_TOKENS,
        "segmenter": f"jieba {packages['jieba']}" if "jieba" in packages else None,
        "questions": len(questions),
        "answered": sum(q.prediction is not None for q in questions),
        "unasked": len(unasked),  # left out of every score
        "first_problem": unasked[0].problem if unasked else None,
        "unreadable_images": dict(unreadable_images),
        "long_references": sum(all(map(is_sentence, q.references)) for q in short),
        "scores": score_groups(questions),
        **judge(questions),
        "predictions": [prediction(q) for q in questions if q.prediction is not None or q.problem is not None],
    }


def prediction(question: Question) -> dict:
    """One question in the result file."""
    line: dict = {
        "question": question.text,
        "asked": question.asked,
        "references": question.references,
        "images": question.images,
        "source": question.source,
        "language": question.language,
        "type": question.type,
        "prediction": question.prediction,
        **{metric: question.score(metric) for metric in METRICS},
    }
    for name in BASELINES:
        line[name] = {"answer": question.baselines.get(name), MAIN_METRIC: question.baseline_score(name)}
    line["other_picture"]["images"] = question.other_images
    return line | ({"problem": question.problem} if question.problem else {})


def write_result(output: Path, result: Mapping) -> None:
    """Raises UserError if the file cannot be written."""
    try:
        write_json(output, result)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error


# ---------------------------------------------------------------------------------------------- the terminal


def show(result: Mapping) -> str:
    """The result as tables and sentences for a terminal."""
    columns = {"n": "n", MAIN_METRIC: METRICS[MAIN_METRIC].heading, "standard_error": "+-"}
    columns |= {name: metric.heading for name, metric in METRICS.items() if name != MAIN_METRIC}
    columns |= {name: baseline.heading for name, baseline in BASELINES.items()}
    scores = result["scores"]
    rows = {"all": scores["overall"]}
    for group, field in GROUPS.items():
        rows |= {f"{field} {name}": row for name, row in scores[group].items()}
    lines = table({name: row for name, row in rows.items() if row["n"]}, columns)
    captions = {
        f"{name} ({language})": row["captions"][language]
        for name, row in rows.items()
        for language in row["captions"]
        if not name.startswith(("type", "language"))  # they would repeat the numbers of "all"
    }
    if captions:
        lines += ["", *table(captions, {key: key for key in next(iter(captions.values()))})]
    lines += ["", result["verdict"], f"Majority and question only are fitted on {result['baselines_fitted_on']}."]
    if result["long_references"]:
        lines.append(
            f"{result['long_references']} of {scores['overall']['n']} questions have whole sentences as references, "
            "which exact match hardly ever rewards."
        )
    if result["unasked"]:
        lines.append(
            f"{result['unasked']} questions could not be asked and are left out "
            f"({len(result['unreadable_images'])} pictures cannot be read). The first: {result['first_problem']}"
        )
    return "\n".join(lines)


def table(rows: Mapping[str, Mapping], columns: Mapping[str, str]) -> list[str]:
    """Aligned lines, a row each; columns without any number are left out."""
    columns = {key: heading for key, heading in columns.items() if any(row[key] is not None for row in rows.values())}
    cells = [["", *columns.values()]]
    for name, row in rows.items():
        numbers = (row[key] for key in columns)
        cells.append([name, *("-" if x is None else f"{x:.3f}" if isinstance(x, float) else str(x) for x in numbers)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in cells]
    return ["  ".join(line).rstrip() for line in aligned] if rows else []
