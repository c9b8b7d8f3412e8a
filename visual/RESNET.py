"""A ResNet as the models of 2015 used it: the last feature map as a sequence of patches."""

from __future__ import annotations

import torch
from transformers import ResNetModel


class ResNetTower(ResNetModel):
    """transformers' ResNet whose ``forward`` returns features and nothing else.

    ResNet-152 at 448 px gives 14 x 14 = 196 patches of 2,048 numbers, in reading order.
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> torch.Tensor:
        """``pixel_values`` [B, 3, H, W] -> features [B, N, D]."""
        features = super().forward(pixel_values.to(self.dtype), **kwargs).last_hidden_state  # [B, D, h, w]
        return features.flatten(2).transpose(1, 2)
