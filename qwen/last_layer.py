"""The last decoder layer of Qwen, computed only where its output is read.

In training, the head reads the positions that predict a label, 10 to 40 of 760. At all others, nothing reads the last
layer's output, so its queries, its output projection and its MLP (95 % of its arithmetic) need not run there. Keys and
values are still computed at every position. Loss and gradients are unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, apply_rotary_pos_emb, eager_attention_forward

from qwen.prefix import PrefixedAttention
from qwen.tree_attention import TreeLayout

if TYPE_CHECKING:
    from transformers.modeling_layers import GradientCheckpointingLayer as _Layer
else:
    _Layer = object  # at run time, the decoder layer's own class follows in the MRO


class LastLayer(_Layer):
    """A mixin for a decoder layer: given ``rows``, its forward returns only those positions."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | TreeLayout | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        rows: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """``hidden_states`` [B, T, D] -> [B, T, D], or [B, M, D] at the positions ``rows`` [B, M]."""
        if rows is None or position_embeddings is None:
            return super().forward(
                hidden_states, attention_mask=attention_mask, position_embeddings=position_embeddings, **kwargs
            )
        normed = self.input_layernorm(hidden_states)
        attended = _attend(self.self_attn, normed, attention_mask, position_embeddings, rows)
        hidden_states = _at(hidden_states, rows) + attended  # [B, M, D]
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


def narrow_last_layer(layers: nn.ModuleList) -> None:
    """Let the last of a model's decoder layers take ``rows``. Its weights and their names stay."""
    kind = type(layers[-1])
    layers[-1].__class__ = type(kind.__name__, (LastLayer, kind), {})


def positions_of(wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``wanted`` [B, T] bool -> the wanted positions of each row in order [B, M], and which of those are real [B, M].

    M is the largest number in a row. Rows with fewer are filled with other positions, which nothing reads.
    """
    counts = wanted.sum(1)  # [B]
    rows = (~wanted).byte().argsort(dim=1, stable=True)[:, : int(counts.max())]  # [B, M]
    return rows, torch.arange(rows.shape[1], device=wanted.device) < counts[:, None]


def _attend(
    attention: Qwen2Attention,
    normed: torch.Tensor,
    mask: torch.Tensor | TreeLayout | None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    rows: torch.Tensor,
) -> torch.Tensor:
    """The attention of Qwen2 or Qwen3 with queries at ``rows`` [B, M] only: ``normed`` [B, T, D] -> [B, M, D]."""
    batch, length = normed.shape[:2]
    cos, sin = (table.expand(batch, -1, -1) for table in position_embeddings)  # [B, T, head_dim]
    query = heads_of(attention.q_proj(_at(normed, rows)), attention, "q_norm")
    key = heads_of(attention.k_proj(normed), attention, "k_norm")
    value = heads_of(attention.v_proj(normed), attention)
    query, _ = apply_rotary_pos_emb(query, query, _at(cos, rows), _at(sin, rows))
    key, _ = apply_rotary_pos_emb(key, key, cos, sin)
    if isinstance(mask, TreeLayout):
        mask = mask.mask_at(rows)
    elif mask is None:  # causal
        mask = (torch.arange(length, device=rows.device) <= rows[..., None])[:, None]  # [B, 1, M, T]
    else:
        mask = mask.expand(batch, -1, -1, -1).gather(2, rows[:, None, :, None].expand(-1, -1, -1, length))
    if isinstance(attention, PrefixedAttention):
        mask = attention.prefix.seen_in(mask, rows.shape[1], length)
        key, value = attention.prefix.before(key, value)
    return attention.o_proj(attended(attention, query, key, value, mask))


def heads_of(projected: torch.Tensor, attention: Qwen2Attention, norm: str = "") -> torch.Tensor:
    """Queries, keys or values [B, T, H * E] as heads [B, H, T, E]. Qwen3 normalises queries and keys."""
    split = projected.unflatten(-1, (-1, attention.head_dim))
    normalise = getattr(attention, norm, None)
    return (split if normalise is None else normalise(split)).transpose(1, 2)


def attended(
    attention: Qwen2Attention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | TreeLayout | None,
    **kwargs,
) -> torch.Tensor:
    """What the heads [B, H or K, M or T, E] give with the attention in use, [B, M, H * E]."""
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    dropout = attention.attention_dropout if attention.training else 0.0
    out, _ = attend(attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling, **kwargs)
    return out.flatten(2)


def _at(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """[B, T, D] at ``rows`` [B, M]: [B, M, D]."""
    return states.gather(1, rows[..., None].expand(-1, -1, states.shape[-1]))
