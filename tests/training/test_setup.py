"""From a config to a loop."""

from __future__ import annotations

from pathlib import Path

import torch

from training.setup import build_loop


def test_building_twice_from_one_seed_gives_the_same_model(make_config):
    config = make_config()
    first, second = (build_loop(config, Path(config.train.output) / n).model for n in "ab")
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
