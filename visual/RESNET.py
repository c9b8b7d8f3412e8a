"""ResNet's last feature map as grid features, as systems before transformers used them (Jiang et al. 2020,
arXiv:2001.03615)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import ResNetConfig, ResNetModel

STRIDE = 32  # pixels that one cell of the last feature map stands for


class ResNetTower(ResNetModel):
    """``pixel_values`` [B, 3, H, W] -> features [B, N, D] of H / 32 x W / 32 cells in reading order."""

    states: tuple[int, ...] = ()
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        config.hidden_size, config.num_hidden_layers = config.hidden_sizes[-1], sum(config.depths)
        config.intermediate_size = 4 * config.hidden_size  # for the memory estimate, as if a cell was a token
        config.patch_size = STRIDE
        config.image_size = getattr(config, "image_size", 224)  # its config.json has none

    @property
    def blocks(self) -> nn.ModuleList:
        return self.encoder.stages

    @property
    def final_norm(self) -> nn.Module:
        return nn.Identity()

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> torch.Tensor:
        """``pixel_values`` [B, 3, H, W] -> features [B, N, D]."""
        output = super().forward(pixel_values.to(self.dtype), **kwargs)
        return output.last_hidden_state.flatten(2).transpose(1, 2)

    def resize(self, image_size: int) -> None:
        """Take pictures of ``image_size`` pixels, a multiple of 32."""
        self.config.image_size = image_size

    def end_at_layer(self, layer: int | Sequence[int], final_norm: bool = True) -> None:
        """Raises ValueError if ``layer`` is not -1: only the last feature map is given."""
        if layer != -1:
            raise ValueError(f"layer {layer} of a ResNet, which gives its last feature map alone; expected -1")
