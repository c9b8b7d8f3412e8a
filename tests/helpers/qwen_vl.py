"""A tiny Qwen-VL in its own format: its key names, its config, its tiktoken vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.helpers.qwen1 import save_as_qwen1
from tests.helpers.tiny import save_qwen

WIDTH, LAYERS, INNER = 16, 2, 40


def save_qwen_vl(folder: Path, image_size: int = 42, queries: int = 4) -> Path:
    """Patches of 14 px, two blocks of width 16, and a Qwen-1 of width 32 with the demo's words."""
    folder.mkdir(exist_ok=True)
    path = save_as_qwen1(save_qwen(folder / "qwen2", num_key_value_heads=4), folder / "qwen-vl", seq_length=2048)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config["visual"] = {
        **{"heads": 2, "image_size": image_size, "image_start_id": 759, "layers": LAYERS, "mlp_ratio": INNER / WIDTH},
        **{"output_dim": 32, "patch_size": 14, "width": WIDTH, "n_queries": queries},
    }
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(5)
    visual = {
        **{"conv1.weight": (WIDTH, 3, 14, 14), "positional_embedding": (256, WIDTH)},
        **{
            "attn_pool.pos_embed": (queries, 32),
            "attn_pool.query": (queries, 32),
            "attn_pool.kv_proj.weight": (32, 16),
        },
        **{"attn_pool.attn.in_proj_weight": (96, 32), "attn_pool.attn.in_proj_bias": (96,)},
        **{"attn_pool.attn.out_proj.weight": (32, 32), "attn_pool.attn.out_proj.bias": (32,), "proj": (32, 32)},
    }
    norms = {"ln_pre": WIDTH, "ln_post": 32, "attn_pool.ln_q": 32, "attn_pool.ln_kv": 32}
    for number in range(LAYERS):
        block = f"transformer.resblocks.{number}."
        norms |= {f"{block}ln_1": WIDTH, f"{block}ln_2": WIDTH}
        linears = {"attn.in_proj": (3 * WIDTH, WIDTH), "attn.out_proj": (WIDTH, WIDTH)}
        linears |= {"mlp.c_fc": (INNER, WIDTH), "mlp.c_proj": (WIDTH, INNER)}
        for name, shape in linears.items():
            visual |= {f"{block}{name}.weight": shape, f"{block}{name}.bias": shape[:1]}
    for name, width in norms.items():
        visual |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    state = load_file(path / "model.safetensors")
    state |= {f"transformer.visual.{name}": torch.randn(shape) * 0.2 for name, shape in visual.items()}
    save_file(state, path / "model.safetensors", {"format": "pt"})
    return path
