"""Models of tiny configs, and checkpoints of them, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dataset.collate import samples_of_batch
from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from model.checkpoint import save_weights
from model.manifest import write_manifest
from model.model import MMultiModal, build_model
from qwen.tokenizer import Tokenizer, load_tokenizer
from settings import Config
from training.setup import describe_run


def build(config: Config, dtype: torch.dtype = torch.float32) -> MMultiModal:
    """The model of a config, in eval mode."""
    return build_model(config, load_tokenizer(config.language.path), dtype)


def build_with_batch(config: Config) -> tuple[MMultiModal, Tokenizer, dict[str, Any]]:
    """The model with seed 0, its tokenizer and a batch of two rows with an image each."""
    torch.manual_seed(0)
    model = build(config)
    tokenizer = load_tokenizer(config.language.path)
    dataset = ImageCaptionDataset(config, tokenizer, load_image_processor(config.vision.path))
    return model, tokenizer, samples_of_batch(dataset, [0, 1])


def save(config: Config, model: MMultiModal, folder: Path) -> Path:
    """A complete checkpoint in ``folder``, which is returned."""
    processor = load_image_processor(config.vision.path, config.vision.image_size)
    save_weights(model, load_tokenizer(config.language.path), processor, config, folder)
    write_manifest(folder, describe_run(config, model, seed=0))
    return folder


def move_trained(model: MMultiModal) -> None:
    """Change every trained weight by a random amount, as training would."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
