"""A headless Chromium for all tests of the page; they are skipped with the reason where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.browser import NAMES, Browser, find_chromium


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip(f"no Chromium to open the page in: none of {', '.join(NAMES)} is installed, or this is Windows")
    with Browser(program) as browser:
        yield browser
