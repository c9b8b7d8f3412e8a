"""docs/data.md and its Chinese version: each format has an example, and the example is read as that format."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dataset.converters import FORMATS
from dataset.converters.base import Example
from settings import load_config

REPO = Path(__file__).resolve().parents[3]


def blocks(page: str) -> dict[str, list[str]]:
    """The code blocks under the heading of each format."""
    text = (REPO / "docs" / page).read_text(encoding="utf-8")
    sections = re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE)
    return {name: re.findall(r"^```\w+\n(.*?)^```", body, re.DOTALL | re.MULTILINE) for name, body in sections}


@pytest.mark.parametrize("page", ["data.md", "data.zh-CN.md"])
def test_each_format_has_an_example_of_some_five_lines_that_is_read_as_it(page, files):
    found = blocks(page)
    assert found.keys() == FORMATS.keys()
    for name, (example, *more) in found.items():
        assert len(example.splitlines()) <= 6
        if name == "parquet":  # not a text
            continue
        path = files.write("example", example)
        questions = files.write("questions", more[0]) if more else None
        assert files.looks_like(path) == name
        records = files.read(name, path, questions=questions)
        assert records and all(isinstance(record, Example) for record in records)


@pytest.mark.parametrize("page", ["data.md", "data.zh-CN.md"])
def test_the_new_format_in_the_page_works(page):
    text = (REPO / "docs" / page).read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(from dataset.converters.base.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len([line for line in code.splitlines() if line]) <= 10
    module: dict = {}
    exec(code, module)
    example = module["FORMAT"].example({"file": "a.jpg", "label": "dog"})
    assert example == Example(["a.jpg"], [("human", "What is this?"), ("gpt", ["dog"])])


@pytest.mark.parametrize("page", ["data.md", "data.zh-CN.md"])
def test_the_config_for_a_folder_of_photos_is_complete_and_writes_no_file_of_the_demo(page, tmp_path):
    text = (REPO / "docs" / page).read_text(encoding="utf-8")
    (block,) = (
        block for block in re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if "train:" in block
    )
    (tmp_path / "photos.yaml").write_text(block, encoding="utf-8")
    photos, demo = load_config(tmp_path / "photos.yaml"), load_config(REPO / "demo.yaml")
    assert photos.train.run == "photos" and photos.language.path == demo.language.path
    assert photos.vision.image_context_length == demo.vision.image_context_length
    for key in ("image_map", "annotations", "skipped"):
        assert getattr(photos.data, key) != getattr(demo.data, key)
