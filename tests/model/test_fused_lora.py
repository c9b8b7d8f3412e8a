"""The fused LoRA layer gives what peft's gives: outputs, gradients, and the numbers that dropout draws."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

from model.fused_lora import FusedGateUp, FusedLoraLinear, FusedQKV, fuse_lora, unfuse_lora
from model.plain_peft import LoraConfig, get_peft_model, lora


def two_layers(bias: bool = True, **options) -> tuple[nn.Module, nn.Module]:
    """A small network with adapters, peft's and fused, with the same weights."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 20, bias=bias), nn.GELU(), nn.Linear(20, 8, bias=bias)).requires_grad_(False)
    given = {"r": 4, "lora_alpha": 8, "target_modules": ["0", "2"], "init_lora_weights": False, **options}
    theirs = get_peft_model(net, LoraConfig(**given))
    ours = copy.deepcopy(theirs)
    fuse_lora(ours)
    return theirs, ours


def outcome(net: nn.Module, x: torch.Tensor, autocast: bool = False) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = net(x)
    out.float().square().sum().backward()
    grads = {name: p.grad for name, p in net.named_parameters() if p.requires_grad}
    return {"out": out, "x": x.grad, **grads}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_outputs_and_gradients_are_those_of_peft(bias, dropout):
    theirs, ours = two_layers(bias, lora_dropout=dropout)
    x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(2))
    wanted, found = outcome(theirs.train(), x), outcome(ours.train(), x)
    assert wanted.keys() == found.keys() and len(found) == 6
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-5, msg=name)


def test_under_autocast_trained_weights_stay_fp32_and_their_gradients_too():
    theirs, ours = two_layers()
    for net in (theirs, ours):
        for parameter in net.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(2)).bfloat16()
    wanted, found = outcome(theirs, x, autocast=True), outcome(ours, x, autocast=True)
    assert found["out"].dtype == torch.bfloat16
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype
        # bf16 keeps 8 bits: each of the four products in a row rounds by up to 2 ** -9 = 0.002 of its result.
        assert (found[name].float() - wanted[name].float()).norm() < 0.01 * wanted[name].float().norm(), name


def test_a_trained_bias_of_the_frozen_layer_gets_its_gradient():
    theirs, ours = two_layers(bias=True)
    for net in (theirs, ours):
        net.base_model.model[0].base_layer.bias.requires_grad_(True)
    x = torch.randn(3, 12)
    wanted, found = outcome(theirs, x), outcome(ours, x)
    assert len(found) == 7
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_operator_is_what_torch_asks_of_one(rate):
    torch.manual_seed(0)
    x, weight, bias, a, b = (torch.randn(shape) for shape in ((6, 4), (5, 4), (5,), (2, 4), (5, 2)))
    for tensor in (x, a, b):
        tensor.requires_grad_()
    # Dropout draws other numbers in each call, so two calls are not compared with it.
    checks = ["test_schema", "test_faketensor"]
    checks += [] if rate else ["test_autograd_registration", "test_aot_dispatch_dynamic"]
    torch.library.opcheck(torch.ops.vlm.lora_linear, (x, weight, bias, a, b, 2.0, rate), test_utils=checks)


@pytest.mark.parametrize("ranks", [(4, 4), (3, 5)])
def test_gate_and_up_together_give_what_the_mlp_gives(ranks):
    torch.manual_seed(0)
    config = Qwen2Config(hidden_size=12, intermediate_size=20)
    mlp = nn.Sequential(OrderedDict(mlp=Qwen2MLP(config))).requires_grad_(False)
    targets = ["gate_proj", "up_proj", "down_proj"]
    pattern = {"gate_proj": ranks[0], "up_proj": ranks[1]}
    given = {"r": 4, "target_modules": targets, "rank_pattern": pattern, "init_lora_weights": False}
    theirs = get_peft_model(mlp, LoraConfig(**given))
    ours = copy.deepcopy(theirs)
    assert fuse_lora(ours) == 3
    assert isinstance(ours.base_model.model.mlp, FusedGateUp)
    x = torch.randn(3, 5, 12)
    wanted, found = outcome(theirs, x), outcome(ours, x)
    assert len(found) == 8
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-5, msg=name)
    unfuse_lora(ours)
    assert type(ours.base_model.model.mlp) is Qwen2MLP and type(ours.base_model.model.mlp.up_proj) is lora.Linear


