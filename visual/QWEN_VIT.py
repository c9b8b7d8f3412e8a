"""The vision tower of the first Qwen-VL: OpenCLIP's ViT-bigG without class token and final norm.

Its blocks are CLIP's with an exact GELU. Its table of positions is 16 x 16 whatever the image size is, and is
interpolated to the grid of the picture.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig

from common.qwen_vl import visual_sizes
from visual.CLIP_VIT import ClipViT
from visual.SIGLIP_VIT import interpolate_positions

_NAMES = (  # of Qwen-VL, and of transformers' CLIP
    (r"^conv1\.", "embeddings.patch_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


class QwenVitConfig(CLIPVisionConfig):
    model_type = "qwen_vl_vision_model"


class PatchEmbeddings(nn.Module):
    """Patches and their positions, under the names of CLIP's."""

    def __init__(self, config: QwenVitConfig) -> None:
        super().__init__()
        self.image_size, self.patch_size = config.image_size, config.patch_size
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size, bias=False)
        self.num_patches = self.num_positions = (config.image_size // config.patch_size) ** 2
        self.position_embedding = nn.Embedding(self.num_positions, config.hidden_size)

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool | None = False) -> torch.Tensor:
        """``pixel_values`` [B, 3, H, W] -> [B, N, D]."""
        return self.patch_embedding(pixel_values).flatten(2).transpose(1, 2) + self.position_embedding.weight


class QwenViT(ClipViT):
    """``pixel_values`` [B, 3, H, W] -> features [B, N, D], the output of the last block."""

    config_class = QwenVitConfig

    def __init__(self, config: QwenVitConfig) -> None:
        super().__init__(config)
        self.embeddings = PatchEmbeddings(config)
        self.post_layernorm = nn.Identity()


def vit_config(content: dict[str, Any], image_size: int | None = None) -> QwenVitConfig:
    """From the content of Qwen-VL's config.json; ``image_size`` is another resolution than its own, in pixels."""
    visual = visual_sizes(content)
    return QwenVitConfig(
        hidden_size=visual["width"],
        intermediate_size=int(visual["width"] * visual["mlp_ratio"]),
        num_hidden_layers=visual["layers"],
        num_attention_heads=visual["heads"],
        image_size=image_size or visual["image_size"],
        patch_size=visual["patch_size"],
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )


def vit_state(state: dict[str, torch.Tensor], config: QwenVitConfig) -> dict[str, torch.Tensor]:
    """The tower's tensors by the names of :class:`QwenViT`, positions at its resolution.

    The rows of ``in_proj`` are the queries, keys and values of the first head, then those of the second.
    """
    found = {}
    for name, tensor in state.items():
        for old, new in _NAMES:
            name = re.sub(old, new, name)
        if ".in_proj." in name:
            heads = tensor.unflatten(0, (config.num_attention_heads, 3, -1))  # [H, 3, E, ...]
            for index, part in enumerate("qkv"):
                found[name.replace(".in_proj.", f".{part}_proj.")] = heads[:, index].flatten(0, 1)
        else:
            found[name] = tensor
    positions = "embeddings.position_embedding.weight"
    if positions in found:
        found[positions] = interpolate_positions(found[positions], 0, config.image_size // config.patch_size)
    return found
