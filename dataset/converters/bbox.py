"""Records with a ``bbox``: what detection and grounding data look like in JSON Lines.

    {"image": "a.jpg", "label": "the red bus", "bbox": [120, 80, 300, 260]}
    {"image": "a.jpg", "bbox": [120, 80, 300, 260], "question": "What color is this?", "answer": "Red."}

``bbox`` is one box or a list of boxes. A name (under one of NAMES) asks where it is, and for one box what it is. A
question is about the boxes. The source says how the numbers are meant: ``boxes: pixels``, ``box_format: xywh``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dataset.converters.base import (
    SPLITS,
    Example,
    File,
    Format,
    as_object,
    image_names,
    question_and_answers,
    text_of,
    texts,
)
from dataset.converters.look import Look
from dataset.converters.regions import TYPES, WHAT, WHERE, raw_boxes, region_example, write_raw
from dataset.preparing.json_reader import read_records
from dataset.records import RecordError

NAMES = ("label", "ref", "expression", "phrase", "name", "category", "caption", "sentence", "text")


def known_by(look: Look) -> str | None:
    if look.kind == "json" and look.under is None and "bbox" in look.record:
        return "its first record has bbox"
    return None


def read(file: File) -> Iterator[object]:
    """Two records for a name with one box, and one for every other."""
    for record in read_records(file.path, {"bbox"}):
        if not isinstance(record, dict) or "question" in record:
            yield record
            continue
        yield {**record, "ask": WHERE}
        if _is_one(record.get("bbox")):
            yield {**record, "ask": WHAT}


def _is_one(bbox: object) -> bool:
    return isinstance(bbox, list) and (len(bbox) == 1 or not any(isinstance(one, list) for one in bbox))


def example(record: object) -> Example:
    fields = as_object(record)
    images = image_names(fields, ("image", "image_id", "images", "file_name", "img_path", "image_path"))
    if len(images) != 1:
        raise RecordError(f"a box belongs to one image, this record has {len(images)}")
    number, split = _text(fields.get("id")), SPLITS.get(str(fields.get("split")).lower())
    boxes = raw_boxes(fields.get("bbox"))
    if "question" in fields:
        question = f"{''.join(map(write_raw, boxes))} {text_of(fields, 'question')}"
        kind = _text(fields.get("type")) or TYPES[WHAT]
        answers = texts(fields.get("answer"), "the answer")
        return question_and_answers(question, answers, images, type=kind, id=number, split=split)
    name = next((fields[key] for key in NAMES if isinstance(fields.get(key), str)), "")
    return region_example(images[0], fields.get("ask", WHERE), [name], boxes, id=number, split=split)


def _text(value: Any) -> str | None:
    return None if value in (None, "") or isinstance(value, dict | list) else str(value)


FORMAT = Format("records with bbox", known_by, example, read, box_order="xyxy")
