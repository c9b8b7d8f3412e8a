"""A file of questions: JSON Lines that name pictures, or one question a line about the same pictures. Without torch."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.text import whole

ENDS = (".jsonl", ".ndjson")  # of the names of files in JSON Lines; all others are text


@dataclass
class Asked:
    """One line of the file: its number, what was read in it, the question, and the paths of its pictures."""

    line: int
    fields: dict[str, Any]
    question: str
    images: list[str]


def read_question_file(file: Path, images: list[str]) -> tuple[list[Asked], int]:
    """The questions of a file, and how many of its characters were replaced because they are not UTF-8.

    A line of JSON holds ``question`` and perhaps ``image`` (a path) or ``images`` (a list of paths); further keys are
    kept in ``fields``. A question that names no picture is about ``images``. Empty lines are passed over.

    Raises:
        UserError: the file cannot be read or holds no question, a line is wrong, or a picture is missing; names the
            line.
    """
    try:
        text, replaced = whole(file.read_bytes().decode("utf-8-sig", "surrogateescape"))
    except OSError as error:
        raise UserError(f"--questions {file}: cannot be read ({error.strerror or error})") from error
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        if file.suffix.lower() in ENDS:
            asked = _from_json(line, where, number, images)
        else:
            asked = Asked(number, {"question": line.strip()}, line.strip(), images)
        _check_pictures(asked, where)
        found.append(asked)
    if not found:
        raise UserError(f"--questions {file}: no question in it; write one a line")
    return found, replaced


def _from_json(line: str, where: str, number: int, images: list[str]) -> Asked:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); one object a line, or a file that ends in .txt") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("question"), str) or not fields["question"].strip():
        raise UserError(f'{where}: expected an object with "question": "a text"')
    own = fields.get("images", fields.get("image", images))
    own = [own] if isinstance(own, str) else own
    if not isinstance(own, list) or not all(isinstance(path, str) for path in own):
        raise UserError(f'{where}: expected "image": "a path" or "images": ["a path", ...]')
    return Asked(number, fields, fields["question"], own)


def _check_pictures(asked: Asked, where: str) -> None:
    if not asked.images:
        raise UserError(f'{where}: no picture; give --image FILE, or "image" in the line of a .jsonl file')
    for path in asked.images:
        if "\0" in path or not os.path.isfile(path):
            raise UserError(f"{where}: {path}: missing")
