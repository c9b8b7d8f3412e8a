"""Learnt keys and values in front of every layer: exact against a cache that holds them, with every kind of mask."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from qwen.load import load_language
from qwen.prefix import Prefix, add_prefix
from qwen.tokenizer import load_tokenizer
from tests.helpers.tiny import save_qwen, save_qwen3

IDS = torch.arange(20, 32).view(2, 6)


@pytest.fixture(params=[save_qwen, save_qwen3], ids=["qwen2", "qwen3"])
def pair(request, tmp_path):
    """The same model without and with a prefix of 5 keys and values."""
    folder = request.param(tmp_path)
    plain, prefixed = (load_language(str(folder), load_tokenizer(str(folder)), torch.float32) for _ in range(2))
    torch.manual_seed(0)
    add_prefix(prefixed.model.layers, 5)
    with torch.no_grad():
        for name, parameter in prefixed.named_parameters():
            if ".prefix." in name:
                parameter.normal_()
    return plain.eval(), prefixed.eval()


def cache_of_prefix(prefixed, rows: int) -> DynamicCache:
    cache = DynamicCache(config=prefixed.config)
    for number, layer in enumerate(prefixed.model.layers):
        prefix = layer.self_attn.prefix
        cache.update(prefix.key.expand(rows, -1, -1, -1), prefix.value.expand(rows, -1, -1, -1), number)
    return cache


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_are_those_of_a_cache_that_begins_with_it_and_positions_count_from_0(pair, attention):
    plain, prefixed = pair
    for model in pair:
        model.set_attn_implementation(attention)
    positions = torch.arange(6).expand(2, -1)
    with torch.no_grad():
        wanted = plain(input_ids=IDS, past_key_values=cache_of_prefix(prefixed, 2), position_ids=positions).logits
        found = prefixed(input_ids=IDS).logits
        without = plain(input_ids=IDS).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)
    assert (found - without).abs().max() > 0.05


def test_a_cache_holds_no_prefix_and_gives_the_logits_of_one_pass(pair):
    _, prefixed = pair
    with torch.no_grad():
        whole = prefixed(input_ids=IDS).logits
        cache = DynamicCache(config=prefixed.config)
        parts = [prefixed(input_ids=IDS[:, a:b], past_key_values=cache).logits for a, b in ((0, 3), (3, 5), (5, 6))]
    assert cache.get_seq_length() == 6
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=2e-5)


def test_padding_on_either_side_changes_nothing(pair):
    _, prefixed = pair
    pad = torch.zeros(2, 2, dtype=torch.long)
    ones, zeros = torch.ones_like(IDS), torch.zeros_like(pad)
    left = {"input_ids": torch.cat([pad, IDS], 1), "attention_mask": torch.cat([zeros, ones], 1)}
    left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    right = {"input_ids": torch.cat([IDS, pad], 1), "attention_mask": torch.cat([ones, zeros], 1)}
    with torch.no_grad():
        whole = prefixed(input_ids=IDS).logits
        torch.testing.assert_close(prefixed(**left).logits[:, 2:], whole, rtol=0, atol=2e-5)
        torch.testing.assert_close(prefixed(**right).logits[:, :6], whole, rtol=0, atol=2e-5)


def test_attention_weights_are_of_the_tokens_alone(pair):
    _, prefixed = pair
    prefixed.set_attn_implementation("eager")
    with torch.no_grad():
        weights = prefixed(input_ids=IDS, output_attentions=True).attentions[0]
    assert weights.shape == (2, 4, 6, 6) and (weights.sum(-1) < 0.999).all()  # the rest of 1 went to the prefix


def test_masks_let_every_query_see_the_prefix():
    prefix = Prefix(tokens=2, heads=1, width=4)
    wanted = [[True, True, True, True, False], [True, True, True, True, True]]
    assert prefix.seen_in(None, queries=2, keys=3).tolist() == [[wanted]]
    assert prefix.seen_in(None, queries=1, keys=3) is None
    added = prefix.seen_in(torch.tensor([[[[0.0, -9.0]]]]), queries=1, keys=2)
    assert added.tolist() == [[[[0.0, 0.0, 0.0, -9.0]]]]