def test_the_operator_of_gate_and_up_is_what_torch_asks_of_one():
    torch.manual_seed(0)
    shapes = ((6, 4), (5, 4), (2, 4), (5, 2), (5, 4), (3, 4), (5, 3))
    tensors = [torch.randn(shape) for shape in shapes]
    for i in (0, 2, 3, 5, 6):
        tensors[i].requires_grad_()
    torch.library.opcheck(torch.ops.vlm.lora_gate_up, (*tensors, 2.0, 0.5))


@pytest.mark.parametrize("config", [Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("left_out", [[], ["v_proj"]])
def test_a_decoder_layer_gives_what_it_gives_with_pefts_layers(config, left_out):
    """Queries, keys and values in one product, of different ranks, or apart where one of them has no adapter."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2}
    given = config(**sizes, head_dim=6, num_hidden_layers=2, vocab_size=11, attn_implementation="sdpa")
    base = AutoModelForCausalLM.from_config(given).requires_grad_(False)
    for parameter in base.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases start at 0
    targets = [name for name in ("q_proj", "k_proj", "v_proj", "o_proj") if name not in left_out]
    options = {"r": 3, "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"q_proj": 5}, "init_lora_weights": False}
    theirs = get_peft_model(base, LoraConfig(target_modules=targets, **options))
    ours = copy.deepcopy(theirs)
    assert fuse_lora(ours) == 2 * len(targets)
    attention = ours.base_model.model.model.layers[0].self_attn
    assert isinstance(attention, FusedQKV) == (not left_out)
    ids = torch.randint(11, (2, 7))

    for net in (theirs, ours):
        net(input_ids=ids, use_cache=False).logits.square().sum().backward()
    for (name, one), (_, two) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-5, msg=name)
    with torch.no_grad():  # with a cache, as when it answers, it is the attention's own
        torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
    unfuse_lora(ours)
    assert not isinstance(attention, FusedQKV)


@pytest.mark.parametrize("biased", [True, False])
def test_the_operator_of_q_k_and_v_is_what_torch_asks_of_one(biased):
    torch.manual_seed(0)
    shapes = [shape for width, rank in ((6, 2), (4, 3), (4, 2)) for shape in ((width, 5), (rank, 5), (width, rank))]
    x, *weights = (torch.randn(shape) for shape in [(7, 5), *shapes])
    for tensor in (x, *weights[1::3], *weights[2::3]):
        tensor.requires_grad_()
    torch.library.opcheck(torch.ops.vlm.lora_qkv, (x, torch.randn(14) if biased else None, *weights, [2.0, 0.5, 1.0]))


def test_only_plain_layers_are_fused():
    assert all(type(two_layers()[1].base_model.model[i]) is FusedLoraLinear for i in (0, 2))
    _, dora = two_layers(use_dora=True)
    assert all(type(dora.base_model.model[i]) is lora.Linear for i in (0, 2))
    _, biased = two_layers(lora_bias=True)
    assert all(type(biased.base_model.model[i]) is lora.Linear for i in (0, 2))


def test_merging_and_switching_adapters_off_work_as_before():
    theirs, ours = two_layers()
    x = torch.randn(2, 12)
    with ours.disable_adapter(), theirs.disable_adapter():
        torch.testing.assert_close(ours(x), theirs(x))
    before = ours(x)
    torch.testing.assert_close(ours.merge_and_unload()(x), before, rtol=1e-5, atol=1e-5)


def test_second_derivatives_are_refused_rather_than_wrong():
    _, ours = two_layers()
    x = torch.randn(2, 12, requires_grad=True)
    (first,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()
