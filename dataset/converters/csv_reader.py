"""Rows of a CSV or TSV file, as spreadsheets write it: any of four delimiters, UTF-8 or UTF-16, quoted line breaks.

The module csv reads the rows. What is ours: the encoding and the delimiter are found by looking, every mistake names
its row as a spreadsheet counts it (the header is row 1), and no row can fill the memory.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from common.errors import UserError
from dataset.records import SURROGATE, RecordError

LONGEST_ROW = 2**20  # characters; also what a quote that is never closed may swallow
DELIMITERS = ",;\t|"  # Excel writes ; where the comma is the decimal mark

Row = tuple[int, dict[str, str] | RecordError]  # its number, and its cells by column, or why it is none


def is_json(path: Path) -> bool:
    """Whether the text of a file begins as JSON does, with { or [.

    Raises:
        UserError: it cannot be read.
    """
    with open_text(path) as file:
        return file.read(1000).lstrip()[:1] in ("{", "[")


def open_text(path: Path) -> IO[str]:
    """A text file in UTF-8 or UTF-16; a byte that is no UTF-8 becomes half of a surrogate pair.

    Raises:
        UserError: it cannot be read.
    """
    try:
        file = open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    start = file.read(2)
    file.seek(0)
    utf16 = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # Excel's "Unicode text"
    return io.TextIOWrapper(
        file, encoding="utf-16" if utf16 else "utf-8-sig", errors="replace" if utf16 else "surrogateescape"
    )


def header_of(path: Path) -> list[str]:
    """The names in the first row.

    Raises:
        UserError: it cannot be read.
    """
    return _header(path)[0]


def read_rows(path: Path) -> Iterator[Row]:
    """The rows after the header, each by the names of its columns; empty rows are left out.

    Raises:
        UserError: not readable, not UTF-8, a column without a name or with the name of another, a quote not closed.
    """
    names, delimiter, skipped = _header(path)
    with open_text(path) as file:
        rows = enumerate(_parsed(path, file, delimiter), start=1)
        for number, cells in islice(rows, 1 + skipped, None):
            if not any(cell.strip() for cell in cells):
                continue
            if SURROGATE.search("".join(cells)):
                raise UserError(f"{path}: row {number} is not UTF-8 text; save the file as CSV UTF-8")
            while len(cells) > len(names) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(names):
                yield number, RecordError(f"has {len(cells)} cells, the header has {len(names)}")
            else:
                yield number, dict(zip(names, cells, strict=True))


def _header(path: Path) -> tuple[list[str], str, int]:
    """The names of the columns, the delimiter, and how many lines are before the header (Excel's "sep=;")."""
    with open_text(path) as file:
        line = file.readline(LONGEST_ROW)
        skipped = int(line.strip().lower() in {f"sep={d}" for d in DELIMITERS})
        if skipped:
            line = file.readline(LONGEST_ROW)
    split = {d: next(csv.reader([line], delimiter=d), []) for d in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda d: len(split[d]))
    names = [name.strip() for name in split[delimiter]]
    while names and not names[-1]:
        names.pop()
    return names, delimiter, skipped


def _parsed(path: Path, file: IO[str], delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(LONGEST_ROW)
    number = 0
    try:
        for cells in csv.reader(_lines(file), delimiter=delimiter, strict=True):
            number += 1
            yield cells
    except (csv.Error, UnicodeError) as error:
        advice = "a quote in a quoted cell is written twice"
        raise UserError(f"{path}: row {number + 1} cannot be read as CSV: {error}; {advice}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _lines(file: IO[str]) -> Iterator[str]:
    while line := file.readline(LONGEST_ROW):
        if len(line) == LONGEST_ROW and not line.endswith("\n"):
            raise csv.Error(f"a line of more than {LONGEST_ROW:,} characters")
        yield line
