"""Flickr30k's captions in the layouts in which they are passed on, and COCO-CN's, which has the first of them.

    1000092795.jpg#0	Two young guys with shaggy hair look at their hands .       results_20130124.token
    image_name| comment_number| comment                                         results.csv
    {"images": [{"filename": "1000092795.jpg", "split": "train", "sentences": [{"raw": "Two young guys ..."}]}]}
    COCO_train2014_000000105097#0	一张老式的木制课桌                                    COCO-CN

All captions of an image are one record. In the last two layouts the split is known, or the name has no ending.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from common.errors import UserError
from dataset.converters.base import SPLITS, Example, File, Format, as_object, captioned, texts
from dataset.converters.csv_reader import LONGEST_ROW, header_of, is_json, open_text, read_rows
from dataset.converters.look import Look
from dataset.preparing.json_reader import read_list
from dataset.records import SURROGATE, RecordError

_TOKEN = re.compile(r"([^\s#]+)#\S*\s+(\S.*)")  # image#number, then the caption

Line = tuple[str, str]  # image, caption


def known_by(look: Look) -> str | None:
    if look.under == "images" and "sentences" in look.record:
        return "its images have sentences (Karpathy's JSON)"
    if look.kind == "text" and _TOKEN.fullmatch(look.line.strip()):
        return "its first line is image#number and a caption"
    if look.kind == "text" and {"image_name", "comment"} <= set(look.columns):
        return "its columns are image_name and comment"
    return None


def read(file: File) -> Iterator[object]:
    if is_json(file.path):
        yield from read_list(file.path, "images")
        return
    lines = _csv(file) if {"image_name", "comment"} <= set(header_of(file.path)) else _token(file)
    for name, group in groupby(lines, key=lambda line: line if isinstance(line, RecordError) else line[0]):
        if isinstance(name, RecordError):
            yield name
        else:
            yield {"filename": name, "captions": [line[1] for line in group if not isinstance(line, RecordError)]}


def _csv(file: File) -> Iterator[Line | RecordError]:
    for number, cells in read_rows(file.path):
        if isinstance(cells, RecordError):
            yield RecordError(f"row {number}: {cells}")
        else:
            yield cells["image_name"].strip(), cells["comment"].strip()


def _token(file: File) -> Iterator[Line | RecordError]:
    with open_text(file.path) as text:
        for number, line in enumerate(iter(lambda: text.readline(LONGEST_ROW), ""), start=1):
            if SURROGATE.search(line):
                raise UserError(f"{file.path}: line {number} is not UTF-8 text; save the file as UTF-8")
            if match := _TOKEN.fullmatch(line.strip()):
                yield match[1], match[2]
            elif line.strip():
                yield RecordError(f"line {number} is not image#number and a caption")


def example(record: object) -> Example:
    fields = as_object(record)
    name, given = fields.get("filename"), fields.get("sentences")
    if not isinstance(name, str) or not name:
        raise RecordError("filename is missing, or not text")
    if isinstance(given, list):
        captions = [sentence.get("raw") if isinstance(sentence, dict) else None for sentence in given]
        name = f"{fields['filepath']}/{name}" if isinstance(fields.get("filepath"), str) else name
    else:
        captions = fields.get("captions", [])
    split = fields.get("split")
    name = name if "." in name.rpartition("/")[2] else f"{name}.jpg"
    return captioned(name, texts(captions, "a caption"), SPLITS.get(split) if isinstance(split, str) else None)


FORMAT = Format("Flickr30k or COCO-CN captions", known_by, example, read)
