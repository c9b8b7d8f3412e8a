"""A config file in the folder the test runs in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.configs import MINIMAL


@pytest.fixture
def minimal(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path
