"""The fused LoRA layer gives what peft's gives: outputs, gradients, and the numbers that dropout draws."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from model.fused_lora import FusedLoraLinear, fuse_lora
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
