"""One assistant for the tests that do not change it."""

from __future__ import annotations

import pytest

from answering.assistant import Assistant
from tests.conftest import write_config
from tests.helpers.exports import trained_checkpoint


@pytest.fixture(scope="package")
def whole(tmp_path_factory, siglip_folder, qwen_folder) -> Assistant:
    """An assistant that no test changes."""
    folder = tmp_path_factory.mktemp("served")
    config = write_config(folder, siglip_folder, qwen_folder)
    return Assistant.load(trained_checkpoint(config, folder / "checkpoint-1"), "cpu")
