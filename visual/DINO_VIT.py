"""DINOv2's vision tower, with and without register tokens (Oquab et al. 2023, arXiv:2304.07193; Darcet et al. 2023,
arXiv:2309.16588)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Dinov2Model, Dinov2WithRegistersModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from visual.SIGLIP_VIT import drop_blocks, selected

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object  # at run time, transformers' own class follows in the MRO


class DinoMixin(_Model):
    """``pixel_values`` [B, 3, H, W] -> features [B, 1 + N, D]: the class token, then the patches.

    Register tokens are left out, as their paper does: they are no part of the picture. Positions are interpolated to
    the grid of the picture in every call, so another resolution changes no weight.
    """

    states: tuple[int, ...] = ()  # the hidden states that are joined; empty: the last one alone

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        config.intermediate_size = int(config.hidden_size * config.mlp_ratio)
        self.embeddings.mask_token = None  # of its pretraining

    _keys_to_ignore_on_load_unexpected = [r"embeddings\.mask_token$"]

    @property
    def blocks(self) -> nn.ModuleList:
        return self.encoder.layer

    @property
    def final_norm(self) -> nn.Module:
        return self.layernorm

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> torch.Tensor:
        """``pixel_values`` [B, 3, H, W] -> features [B, 1 + N, D]."""
        features = selected(super().forward, self, pixel_values, kwargs)
        registers = getattr(self.config, "num_register_tokens", 0)
        return torch.cat([features[:, :1], features[:, 1 + registers :]], 1) if registers else features

    def resize(self, image_size: int) -> None:
        """Take pictures of ``image_size`` pixels."""
        self.config.image_size = image_size

    def end_at_layer(self, layer: int | Sequence[int], final_norm: bool = True) -> None:
        """Return hidden state ``layer`` from now on, by the rules of SigLIP's tower.

        Raises:
            ValueError: there is no such layer, or the last one is joined with others after the final norm.
        """
        if layer == -1 and final_norm:
            return
        if not isinstance(layer, int) and -1 in layer and final_norm:
            raise ValueError("the last layer can be joined with others only with vision.final_norm: false")
        drop_blocks(self, layer)
        self.layernorm = nn.Identity()


class DinoViT(DinoMixin, Dinov2Model):
    """DINOv2."""


class DinoRegistersViT(DinoMixin, Dinov2WithRegistersModel):
    """DINOv2 with registers."""


# Published files have older names of the attention's matrices. transformers renames them by the name of its own class.
for _own, _theirs in ((DinoViT, Dinov2Model), (DinoRegistersViT, Dinov2WithRegistersModel)):
    register_checkpoint_conversion_mapping(
        _own.__name__, get_checkpoint_conversion_mapping(_theirs.__name__), overwrite=True
    )
