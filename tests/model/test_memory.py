"""The memory estimate, and the errors of memory-saving settings that are not available on this machine."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from common.errors import UserError
from dataset.image import load_image_processor
from model.checkpoint import save_weights
from model.fused_lora import fuse_lora
from model.manifest import write_manifest
from model.memory import Batch, block_bytes, connector_bytes, empty_model, estimate, saved_bytes
from model.model import build_model
from model.plain_peft import LoraConfig, get_peft_model
from qwen.load import four_bit_bytes, four_bit_options
from qwen.tokenizer import load_tokenizer
from training import setup
from training.dry_run import print_estimate
from training.setup import build_loop, describe_run, require_optional

BATCH = Batch(rows=2, length=60, images=2, labels=20)


def build(config, dtype=torch.float32):
    return build_model(config, load_tokenizer(config.language.path), dtype)


def store(config, model, folder):
    tokenizer, processor = load_tokenizer(config.language.path), load_image_processor(config.vision.path)
    save_weights(model, tokenizer, processor, config, folder)
    write_manifest(folder, describe_run(config, model, seed=0))
    return folder


# ---------------------------------------------------------------------------------------------- the estimate


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["language.train=full"],
        ["vision.train=last_blocks", "vision.last_blocks=1"],
        ["lora.use_dora=true"],
        ["vision.image_size=56", "vision.image_context_length=15", "vision.layer=-2"],
        ["lora.init_lora_weights=pissa"],
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_gradients_and_moments_are_those_of_the_loaded_model(make_config, overrides, dtype):
    config = make_config(*overrides)
    found = estimate(config, len(load_tokenizer(config.language.path)), BATCH, dtype)
    model = build(config, dtype)
    assert found.weights == sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    trainable = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert found.trained == found.gradients == trainable and found.optimizer == 2 * trainable
    assert found.total == found.weights + 4 * trainable + found.activations


def test_four_bits_and_eight_bit_moments_are_counted(make_config):
    config = make_config()
    whole = estimate(config, 553, BATCH, torch.bfloat16)
    config.language.load_in_4bit = True
    config.train.optim = "paged_adamw_8bit"
    small = estimate(config, 553, BATCH, torch.bfloat16)
    linear = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48)  # two layers: q and o, k and v, the MLP
    assert whole.weights - small.weights == 2 * linear - four_bit_bytes(linear)
    assert small.optimizer == pytest.approx(whole.optimizer / 4, rel=0.02)
    assert four_bit_bytes(64 * 256) == 64 * 256 // 2 + 256 + 4


@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("inner", "kv_heads"), [(768, 4), (1280, 2)])
def test_a_blocks_activations_are_what_autograd_keeps(dtype, dropout, fused, inner, kv_heads):
    """The difference that two more blocks make to the bytes saved for the backward pass, for each token."""
    saved = []
    for layers in (1, 3):
        settings = {"hidden_size": 256, "intermediate_size": inner, "num_attention_heads": 4, "vocab_size": 64}
        config = Qwen2Config(**settings, num_key_value_heads=kv_heads, num_hidden_layers=layers)
        model = Qwen2ForCausalLM(config).to(dtype)
        lora = LoraConfig(r=8, target_modules="all-linear", lora_dropout=dropout)
        adapted = get_peft_model(model, lora)
        if fused:
            fuse_lora(adapted)
        saved.append(kept_for_backward(adapted.train(), dtype))
    found = (saved[1] - saved[0]) / 2 / (2 * 128)
    wanted = block_bytes(256, inner, kv_heads * 64, dtype, dropout > 0, fused)
    assert wanted == pytest.approx(found, rel=0.05)  # within 2 % seen


CONNECTORS = {
    "linear": [],
    "mlp": [],
    "pool": ["projector.pool=2", "vision.drop_first_token=false", "vision.image_context_length=4"],
    "resampler": ["projector.queries=4", "vision.image_context_length=4"],
    "qformer": ["projector.layers=3", "projector.hidden_size=64", "vision.image_context_length=32"],
    "cross_attention": ["projector.every=1", "vision.image_context_length=1"],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", CONNECTORS)
def test_a_connectors_activations_are_what_autograd_keeps(make_config, kind, dtype):
    config = make_config(f"projector.kind={kind}", *CONNECTORS[kind])
    model = build(config).train()
    wanted = connector_bytes(empty_model(config, 553, dtype), config, BATCH, dtype, checkpointing=False)
    features, x = torch.randn(2, model.patch_grid.features, 16), torch.randn(2, 60, 32, requires_grad=True)
    seen = torch.ones(2, 60, 1, dtype=torch.bool)

    def forward():
        if kind != "cross_attention":
            return model.projector(features)
        layers = [layer(x, layer.keys_values(features[:, None]), seen) for layer in model.projector.layers]
        return sum(layers)

    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        found = saved_bytes(model.projector, forward)
    assert wanted == pytest.approx(found, rel=0.1) and found > 0  # a copy of a weight in bf16 may be shared or not


def test_recomputed_cross_attention_keeps_one_layer(make_config):
    config = make_config("projector.kind=cross_attention", *CONNECTORS["cross_attention"])
    model = empty_model(config, 553, torch.float32)
    whole, one = (
        connector_bytes(model, config, BATCH, torch.float32, checkpointing) for checkpointing in (False, True)
    )
    assert whole == 2 * one > 0


def kept_for_backward(model, dtype) -> int:
    """Bytes that a forward pass on [2, 128] tokens keeps, without the parameters."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        alone = tensor.detach()  # an output that its own operation saves would hold itself, and never be freed
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = (storage.nbytes(), alone)  # held, so that the address stays its own
        return alone

    embeds = torch.randn(2, 128, 256).to(dtype).requires_grad_()
    mask = torch.ones(2, 1, 128, 128, dtype=torch.bool).tril()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            model.get_base_model().model(inputs_embeds=embeds, attention_mask=mask)
    return sum(size for size, _ in kept.values())


