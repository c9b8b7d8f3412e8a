"""What the tests of evaluation share: test questions about coloured pictures, and a stand-in for the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from answering.assistant import Assistant
from model.manifest import write_manifest
from settings import Config, save_config
from tests.helpers.evaluating import COLORS, Stub, conversation, write


@pytest.fixture
def data(tmp_path) -> Path:
    """24 pictures, half of them for the test; each has an English conversation, every second a Chinese one as well."""
    image_map, annotations = {}, {}
    for number in range(24):
        color, split = list(COLORS)[number % 3], "train" if number < 12 else "test"
        path = tmp_path / f"{number:02}.png"
        Image.new("RGB", (4, 4), COLORS[color]).save(path)
        image_map[path.name] = {"ID": number, "path": path.as_posix()}
        annotations[str(number)] = [conversation(color, split, "shapes", "en")]
        if number % 2:
            annotations[str(number)].append(conversation(color, split, "bilder", "zh"))
    write(tmp_path, image_map, annotations)
    return tmp_path


@pytest.fixture
def stub(data, monkeypatch):
    """A function that replaces the model by a stand-in with this reply."""

    def make(reply) -> Stub:
        files = {name: str(data / f"{name}.json") for name in ("image_map", "annotations", "skipped")}
        source = {"name": "shapes", "format": "coco", "annotations": "raw.json", "images": str(data)}
        content = {
            "data": {"sources": [source], **files, "progress": False},
            "vision": {"path": "some/vision"},
            "language": {"path": "some/language", "system": "Be brief."},
            "generate": {"max_new_tokens": 8, "batch_size": 5},
        }
        assistant = Stub(Config.model_validate(content), data / "checkpoint-1", reply)
        save_config(assistant.config, data / "checkpoint-1" / "config.yaml")
        write_manifest(data / "checkpoint-1", {"base_models": {}})
        monkeypatch.setattr(Assistant, "load", lambda checkpoint, device=None, **options: assistant)
        monkeypatch.setattr("evaluation.sight.measure_sight", lambda *_: None)  # it needs a model
        return assistant

    return make
