"""The tokenizer of a LLaVA folder: its image token gets this project's name, and its chat template is kept.

Ids stay what they are. Everything here asks for ``<|extra_0|>``, so the token is renamed where it comes in, and
export.py gives it its name back.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.hub import read_config
from qwen.rename import rename_token


def load_llava_tokenizer(folder: Path) -> Any:
    """The tokenizer with ``<|extra_0|>`` for the image token, in its chat template too.

    Raises:
        UserError: the image token is not the one that config.json names.
    """
    from transformers import AutoTokenizer

    from qwen.tokenizer import IMAGE_TOKEN

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    template = read_template(folder) or tokenizer.chat_template
    image_token = tokenizer.convert_ids_to_tokens(image_token_id(folder))
    if image_token is None:
        raise UserError(f"model: {folder} has no token with the id that config.json gives its image token")
    if image_token != IMAGE_TOKEN:
        with tempfile.TemporaryDirectory() as renamed:
            tokenizer.save_pretrained(renamed)
            rename_token(Path(renamed), image_token, IMAGE_TOKEN)
            tokenizer = AutoTokenizer.from_pretrained(renamed)
    tokenizer.chat_template = template and template.replace(image_token, IMAGE_TOKEN)
    return tokenizer


def image_token_id(folder: Path) -> int:
    """``image_token_index``, under its newer name too; LLaVA's own is 32,000."""
    content = read_config(folder, "model")
    found = content.get("image_token_index", content.get("image_token_id", 32_000))
    if type(found) is not int:
        raise UserError(f"model: image_token_index in {folder / 'config.json'} is {found!r}, expected a whole number")
    return found


def read_template(folder: Path) -> str | None:
    """The processor's chat template: a file of its own, or an entry of one of two JSON files."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json"):
        if (folder / name).is_file():
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            if isinstance(found := content.get("chat_template"), str):
                return found
    return None
