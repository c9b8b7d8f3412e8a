"""Prefix tuning: learnt keys and values in front of those of every layer (Li and Liang 2021, arXiv:2101.00190).

Every token sees them, and they have no position: the tokens keep the positions they have without a prefix. So message
trees, the prefix cache and the visual tokens stay as they are; a cache of keys and values never holds the prefix.
peft's prefix tuning puts it into the cache, which excludes masks [B, 1, T, T] and gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Cache

if TYPE_CHECKING:
    from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention as _Attention
else:
    _Attention = object  # at run time, the attention's own class follows in the MRO

STD = 0.02  # of the start: keys near 0 take an even share of the attention, values near 0 add nothing


class Prefix(nn.Module):
    """``tokens`` learnt keys and values of one layer: ``key`` and ``value`` [K, P, E] for K heads of width E."""

    def __init__(self, tokens: int, heads: int, width: int) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.randn(heads, tokens, width) * STD)
        self.value = nn.Parameter(torch.randn(heads, tokens, width) * STD)

    def before(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``key`` and ``value`` [B, K, T, E] -> the same with the prefix in front [B, K, P + T, E]."""
        own_key, own_value = (own.to(key.dtype).expand(len(key), -1, -1, -1) for own in (self.key, self.value))
        return torch.cat([own_key, key], 2), torch.cat([own_value, value], 2)

    def seen_in(self, mask: torch.Tensor | None, queries: int, keys: int) -> torch.Tensor | None:
        """A mask [B, 1, Q, T] of what is added or allowed -> [B, 1, Q, P + T], in which every query sees the prefix.

        None means causal: the last ``queries`` of ``keys`` tokens. A single query sees all, which needs no mask.
        """
        if mask is None:
            if queries == 1:
                return None
            mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=self.key.device).tril(keys - queries)
        tokens = self.key.shape[1]
        seen = mask.new_full((*mask.shape[:-1], tokens), mask.dtype == torch.bool)  # True, or 0 that is added
        return torch.cat([seen, mask], -1)


class PrefixedAttention(_Attention):
    """A mixin for the attention of Qwen2 or Qwen3 that has a :class:`Prefix`."""

    prefix: Prefix

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """transformers' own forward, with the prefix. Attention weights are returned without the prefix's share."""
        queries = hidden_states.shape[1]
        past = 0 if past_key_values is None else int(past_key_values.get_seq_length(self.layer_idx))
        output, weights = super().forward(
            hidden_states,
            position_embeddings,
            self.prefix.seen_in(attention_mask, queries, past + queries),
            _Prepended(self.prefix, past_key_values),
            **kwargs,
        )
        return output, weights if weights is None else weights[..., self.prefix.key.shape[1] :]


class _Prepended:
    """What the attention takes for its cache: the cache itself, if there is one, and the prefix in front."""

    def __init__(self, prefix: Prefix, cache: Cache | None) -> None:
        self.prefix, self.cache = prefix, cache

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.cache is not None:
            key, value = self.cache.update(key, value, layer, *args, **kwargs)
        return self.prefix.before(key, value)


def add_prefix(layers: Iterable[Any], tokens: int) -> None:
    """Give the attention of each decoder layer a prefix. Weights and their names stay."""
    for layer in layers:
        attention = layer.self_attn
        weight = attention.k_proj.weight
        heads = attention.config.num_key_value_heads
        attention.prefix = Prefix(tokens, heads, attention.head_dim).to(weight.device)
        kind = type(attention)
        attention.__class__ = type(kind.__name__, (PrefixedAttention, kind), {})
