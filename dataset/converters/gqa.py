"""GQA: an object with each question under its id.

    {"02930152": {"question": "Is the sky dark?", "imageId": "2354786", "answer": "yes",
                  "types": {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"}}}

Its pictures are <imageId>.jpg. The short answer is learnt; fullAnswer ("Yes, the sky is dark.") is not read.
"""

from __future__ import annotations

from collections.abc import Iterator

from dataset.converters.base import Example, File, Format, as_object, question_and_answers, text_of
from dataset.converters.look import Look
from dataset.preparing.json_reader import read_members


def known_by(look: Look) -> str | None:
    if look.under == "" and {"question", "imageId"} <= look.record.keys():
        return "each question is under its id, with imageId"
    return None


def read(file: File) -> Iterator[object]:
    for key, value in read_members(file.path):
        yield {**value, "id": key} if isinstance(value, dict) else value


def example(record: object) -> Example:
    fields = as_object(record)
    types = fields.get("types")
    kind = types.get("structural") if isinstance(types, dict) else None
    return question_and_answers(
        text_of(fields, "question"),
        [text_of(fields, "answer")],
        [f"{text_of(fields, 'imageId')}.jpg"],
        id=str(fields.get("id")),
        type=kind if isinstance(kind, str) else None,
    )


FORMAT = Format("GQA", known_by, example, read)
