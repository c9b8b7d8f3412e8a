"""QLoRA: a language model in 4 bits under adapters in full, with bitsandbytes' CPU kernels."""

from __future__ import annotations

import copy
import importlib.util
import math
import random
from pathlib import Path

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, modules
from safetensors.torch import load_file

from answering.assistant import Assistant
from common.errors import UserError
from dataset.prompt import Request, Turn, question_with_images
from demo import scenes
from demo.language import answer_logits
from demo.lessons import batch_of, caption_lesson
from model.adapters import linear_layers, lora_layers
from model.checkpoint import load_checkpoint
from model.model import build_model
from qwen.load import four_bit_bytes, load_language
from qwen.tokenizer import load_tokenizer
from tests.helpers.qwen1 import save_as_qwen1
from tests.helpers.tiny import REPO, picture, save_qwen, save_qwen3
from training import setup
from training.setup import build_loop

BACKBONES = REPO / "demo" / "backbones"
FAMILIES = ["qwen1", "qwen2", "qwen2-tied", "qwen3"]
# Scales are kept by blocks of 64 weights, so a row is a whole number of blocks.
SIZES = {"hidden_size": 64, "intermediate_size": 128}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    base = tmp_path_factory.mktemp("families")
    return {
        "qwen1": save_as_qwen1(save_qwen(base / "source", num_key_value_heads=4, **SIZES), base / "qwen1"),
        "qwen2": save_qwen(base / "qwen2", **SIZES),
        "qwen2-tied": save_qwen(base / "qwen2-tied", tie_word_embeddings=True, **SIZES),
        "qwen3": save_qwen3(base / "qwen3", **SIZES),
    }


def gemv_in_bf16(A: torch.Tensor, B: torch.Tensor, out=None, state=None) -> torch.Tensor:
    """bitsandbytes' product for AVX512-BF16, for processors without it: both factors and the result in bf16."""
    packed, state = functional._convert_weight_packed_for_cpu_inverse(B, copy.deepcopy(state))
    weight = dequantize_4bit(packed, state).bfloat16()
    return (A.bfloat16() @ weight.T).to(A.dtype)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["computes-in-fp32", "computes-in-bf16"])
def computes_in(request, monkeypatch) -> torch.dtype:
    """The dtype of 4-bit products of fp32 inputs on the CPU: bf16 where the processor has AVX512-BF16, else fp32.

    bitsandbytes asks for that feature when a layer is made. The answer is patched, so every machine runs both paths.
    """
    in_bf16 = request.param == torch.bfloat16
    if in_bf16 and not functional.has_avx512bf16():
        monkeypatch.setattr(functional, "gemv_4bit", gemv_in_bf16)
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: in_bf16)
    return request.param


def load(folder, load_in_4bit: bool, dtype=torch.float32):
    return load_language(str(folder), load_tokenizer(str(folder)), dtype, load_in_4bit).eval()


def dequantised(layer: Linear4bit) -> torch.Tensor:
    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def in_four_bits(module: torch.nn.Module) -> dict[str, Linear4bit]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Linear4bit)}


