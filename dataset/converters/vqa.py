"""VQA v2, and OK-VQA, which has the same two files: questions, and annotations with ten answers to each.

    {"data_subtype": "train2014", "questions": [{"image_id": 458752, "question": "What is this?", "question_id": 1}]}
    {"annotations": [{"question_id": 1, "image_id": 458752, "question_type": "what is this", "answers": [
        {"answer": "net", "answer_confidence": "maybe", "answer_id": 1}, ...]}]}

The source names the annotations under ``annotations`` and the questions under ``questions``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dataset.converters.base import Example, File, Format, as_object, question_and_answers, text_of, texts
from dataset.converters.look import Look
from dataset.preparing.json_reader import read_list
from dataset.records import RecordError


def known_by(look: Look) -> str | None:
    if look.under == "annotations" and {"question_id", "answers"} <= look.record.keys():
        return "its annotations have question_id and answers"
    if look.under == "questions" and "question_id" in look.record:
        return "its questions have question_id"
    return None


def read(file: File) -> Iterator[object]:
    """Each annotation with its question.

    Both files usually have the same order, so that few questions wait in memory for their answers.
    """
    assert file.questions is not None  # choose() has checked it
    about: dict[str, object] = {}
    names: dict[str, str] | None = None
    questions = read_list(file.questions, "questions", about)
    waiting: dict[object, dict[str, Any]] = {}
    for annotation in read_list(file.path, "annotations"):
        if not isinstance(annotation, dict):
            yield annotation
            continue
        key = _key(annotation)
        while key not in waiting and (question := next(questions, None)) is not None:
            if isinstance(question, dict):
                waiting[_key(question)] = {name: question.get(name) for name in ("question", "image_id")}
        if key not in waiting:
            yield RecordError(f"question_id {key!r:.40} is not in {file.questions.name}")
            continue
        if names is None:  # OK-VQA numbers its types and names them once, after the annotations; VQA v2 does not
            names = {} if "multiple_choice_answer" in annotation else _type_names(file)
        kind = annotation.get("question_type")
        kind = names.get(kind, kind) if isinstance(kind, str) else None
        yield {**annotation, **waiting.pop(key), "question_type": kind, "about": about}


def _key(record: dict[str, Any]) -> object:
    key = record.get("question_id")
    return key if isinstance(key, int | str) else None


def _type_names(file: File) -> dict[str, str]:
    others: dict[str, object] = {}
    for _ in read_list(file.path, "annotations", others):
        pass
    given = others.get("question_types")
    return {k: v for k, v in given.items() if isinstance(v, str)} if isinstance(given, dict) else {}


def example(record: object) -> Example:
    fields = as_object(record)
    answers = fields.get("answers")
    given: Any = [a.get("answer") if isinstance(a, dict) else a for a in answers] if isinstance(answers, list) else None
    return question_and_answers(
        text_of(fields, "question"),
        texts(given, "answers"),
        [_image(fields.get("image_id"), fields.get("about") or {})],
        id=str(fields.get("question_id")),
        type=fields.get("question_type"),
    )


def _image(number: object, about: dict[str, object]) -> str:
    """COCO's file name of an image; where the file does not tell the year, the name of 2017, which finds any year."""
    if type(number) is not int or not 0 <= number < 10**12:
        raise RecordError("image_id is not a number")
    kind, part = about.get("data_type"), about.get("data_subtype")
    if isinstance(kind, str) and kind.startswith("abstract") and isinstance(part, str):
        return f"{kind}_{part}_{number:012d}.png"
    return f"COCO_{part}_{number:012d}.jpg" if isinstance(part, str) else f"{number:012d}.jpg"


FORMAT = Format("VQA v2 or OK-VQA", known_by, example, read, needs_questions=True)
