"""Parquet files and folders of Hugging Face ``datasets``, with the pictures inside them.

    images                        texts                                                              the_cauldron
    [{"bytes": ..., "path": ...}] [{"user": "What is this?", "assistant": "A dog."}]
    image                         conversations                                                      LLaVA-OneVision
    {"bytes": ..., "path": ...}   [{"from": "human", "value": "<image>\\nWhat is this?"}, ...]

Also columns question and answer (or answers), and caption. Each picture is written once, under the hash of its
content, into the images folder of the source: training then reads it as it reads any other file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataset.converters import llava, table
from dataset.converters.arrow_reader import read_rows
from dataset.converters.base import Example, File, Format, as_object, captioned, question_and_answers, text_of, texts
from dataset.converters.look import Look
from dataset.converters.pictures import keep_picture
from dataset.records import RecordError

IMAGES = ("images", "image")
TEXTS = ("texts", "conversations", "messages", "question", "answer", "answers", "multiple_choice_answer")
CAPTIONS = ("caption", "captions", "sentences", "text")
COLUMNS = (*IMAGES, *TEXTS, *CAPTIONS, "question_type", "type", "id", "split")


def known_by(look: Look) -> str | None:
    signs = {"parquet": "it is a Parquet or Arrow file", "folder": "it is a folder of Parquet or Arrow files"}
    return signs.get(look.kind)


def read(file: File) -> Iterator[object]:
    """Rows under our names of the columns, the pictures written and named under "images"."""
    ours = {theirs: name for name, theirs in file.columns.items()}
    for row in read_rows(file.path, {*COLUMNS, *ours}):
        record: dict[str, Any] = {ours.get(name, name): value for name, value in row.items()}
        try:
            yield {**record, "image": None, "images": _pictures(record, file.pictures)}
        except RecordError as error:
            yield error


def _pictures(record: dict[str, Any], folder: Path | None) -> list[str]:
    """The names of a row's pictures."""
    value: Any = next((record[key] for key in IMAGES if record.get(key) not in (None, [])), [])
    names = []
    for picture in value if isinstance(value, list) else [value]:
        content = picture.get("bytes") if isinstance(picture, dict) else picture
        if isinstance(content, bytes) and content:
            names.append(keep_picture(content, folder))
        elif isinstance(name := picture.get("path") if isinstance(picture, dict) else picture, str) and name:
            names.append(name)  # a file beside the Parquet file, in the images folder
        else:
            raise RecordError(f"picture {len(names)} has neither bytes nor a path")
    return names


def example(record: object) -> Example:
    fields = as_object(record)
    images, said, split = fields["images"], fields.get("texts"), table.split_of(fields.get("split"))
    if isinstance(said, list):
        return replace(_cauldron(images, said), split=split)
    if isinstance(fields.get("conversations"), list) or isinstance(fields.get("messages"), list):
        return replace(llava.example(record), split=split)
    if fields.get("question") is not None:
        return replace(_question(fields, images), split=split)
    given = next((fields[key] for key in CAPTIONS if fields.get(key) not in (None, "", [])), None)
    if given is None:
        raise RecordError("has no texts, conversations, messages, question or caption")
    if len(images) != 1:
        raise RecordError(f"a caption belongs to one image, this row has {len(images)}")
    return captioned(images[0], texts(given, "the caption"), split)


def _cauldron(images: list[str], said: list[Any]) -> Example:
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(said):
        if not isinstance(turn, dict) or not {"user", "assistant"} <= turn.keys():
            raise RecordError(f"turn {number} of texts has no user or no assistant")
        messages += [{"role": role, "content": turn[role]} for role in ("user", "assistant")]
    return llava.example({"images": images, "messages": messages})


def _question(row: dict[str, Any], images: list[str]) -> Example:
    given = row.get("answers") or row.get("answer") or row.get("multiple_choice_answer")
    if isinstance(given, list):  # of VQA v2 each answer is an object
        given = [answer.get("answer") if isinstance(answer, dict) else answer for answer in given]
    kind = row.get("question_type") or row.get("type")
    return question_and_answers(
        text_of(row, "question"),
        texts(given, "the answer"),
        images,
        id=None if row.get("id") is None else str(row["id"]),
        type=kind if isinstance(kind, str) and kind else None,
    )


FORMAT = Format("Parquet or Hugging Face datasets", known_by, example, read, COLUMNS, embedded=True)
