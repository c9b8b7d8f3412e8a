"""Giving a control token another name at the same id, in a tokenizer's saved files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_json


def rename_token(folder: Path, old: str, new: str) -> None:
    """Change the name of the control token ``old`` in ``tokenizer.json`` and ``tokenizer_config.json``.

    Raises:
        UserError: there is no such token, or one with the new name already.
    """
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    entries = {entry["content"]: entry for entry in content["added_tokens"]}
    if old not in entries or new in entries:
        wrong = f"a token {new} already" if new in entries else f"no token {old}"
        raise UserError(f"{folder}: its tokenizer has {wrong}, so {old} cannot be renamed")
    entries[old]["content"] = new
    vocabulary = content["model"].get("vocab")
    if isinstance(vocabulary, dict) and old in vocabulary:
        vocabulary[new] = vocabulary.pop(old)
    write_json(file, content)
    settings = folder / "tokenizer_config.json"
    write_json(settings, _replaced(json.loads(settings.read_text(encoding="utf-8")), old, new))


def _replaced(value: Any, old: str, new: str) -> Any:
    """JSON content in which every text ``old`` is ``new``; a longer text that contains it stays."""
    if isinstance(value, dict):
        return {key: _replaced(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    return new if value == old else value
