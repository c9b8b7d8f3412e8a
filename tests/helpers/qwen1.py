"""Models in Qwen-1's own format: its key names, its config, its tiktoken vocabulary."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from qwen.qwen1_tokenizer import SPECIAL_TOKENS, load_qwen1_tokenizer

RENAMED = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.layers": "transformer.h",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.gate_proj": "mlp.w2",
    "mlp.up_proj": "mlp.w1",
    "mlp.down_proj": "mlp.c_proj",
}


def save_as_qwen1(source: Path, folder: Path, shards: int = 1, seq_length: int = 2048) -> Path:
    """A Qwen2 folder, without grouped queries, written as a Qwen-1 of the same weights and words.

    Qwen-1's special tokens stand in another order behind the vocabulary, so their rows change places.
    """
    folder.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    heads, width = config["num_attention_heads"], config["hidden_size"]
    assert config["num_key_value_heads"] == heads
    content = {
        "architectures": ["QWenLMHeadModel"],
        "auto_map": {
            "AutoConfig": "configuration_qwen.QWenConfig",
            "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
        },
        "model_type": "qwen",
        "tokenizer_type": "QWenTokenizer",
        "vocab_size": config["vocab_size"],
        "hidden_size": width,
        "intermediate_size": config["intermediate_size"] * 2,
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": heads,
        "kv_channels": width // heads,
        "layer_norm_epsilon": config["rms_norm_eps"],
        "rotary_emb_base": int(config["rope_parameters"]["rope_theta"]),
        "rotary_pct": 1.0,
        "no_bias": True,
        "seq_length": seq_length,
        "max_position_embeddings": 8192,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    rows = write_vocabulary(source, folder, config["vocab_size"])
    state = {}
    for name, tensor in in_order(source, rows).items():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        state[name] = tensor
    for layer in range(config["num_hidden_layers"]):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"transformer.h.{layer}.self_attn.{x}_proj.{kind}") for x in "qkv"]
            state[f"transformer.h.{layer}.attn.c_attn.{kind}"] = torch.cat(parts)
    write_shards(state, folder, shards)
    return folder


def save_pair(source: Path, qwen1: Path, qwen2: Path) -> tuple[Path, Path]:
    """The same weights, words and ids twice: as :func:`save_as_qwen1` writes them, and in Qwen2's format."""
    save_as_qwen1(source, qwen1)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    qwen2.mkdir(parents=True)
    (qwen2 / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}), encoding="utf-8")
    rows = write_vocabulary(source, qwen1, config["vocab_size"])
    save_file(in_order(source, rows), qwen2 / "model.safetensors", metadata={"format": "pt"})
    load_qwen1_tokenizer(qwen1).save_pretrained(qwen2)
    return qwen1, qwen2


def in_order(source: Path, rows: list[int]) -> dict[str, torch.Tensor]:
    """A Qwen2's weights, its matrices of words in the order ``rows``, and both of them there: Qwen-1 shares none."""
    state = load_file(source / "model.safetensors")
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    return state | {name: state[name][rows].clone() for name in ("model.embed_tokens.weight", "lm_head.weight")}


def write_shards(state: dict[str, torch.Tensor], folder: Path, shards: int) -> None:
    names = sorted(state)
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        own = names[number::shards]
        save_file({name: state[name].contiguous() for name in own}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_vocabulary(source: Path, folder: Path, rows: int) -> list[int]:
    """``qwen.tiktoken`` of a byte-level BPE tokenizer; gives for each of Qwen-1's ids the id that ``source`` has."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    to_byte = {char: byte for byte, char in bytes_to_unicode().items()}
    special = set(tokenizer.added_tokens_encoder)
    plain = sorted((i, token) for token, i in tokenizer.get_vocab().items() if token not in special)
    lines = [
        base64.b64encode(bytes(to_byte[char] for char in token)).decode() + f" {rank}"
        for rank, (_, token) in enumerate(plain)
    ]
    (folder / "qwen.tiktoken").write_text("\n".join(lines) + "\n", encoding="utf-8")
    order = [i for i, _ in plain]
    order += [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS if token in special]
    moved = set(order)
    assert [t for t in SPECIAL_TOKENS if t in special] == SPECIAL_TOKENS[:3]
    return order + [i for i in range(rows) if i not in moved]
