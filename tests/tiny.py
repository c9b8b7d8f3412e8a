"""Small models in the real formats, under the real key names, for tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

REPO = Path(__file__).resolve().parent.parent
TOKENIZER = REPO / "demo" / "backbones" / "qwen"


def save_siglip(folder: Path, image_size: int = 42, two_towers: bool = False, width: int = 16) -> Path:
    """A SigLIP of two layers; 42 px gives 3 x 3 patches."""
    torch.manual_seed(1)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**sizes, "image_size": image_size, "patch_size": 14}
    if two_towers:
        text = {**sizes, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    else:
        model = SiglipVisionModel(SiglipVisionConfig(**vision))
    _shake(model)
    model.save_pretrained(folder)
    SiglipImageProcessorPil(
        size={"height": image_size, "width": image_size}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


def save_qwen(folder: Path, **changes) -> Path:
    """A Qwen2 of two layers with grouped-query attention and the demo's tokenizer."""
    torch.manual_seed(2)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    settings = {
        "vocab_size": 768,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,  # tied and untrained, a model mostly repeats its last token
    }
    model = Qwen2ForCausalLM(Qwen2Config(**{**settings, **changes}))
    _shake(model)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    return folder


def _shake(model: torch.nn.Module) -> None:
    """Larger weights than the usual start: with nearly equal logits, wrong code would still give right answers."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def picture(color: str) -> Image.Image:
    """A plain picture."""
    return Image.new("RGB", (30, 60), color)
