"""From a config to a loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.errors import UserError
from model.fused_lora import FusedLoraLinear
from model.model import build_model
from qwen.tokenizer import load_tokenizer
from training.setup import build_loop, choose_attention, decide_packing


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


def test_trees_are_packed_where_the_attention_skips_what_they_do_not_see(make_config, monkeypatch):
    def packs(*overrides: str, cuda: bool = True, dtype: torch.dtype = torch.bfloat16) -> bool | None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        config = make_config("train.use_cpu=false", *overrides)
        decided = decide_packing(config, dtype).data.packing
        assert config.data.packing is None or config.data.packing == decided  # the run's own config is unchanged
        return decided

    budget = "data.tokens_per_batch=4096"
    assert packs(budget) is True and packs(budget, "language.attention=flex_attention") is True
    assert packs() is False and packs(budget, cuda=False) is False and packs(budget, dtype=torch.float32) is False
    assert packs(budget, "language.attention=sdpa") is False and packs(budget, "data.packing=false") is False
    assert packs(budget, "data.packing=true", cuda=False) is True


def test_a_packed_run_has_the_losses_of_separate_rows(make_config):
    losses = []
    for packing in ("false", "true"):
        options = [f"data.packing={packing}", "data.tokens_per_batch=100000", "lora.lora_dropout=0.0"]
        options += ["train.eval_strategy=steps", "train.eval_steps=2", f"train.run=packing-{packing}"]
        config = make_config(*options)
        loop = build_loop(config, Path(config.train.output) / packing)
        loop.train()
        losses.append([(e["step"], e[k]) for e in loop.progress.log_history for k in ("loss", "eval_loss") if k in e])
    assert losses[0] == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in losses[1]] and len(losses[0]) == 6


@pytest.mark.parametrize(("cuda", "dtype"), [(False, torch.bfloat16), (True, torch.float32)])
def test_tree_attention_asked_for_where_it_cannot_run_is_one_line(choose, cuda, dtype):
    with pytest.raises(UserError, match="language.attention = tree_attention: .* CUDA and train.bf16; set it to auto"):
        choose("language.attention=tree_attention", cuda=cuda, dtype=dtype)


def test_adapters_compute_fused(make_config):
    config = make_config()
    model = build_model(config, load_tokenizer(config.language.path))
    fused = [module for module in model.language.modules() if isinstance(module, FusedLoraLinear)]
    assert len(fused) == 7 * len(model.language.get_base_model().model.layers)
