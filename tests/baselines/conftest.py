"""A small set whose answers need the picture: its colour, asked in English and in Chinese."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from PIL import Image

from settings import Config
from tests.conftest import write_config
from tests.helpers.evaluating import CHINESE, COLORS

SMALL = (
    *("data.progress=false", "baselines.embedding_size=16", "baselines.lstm_size=32", "baselines.attention_size=32"),
    *("baselines.hidden_size=32", "baselines.dropout=0.0", "baselines.batch_size=16", "baselines.learning_rate=0.02"),
    *("baselines.epochs=8", "baselines.patience=8", "train.seed=1"),
)


@pytest.fixture
def colors(tmp_path, siglip_folder, qwen_folder) -> Callable[..., Config]:
    """A function that writes 72 pictures, 48 of them for training, and gives the config of a run on them."""

    def write(*overrides: str) -> Config:
        rng = random.Random(0)
        conversations = {}
        for number in range(72):
            name = list(COLORS)[number % 3]
            turns = [
                {"q": "<|extra_0|>\nWhat color is it?", "a": [name]},
                {"q": "它是什么颜色？", "a": [CHINESE[name]]},
            ]
            split = "train" if number < 48 else "validation"
            english = {"source": "en", "language": "en", "split": split, "turns": turns[:1]}
            chinese = {"source": "zh", "language": "zh", "split": split, "turns": turns[1:]}
            chinese["turns"] = [{**turns[1], "q": "<|extra_0|>\n" + turns[1]["q"]}]
            conversations[str(number)] = [english, chinese]
        config = write_config(tmp_path, siglip_folder, qwen_folder, [*SMALL, *overrides], 72, conversations)
        for number in range(72):
            shade = [level + rng.randrange(40) for level in COLORS[list(COLORS)[number % 3]]]
            Image.new("RGB", (42, 42), tuple(shade)).save(tmp_path / f"{number}.png")
        return config

    return write
