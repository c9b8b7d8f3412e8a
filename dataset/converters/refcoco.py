"""RefCOCO, RefCOCO+ and RefCOCOg: expressions that each mean one object of a COCO picture.

    {"ref_id": 1, "image_id": 581857, "split": "train", "bbox": [103.9, 299.9, 134.2, 177.4],
     "sentences": [{"sent": "the lady with the blue shirt"}, {"sent": "lady in blue"}]}

The files as they were published, refs(unc).p and instances.json beside it, are read too: boxes that a record does not
hold are those of its ``ann_id`` there. Each expression asks where its object is, and all of them answer what it is.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataset.converters.base import SPLITS, Example, File, Format, as_object
from dataset.converters.look import Look
from dataset.converters.regions import WHAT, WHERE, raw_box, region_example
from dataset.preparing.json_reader import read_list, read_records
from dataset.records import RecordError

_COPY = re.compile(r"(COCO_\w+_\d{12})_\d+(\.\w+)$")  # names in refs(unc).p end with the object's number


def known_by(look: Look) -> str | None:
    if look.under is None and {"ref_id", "sentences"} <= look.record.keys():
        return "its first record has ref_id and sentences"
    return None


def read(file: File) -> Iterator[object]:
    """A record for each expression of an object, and one for the object.

    Raises:
        UserError: the file, or instances.json where boxes are not in the file, cannot be read.
    """
    boxes: dict[object, Any] | None = None
    records = _unpickled(file.path) if file.path.suffix == ".p" else read_records(file.path, {"ref_id"})
    for record in records:
        if not isinstance(record, dict):
            yield record
            continue
        if record.get("bbox") is None:
            boxes = _boxes_beside(file.path) if boxes is None else boxes
            record = {**record, "bbox": boxes.get(record.get("ann_id"))}
        given = record.get("sentences")
        for number, sentence in enumerate(given if isinstance(given, list) else []):
            yield {**record, "ask": WHERE, "sentences": [sentence], "ref_id": f"{record.get('ref_id')}/{number}"}
        yield {**record, "ask": WHAT}


def _unpickled(path: Path) -> list[object]:
    """A pickle of lists, dicts, texts and numbers; anything else in it is refused before it is made.

    Raises:
        UserError: it cannot be read, or holds something else.
    """

    class Plain(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")

    try:
        content = Plain(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # damaged pickles raise nearly any class
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"{path}: not a file of RefCOCO's references ({reason})") from None
    if not isinstance(content, list):
        raise UserError(f"{path}: not a file of RefCOCO's references (it holds no list)")
    return content


def _boxes_beside(path: Path) -> dict[object, Any]:
    instances = path.with_name("instances.json")
    if not instances.is_file():
        raise UserError(f"{path}: its records have no bbox, and there is no instances.json beside it")
    annotations = (a for a in read_list(instances, "annotations") if isinstance(a, dict))
    return {a["id"]: a.get("bbox") for a in annotations if isinstance(a.get("id"), int | str)}


def example(record: object) -> Example:
    fields = as_object(record)
    given = fields.get("sentences")
    if not isinstance(given, list) or not given:
        raise RecordError("sentences is not a list of expressions")
    sentences = [one.get("raw" if "sent" not in one else "sent") if isinstance(one, dict) else one for one in given]
    split = fields.get("split")
    return region_example(
        _image_of(fields),
        fields.get("ask", WHERE),
        sentences,
        [raw_box(fields.get("bbox"))],
        id=str(fields.get("ref_id")),
        split=SPLITS.get(split.lower()) if isinstance(split, str) else None,
    )


def _image_of(fields: dict[str, Any]) -> str:
    name, number = fields.get("file_name", fields.get("image")), fields.get("image_id")
    if isinstance(name, str) and name:
        return _COPY.sub(r"\1\2", name)
    if not isinstance(number, int):
        raise RecordError("names no picture: neither file_name nor image_id")
    return f"COCO_train2014_{number:012d}.jpg"


FORMAT = Format("RefCOCO", known_by, example, read, box_order="xywh")
