"""A small config, and the one line that an error about it must be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import UserError
from settings import load_config

MINIMAL = """\
data:
  sources:
    - {name: photos, format: coco, annotations: raw/a.json, images: raw/images}
    - {name: bilder, format: ali, annotations: [raw/b.json, raw/c.json], images: [raw/d1, raw/d2], language: zh}
  image_map: out/image_map.json
  annotations: out/annotations.json
  skipped: out/skipped.json
vision:
  path: google/siglip-so400m-patch14-384
language:
  path: Qwen/Qwen2.5-1.5B-Instruct
lora:
  r: 8
train:
  learning_rate: 1e-4
"""


def error_of(path, *overrides: str) -> str:
    """The message of the error that these overrides give; one line, always."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


def error_of_text(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return error_of(path)


def encoder_folder(folder: Path, **config) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
