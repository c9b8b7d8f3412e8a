"""COCO's objects: images, categories, and annotations with a box each. LVIS and Objects365 have the same layout.

    {"images": [{"id": 9, "file_name": "000000000009.jpg"}], "categories": [{"id": 51, "name": "bowl"}],
     "annotations": [{"id": 1, "image_id": 9, "category_id": 51, "bbox": [1.1, 187.7, 611.6, 285.8], "iscrowd": 0}]}

For each category in a picture one question asks where it is, with all of its boxes from left to right as the answer,
and one asks what its largest box shows. A category that has a crowd in a picture (``iscrowd``) is left out there.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from common.errors import UserError
from dataset.converters.base import Example, File, Format, as_object
from dataset.converters.look import Look
from dataset.converters.regions import WHAT, WHERE, Raw, raw_box, raw_boxes, region_example
from dataset.preparing.json_reader import read_list
from dataset.records import RecordError


def known_by(look: Look) -> str | None:
    if look.under == "annotations" and {"image_id", "category_id", "bbox"} <= look.record.keys():
        return "its annotations have category_id and bbox"
    return None


def read(file: File) -> Iterator[object]:
    """Two records for each category of an image. The boxes wait in memory, as numbers of 4 bytes: train2017's 860,000
    take 14 MB and their keys ten times as much.

    Raises:
        UserError: there are no images or no categories.
    """
    names = {key: name for key, name in _named(file, "images", "file_name")}
    categories = {key: name for key, name in _named(file, "categories", "name")}
    boxes: dict[tuple[object, object], array[float]] = {}
    crowded: set[tuple[object, object]] = set()
    for number, annotation in enumerate(read_list(file.path, "annotations")):
        fields = annotation if isinstance(annotation, dict) else {}
        key = (fields.get("image_id"), fields.get("category_id"))
        if key[0] not in names or key[1] not in categories:
            yield RecordError(f"annotation {number} is of an image or a category that the file does not name")
            continue
        try:
            boxes.setdefault(key, array("f")).extend(raw_box(fields.get("bbox")))
        except RecordError as error:
            yield RecordError(f"annotation {number}: {error}")
        if fields.get("iscrowd"):
            crowded.add(key)
    for key, numbers in boxes.items():
        if key in crowded or not numbers:
            continue
        found = sorted(zip(*[iter(numbers)] * 4, strict=True))
        common = {"image": names[key[0]], "name": categories[key[1]]}
        yield {**common, "ask": WHERE, "bbox": [_short(box) for box in found]}
        yield {**common, "ask": WHAT, "bbox": _short(max(found, key=lambda box: box[2] * box[3]))}


def _named(file: File, key: str, name: str) -> Iterator[tuple[object, str]]:
    try:
        for entry in read_list(file.path, key):
            fields = entry if isinstance(entry, dict) else {}
            if isinstance(fields.get("id"), int | str) and isinstance(fields.get(name), str):
                yield fields["id"], fields[name]
    except UserError as error:
        raise UserError(f"{error}; COCO's objects need the list {key}") from None


def _short(box: tuple[float, ...]) -> list[float]:
    """Hundredths of a pixel, as COCO has them; 4 bytes hold seven digits."""
    return [round(number, 2) for number in box]


def example(record: object) -> Example:
    fields = as_object(record)
    boxes: list[Raw] = raw_boxes(fields["bbox"])
    return region_example(fields["image"], fields["ask"], [fields["name"]], boxes, article=True)


FORMAT = Format("COCO's objects", known_by, example, read, box_order="xywh")
