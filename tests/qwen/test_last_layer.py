"""The last layer runs only at the positions that have a label, and loss and gradients are unchanged."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from qwen.last_layer import positions_of
from qwen.Mqwen import MQwen2ForCausalLM, MQwen3ForCausalLM
from qwen.tokenizer import IGNORE_INDEX


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_layer_runs_at_labels_only_and_every_gradient_is_the_same(family, attention, checkpointing):
    """A padded batch with 1 and 4 labels; every gradient in float64 against transformers' own model."""
    config_class, plain_class, our_class = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM, MQwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM, MQwen3ForCausalLM),
    }[family]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 8}
    config = config_class(vocab_size=50, num_attention_heads=4, num_key_value_heads=2, **sizes)
    torch.manual_seed(0)
    plain, ours = plain_class(config).double().train(), our_class(config).double().train()
    ours.load_state_dict(plain.state_dict())
    for model in (plain, ours):
        model.set_attn_implementation(attention)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[0, 8], labels[1, 2:6] = ids[0, 8], ids[1, 2:6]
    widths = []
    ours.model.layers[-1].mlp.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    plain(ids, attention_mask=mask, labels=labels).loss.backward()
    ours(ids, attention_mask=mask, labels=labels).loss.backward()
    assert set(widths) == {4}  # of 9
    for (name, wanted), (_, found) in zip(plain.named_parameters(), ours.named_parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_positions_are_those_of_each_row_in_order_and_short_rows_are_filled():
    wanted = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]).bool()
    positions, real = positions_of(wanted)
    assert positions.shape == real.shape == (3, 3)
    assert [row[mask].tolist() for row, mask in zip(positions, real, strict=True)] == [[1, 3, 4], [3], []]
    assert all(len(set(row.tolist())) == 3 for row in positions)
