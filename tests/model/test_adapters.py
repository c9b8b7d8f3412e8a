"""What is trained of a base model, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.errors import UserError
from model.adapters import linear_layers, lora_layers
from model.checkpoint import load_checkpoint
from model.model import build_model
from qwen.tokenizer import load_tokenizer
from tests.helpers.models import build, build_with_batch, move_trained, save
from training.setup import build_loop


@pytest.mark.parametrize(
    ("overrides", "trained"),
    [
        (["language.train=frozen"], {"vision": 0, "language": 0}),
        (["language.train=full"], {"vision": 0, "language": "all"}),
        (["vision.train=full", "language.train=frozen"], {"vision": "all", "language": 0}),
        (["vision.train=lora"], {"vision": "some", "language": "some"}),
    ],
)
def test_each_part_is_frozen_lora_or_full(make_config, overrides, trained):
    model, _, batch = build_with_batch(make_config(*overrides))
    counts = model.trainable_counts()
    assert counts["projector"][0] == counts["projector"][1] > 0
    for part, wanted in trained.items():
        done, total = counts[part]
        assert {0: done == 0, "all": done == total, "some": 0 < done < total}[wanted]
    model.train()(**batch).loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all("head" in name or "post_layernorm" in name for name in missing), missing


def test_trainable_weights_are_fp32_and_frozen_ones_in_the_runs_dtype(make_config):
    config = make_config()
    model = build_model(config, load_tokenizer(config.language.path), torch.bfloat16)
    dtypes = {(p.requires_grad, p.dtype) for p in model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lora.target_modules=[nothing]", "lora: Target modules .*nothing"),
    ],
)
def test_adapters_that_cannot_be_are_one_line(make_config, override, words):
    with pytest.raises(UserError, match=words):
        build(make_config(override))


def test_adapters_are_on_all_linear_layers_of_the_language_model_and_printed(make_config, capsys):
    config = make_config()
    model = build_loop(config, Path(config.train.output) / "a").model
    layers = lora_layers(model.language)
    assert len(layers) == 14 and set(layers) == linear_layers(model.language.get_base_model())
    assert not lora_layers(model.vision) and not any("lm_head" in name for name in layers)
    wanted = "lora      14 layers of the language model: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    assert wanted in capsys.readouterr().out


def test_an_adapter_in_the_tower_would_be_noticed(make_config, monkeypatch):
    from model import adapters
    from model import model as module

    prepare = adapters.prepare_part

    def careless(part, how, lora, last_blocks=None, rows=()):
        part = prepare(part, how, lora, last_blocks)
        return adapters.add_lora(part, lora) if how == "frozen" else part

    monkeypatch.setattr(module, "prepare_part", careless)
    with pytest.raises(AssertionError, match="vision"):
        build(make_config())


def test_the_last_blocks_of_the_tower_are_trained_beside_lora(make_config, tmp_path):
    config = make_config("vision.train=last_blocks", "vision.last_blocks=1")
    model = build(config)
    trained = {name for name, p in model.vision.named_parameters() if p.requires_grad}
    assert trained == {
        name for name, _ in model.vision.named_parameters() if name.startswith(("encoder.layers.1.", "post_layernorm."))
    }
    assert any("lora_" in name for name, p in model.language.named_parameters() if p.requires_grad)
    move_trained(model)
    pixels, ids = torch.randn(1, 3, 42, 42), torch.full((1, 10), 7)
    ids[0, :8] = model.language.get_base_model().image_token_id
    batch = {"input_ids": ids, "pixel_values": pixels, "images_per_row": torch.tensor([1])}
    labels = torch.tensor([[-100] * 9 + [7]])
    model.train()(**batch, labels=labels).loss.backward()
    assert {name for name, p in model.vision.named_parameters() if p.grad is not None} == trained
    folder = save(config, model, tmp_path / "checkpoint-1")
    restored, *_ = load_checkpoint(folder)
    assert torch.equal(restored(**batch).logits, model.eval()(**batch).logits)
    with pytest.raises(UserError, match="vision.last_blocks: 3, but the encoder has 2 blocks"):
        build(make_config("vision.train=last_blocks", "vision.last_blocks=3"))
