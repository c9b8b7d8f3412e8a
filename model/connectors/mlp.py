"""Two linear layers with GELU between them, for each feature alone (Liu et al. 2023, arXiv:2310.03744, section 3.2)."""

from __future__ import annotations

import torch
from torch import nn

from model.connectors.base import Connector
from visual.geometry import PatchGrid


class MLPConnector(Connector, nn.Sequential):
    """Linear, GELU, Linear: one visual token for each feature.

    Weights start from N(0, 0.01), biases at 0, as the design has it. In checkpoints its parameters are ``0.weight``,
    ``0.bias``, ``2.weight`` and ``2.bias``.

    Args:
        vision_width: Dv, of the tower's features.
        language_width: Dl, of the language model's embeddings.
        hidden_size: width between the layers (None: ``language_width``).
    """

    name = "mlp"

    def __init__(self, vision_width: int, language_width: int, *, hidden_size: int | None = None) -> None:
        hidden_size = hidden_size or language_width
        first, second = nn.Linear(vision_width, hidden_size), nn.Linear(hidden_size, language_width)
        super().__init__(first, nn.GELU(), second)
        for layer in (first, second):
            nn.init.normal_(layer.weight, mean=0.0, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """``features`` [K, N, Dv] -> visual tokens [K, N, Dl]."""
        return nn.Sequential.forward(self, features)

    def num_tokens(self, grid: PatchGrid) -> int:
        return grid.features

    def token_grid(self, grid: PatchGrid) -> PatchGrid:
        return grid
