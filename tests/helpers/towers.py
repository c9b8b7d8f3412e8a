"""Tiny SigLIP and CLIP with both towers and the demo's tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from tests.helpers.tiny import TOKENIZER

COLORS = {"red": (220, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 220), "black": (10, 10, 10)}


def save_two_towers(folder: Path, kind: str = "siglip", width: int = 16) -> Path:
    """Random towers of two layers for pictures of 28 px and texts of 16 tokens."""
    torch.manual_seed(7)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 28, "patch_size": 14}
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    end = tokenizer.eos_token_id
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "pad_token_id": end}
    text |= {"eos_token_id": end, "bos_token_id": end}
    if kind == "siglip":
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        pictures = SiglipImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    else:
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
        pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pictures.save_pretrained(folder)
    return folder


def draw(folder: Path, **colors: str) -> list[Path]:
    """name=color: pictures of 20 px, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, color in colors.items():
        Image.new("RGB", (20, 20), COLORS[color]).save(folder / f"{name}.png")
    return [(folder / f"{name}.png").resolve() for name in colors]
