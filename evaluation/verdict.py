"""Does the model look at the picture? Its scores compared with each baseline's: for each type of question, and in all.

An average can hide a type: colours that are seen carry yes/no questions that are guessed. So the model looks at the
picture if it is clearly better than every baseline on every type, and on every form of question within a type.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from evaluation.baselines import BASELINES, PROBES, needs_picture
from evaluation.question_forms import first_of, frequent_names, question_forms
from evaluation.questions import Question
from evaluation.result import Comparison, Form, Mean, Verdict
from evaluation.significance import (
    LEVEL,
    chance_probability,
    clearly_above,
    clustered_mean,
    finite,
    holm_levels,
    paired_difference,
)

FEW_IMAGES = 10
FEW_AGAINST = 20  # questions whose usual answer is wrong, below which nothing is said about a form of question


def judge(questions: Sequence[Question]) -> tuple[Verdict, dict[str, Verdict]]:
    """The verdict on all questions, and on each type that has one about a picture with a score."""
    chosen = [question for question in questions if needs_picture(question) and question.baselines]
    by_type: dict[str, list[Question]] = defaultdict(list)
    for question in chosen:
        by_type[question.type].append(question)
    levels = type_levels(by_type)
    verdicts = {name: _judge_type(own, levels.get(name)) for name, own in by_type.items()}
    return _judge_all(chosen, by_type, verdicts), verdicts


# ---------------------------------------------------------------------------------------------- comparing


def compare(questions: Iterable[Question], baseline: str, level: float | None = None) -> Comparison | None:
    """None if there is no question about a picture that both the model and the baseline answered.

    "Clearly above" is by more than two standard errors, which are those of the paired differences, clustered by
    picture; with ``level``, a difference that comes by chance less often than that.
    """
    pairs = [(q.score(), q.baseline_score(baseline), q.group) for q in questions if q.images]
    both = [(own, other, group) for own, other, group in pairs if own is not None and other is not None]
    if not both:
        return None
    groups = [group for _, _, group in both]
    model, other = [own for own, _, _ in both], [score for _, score, _ in both]
    difference, error = paired_difference(model, other, groups)
    images = len(set(groups))
    if level is None:
        clear = clearly_above(difference, error)
    else:
        clear = chance_probability(difference, error, images) < level
    return {
        "n": len(both),
        "images": images,
        "model": sum(model) / len(both),
        "baseline": sum(other) / len(both),
        "difference": difference,
        "standard_error": finite(error),
        "clearly_above": clear,
    }


def type_levels(by_type: Mapping[str, Sequence[Question]]) -> dict[str, float]:
    """For each type that can be judged, the level of significance after Holm's correction for so many types.

    A type is clearly better only if it is better than its strongest baseline, so that one's probability counts. Left
    out are types of few pictures, and those whose baseline not even an answer that is always right would clearly beat.
    """
    worst = {}
    for name, questions in by_type.items():
        rows = [row for baseline in BASELINES if (row := compare(questions, baseline))]
        if rows and min(row["images"] for row in rows) >= FEW_IMAGES and _can_be_beaten(questions):
            worst[name] = max(_probability(row) for row in rows)
    return holm_levels(worst)


def _probability(row: Comparison) -> float:
    error = math.inf if row["standard_error"] is None else row["standard_error"]
    return chance_probability(row["difference"], error, row["images"])


def _can_be_beaten(questions: Sequence[Question]) -> bool:
    """Whether an answer that is always right would be clearly above each baseline that is fitted or asked."""
    for name in BASELINES:
        found = [(score, q.group) for q in questions if (score := q.baseline_score(name)) is not None]
        scores, groups = [score for score, _ in found], [group for _, group in found]
        if found and not clearly_above(*paired_difference([1.0] * len(found), scores, groups)):
            return False
    return True


def mean_of(questions: Iterable[Question], score: Callable[[Question], float | None] = Question.score) -> Mean:
    """The mean of the questions that have a score, and its standard error, clustered by picture."""
    scored = [(value, question.group) for question in questions if (value := score(question)) is not None]
    if not scored:
        return {"n": 0, "mean": None, "standard_error": None}
    mean, error = clustered_mean([value for value, _ in scored], [group for _, group in scored])
    return {"n": len(scored), "mean": mean, "standard_error": finite(error)}


# ---------------------------------------------------------------------------------------------- against the floor


def floor_is_wrong(question: Question) -> bool | None:
    """Whether the best answer per question text scores less than half here; None if there is no such answer."""
    score = question.baseline_score("question_only")
    return None if score is None else score < 0.5


def weak_forms(questions: Sequence[Question]) -> list[Form]:
    """Forms of question, such as "is there a [color] [shape]", on which the model goes with the usual answer.

    Where the usual answer is wrong it scores below a half, and the form is not clearly above itself with another
    picture; without that probe, that score is not clearly above 0. Only where the usual answer is wrong does the
    picture tell, so a form with few such questions is not judged.
    """
    names = [question_forms(question.words) for question in questions]
    against = [own for question, own in zip(questions, names, strict=True) if floor_is_wrong(question)]
    kept = frequent_names(against, FEW_AGAINST)
    by_form: dict[str | None, list[Question]] = defaultdict(list)
    for question, own in zip(questions, names, strict=True):
        by_form[first_of(own, kept)].append(question)
    found: list[Form] = []
    for form in sorted(kept & by_form.keys()):
        wrong = [question for question in by_form[form] if floor_is_wrong(question)]
        if len({question.group for question in wrong}) < FEW_IMAGES:
            continue
        row, score = compare(by_form[form], "other_picture"), mean_of(wrong)
        mean, error = score["mean"] or 0.0, score["standard_error"] or 0.0
        follows = not row["clearly_above"] if row else mean <= 2 * error
        if follows and mean < 0.5:
            found.append({"form": form, **score})
    return sorted(found, key=lambda row: row["mean"] or 0.0)


# ---------------------------------------------------------------------------------------------- the verdicts


def _judge_type(questions: Sequence[Question], level: float | None) -> Verdict:
    """``level`` is that of significance; None if the type cannot be judged."""
    comparisons = _comparisons(questions, LEVEL if level is None else level)
    forms = weak_forms(questions)
    looks, words = verdict(comparisons)
    images = min((row["images"] for row in comparisons.values()), default=0)
    if level is None and comparisons and images >= 2:
        looks, words = None, f"Whether the model looks cannot be told from these {images} pictures and baselines."
    if forms:
        looks, words = False, f"{words} {_form_words(forms)}"
    return _verdict(questions, looks, words, comparisons, forms)


def _judge_all(
    questions: Sequence[Question], by_type: Mapping[str, Sequence[Question]], verdicts: Mapping[str, Verdict]
) -> Verdict:
    comparisons = _comparisons(questions, None)
    looks, words = verdict(comparisons)
    found = {name: own["looks_at_the_picture"] for name, own in verdicts.items()}
    if False in found.values():
        if looks is not False and True in found.values():
            words = "The model looks at the picture in part only."
        elif looks is not False:
            words = (
                "All questions together are answered clearly better than by every baseline, but those of no type are."
            )
        looks, words = False, f"{words} {_types_words(by_type, found)}"
    elif looks and {True, None} <= set(found.values()):
        words = f"{words} {_types_words(by_type, found)}"
    forms = [form for own in verdicts.values() for form in own["weak_forms"]]
    if forms:
        looks, words = False, f"{words} {_form_words(forms)}"
    return _verdict(questions, looks, words, comparisons, forms)


def _comparisons(questions: Sequence[Question], level: float | None) -> dict[str, Comparison]:
    return {name: row for name in BASELINES if (row := compare(questions, name, level)) is not None}


def _verdict(
    questions: Sequence[Question],
    looks: bool | None,
    words: str,
    comparisons: dict[str, Comparison],
    forms: list[Form],
) -> Verdict:
    return {
        "looks_at_the_picture": looks,
        "verdict": words,
        "comparisons": comparisons,
        "floor_wrong": mean_of(question for question in questions if floor_is_wrong(question) is True),
        "floor_right": mean_of(question for question in questions if floor_is_wrong(question) is False),
        "weak_forms": forms,
    }


def verdict(comparisons: Mapping[str, Comparison]) -> tuple[bool | None, str]:
    """The comparisons in a sentence: True or False if they tell whether the model looks, None if they do not."""
    if not comparisons:
        return None, "Whether the model looks at the picture is unknown: no short answer about a picture was scored."
    images = min(row["images"] for row in comparisons.values())
    if images < 2:
        return None, "Whether the model looks at the picture cannot be told from a single picture."
    few = f" Only {images} pictures were used: this is weak evidence." if images < FEW_IMAGES else ""
    not_beaten = [
        f"{BASELINES[name].words} ({row['model']:.2f} against {row['baseline']:.2f}, "
        f"difference {row['difference']:+.2f}, standard error {row['standard_error']:.2f})"
        for name, row in comparisons.items()
        if not row["clearly_above"]
    ]
    if not_beaten:
        return False, (
            f"This model is NOT clearly better than {' or '.join(not_beaten)}: "
            f"its answers may not come from the picture.{few}"
        )
    listed = ", ".join(f"{row['baseline']:.2f} ({BASELINES[name].heading})" for name, row in comparisons.items())
    scores = f"{next(iter(comparisons.values()))['model']:.2f} against {listed}."
    if not PROBES.keys() <= comparisons.keys():
        return None, (
            f"The model is clearly better than the baselines: {scores} "
            f"It was not asked again with another picture and with none.{few}"
        )
    return True, f"The model looks at the picture: {scores}{few}"


def _types_words(by_type: Mapping[str, Sequence[Question]], found: Mapping[str, bool | None]) -> str:
    """Which types look, which do not and which cannot be told, each with its share of the questions."""
    total = sum(map(len, by_type.values()))
    sentences = []
    for beginning, looks in {"Looks": True, "NOT clearly": False, "Cannot be told": None}.items():
        names = sorted(name for name in found if found[name] is looks)
        if names:
            share = sum(len(by_type[name]) for name in names) / total
            sentences.append(f"{beginning}: {', '.join(names)} ({share:.0%} of the questions).")
    return " ".join(sentences)


def _form_words(forms: Sequence[Form]) -> str:
    listed = ", ".join(f'"{form["form"]}" ({form["mean"] or 0:.3f}, n = {form["n"]})' for form in forms[:3])
    more = f" and {len(forms) - 3} more" if len(forms) > 3 else ""
    return f"It does not look in these forms of question (score where the usual answer is wrong): {listed}{more}."
