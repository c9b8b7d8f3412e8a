"""Bottleneck adapters: two small linear layers after the attention and after the MLP of every decoder layer (Houlsby et
al. 2019, arXiv:1902.00751, section 2.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class Bottleneck(nn.Module):
    """h -> h + up(GELU(down(h))) for h [..., D]. ``up`` starts at 0, so that it changes nothing at first."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        narrow = nn.functional.gelu(self.down(hidden_states.to(self.down.weight.dtype)))
        return hidden_states + self.up(narrow).to(hidden_states.dtype)


class AdaptedLinear(nn.Module):
    """The last linear layer of a sub-layer, and a bottleneck that reads what it gives, before the residual is added."""

    def __init__(self, base_layer: nn.Module, width: int, bottleneck: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.adapter = Bottleneck(width, bottleneck).to(next(base_layer.parameters()).device)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.adapter(self.base_layer(hidden_states))


def add_bottlenecks(layers: Iterable[Any], width: int, bottleneck: int) -> None:
    """Put a bottleneck after ``o_proj`` and after ``down_proj`` of each decoder layer of ``width`` D."""
    for layer in layers:
        layer.self_attn.o_proj = AdaptedLinear(layer.self_attn.o_proj, width, bottleneck)
        layer.mlp.down_proj = AdaptedLinear(layer.mlp.down_proj, width, bottleneck)
