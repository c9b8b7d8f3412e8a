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
        standardize: begin with statistics that change nothing (mean 0, deviation 1), to be set before training.
    """

    name = "mlp"

    def __init__(
        self, vision_width: int, language_width: int, *, hidden_size: int | None = None, standardize: bool = False
    ) -> None:
        hidden_size = hidden_size or language_width
        first, second = nn.Linear(vision_width, hidden_size), nn.Linear(hidden_size, language_width)
        super().__init__(first, nn.GELU(), second)
        for layer in (first, second):
            nn.init.normal_(layer.weight, mean=0.0, std=0.01)
            nn.init.zeros_(layer.bias)
        statistics = (torch.zeros(vision_width), torch.ones(vision_width)) if standardize else (None, None)
        self.set_statistics(*statistics)

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        return nn.Sequential.forward(self, features)

    def num_tokens(self, grid: PatchGrid) -> int:
        return grid.features

    def token_grid(self, grid: PatchGrid) -> PatchGrid:
        return grid

    def folded(self) -> dict[str, torch.Tensor]:
        """Its four tensors with the statistics in the first layer: what a plain Linear, GELU, Linear computes with.

        W (x - mean) / std + b = (W / std) x + (b - (W / std) mean), in float64 and then in fp32.
        """
        state = {name: tensor.detach() for name, tensor in self.named_parameters()}
        if self.feature_mean is None or self.feature_std is None:
            return state
        weight = state["0.weight"].double() / self.feature_std.double()  # [H, Dv]
        bias = state["0.bias"].double() - weight @ self.feature_mean.double()  # [H]
        return {**state, "0.weight": weight.float(), "0.bias": bias.float()}
