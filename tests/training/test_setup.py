"""From a config to a loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.errors import UserError
from model.fused_lora import FusedLoraLinear
from model.model import build_model
from qwen.tokenizer import load_tokenizer
from training.setup import build_loop, choose_attention


def test_building_twice_from_one_seed_gives_the_same_model(make_config):
    config = make_config()
    first, second = (build_loop(config, Path(config.train.output) / n).model for n in "ab")
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def choose(make_config, monkeypatch):
    """The attention of a tiny run on a machine with or without CUDA."""

    def attention(*overrides: str, cuda: bool, dtype: torch.dtype, sliding: bool = False) -> str:
        config = make_config("train.use_cpu=false", *overrides)
        model = build_model(config, load_tokenizer(config.language.path))
        if sliding:
            layers = model.language.config.layer_types
            layers[0] = "sliding_attention"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        return choose_attention(config, model, dtype)

    return attention


def test_flash_kernels_are_chosen_where_they_run(choose):
    bf16, fp32 = torch.bfloat16, torch.float32
    assert choose(cuda=True, dtype=bf16) == "tree_attention"
    assert choose(cuda=True, dtype=fp32) == "sdpa"
    assert choose(cuda=False, dtype=bf16) == "sdpa"
    assert choose("train.use_cpu=true", cuda=True, dtype=bf16) == "sdpa"
    assert choose(cuda=True, dtype=bf16, sliding=True) == "sdpa"
    assert choose("language.attention=sdpa", cuda=True, dtype=bf16) == "sdpa"


@pytest.mark.parametrize(("cuda", "dtype"), [(False, torch.bfloat16), (True, torch.float32)])
def test_tree_attention_asked_for_where_it_cannot_run_is_one_line(choose, cuda, dtype):
    with pytest.raises(UserError, match="language.attention = tree_attention: .* CUDA and train.bf16; set it to auto"):
        choose("language.attention=tree_attention", cuda=cuda, dtype=dtype)


def test_adapters_compute_fused(make_config):
    config = make_config()
    model = build_model(config, load_tokenizer(config.language.path))
    fused = [module for module in model.language.modules() if isinstance(module, FusedLoraLinear)]
    assert len(fused) == 7 * len(model.language.get_base_model().model.layers)
