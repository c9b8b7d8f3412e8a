"""Qwen-1 (Qwen-1_8B, -7B, -14B, -72B; Chat and base) without the code that came with it.

Its modelling code no longer runs on current transformers and is not needed: the weights are those of a Qwen2 model
under other names. Three things are stored differently: q, k and v are one matrix ``c_attn``; ``w2`` is the gate
projection and ``w1`` the up projection; the config's ``intermediate_size`` counts both. The tokenizer is a tiktoken
file (qwen/qwen1_tokenizer.py).

Beyond the config's ``seq_length`` the original scales its queries (log-n) and its rotary base (NTK). Qwen2 does
neither, so longer sequences are refused.
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming

from common.errors import UserError
from qwen.Mqwen import ImageInputMixin


class MQwenForCausalLM(ImageInputMixin, Qwen2ForCausalLM):
    """Qwen-1 on the Qwen2 architecture; its config is :func:`as_qwen2_config`."""


# Applied tensor by tensor while the files are read, so a second copy of the model is never in memory.
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
        WeightConverter(".attn.c_attn.", [f".self_attn.{name}_proj." for name in "qkv"], operations=[Chunk(dim=0)]),
    ],
    overwrite=True,
)


def is_qwen1(content: dict[str, Any]) -> bool:
    """Whether ``content`` is the config.json of a Qwen-1."""
    return content.get("architectures") == ["QWenLMHeadModel"] or content.get("model_type") == "qwen"


def as_qwen2_config(content: dict[str, Any]) -> Qwen2Config:
    """The Qwen2 config of the same network. It keeps Qwen-1's ``seq_length``.

    Raises:
        UserError: a setting is missing, or has a value that no released Qwen-1 has and that the mapping does not cover.
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
