"""The whole model: against a reference made only of transformers' own parts, what is trained, what is saved."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn
from transformers import CLIPVisionModel, Qwen2ForCausalLM, SiglipVisionModel

from common.errors import UserError
from model.fused_lora import FusedGateUp, FusedQKV
from model.model import build_model
from qwen.tokenizer import load_tokenizer
from tests.helpers.models import build_with_batch
from tests.helpers.tiny import save_clip, save_siglip


@pytest.fixture
def built(make_config):
    """(config, model, tokenizer, a batch of two rows) of a tiny LoRA run."""
    config = make_config()
    return (config, *build_with_batch(config))


@pytest.mark.parametrize("drop", [True, False])
def test_logits_equal_a_reference_of_transformers_own_parts(make_config, drop):
    """SiglipVisionModel -> two nn.Linear -> Qwen2ForCausalLM(inputs_embeds=...), the same weights."""
    tokens = 8 if drop else 9
    config = make_config(f"vision.drop_first_token={str(drop).lower()}", f"vision.image_context_length={tokens}")
    model, tokenizer, batch = build_with_batch(config)
    vision = SiglipVisionModel.from_pretrained(config.vision.path, dtype=torch.float32).eval()
    language = Qwen2ForCausalLM.from_pretrained(config.language.path, dtype=torch.float32).eval()
    first, second = nn.Linear(16, 32), nn.Linear(32, 32)
    weights = model.projector.state_dict()
    first.load_state_dict({"weight": weights["0.weight"], "bias": weights["0.bias"]})
    second.load_state_dict({"weight": weights["2.weight"], "bias": weights["2.bias"]})
    with torch.no_grad():
        patches = vision(pixel_values=batch["pixel_values"]).last_hidden_state
        assert patches.shape == (2, 9, 16)
        features = second(nn.functional.gelu(first(patches[:, 1:] if drop else patches)))
        embeds = language.get_input_embeddings()(batch["input_ids"])
        for row, ids in enumerate(batch["input_ids"]):
            embeds[row, ids == model.language.base_model.model.image_token_id] = features[row]
        wanted = language(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
        found = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_projector_starts_as_the_design_says(make_config):
    config = make_config("projector.hidden_size=4000")
    model, *_ = build_with_batch(config)
    weights = model.projector.state_dict()
    weight = weights["0.weight"]
    assert weight.shape == (4000, 16) and weights["2.weight"].shape == (32, 4000)
    assert weight.std().item() == pytest.approx(0.01, rel=0.05) and abs(weight.mean().item()) < 1e-3
    assert not weights["0.bias"].any() and not weights["2.bias"].any()


def test_gradients_reach_projector_and_lora_and_never_the_tower(built):
    config, model, _, batch = built
    model.train()
    assert not model.vision.training
    model(**batch).loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    lora = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert with_gradient == lora | {f"projector.{n}" for n in ("0.weight", "0.bias", "2.weight", "2.bias")}
    assert all(name.startswith("language.") for name in lora) and len(lora) == 2 * 7 * 2  # 7 linears, 2 layers, A and B
    assert next(model.projector.parameters()).grad.abs().sum() > 0


def test_the_frozen_tower_builds_no_graph(built):
    _, model, _, batch = built
    seen = []
    model.vision.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    model(**batch)
    assert seen == [False]


@pytest.mark.parametrize("overrides", [[], ["vision.train=lora"], ["lora.use_dora=true"]])
def test_adapters_are_folded_into_fp32_weights_and_logits_stay(make_config, overrides):
    model, _, batch = build_with_batch(make_config(*overrides))
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, so that an adapter changes nothing
                parameter.normal_(std=0.2)
        adapted = model.eval()(**inputs).logits
        model.merge_adapters()
        merged = model(**inputs).logits
        left = [name for name, _ in model.named_parameters() if "lora_" in name]
        plain = build_with_batch(make_config("language.train=frozen"))[0].eval()(**inputs).logits
    assert left == [] and (adapted - plain).abs().max() > 0.01
    assert not [module for module in model.modules() if isinstance(module, (FusedGateUp, FusedQKV))]
    torch.testing.assert_close(merged, adapted, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("overrides", "dtype"), [([], torch.bfloat16), (["lora.lora_bias=true"], torch.float32)])
def test_adapters_stay_where_the_weights_cannot_take_them_in(make_config, overrides, dtype):
    config = make_config(*overrides)
    model = build_model(config, load_tokenizer(config.language.path), dtype)
    before = [name for name, _ in model.named_parameters()]
    model.merge_adapters()
    assert [name for name, _ in model.named_parameters()] == before


def test_bf16_weights_take_adapters_in_if_asked_and_are_rounded_once(make_config):
    config = make_config()
    model = build_model(config, load_tokenizer(config.language.path), torch.bfloat16)
    layer = model.language.base_model.model.model.layers[0].mlp.down_proj
    layer.lora_B["default"].weight.data.normal_(std=0.2)
    wanted = (layer.base_layer.weight.float() + layer.get_delta_weight("default")).bfloat16()
    model.merge_adapters(rounded=True)
    assert not [name for name, _ in model.named_parameters() if "lora_" in name]
    assert torch.equal(model.language.model.layers[0].mlp.down_proj.weight, wanted)


def test_gradient_checkpointing_changes_no_gradient(built):
    _, model, _, batch = built
    model.train()
    model(**batch).loss.backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch).loss.backward()
    assert model.language.get_base_model().model.gradient_checkpointing
    for name, gradient in plain.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient)


def test_wrong_token_count_names_the_right_number(make_config, tmp_path):
    config = make_config()
    config.vision.image_context_length = 9
    with pytest.raises(UserError, match="gives 8 visual tokens; set vision.image_context_length=8"):
        build_model(config, load_tokenizer(config.language.path))


@pytest.mark.parametrize(
    ("kind", "changes", "tokens"),
    [
        ("siglip", ["vision.drop_first_token=false"], 9),
        ("siglip", ["vision.image_size=70"], 24),
        ("clip", [], 9),  # the class token is dropped
        ("clip", ["vision.image_size=70"], 25),
    ],
)
def test_the_right_number_follows_the_tower_its_size_and_what_is_dropped(make_config, tmp_path, kind, changes, tokens):
    folder = {"siglip": save_siglip, "clip": save_clip}[kind](tmp_path / "tower")
    config = make_config(f"vision.path={folder}", f"vision.image_context_length={tokens}", *changes)
    tokenizer = load_tokenizer(config.language.path)
    tower = build_model(config, tokenizer).vision
    size = tower.config.image_size
    dropped = int(config.vision.drop_first_token)
    assert tower(torch.zeros(1, 3, size, size)).shape[1] - dropped == tokens
    config.vision.image_context_length = 8
    with pytest.raises(UserError, match=f"gives {tokens} visual tokens; set vision.image_context_length={tokens}"):
        build_model(config, tokenizer)


def test_both_towers_in_one_folder_load_as_the_vision_tower(make_config, tmp_path):
    both = save_siglip(tmp_path / "both", two_towers=True)
    model, _, batch = build_with_batch(make_config(f"vision.path={both}"))
    reference = SiglipVisionModel.from_pretrained(both, dtype=torch.float32).eval()
    wanted = reference(pixel_values=batch["pixel_values"]).last_hidden_state
    assert torch.equal(model.vision(batch["pixel_values"]), wanted)


@torch.no_grad()
def test_llavas_view_of_clip_is_the_layer_before_the_last_without_cls(make_config, tmp_path):
    folder = save_clip(tmp_path / "clip")
    config = make_config(f"vision.path={folder}", "vision.image_context_length=9", "vision.layer=-2")
    model = build_model(config, load_tokenizer(config.language.path))
    pixels = torch.randn(1, 3, 42, 42)
    reference = CLIPVisionModel.from_pretrained(folder).eval()
    patches = reference(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert patches.shape == (1, 9, 16)
    assert torch.equal(model.encode_images(pixels), model.projector(patches))


def test_a_base_model_that_lacks_a_tensor_is_refused(make_config, tmp_path, qwen_folder):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "cut"
    shutil.copytree(qwen_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="language.path: .* lacks 1 tensors, model.layers.1.mlp.up_proj.weight first"):
        build_with_batch(make_config(f"language.path={folder}"))
