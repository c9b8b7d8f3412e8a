"""Towers of the optional package timm: EVA-CLIP and EVA-02, ViTs such as ViT-bigG, and ResNets.

A folder as timm puts it on the hub: config.json with ``architecture`` and ``pretrained_cfg``, and model.safetensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from common.errors import UserError
from common.optional import is_installed
from visual.geometry import tower_sizes


class TimmConfig(PreTrainedConfig):
    """``architecture`` and ``model_args`` are timm's; the sizes are in pixels."""

    model_type = "timm_vision_model"
    architecture: str = ""
    model_args: dict[str, Any] | None = None
    image_size: int = 224
    patch_size: int = 16
    class_tokens: int = 0


class TimmTower(PreTrainedModel):
    """``pixel_values`` [B, 3, H, W] -> features [B, class tokens + N, D]; register tokens are left out."""

    config_class = TimmConfig
    states: tuple[int, ...] = ()
    trunk: Any  # the model of timm, which has no types

    def __init__(self, config: TimmConfig) -> None:
        super().__init__(config)
        if not is_installed("timm"):
            raise UserError(f"vision.path: {config.architecture} is a model of timm; pip install timm")
        import timm

        try:
            self.trunk = timm.create_model(config.architecture, num_classes=0, **(config.model_args or {}))
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"vision.path: timm cannot make {config.architecture} ({error})") from None
        if hasattr(self.trunk, "fc_norm"):
            self.trunk.fc_norm = nn.Identity()  # of the pooled output, which nothing reads
        config.hidden_size = self.trunk.num_features
        config.num_hidden_layers, config.intermediate_size = len(self.blocks), 4 * config.hidden_size
        self.registers = getattr(self.trunk, "num_reg_tokens", 0)
        found = getattr(self.trunk, "num_prefix_tokens", 0) - self.registers
        if found != config.class_tokens:
            wanted = config.class_tokens
            raise UserError(f"vision.path: {config.architecture} has {found} class tokens, expected {wanted}")
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """timm has made its own start."""

    @property
    def blocks(self) -> nn.ModuleList:
        return getattr(self.trunk, "blocks", nn.ModuleList())

    @property
    def final_norm(self) -> nn.Module:
        return getattr(self.trunk, "norm", nn.Identity())

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> torch.Tensor:
        """``pixel_values`` [B, 3, H, W] -> features [B, class tokens + N, D]."""
        features = self.trunk.forward_features(pixel_values.to(self.dtype))
        if features.ndim == 4:  # of a ResNet, [B, D, h, w]
            return features.flatten(2).transpose(1, 2)
        classes = self.config.class_tokens
        return torch.cat([features[:, :classes], features[:, classes + self.registers :]], 1)

    def resize(self, image_size: int) -> None:
        """Raises UserError: a timm tower has the resolution of its weights."""
        raise UserError(f"vision.image_size: {image_size}, but a tower of timm keeps its own size; set it to null")

    def end_at_layer(self, layer: int | Sequence[int], final_norm: bool = True) -> None:
        """Return the output of block ``layer`` from now on; -1 is the last. Before the last, it has no norm.

        Raises:
            ValueError: there is no such layer, or several are asked for.
        """
        if layer == -1 and final_norm:
            return
        blocks = self.blocks
        if not isinstance(layer, int) or not -len(blocks) <= layer <= -1:
            raise ValueError(f"layer {layer} of a timm tower of {len(blocks)} blocks; expected one number from -1 down")
        del blocks[len(blocks) + 1 + layer :]
        self.trunk.norm = nn.Identity()
        self.config.num_hidden_layers = len(blocks)


def timm_config(content: dict[str, Any]) -> TimmConfig:
    """From the content of timm's config.json."""
    size, patch, class_tokens = tower_sizes(content)
    return TimmConfig(
        architecture=content["architecture"],
        model_args=content.get("model_args"),
        image_size=size,
        patch_size=patch,
        class_tokens=class_tokens,
    )


def timm_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a file by the names of :class:`TimmTower`, without the heads, which read the pooled output."""
    heads = ("head.", "fc.", "fc_norm.")
    return {f"trunk.{name}": tensor for name, tensor in state.items() if not name.startswith(heads)}
