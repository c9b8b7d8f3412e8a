"""Qwen-1 (Qwen-1_8B, -7B, -14B, -72B; Chat and base) without the code that came with it.

Its modelling code no longer runs on current transformers, and need not: the weights are those of a Qwen2 model under
other names. Three things differ, all in how they are written down: q, k and v lie in one matrix ``c_attn``; ``w2`` is
the gate and ``w1`` goes straight up; the config's ``intermediate_size`` counts both. Its tokenizer is a tiktoken file.

Beyond the config's ``seq_length`` the original scales its queries (log-n) and its rotary base (NTK). Qwen2 does
neither, so longer sequences are refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path

from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming

from qwen.Mqwen import ImageInputMixin
from settings import UserError

VOCABULARY = "qwen.tiktoken"
# Its special tokens take the ids behind the vocabulary, in this order (tokenization_note.md of QwenLM/Qwen).
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]
# As in its tokenizer: words with the blank or sign before them, digits one by one, signs, line ends, blanks.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class MQwenForCausalLM(ImageInputMixin, Qwen2ForCausalLM):
    """Qwen-1 on the Qwen2 architecture; its config is :func:`as_qwen2_config`."""


# Applied tensor by tensor while the files are read: no second copy of the model is ever in memory.
register_checkpoint_conversion_mapping(
    "MQwenForCausalLM",
    [
        WeightRenaming(r"^transformer\.wte\.", "model.embed_tokens."),
        WeightRenaming(r"^transformer\.ln_f\.", "model.norm."),
        WeightRenaming(r"^transformer\.h\.", "model.layers."),
        WeightRenaming(r"\.ln_1\.", ".input_layernorm."),
        WeightRenaming(r"\.ln_2\.", ".post_attention_layernorm."),
        WeightRenaming(r"\.attn\.c_proj\.", ".self_attn.o_proj."),
        WeightRenaming(r"\.mlp\.w2\.", ".mlp.gate_proj."),
        WeightRenaming(r"\.mlp\.w1\.", ".mlp.up_proj."),
        WeightRenaming(r"\.mlp\.c_proj\.", ".mlp.down_proj."),
        WeightConverter(
            ".attn.c_attn.", [f".self_attn.{name}_proj." for name in "qkv"], operations=[Chunk(dim=0)]
        ),
    ],
    overwrite=True,
)


def is_qwen1(content: dict) -> bool:
    """Whether the content of a config.json is a Qwen-1's."""
    return content.get("architectures") == ["QWenLMHeadModel"] or content.get("model_type") == "qwen"


def as_qwen2_config(content: dict) -> Qwen2Config:
    """The Qwen2 config of the same network, with Qwen-1's ``seq_length``.

    Raises:
        UserError: a setting that no released Qwen-1 has and the mapping does not cover.
    """
    try:
        heads, width = content["num_attention_heads"], content["hidden_size"]
        head_dim = content.get("kv_channels", width // heads)
        if not content.get("no_bias", True) or content.get("rotary_pct", 1.0) != 1.0 or head_dim * heads != width:
            raise UserError("expected no_bias true, rotary_pct 1.0 and kv_channels x heads = hidden_size")
        return Qwen2Config(
            vocab_size=content["vocab_size"],
            hidden_size=width,
            intermediate_size=content["intermediate_size"] // 2,
            num_hidden_layers=content["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=heads,
            rms_norm_eps=content["layer_norm_epsilon"],
            rope_parameters={"rope_type": "default", "rope_theta": float(content["rotary_emb_base"])},
            max_position_embeddings=content["seq_length"],
            tie_word_embeddings=content.get("tie_word_embeddings", False),
            seq_length=content["seq_length"],
        )
    except KeyError as error:
        raise UserError(f"its config.json lacks {error}") from None


# ---------------------------------------------------------------------------------------------- tokenizer


class _Converter(TikTokenConverter):
    """transformers' converter, with the file read here: tiktoken's reader keeps copies by path that outlive changes."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        return read_ranks(Path(tiktoken_url))


def read_ranks(file: Path) -> dict[bytes, int]:
    """The vocabulary of a tiktoken file: one token a line, in base64, and its rank, which is its id.

    Raises:
        UserError: it cannot be read, or ends in the middle.
    """
    try:
        lines = [line.split() for line in file.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (OSError, ValueError, binascii.Error) as error:
        raise UserError(f"{file} is no tiktoken vocabulary ({error}); download it again") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise UserError(f"{file} is not whole: {len(ranks):,} tokens whose ranks do not run from 0; download it again")
    return ranks


def load_qwen1_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer that gives the ids of Qwen-1's own; about four seconds, and none once it has been saved.

    Raises:
        UserError: ``qwen.tiktoken`` is damaged.
    """
    file = Path(folder) / VOCABULARY
    fast = _Converter(str(file), pattern=PATTERN, extra_special_tokens=SPECIAL_TOKENS).converted()
    fast.normalizer = normalizers.NFC()
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=SPECIAL_TOKENS[1:],
        model_max_length=_longest(Path(folder)),
        clean_up_tokenization_spaces=False,
    )


def _longest(folder: Path) -> int:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["seq_length"]
    except (OSError, ValueError, KeyError):
        return 2048
