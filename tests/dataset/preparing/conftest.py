"""Folders with raw data."""

from __future__ import annotations

import pytest

from tests.helpers.workplace import Workplace, llava, picture


@pytest.fixture
def workplace(tmp_path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture
def mixed(workplace):
    """Two sources with good, broken and missing images, connected and not, and records of all kinds."""
    records = [llava(f"{i % 9}.png", f"<image>\nWhat is {i}?", str(i)) for i in range(40)] + [llava(None, "1+1?", "2")]
    workplace.source("en", "coco", [*records, {"image": 3}, llava("none.png", "a", "b")])
    workplace.source(
        "zh", "ali", [{"image_id": "0.png", "caption": ["一", "二"]}, {"image_id": "bad.png", "caption": "三"}]
    )
    for i in range(9):
        picture(workplace.folder / "en" / f"{i}.png")
    picture(workplace.folder / "zh" / "0.png")
    (workplace.folder / "zh" / "bad.png").write_bytes(b"\x89PNG")
    workplace.data |= {"validation": 0.3, "max_skipped": 0.5}
    return workplace
