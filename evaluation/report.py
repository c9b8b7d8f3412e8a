"""The report: scores by group, the result file with every prediction, and the tables for a terminal."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from common.errors import UserError
from common.files import write_json
from dataset.normalise import NORMALISATION
from dataset.question_types import TYPES, is_sentence
from evaluation.baselines import BASELINES
from evaluation.bounds import chance, set_ceilings
from evaluation.captions import CAPTION_TOKENS, caption_packages, caption_scores
from evaluation.questions import HISTORY, Question
from evaluation.result import Group, Prediction, Scores, Sight
from evaluation.scores import METRICS
from evaluation.verdict import judge, mean_of

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
    """Make the folder of the result file; raises UserError if that fails, or if the report would replace the result."""
    if output.suffix.lower() == ".html":
        raise UserError(f"--output {output}: the report is written under this name; end the result's with .json")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error


def caption_languages(questions: Sequence[Question]) -> set[str]:
    return {question.language for question in questions if question.type == "caption"}


# ---------------------------------------------------------------------------------------------- scores


def score_groups(questions: Sequence[Question]) -> Scores:
    """Scores of all questions, and by question type, language and source."""
    set_ceilings(questions)
    return {
        "overall": score(questions),
        "by_type": _score_by("type", questions),
        "by_language": _score_by("language", questions),
        "by_source": _score_by("source", questions),
    }


def _score_by(field: str, questions: Sequence[Question]) -> dict[str, Group]:
    """:func:`score` of the questions with each value of a field; types in the order of TYPES, then by name."""
    by_value: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_value[getattr(question, field)].append(question)
    order = {name: number for number, name in enumerate(TYPES if field == "type" else ())}
    return {name: score(by_value[name]) for name in sorted(by_value, key=lambda name: (order.get(name, 99), name))}


def score(questions: Sequence[Question]) -> Group:
    """The mean scores of one group of questions, over those that were answered."""
    answered = [question for question in questions if question.prediction is not None]
    short = [question for question in answered if question.type != "caption"]
    overall = mean_of(short)
    guessing = [chance(question) for question in short]
    captions = {}
    for language in sorted(caption_languages(answered)):
        chosen = [q for q in answered if q.type == "caption" and q.language == language]
        predictions = [q.prediction or "" for q in chosen]
        captions[language] = caption_scores(predictions, [q.references for q in chosen], language)
    return {
        "n": overall["n"],
        "images": len({question.group for question in short if question.images}),
        "score": overall["mean"],
        "standard_error": overall["standard_error"],
        "metrics": {
            name: mean_of(chosen, partial(Question.score, metric=name))
            for name in METRICS
            if (chosen := [question for question in short if name in question.metrics])
        },
        "baselines": {
            name: found
            for name in BASELINES
            if (found := mean_of(short, partial(Question.baseline_score, name=name)))["n"]
        },
        "chance": mean(guessing),
        "ceiling": mean([question.ceiling for question in short]),
        "captions": captions,
    }


def mean(values: Sequence[float | None]) -> float | None:
    """None where there are no values, or one of them is not known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


# ---------------------------------------------------------------------------------------------- the result file


def build_result(questions: Sequence[Question], unreadable_images: Mapping[str, str], facts: Mapping) -> dict:
    """The content of the result file (:class:`Result`): ``facts`` about the run, scores, verdicts, every prediction."""
    unasked = [q for q in questions if q.prediction is None and q.problem is not None]
    short = [q for q in questions if q.score() is not None]
    packages = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    if languages := caption_languages(questions):
        packages |= caption_packages(languages)
    overall, by_type = judge(questions)
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
        "long_references": sum(all(map(is_sentence, q.references)) and not METRICS[q.metric].alone for q in short),
        "scores": score_groups(questions),
        **overall,
        "verdict_by_type": by_type,
        "sight": None,  # evaluate.py measures it after the result is written
        "types_that_do_not_look": [name for name, own in by_type.items() if own["looks_at_the_picture"] is False],
        "predictions": [prediction(q) for q in questions if q.prediction is not None or q.problem is not None],
    }


