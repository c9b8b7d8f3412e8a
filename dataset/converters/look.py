"""The first record of a file and how the file holds it: enough to tell its format."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataset.converters.csv_reader import header_of, is_json, open_text
from dataset.preparing.json_reader import read_first

ARROW = (".parquet", ".arrow")


@dataclass
class Look:
    """What is seen at the start of a file."""

    path: Path
    kind: str  # "json", "text", "parquet" or "folder"
    record: dict[str, Any] = field(default_factory=dict)  # JSON: the first record; {} where it is no object
    under: str | None = None  # JSON: the key of the list that holds the records, "" where each has a key of its own
    columns: list[str] = field(default_factory=list)  # of a table or Parquet
    line: str = ""  # text: the first line that is not empty


def look_at(path: Path) -> Look:
    """Read the start of a file.

    Raises:
        UserError: it cannot be read, or is not text, JSON, Parquet or a folder.
    """
    if path.is_dir() or path.suffix in ARROW:
        from dataset.converters.arrow_reader import columns_of  # pyarrow, which only these files need

        return Look(path, "folder" if path.is_dir() else "parquet", columns=columns_of(path))
    if path.suffix.lower() in (".xlsx", ".xls", ".ods", ".numbers"):
        raise UserError(f"{path}: a spreadsheet, which is not read; save it as CSV UTF-8 and name that file")
    if is_json(path):
        under, record = read_first(path)
        return Look(path, "json", record if isinstance(record, dict) else {}, under)
    with open_text(path) as file:
        line = next((line for line in islice(file, 100) if line.strip()), "").strip("\r\n")
    return Look(path, "text", columns=header_of(path), line=line)
