"""Sets with planted faults."""

from __future__ import annotations

import pytest

from tests.helpers.planted import Planted


@pytest.fixture
def planted(tmp_path) -> Planted:
    return Planted(tmp_path)


@pytest.fixture
def fair(planted) -> Planted:
    return planted.fair()
