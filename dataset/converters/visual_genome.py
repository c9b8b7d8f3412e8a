"""Visual Genome's region descriptions: many phrases for each picture, each of a region.

    [{"id": 1, "regions": [{"region_id": 1382, "image_id": 1, "phrase": "the clock is green",
                            "x": 421, "y": 57, "width": 82, "height": 139}]}]

The pictures are <image_id>.jpg. Of a picture's regions every second is asked for, the others are to be described.
"""

from __future__ import annotations

from collections.abc import Iterator

from dataset.converters.base import Example, File, Format, as_object
from dataset.converters.look import Look
from dataset.converters.regions import WHAT, WHERE, raw_box, region_example
from dataset.preparing.json_reader import read_records
from dataset.records import RecordError


def known_by(look: Look) -> str | None:
    regions = look.record.get("regions")
    if look.under is None and isinstance(regions, list) and regions and isinstance(regions[0], dict):
        if {"phrase", "x", "y"} <= regions[0].keys():
            return "its first record has regions with a phrase"
    return None


def read(file: File) -> Iterator[object]:
    """A record for each region."""
    for record in read_records(file.path, {"regions"}):
        regions = record.get("regions") if isinstance(record, dict) else None
        if not isinstance(record, dict) or not isinstance(regions, list):
            yield RecordError("has no list of regions")
            continue
        for number, region in enumerate(regions):
            ask = WHAT if number % 2 else WHERE
            yield {"image_id": record.get("id"), **region, "ask": ask} if isinstance(region, dict) else region


def example(record: object) -> Example:
    fields = as_object(record)
    image = fields.get("image_id")
    if not isinstance(image, int):
        raise RecordError("a region has no image_id")
    box = raw_box([fields.get(key) for key in ("x", "y", "width", "height")])
    number = str(fields.get("region_id"))
    return region_example(f"{image}.jpg", fields.get("ask", WHERE), [fields.get("phrase", "")], [box], id=number)


FORMAT = Format("Visual Genome's regions", known_by, example, read, box_order="xywh")
