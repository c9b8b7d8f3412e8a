"""Bottleneck adapters: nothing at first, the formula after, in every layer."""

from __future__ import annotations

import torch
from torch import nn

from model.bottleneck import AdaptedLinear, Bottleneck
from tests.helpers.models import build, build_with_batch


def test_it_adds_what_the_formula_says():
    adapter = Bottleneck(3, 2)
    with torch.no_grad():
        adapter.down.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]))
        adapter.down.bias.copy_(torch.tensor([0.0, 1.0]))
        adapter.up.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    hidden = torch.tensor([[1.0, 3.0, 5.0]])  # down gives 1 and -2
    gelu = nn.functional.gelu(torch.tensor([1.0, -2.0]))
    wanted = torch.tensor([[1.0 + 2 * gelu[0], 3.0 + gelu[1], 5.0]])
    torch.testing.assert_close(adapter(hidden), wanted)


def test_a_fresh_one_changes_nothing_and_is_in_every_layer(make_config):
    plain, _, batch = build_with_batch(make_config("language.train=frozen"))
    adapted = build(make_config("language.train=adapter", "language.adapter_width=3"))
    adapted.projector.load_state_dict(plain.projector.state_dict())
    batch = {**batch, "labels": None}
    assert torch.equal(adapted.eval()(**batch).logits, plain.eval()(**batch).logits)
    wrapped = [name for name, module in adapted.language.named_modules() if isinstance(module, AdaptedLinear)]
    assert wrapped == [f"model.layers.{n}.{part}" for n in (0, 1) for part in ("self_attn.o_proj", "mlp.down_proj")]
    assert adapted.trainable_counts()["language"][0] == 4 * (32 * 3 + 3 + 3 * 32 + 32)
