"""A base model's tokenizer, with the placeholder of images and ChatML's template."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from common.errors import UserError
from qwen.tokenizer import CHATML, IMAGE_TOKEN, TokenError, load_tokenizer, token_id
from tests.helpers.tiny import REPO, TOKENIZER, save_qwen


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(TOKENIZER))


def test_placeholder_takes_a_spare_row_of_the_matrix(tokenizer):
    assert token_id(tokenizer, IMAGE_TOKEN) == len(tokenizer) - 1 < 768
    assert tokenizer.encode(IMAGE_TOKEN, add_special_tokens=False) == [len(tokenizer) - 1]


def test_a_base_model_without_a_template_gets_chatml(tmp_path):
    folder = save_qwen(tmp_path / "qwen2")
    assert AutoTokenizer.from_pretrained(folder).chat_template is None
    assert load_tokenizer(str(folder)).chat_template == CHATML


def test_a_control_token_that_is_missing_is_named(tokenizer):
    with pytest.raises(TokenError, match=r"^the tokenizer has no <\|nope\|> token; is this a Qwen tokenizer\?$"):
        token_id(tokenizer, "<|nope|>")


def test_a_tokenizer_without_chatmls_tokens_is_refused(tmp_path):
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "<unk>": 1}, "<unk>")))
    words.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^language.path = .*: the tokenizer has no <\|im_start\|> token"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_without_a_readable_tokenizer_is_one_line(tmp_path, content):
    if content:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="^language.path: no readable tokenizer in ") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_padding_is_a_token_of_its_own_only_where_the_model_has_one(tmp_path):
    folder = save_qwen(tmp_path / "qwen2")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert load_tokenizer(str(folder)).pad_token == settings["pad_token"]
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert load_tokenizer(str(folder)).pad_token == "<|endoftext|>"


def test_the_placeholder_costs_no_import_of_torch_or_transformers():
    code = "import sys, dataset.prompt, dataset.records, dataset.preparing.run, dataset.shards; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "pyarrow", "numpy"} & set(done.stdout.split())
