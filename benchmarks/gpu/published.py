"""The config.json of the presets' base models, as far as a model with random weights needs it."""

from __future__ import annotations

from typing import Any

TOKENS = {"qwen": 151851, "qwen2": 151666, "qwen3": 151670}  # in the tokenizer, with the image placeholder
_QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rope_theta": 1e6, "rms_norm_eps": 1e-6}
PUBLISHED: dict[str, dict[str, Any]] = {  # path -> config.json
    "Qwen/Qwen2.5-0.5B-Instruct": {
        **_QWEN2,
        **{"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
        **{"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    },
    "Qwen/Qwen2.5-7B-Instruct": {
        **_QWEN2,
        **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
        **{"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    },
    "Qwen/Qwen-1_8B-Chat": {
        **{"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "layer_norm_epsilon": 1e-6, "no_bias": True},
        **{"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 24, "num_attention_heads": 16},
        **{"kv_channels": 128, "rotary_emb_base": 10000, "seq_length": 8192, "vocab_size": 151936},
    },
    "Qwen/Qwen3-1.7B": {
        **{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "rope_theta": 1e6, "head_dim": 128},
        **{"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
        **{"num_key_value_heads": 8, "vocab_size": 151936, "tie_word_embeddings": True},
    },
    "google/siglip-so400m-patch14-384": {
        **{"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14, "hidden_size": 1152},
        **{"intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16},
    },
}
_THIN = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def thin(content: dict) -> dict:
    """The same model with two narrow layers and 1,000 tokens."""
    keys = {"num_key_value_heads": 2} if "num_key_value_heads" in content else {}
    head = {name: 16 for name in ("kv_channels", "head_dim") if name in content}
    return {**content, **{name: value for name, value in _THIN.items() if name in content}, **keys, **head}
