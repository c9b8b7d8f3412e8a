"""The format of a source: the one that it names, or the one that its files look like."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from dataset.converters import AUTO, FORMATS, OLD_NAMES, Format
from dataset.converters.base import File
from dataset.converters.look import look_at
from settings import Source


class Choice(NamedTuple):
    """How a source is read."""

    name: str
    form: Format
    sign: str | None  # why it was taken, where the source says auto
    files: list[File]


def choose(source: Source, key: str) -> Choice:
    """The format of a source and its files.

    Args:
        key: where the config has the source, such as data.sources.0, for messages.

    Raises:
        UserError: an unknown format, files that look like none or like several, or keys that do not fit the format.
    """
    name, sign = OLD_NAMES.get(source.format, source.format), None
    if name != AUTO and name not in FORMATS:
        close = difflib.get_close_matches(name, FORMATS, n=1)
        nearest = f"; nearest: {close[0]}" if close else ""
        known = ", ".join([AUTO, *FORMATS])
        raise UserError(f'{key}.format = "{source.format}": expected one of {known}{nearest}')
    if name == AUTO:
        name, sign = found_format(source, key)
    form = FORMATS[name]
    _check_keys(source, key, name, form)
    pictures = source.images[0] if form.embedded else None
    questions: Sequence[Path | None] = source.questions or [None] * len(source.annotations)
    files = [
        File(path, asked, pictures, source.columns) for path, asked in zip(source.annotations, questions, strict=True)
    ]
    return Choice(name, form, sign, files)


def found_format(source: Source, key: str) -> tuple[str, str]:
    """The name of the format that the files of a source look like, and the sign by which the first was known.

    Raises:
        UserError: there is none, or they are of several.
    """
    found: dict[str, str] = {}
    for path in source.annotations:
        look = look_at(path)
        signs = ((name, form.known_by(look)) for name, form in FORMATS.items())
        name, sign = next(((name, sign) for name, sign in signs if sign), (None, None))
        if name is None or sign is None:
            keys = ", ".join(look.record or look.columns)[:200] or "nothing with a name"
            raise UserError(
                f"{key}.annotations: {path} looks like none of the formats {', '.join(FORMATS)}: its first record has "
                f"{keys}; name the format, or see docs/data.md for how each looks"
            )
        found.setdefault(name, sign)
    if len(found) > 1:
        one, other = list(found)[:2]
        raise UserError(f"{key}.annotations: some files look like {one}, others like {other}; make two sources of them")
    return next(iter(found.items()))


def check_boxes(source: Source, key: str, form: Format) -> None:
    """Raises UserError if a source does not say how its boxes are written, or says it in part."""
    if form.box_order and source.boxes is None:
        raise UserError(f"{key}.boxes: expected pixels, unit, 0-999 or 0-1000: {form.title} holds boxes")
    if source.boxes is None and (source.box_format or source.box_picture != "upright"):
        raise UserError(f"{key}.boxes: null, but box_format or box_picture says how boxes are written; set boxes too")


def _check_keys(source: Source, key: str, name: str, form: Format) -> None:
    if form.needs_questions and len(source.questions or []) != len(source.annotations):
        many = f"{len(source.annotations)} files of questions" if len(source.annotations) > 1 else "the questions file"
        raise UserError(f"{key}.questions: expected {many}: {form.title} has questions and answers in two files")
    if source.questions and not form.needs_questions:
        raise UserError(f"{key}.questions: expected null, format {name} has its questions in annotations")
    for column in source.columns:
        if column not in form.columns:
            known = f"one of {', '.join(form.columns)}" if form.columns else f"none: format {name} has no columns"
            raise UserError(f"{key}.columns.{column}: expected {known}")
