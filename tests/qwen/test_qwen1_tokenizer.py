"""Qwen-1's tokenizer gives tiktoken's ids, from its own file."""

from __future__ import annotations

import json
import random
import re
import unicodedata

import pytest
import tiktoken
from transformers import AutoTokenizer

from common.errors import UserError
from dataset.prompt import encode_text
from qwen.qwen1_tokenizer import PATTERN, SPECIAL_TOKENS, load_qwen1_tokenizer, read_ranks
from tests.helpers.qwen1 import save_as_qwen1
from tests.helpers.tiny import save_qwen


@pytest.fixture(scope="module")
def tokenizer(shared_data):
    return load_qwen1_tokenizer(shared_data / "qwen1")


def encode(tokenizer, text: str, allowed) -> list[int]:
    """Ids where only the special tokens in ``allowed`` ("all" or a list) are taken for what they are."""
    allowed = SPECIAL_TOKENS if allowed == "all" else allowed
    pieces = re.split("(" + "|".join(map(re.escape, allowed)) + ")", text) if allowed else [text]
    ids = []
    for piece in pieces:
        ids += [tokenizer.convert_tokens_to_ids(piece)] if piece in allowed else encode_text(tokenizer, piece)
    return ids


def test_ids_are_those_of_the_published_cases(tokenizer, shared_data):
    cases = json.loads((shared_data / "qwen1" / "tokenizer_vectors.json").read_text(encoding="utf-8"))
    assert len(cases) == 6
    for case in cases:
        assert encode(tokenizer, case["text"], case["allowed_special"]) == case["ids"], case["text"]
        if case["allowed_special"] == "all":
            assert tokenizer(case["text"]).input_ids == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["text"]


def test_all_special_tokens_have_their_ids(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS)
    assert ids == list(range(151643, 151851)) and len(tokenizer) == 151851
    assert tokenizer.convert_tokens_to_ids("<|extra_0|>") == 151646 and SPECIAL_TOKENS[-1] == "<|extra_204|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""
    assert [tokenizer(token).input_ids for token in SPECIAL_TOKENS] == [[i] for i in ids]


def random_text(rng: random.Random) -> str:
    """Scripts, signs, digits, blanks, combining marks and emoji in a jumble."""
    blocks = [(32, 126), (160, 591), (768, 879), (880, 1279), (1424, 1791), (2304, 2431), (3585, 3675), (4352, 4607)]
    blocks += [(8192, 8303), (12288, 12543), (19968, 40869), (44032, 55203), (65281, 65519), (127744, 128591)]
    words = [
        "don't",
        "I'LL",
        "  ",
        "\r\n",
        "\n\n",
        " \t",
        "１２３",
        "3.14",
        "的",
        "。",
        "你好",
        "'ſ",
        "\u200b",
        "e\u0301",
    ]
    pieces = []
    for _ in range(rng.randint(1, 25)):
        if rng.random() < 0.3:
            pieces.append(rng.choice(words))
        else:
            first, last = rng.choice(blocks)
            pieces += [chr(rng.randint(first, last)) for _ in range(rng.randint(1, 4))]
    return "".join(pieces)


def test_ten_thousand_random_strings_have_tiktokens_ids(tokenizer, shared_data):
    ranks = read_ranks(shared_data / "qwen1" / "qwen.tiktoken")
    original = tiktoken.Encoding("qwen", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    rng = random.Random(0)
    texts = [random_text(rng) for _ in range(10_000)]
    found = tokenizer(texts, add_special_tokens=False).input_ids
    for text, ids in zip(texts, found, strict=True):
        # Qwen's tokenizer composes characters first (NFC).
        assert ids == original.encode_ordinary(unicodedata.normalize("NFC", text)), repr(text)


def test_saved_and_read_again_it_gives_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab() and again.model_max_length == tokenizer.model_max_length
    rng = random.Random(1)
    texts = [random_text(rng) for _ in range(500)] + SPECIAL_TOKENS
    assert again(texts).input_ids == tokenizer(texts).input_ids
    assert again(texts, split_special_tokens=True).input_ids == tokenizer(texts, split_special_tokens=True).input_ids
    assert again.pad_token == "<|endoftext|>" and again.all_special_ids == tokenizer.all_special_ids


@pytest.mark.parametrize("damage", ["cut", "gap", "binary"])
def test_a_damaged_vocabulary_is_refused(tmp_path, damage):
    folder = save_as_qwen1(save_qwen(tmp_path / "qwen2", num_key_value_heads=4), tmp_path / "qwen1", seq_length=256)
    content = (folder / "qwen.tiktoken").read_bytes()
    lines = content.splitlines(keepends=True)
    wrong = {"cut": content[:-3], "gap": b"".join(lines[:300] + lines[301:]), "binary": b"\x00\x01\x02 x\n"}[damage]
    (tmp_path / "qwen.tiktoken").write_bytes(wrong)
    with pytest.raises(UserError, match="qwen.tiktoken .*download it again"):
        load_qwen1_tokenizer(tmp_path)
