"""TextVQA: one file, ten answers to each question.

    {"data": [{"question_id": 34602, "question": "what is the brand?", "image_id": "0054c91397f2fe05",
               "answers": ["nous les gosses", ...], "set_name": "train"}]}

Its pictures are <image_id>.jpg. Its test file has no answers.
"""

from __future__ import annotations

from dataset.converters.base import SPLITS, Example, Format, as_object, question_and_answers, text_of, texts
from dataset.converters.look import Look
from dataset.preparing.json_reader import read_list


def known_by(look: Look) -> str | None:
    if look.under == "data" and {"question", "image_id"} <= look.record.keys():
        return 'its records are under "data", with question and image_id'
    return None


def example(record: object) -> Example:
    fields = as_object(record)
    name = fields.get("set_name")
    return question_and_answers(
        text_of(fields, "question"),
        texts(fields.get("answers"), "answers"),
        [f"{text_of(fields, 'image_id')}.jpg"],
        id=str(fields.get("question_id")),
        split=SPLITS.get(name) if isinstance(name, str) else None,
    )


FORMAT = Format("TextVQA", known_by, example, lambda file: read_list(file.path, "data"))
