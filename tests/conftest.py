"""Shared fixtures. Real annotations and photos are read where they are found and never required."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real annotations, photos and reference numbers; the test is skipped where it is absent."""
    folder = Path(os.environ.get("VLM_TEST_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}; set VLM_TEST_DATA to the folder that holds annotations/ and photos/")
    return folder
