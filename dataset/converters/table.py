"""A table: CSV or TSV, as spreadsheets export it, or JSON with one row a line.

    image;question;answer
    a.jpg;How many dogs?;two

Columns: image, question, answer (or answer_1 to answer_10, all of them references), and, if there, type, id and split.
Options of multiple choice are in columns A, B, C, ..., or in JSON in a list, options; they are added to the question, a
line each, and the answer may be a letter or an option's text.
With caption in the place of question and answer it is a table of captions. ``columns:`` of the source gives our name of
a column and its name in the file. A row without an image is a question about no picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from common.errors import UserError
from dataset.converters.base import (
    SPLITS,
    Example,
    File,
    Format,
    as_object,
    captioned,
    image_names,
    question_and_answers,
    text_of,
    texts,
)
from dataset.converters.csv_reader import header_of, is_json, read_rows
from dataset.converters.look import Look
from dataset.preparing.json_reader import read_records
from dataset.records import RecordError

ANSWERS = tuple(f"answer_{number}" for number in range(1, 11))
LETTERS = "ABCDEFGHIJ"
COLUMNS = ("image", "question", "answer", *ANSWERS, "options", *LETTERS, "caption", "type", "id", "split")


def known_by(look: Look) -> str | None:
    if look.kind == "text" and len(look.columns) > 1:
        return f"its first row names columns ({', '.join(look.columns)[:100]})"
    if look.kind == "json" and look.under is None and {"question", "answer"} <= look.record.keys():
        return "its first record has question and answer"
    return None


def read(file: File) -> Iterator[object]:
    """Rows under our names of the columns, with the row's number for messages under "row".

    Raises:
        UserError: a column that is needed is not there.
    """
    ours = {theirs: name for name, theirs in file.columns.items()}
    if is_json(file.path):
        for number, record in enumerate(read_records(file.path, {*COLUMNS, *file.columns.values()}), start=1):
            row = {ours.get(k, k): v for k, v in record.items()} if isinstance(record, dict) else record
            yield {**row, "row": number} if isinstance(row, dict) else row
        return
    _check_columns(file, [ours.get(name, name) for name in header_of(file.path)])
    for number, cells in read_rows(file.path):
        if isinstance(cells, RecordError):
            yield RecordError(f"row {number}: {cells}")
        else:
            yield {**{ours.get(name, name): cell.strip() for name, cell in cells.items()}, "row": number}


def _check_columns(file: File, names: list[str]) -> None:
    has = ", ".join(f'"{name}"' for name in names)[:300] or "none"
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f'{file.path}: row 1 names the column "{twice}" twice; it has {has}')
    wanted = ["image", "caption"] if "caption" in names else ["image", "question", "answer"]
    for name in wanted:
        if name not in names and not (name == "answer" and set(ANSWERS) & set(names)):
            advice = f"give its name, such as columns: {{{name}: NAME}}"
            raise UserError(f'{file.path}: row 1 has no column "{name}"; it has {has}; {advice}')


def example(record: object) -> Example:
    fields = as_object(record)
    try:
        return _example(fields)
    except RecordError as error:
        raise RecordError(f"row {fields.get('row')}: {error}") from None


def _example(row: dict[str, Any]) -> Example:
    images = image_names(row, ("image",))
    split = split_of(row.get("split"))
    if "question" not in row and row.get("caption") is not None:
        if len(images) != 1:
            raise RecordError(f"a caption belongs to one image, this row has {len(images)}")
        return captioned(images[0], texts(row["caption"], "the caption"), split)
    answers = [row[name] for name in ANSWERS if row.get(name) not in (None, "")]
    given = answers or row.get("answer")
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = str(given)
    if given in (None, "", []):
        raise RecordError("the answer is empty")
    kind = row.get("type")
    return question_and_answers(
        "\n".join([text_of(row, "question"), *options_of(row)]),
        texts(given, "the answer"),
        images,
        id=None if row.get("id") in (None, "") else str(row["id"]),
        type=kind if isinstance(kind, str) and kind else None,
        split=split,
    )


def options_of(row: dict[str, Any]) -> list[str]:
    """Lines that list a row's options, "A. red", "B. blue", up to the first that is empty; none with fewer than two."""
    given = row.get("options")
    columns = [str(row[letter]) for letter in takewhile(lambda letter: row.get(letter) not in (None, ""), LETTERS)]
    options = columns if given in (None, "", []) else texts(given, "options")
    if len(options) > len(LETTERS):
        raise RecordError(f"has {len(options)} options, at most {len(LETTERS)} have a letter")
    lines = [f"{letter}. {' '.join(option.split())}" for letter, option in zip(LETTERS, options, strict=False)]
    return lines if len(lines) > 1 else []


def split_of(value: object) -> str | None:
    if value in (None, ""):
        return None
    if not isinstance(value, str) or value.lower() not in SPLITS:
        raise RecordError(f"split is {value!r:.40}, expected train, validation or test")
    return SPLITS[value.lower()]


FORMAT = Format("a table", known_by, example, read, COLUMNS)
