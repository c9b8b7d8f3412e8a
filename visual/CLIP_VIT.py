"""CLIP's vision tower as LLaVA uses it: a tensor of features of any of its layers, the class token first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import CLIPVisionModel

from visual.SIGLIP_VIT import POSITION_IDS, TEXT_TOWER, drop_blocks, selected


class ClipViT(CLIPVisionModel):
    """transformers' CLIP vision model whose ``forward`` returns one hidden state and nothing else.

    The first token is a real class token: ViT-L/14 at 336 px gives 1 + 24 x 24 = 577 tokens. LLaVA takes the hidden
    state before the last (``vision.layer: -2``) and drops the class token.
    """

    base_model_prefix = "vision_model"  # the prefix of its tensors in a checkpoint of both towers
    _keys_to_ignore_on_load_unexpected = [*TEXT_TOWER, POSITION_IDS]

    states: tuple[int, ...] = ()  # the hidden states that are joined; empty: the last one alone

    @property
    def blocks(self) -> nn.ModuleList:
        return self.encoder.layers

    @property
    def final_norm(self) -> nn.Module:
        return self.post_layernorm

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> torch.Tensor:
        """``pixel_values`` [B, 3, H, W] -> features [B, 1 + N, D], the output of a block, without a norm."""
        return selected(super().forward, self, pixel_values, kwargs)

    def end_at_layer(self, layer: int | Sequence[int], final_norm: bool = True) -> None:
        """Return hidden state ``layer`` from now on, counted as transformers does: -1 is the last, -2 the one before.

        Of several layers, the hidden states are joined in their order. CLIP's final norm is for the pooled output,
        which nothing reads, so ``final_norm`` changes nothing.

        Raises:
            ValueError: there is no such layer.
        """
        drop_blocks(self, layer)
        self.post_layernorm = nn.Identity()