@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_language_models_linear_layers_are_in_four_bits(make_config, families, name):
    """Not its head, its embeddings and norms, the tower or the projector, which keep the dtypes they have without."""
    models = {}
    for setting in ("false", "true"):
        config = make_config(f"language.path={families[name]}", f"language.load_in_4bit={setting}")
        models[setting] = build_model(config, load_tokenizer(config.language.path), torch.bfloat16)
    model, wanted = models["true"], dict(models["false"].named_parameters())
    base = model.language.get_base_model()
    layers = {name.removesuffix(".base_layer") for name in in_four_bits(base)}
    assert layers == linear_layers(base) == set(lora_layers(model.language)) and len(layers) == 14
    assert not in_four_bits(model.vision) and not in_four_bits(model.projector)
    small = {id(layer.weight) for layer in in_four_bits(model).values()}
    for key, parameter in model.named_parameters():
        trained = key.startswith("projector") or "lora_" in key
        assert parameter.requires_grad == trained
        if id(parameter) in small:  # two weights in a byte
            assert parameter.dtype == torch.uint8 and parameter.numel() * 2 == wanted[key].numel()
        else:
            assert parameter.dtype == (torch.float32 if trained else torch.bfloat16), key
            assert parameter.shape == wanted[key].shape
    head = base.get_output_embeddings().weight
    assert (head is base.get_input_embeddings().weight) == name.endswith("tied")


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_four_bit_weights_are_the_files_to_half_a_step_and_all_else_is_unchanged(families, name, computes_in):
    plain, small = load(families[name], False), load(families[name], True)
    for key, layer in in_four_bits(small).items():
        weight = plain.get_submodule(key).weight
        blocks, found = weight.reshape(-1, 64), dequantised(layer).reshape(-1, 64)
        # NF4's widest step, from -1 to -0.696 of the largest in a block, halved; a little for the scale's own 8 bits.
        step = 0.304 / 2 + 0.01  # 0.157 seen
        assert ((found - blocks).abs() / blocks.abs().amax(1, keepdim=True)).max() < step, key
        weight.copy_(found.reshape(weight.shape))
    ids = torch.randint(0, 549, (2, 30), generator=torch.Generator().manual_seed(0))
    ids[:, 3:5] = plain.image_token_id
    images = [torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(row)) for row in range(2)]
    wanted, found = (model(ids, images=images).logits for model in (plain, small))
    # Four roundings (input, weight, scale, result) in each of 14 products add up like random numbers. fp32's own are
    # lost in those of sums over 64 to 128 terms, whose order differs between the two kernels: 100 times as much.
    rounding = torch.finfo(computes_in).eps / 2
    bound = math.sqrt(4 * 14) * rounding * (1 if computes_in == torch.bfloat16 else 100)  # 0.029 and 4.5e-5
    error = float((found - wanted).abs().max() / wanted.abs().max())
    print(f"{name} in {computes_in}: {error:.2e} of {bound:.2e}")
    assert error < bound


@torch.no_grad()
def test_a_product_in_four_bits_is_as_exact_as_the_dtype_that_it_is_computed_in(computes_in):
    """The bound is provable: of each term, input, table entry, scale and their product are rounded; then the sum."""
    rounding = torch.finfo(computes_in).eps / 2
    for name, layer in in_four_bits(load(BACKBONES / "qwen", True)).items():
        weight = dequantised(layer).double()  # [out, in]; before the first product, which may pack the weights again
        x = torch.randn(40, layer.in_features, generator=torch.Generator().manual_seed(0))
        wanted = x.double() @ weight.T
        terms = x.abs().double() @ weight.abs().T
        bound = (4 * rounding + layer.in_features * 2**-24) * terms + rounding * wanted.abs()
        bias = 0.0 if layer.bias is None else layer.bias.double()
        error = (layer(x).double() - bias - wanted).abs()
        assert (error < 1.01 * bound + 2**-22).all(), f"{name}: {float((error / bound).max()):.2f} of the bound"


@torch.no_grad()
def test_what_a_trained_model_says_in_four_bits_is_near_what_it_says_in_full(computes_in):
    """The demo's model. Each of its weights is off by 9 % of the weights' spread, like any bell curve's in NF4."""
    plain, small = (load(BACKBONES / "qwen", load_in_4bit) for load_in_4bit in (False, True))
    tokenizer, rng = load_tokenizer(str(BACKBONES / "qwen")), random.Random(0)
    lessons = [caption_lesson(tokenizer, rng, ("en", "zh"), True, 4, range(2, scenes.FOLDS)) for _ in range(10)]
    batch = batch_of(lessons, tokenizer)
    answers = batch.targets
    wanted, found = (answer_logits(model, model.model, batch) for model in (plain, small))
    assert len(answers) > 100 and torch.equal(wanted.argmax(-1), answers)
    assert 0.01 < (found - wanted).std() / wanted.std() < 0.25  # 0.193 seen
    assert torch.equal(found.argmax(-1), answers)


