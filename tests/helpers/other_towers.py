"""Tiny towers of other kinds than SigLIP and CLIP, with the processors that are published with them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ResNetConfig,
    ResNetForImageClassification,
)

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's


def save_dino(folder: Path, registers: int = 0) -> Path:
    """Three blocks, positions of 5 x 5 patches, and a processor that crops 42 px: a class token and 3 x 3 patches."""
    torch.manual_seed(6)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
    model = (
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, num_register_tokens=registers))
        if registers
        else Dinov2Model(Dinov2Config(**sizes))
    )
    model.save_pretrained(folder)
    square = {"height": 42, "width": 42}
    BitImageProcessorPil(
        size={"shortest_edge": 48}, crop_size=square, image_mean=MEAN, image_std=STD, resample=3
    ).save_pretrained(folder)
    return folder


def save_resnet(folder: Path) -> Path:
    """Four stages that end with 16 channels; 96 px give 3 x 3 cells."""
    torch.manual_seed(7)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], num_labels=3)
    ResNetForImageClassification(config).save_pretrained(folder)
    settings = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 96}, "crop_pct": 0.875}
    settings |= {"image_mean": MEAN, "image_std": STD, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
