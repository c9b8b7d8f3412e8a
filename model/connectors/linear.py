"""One linear layer, for each feature alone (LLaVA: Liu et al. 2023, arXiv:2304.08485, equation 1)."""

from __future__ import annotations

import torch
from torch import nn

from model.connectors.base import Connector
from visual.geometry import PatchGrid


class LinearConnector(Connector):
    """H = W Z: one visual token for each feature.

    Weights start from N(0, 0.01) and the bias at 0, as the MLP's do. torch's own start, which LLaVA's code keeps, gives
    tokens twice as long.

    Args:
        vision_width: Dv, of the tower's features.
        language_width: Dl, of the language model's embeddings.
        standardize: begin with statistics that change nothing (mean 0, deviation 1), to be set before training.
    """

    name = "linear"

    def __init__(self, vision_width: int, language_width: int, *, standardize: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(vision_width, language_width)
        nn.init.normal_(self.linear.weight, mean=0.0, std=0.01)
        nn.init.zeros_(self.linear.bias)
        self.start_statistics(vision_width, standardize)

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features)  # [K, N, Dl]

    def num_tokens(self, grid: PatchGrid) -> int:
        return grid.features

    def token_grid(self, grid: PatchGrid) -> PatchGrid:
        return grid
