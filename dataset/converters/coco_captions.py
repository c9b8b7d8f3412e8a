"""COCO's captions: a list of images, and a list of captions that name their image by its number.

    {"images": [{"id": 391895, "file_name": "000000391895.jpg"}],
     "annotations": [{"image_id": 391895, "id": 770337, "caption": "A man with a red helmet on a small moped."}]}

The captions of an image are far apart in the file. All of them are one record.
"""

from __future__ import annotations

from collections.abc import Iterator

from common.errors import UserError
from dataset.converters.base import Example, File, Format, as_object, captioned, texts
from dataset.converters.look import Look
from dataset.preparing.json_reader import read_list
from dataset.records import RecordError


def known_by(look: Look) -> str | None:
    if look.under == "annotations" and {"image_id", "caption"} <= look.record.keys():
        return "its annotations have image_id and caption"
    return None


def read(file: File) -> Iterator[object]:
    """One record for each image. The captions wait in memory, as bytes: 140 MB for a file as large as train2017's,
    592,000 captions of 118,000 images."""
    captions: dict[object, list[bytes]] = {}
    for number, annotation in enumerate(read_list(file.path, "annotations")):
        fields = annotation if isinstance(annotation, dict) else {}
        key, caption = fields.get("image_id"), fields.get("caption")
        if not isinstance(key, int | str) or not isinstance(caption, str):
            yield RecordError(f"annotation {number} has no image_id or no caption")
            continue
        captions.setdefault(key, []).append(caption.encode("utf-8", "surrogatepass"))
    names = _names(file)
    for key, group in captions.items():
        name = names.get(key) or (f"{key:012d}.jpg" if isinstance(key, int) else key)
        yield {"image": name, "caption": [caption.decode("utf-8", "surrogatepass") for caption in group]}


def _names(file: File) -> dict[object, str]:
    names: dict[object, str] = {}
    try:
        for image in read_list(file.path, "images"):
            fields = image if isinstance(image, dict) else {}
            if isinstance(fields.get("id"), int | str) and isinstance(fields.get("file_name"), str):
                names[fields["id"]] = fields["file_name"]
    except UserError:
        return {}  # a file of annotations alone; a COCO image's name follows from its number
    return names


def example(record: object) -> Example:
    fields = as_object(record)
    return captioned(fields["image"], texts(fields["caption"], "the caption"))


FORMAT = Format("COCO captions", known_by, example, read)