def test_checkpointing_and_fewer_labels_lower_the_estimate(make_config):
    config = make_config()
    batch = Batch(rows=2, length=1000, images=2, labels=1000)
    plain = estimate(config, 553, batch, torch.bfloat16).activations
    fewer = estimate(config, 553, Batch(2, 1000, 2, 10), torch.bfloat16).activations
    assert plain - fewer == 990 * 768 * 12
    config.train.gradient_checkpointing = True
    assert estimate(config, 553, batch, torch.bfloat16).activations < plain


def test_a_dry_run_estimates_before_it_loads(make_config, monkeypatch, capsys):
    config = make_config()

    def stop(*arguments):
        raise InterruptedError

    monkeypatch.setattr(setup, "build_model", stop)
    with pytest.raises(InterruptedError):
        build_loop(config, Path(config.train.output) / "a", announce=print_estimate)
    line = re.search(r"estimate .*", capsys.readouterr().out)[0]
    assert "before loading" in line and "optimiser" in line and "2 rows of" in line


# ---------------------------------------------------------------------------------------------- what cannot be had


@pytest.fixture
def no_bitsandbytes(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))


def start(config):
    return build_loop(config, Path(config.train.output) / "a")


def test_training_in_four_bits_without_cuda_or_the_package_is_one_line(make_config, monkeypatch, no_bitsandbytes):
    config = make_config("language.load_in_4bit=true", "train.use_cpu=false")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError) as caught:
        start(config)
    assert str(caught.value) == (
        "language.load_in_4bit = true: to train with it, install a CUDA build of torch (pytorch.org) on a machine with "
        "a CUDA GPU; else set language.load_in_4bit=false"
    )
    with pytest.raises(UserError, match="language.load_in_4bit = true: .*pip install bitsandbytes"):
        build(config)


def test_four_bits_are_nf4_with_scales_quantised_too_where_the_model_will_run():
    options = four_bit_options(torch.bfloat16, "cuda:1")
    settings = options["quantization_config"]
    assert settings.load_in_4bit and settings.bnb_4bit_quant_type == "nf4" and settings.bnb_4bit_use_double_quant
    assert settings.bnb_4bit_compute_dtype == torch.bfloat16 and options["device_map"] == {"": torch.device("cuda:1")}


@pytest.mark.parametrize("name", ["paged_adamw_8bit", "adamw_8bit"])
def test_eight_bit_moments_without_cuda_or_the_package_are_one_line(make_config, monkeypatch, no_bitsandbytes, name):
    config, on_cpu = (make_config(f"train.optim={name}", f"train.use_cpu={value}") for value in ("false", "true"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    advice = "install a CUDA build of torch .* else set train.optim=adamw_torch"
    with pytest.raises(UserError, match=f"train.optim = {name}: .*{advice}"):
        require_optional(config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=f"train.optim = {name}: .*{advice}"):
        require_optional(on_cpu)
    with pytest.raises(UserError, match=f"train.optim = {name}: pip install bitsandbytes, or set train.optim="):
        require_optional(config)