def test_four_bit_weights_and_scales_take_the_bytes_that_are_estimated():
    for name, layer in in_four_bits(load(BACKBONES / "qwen", True)).items():
        scales = layer.weight.quant_state  # a byte for 64 weights, and four for 256 of these bytes
        found = layer.weight.nbytes + scales.absmax.nbytes + scales.state2.absmax.nbytes
        assert found == four_bit_bytes(layer.in_features * layer.out_features), name


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Let a run start on a CPU, which is refused otherwise. The code is the same on CUDA."""
    monkeypatch.setattr(setup, "require_bitsandbytes", lambda *arguments: None)


def run(make_config, *overrides: str):
    paths = [f"vision.path={BACKBONES / 'siglip'}", "vision.image_context_length=63"]
    small = ["language.load_in_4bit=true", "train.optim=adamw_8bit", "lora.r=32"]
    return make_config(*paths, f"language.path={BACKBONES / 'qwen'}", *small, *overrides)


def test_a_run_in_four_bits_with_eight_bit_states_learns_goes_on_to_the_bit_and_answers(make_config, on_the_cpu):
    config = run(make_config, "train.max_steps=16", "train.save_steps=8", "train.gradient_checkpointing=true")
    folder = Path(config.train.output) / "test"
    loop = build_loop(config, folder)
    before = {name: layer.weight.data.clone() for name, layer in in_four_bits(loop.model).items()}
    loop.train()
    losses = [entry["loss"] for entry in loop.progress.log_history if "loss" in entry]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])  # three steps an epoch
    moved = [p for name, p in loop.model.named_parameters() if "lora_B" in name]
    assert len(moved) == 28 and all(p.abs().max() > 0 and p.isfinite().all() for p in moved)
    for name, layer in in_four_bits(loop.model).items():
        assert torch.equal(layer.weight.data, before[name])

    files = ("projector.safetensors", "language/adapter_model.safetensors", "optimizer.safetensors")
    whole = {file: load_file(folder / "checkpoint-16" / file) for file in files}
    kinds = {name.split(".")[1]: tensor.dtype for name, tensor in whole["optimizer.safetensors"].items()}
    assert {tensor.dtype for tensor in whole["optimizer.safetensors"].values()} == {torch.uint8, torch.float32}
    assert {"qmap1", "qmap2", "absmax1", "absmax2"} < kinds.keys()
    again = build_loop(config, folder)
    again.train(folder / "checkpoint-8")
    for file, tensors in whole.items():
        found = load_file(folder / "checkpoint-16" / file)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(found[name], tensor), f"{file}: {name}"

    requests = [Request([Turn(question_with_images("What color is it?", 1))], [picture(c)]) for c in ("red", "blue")]
    processor, tokenizer = loop.image_processor, loop.tokenizer
    wanted = Assistant(loop.model.eval(), tokenizer, processor, config).answer(requests)
    opened = Assistant.load(folder, "cpu")
    assert len(in_four_bits(opened.model)) == 28 and opened.answer(requests) == wanted
    assert [("".join(opened.stream(request))).strip() for request in requests] == wanted


def test_rows_for_new_tokens_are_in_the_checkpoint(make_config, on_the_cpu, tmp_path):
    base = save_qwen(tmp_path / "full", vocab_size=552, **SIZES)
    config = make_config(f"language.path={base}", "language.load_in_4bit=true", "train.max_steps=1")
    loop = build_loop(config, Path(config.train.output) / "test")
    language = loop.model.language.get_base_model()
    matrices = (language.get_input_embeddings().weight, language.get_output_embeddings().weight)
    with torch.no_grad():
        for matrix in matrices:
            matrix[552] += 1.0  # as if another version had initialised it differently
    loop.train()
    folder = Path(config.train.output) / "test" / "checkpoint-1"
    assert {t.shape for t in load_file(folder / "language" / "grown.safetensors").values()} == {(1, 64)}
    restored, *_ = load_checkpoint(folder)
    again = restored.language.get_base_model()
    assert torch.equal(again.get_input_embeddings().weight, matrices[0])
    assert torch.equal(again.get_output_embeddings().weight, matrices[1])


def test_an_adapter_that_starts_from_the_base_weights_is_refused_in_one_line(make_config):
    config = run(make_config, "lora.init_lora_weights=pissa")
    with pytest.raises(UserError, match="lora: .*[Pp]i[Ss]{2}[Aa]"):
        build_model(config, load_tokenizer(config.language.path))


def test_without_the_package_a_checkpoint_in_four_bits_is_one_line(make_config, on_the_cpu, monkeypatch):
    config = run(make_config, "train.max_steps=1")
    build_loop(config, Path(config.train.output) / "test").train()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(UserError) as caught:
        Assistant.load(Path(config.train.output) / "test", "cpu")
    assert str(caught.value).endswith("its weights are bitsandbytes'; pip install bitsandbytes")
