"""Linear layers with GELU between them, for each feature alone (Liu et al. 2023, arXiv:2310.03744, section 3.2)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from model.connectors.base import Connector
from visual.geometry import PatchGrid


def mlp_layers(width_in: int, hidden_size: int, width_out: int, layers: int) -> list[nn.Module]:
    """``layers`` linear layers with GELU between them. Weights start from N(0, 0.01), biases at 0."""
    widths = [width_in, *[hidden_size] * (layers - 1), width_out]
    linears = [nn.Linear(*pair) for pair in pairwise(widths)]
    for linear in linears:
        nn.init.normal_(linear.weight, mean=0.0, std=0.01)
        nn.init.zeros_(linear.bias)
    return [linears[0], *(module for linear in linears[1:] for module in (nn.GELU(), linear))]


class MLPConnector(Connector, nn.Sequential):
    """Linear, GELU, Linear: one visual token for each feature.

    Weights start from N(0, 0.01), biases at 0, as the design has it. In checkpoints its parameters are ``0.weight``,
    ``0.bias``, ``2.weight`` and ``2.bias``; with more layers ``4.weight`` and so on.

    Args:
        vision_width: Dv, of the tower's features.
        language_width: Dl, of the language model's embeddings.
        hidden_size: width between the layers (None: ``language_width``).
        layers: how many linear layers, 2 or more.
        standardize: begin with statistics that change nothing (mean 0, deviation 1), to be set before training.
    """

    name = "mlp"

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        *,
        hidden_size: int | None = None,
        layers: int = 2,
        standardize: bool = False,
    ) -> None:
        super().__init__(*mlp_layers(vision_width, hidden_size or language_width, language_width, layers))
        self.start_statistics(vision_width, standardize)

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        return nn.Sequential.forward(self, features)

    def num_tokens(self, grid: PatchGrid) -> int:
        return grid.features

    def token_grid(self, grid: PatchGrid) -> PatchGrid:
        return grid

    def folded(self) -> dict[str, torch.Tensor]:
        """Its parameters with the statistics in the first layer: what a plain Linear, GELU, Linear computes with.

        W (x - mean) / std + b = (W / std) x + (b - (W / std) mean), in float64 and then in fp32.
        """
        state = {name: tensor.detach() for name, tensor in self.named_parameters()}
        if self.feature_mean is None or self.feature_std is None:
            return state
        weight = state["0.weight"].double() / self.feature_std.double()  # [H, Dv]
        bias = state["0.bias"].double() - weight @ self.feature_mean.double()  # [H]
        return {**state, "0.weight": weight.float(), "0.bias": bias.float()}