def prediction(question: Question) -> Prediction:
    """One question in the result file."""
    answered = question.score() is not None
    line: Prediction = {
        "id": question.id,
        "group": question.group,
        "question": question.text,
        "asked": question.asked,
        "options": question.options,
        "references": question.references,
        "images": question.images,
        "source": question.source,
        "language": question.language,
        "type": question.type,
        "metric": question.metric,
        "prediction": question.prediction,
        "score": question.score(),
        "scores": {name: question.score(name) or 0.0 for name in question.metrics} if answered else {},
        "baselines": {},
    }
    for name, answer in question.baselines.items():
        line["baselines"][name] = {"answer": answer, "score": question.baseline_score(name)}
    if "other_picture" in line["baselines"]:
        line["baselines"]["other_picture"]["images"] = question.other_images
    if question.named:
        line["named"] = question.named
    if question.problem:
        line["problem"] = question.problem
    if question.corrupted:
        line["corrupted"] = question.corrupted
    return line


def write_result(output: Path, result: Mapping) -> None:
    """Raises UserError if the file cannot be written."""
    try:
        write_json(output, result)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error


# ---------------------------------------------------------------------------------------------- the terminal


def show(result: Mapping) -> str:
    """The result as tables and sentences for a terminal."""
    scores: Scores = result["scores"]
    named = {"all": scores["overall"]}
    named |= {f"type {name}": group for name, group in scores["by_type"].items()}
    named |= {f"language {name}": group for name, group in scores["by_language"].items()}
    named |= {f"source {name}": group for name, group in scores["by_source"].items()}
    verdicts = {"all": result, **{f"type {name}": own for name, own in result["verdict_by_type"].items()}}
    rows = {name: _row(group, verdicts.get(name)) for name, group in named.items() if group["n"]}
    used = {line["metric"] for line in result["predictions"] if line["score"] is not None}
    lines = table(rows, _columns(used or result["metrics"].values()))
    captions = {
        f"{name} ({language})": group["captions"][language]
        for name, group in named.items()
        for language in group["captions"]
        if not name.startswith(("type", "language"))  # they would repeat the numbers of "all"
    }
    if captions:
        lines += ["", *table(captions, {key: key for key in next(iter(captions.values()))})]
    lines += ["", result["verdict"], f"Questions: {result['data']}."]
    lines += [f"The baseline {result['baseline']} answered (docs/baselines.md)."] if result.get("baseline") else []
    lines += [f"Majority and question only are fitted on {result['baselines_fitted_on']}."]
    if tokens := result.get("tokens"):
        lines.append(f"Cost: {tokens['prompt']:,} prompt tokens and {tokens['completion']:,} completion tokens.")
    if sight := result.get("sight"):
        lines += [sight_line(sight), *sight["warnings"]]
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


def sight_line(sight: Sight) -> str:
    error = "" if sight["standard_error"] is None else f" ± {sight['standard_error']:.3f}"
    losses = (
        f"Loss of the reference answers {sight['loss']:.3f} nats a token, with another picture "
        f"{sight['loss_other_picture']:.3f}: gap {sight['gap']:+.3f}{error}."
    )
    lengths, spread = sight["visual_token_lengths"], sight["visual_token_spread"]
    if lengths is None or spread is None:
        return losses
    return (
        f"{losses} Visual tokens are {lengths:.1f} times as long as words and differ by {spread:.0%} of their length."
    )


def _columns(metrics: Iterable[str]) -> dict[str, str]:
    """Heading of each key of :func:`_row`. The score is named by its metric if all sources have the same."""
    used = set(metrics)
    score = METRICS[next(iter(used))].heading if len(used) == 1 else "score"
    columns = {"n": "n", "score": score, "standard_error": "+-"}
    columns |= {name: metric.heading for name, metric in METRICS.items() if used != {name}}
    columns |= {name: baseline.heading for name, baseline in BASELINES.items()}
    return columns | {"chance": "chance", "ceiling": "ceiling", "floor_wrong": "usual wrong", "looks": "looks"}


def _row(group: Group, verdict: Mapping | None) -> dict:
    """A group's numbers in one line. "usual wrong" is its score where the best answer per question text is wrong."""
    row: dict = {key: group[key] for key in ("n", "score", "standard_error", "chance")}
    row |= {name: group["metrics"][name]["mean"] if name in group["metrics"] else None for name in METRICS}
    row |= {name: group["baselines"][name]["mean"] if name in group["baselines"] else None for name in BASELINES}
    row["ceiling"] = group["ceiling"] if group["ceiling"] is not None and group["ceiling"] < 0.9995 else None
    row["floor_wrong"] = verdict["floor_wrong"]["mean"] if verdict else None
    row["looks"] = {True: "yes", False: "NO", None: "?"}[verdict["looks_at_the_picture"]] if verdict else None
    return row


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
