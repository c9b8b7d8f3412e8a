"""Data sets of plain pictures."""

from __future__ import annotations

import pytest

from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from qwen.tokenizer import load_tokenizer


@pytest.fixture
def open_dataset(make_config):
    def build(*overrides: str, split: str = "train", **data) -> ImageCaptionDataset:
        config = make_config(*overrides, **data)
        processor = load_image_processor(config.vision.path)
        return ImageCaptionDataset(config, load_tokenizer(config.language.path), processor, split)

    return build
