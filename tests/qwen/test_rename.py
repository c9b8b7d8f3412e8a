"""A control token gets another name and keeps its id."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from common.errors import UserError
from qwen.rename import rename_token
from qwen.tokenizer import load_tokenizer


def test_the_id_stays_and_the_old_name_is_plain_text(qwen_folder, tmp_path):
    ours = load_tokenizer(str(qwen_folder))
    ours.save_pretrained(tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    content = {**json.loads(settings.read_text()), "extra_special_tokens": {"image_token": "<|extra_0|>"}}
    settings.write_text(json.dumps({**content, "note": "about <|extra_0|>"}))
    rename_token(tmp_path, "<|extra_0|>", "<image>")
    renamed = AutoTokenizer.from_pretrained(tmp_path)
    number = ours.convert_tokens_to_ids("<|extra_0|>")
    assert renamed.encode("a<image>b") == [*ours.encode("a"), number, *ours.encode("b")]
    assert number not in renamed.encode("<|extra_0|>") and len(renamed) == len(ours)
    assert renamed.image_token == "<image>"
    assert json.loads(settings.read_text())["note"] == "about <|extra_0|>"


def test_a_name_that_is_taken_or_a_token_that_is_not_there_is_refused(qwen_folder, tmp_path):
    load_tokenizer(str(qwen_folder)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no token <nowhere>"):
        rename_token(tmp_path, "<nowhere>", "<image>")
    with pytest.raises(UserError, match=r"has a token <\|im_end\|> already"):
        rename_token(tmp_path, "<|extra_0|>", "<|im_end|>")
