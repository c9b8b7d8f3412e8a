"""Files in any format, and what is read from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataset.converters import FORMATS
from dataset.converters.base import Example, File
from dataset.converters.choose import found_format
from dataset.records import RecordError
from settings import Source
from tests.helpers.workplace import Workplace


class Files:
    """Files of annotations in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, content) -> Path:
        """A file with this content: bytes, text, or anything that JSON can hold."""
        path = self.folder / name
        if not isinstance(content, bytes):
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            content = text.encode("utf-8", "surrogatepass")
        path.write_bytes(content)
        return path

    def looks_like(self, *paths: Path) -> str:
        """The format that ``format: auto`` takes files for."""
        source = Source(name="x", annotations=[str(path) for path in paths], images=str(self.folder))
        return found_format(source, "data.sources.0")[0]

    def read(self, form: str, path: Path, **more) -> list[Example | str]:
        """The examples in a file, and for each record that cannot be used the reason."""
        found: list[Example | str] = []
        for record in FORMATS[form].read(File(path, **more)):
            try:
                found.append(FORMATS[form].example(record))
            except RecordError as error:
                found.append(str(error))
        return found


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def workplace(tmp_path) -> Workplace:
    return Workplace(tmp_path)
