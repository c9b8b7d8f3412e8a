"""Qwen-1's tokenizer, from its ``qwen.tiktoken``, as a fast tokenizer that gives the same ids."""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any

from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from common.errors import UserError
from common.qwen_vl import is_qwen_vl

VOCABULARY = "qwen.tiktoken"
# The special tokens take the ids after the vocabulary, in this order (tokenization_note.md of QwenLM/Qwen).
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]
# A Qwen-VL has these after them (SPECIAL_TOKENS and IMAGE_ST of tokenization_qwen.py of Qwen/Qwen-VL-Chat).
VISUAL_TOKENS = ["<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>"]
# The same as in its tokenizer: words with the space or sign before them, single digits, signs, line ends, spaces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class _Converter(TikTokenConverter):
    """transformers' converter with a reader of ours: tiktoken's caches files by path and misses later changes."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        return read_ranks(Path(tiktoken_url))


def read_ranks(file: Path) -> dict[bytes, int]:
    """The vocabulary of a tiktoken file. Each line is a token in base64 and its rank, which is its id.

    Raises:
        UserError: the file cannot be read, or is incomplete.
    """
    try:
        lines = [line.split() for line in file.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (OSError, ValueError, binascii.Error) as error:
        raise UserError(f"{file} is not a tiktoken vocabulary ({error}); download it again") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise UserError(f"{file} is incomplete: {len(ranks):,} tokens whose ranks do not run from 0; download it again")
    return ranks


def load_qwen1_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer with the ids of Qwen-1's own. Conversion takes four seconds; a saved tokenizer loads at once.

    Raises:
        UserError: ``qwen.tiktoken`` is damaged.
    """
    file = Path(folder) / VOCABULARY
    content = _config(Path(folder))
    special = SPECIAL_TOKENS + VISUAL_TOKENS * is_qwen_vl(content)
    fast = _Converter(str(file), pattern=PATTERN, extra_special_tokens=special).converted()
    fast.normalizer = normalizers.NFC()
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=special[1:],
        model_max_length=content.get("seq_length", 2048),
        clean_up_tokenization_spaces=False,
    )


def _config(folder: Path) -> dict[str, Any]:
    """The content of config.json; {} where only the tokenizer is there."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
