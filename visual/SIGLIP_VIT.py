"""SigLIP's vision tower as a plain tensor of patch features.

SigLIP and SigLIP 2 of fixed resolution share one architecture and one key layout (both are ``model_type: siglip``).
A folder may hold the vision tower alone or both towers; only the vision tower is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, SiglipVisionModel

# Tensors of a checkpoint of both towers that are not part of the vision tower.
TEXT_TOWER = [r"^text_model\.", r"^text_projection\.", r"^visual_projection\.", r"^logit_scale$", r"^logit_bias$"]
# A table of 0, 1, 2, ... that older versions of transformers saved.
POSITION_IDS = r"embeddings\.position_ids$"


class SiglipViT(SiglipVisionModel):
    """transformers' SigLIP vision model whose ``forward`` returns features and nothing else.

    There is no class token: so400m/14 at 384 px gives 27 x 27 = 729 patches, in reading order. Its one convolution is
    0.15 % of the arithmetic, so ``channels_last`` does not pay (26.0 ms instead of 20.6 ms on one core).
    """

    _keys_to_ignore_on_load_unexpected = [*TEXT_TOWER, POSITION_IDS]

    states: tuple[int, ...] = ()  # the hidden states that are joined; empty: the last one alone

    @property
    def blocks(self) -> nn.ModuleList:
        return self.encoder.layers

    @property
    def final_norm(self) -> nn.Module:
        return self.post_layernorm

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> torch.Tensor:
        """``pixel_values`` [B, 3, H, W] -> features [B, N, D]: the last hidden state, or several of them joined."""
        return selected(super().forward, self, pixel_values, kwargs)

    def end_at_layer(self, layer: int | Sequence[int], final_norm: bool = True) -> None:
        """Return hidden state ``layer`` from now on, counted as transformers does: -1 is the last, -2 the one before.

        Of several layers, the hidden states are joined in their order. Hidden states before the last are the plain
        output of their block, and with ``final_norm: False`` the last is too. The pooling head (15 of so400m's 428
        million parameters) is removed in any case, because nothing reads its output.

        Raises:
            ValueError: there is no such layer, or the last one is joined with others after the final norm.
        """
        self.use_head, self.head = False, None
        if layer == -1 and final_norm:
            return
        if not isinstance(layer, int) and -1 in layer and final_norm:
            raise ValueError("the last layer can be joined with others only with vision.final_norm: false")
        drop_blocks(self, layer)
        self.post_layernorm = nn.Identity()


def selected(
    forward: Callable[..., Any], tower: PreTrainedModel, pixel_values: torch.Tensor, kwargs: dict[str, Any]
) -> torch.Tensor:
    """The features of a tower [B, N, D] by transformers' own ``forward``."""
    pixel_values = pixel_values.to(tower.dtype)
    if not tower.states:
        return forward(pixel_values=pixel_values, **kwargs).last_hidden_state
    hidden_states = forward(pixel_values=pixel_values, output_hidden_states=True, **kwargs).hidden_states
    return torch.cat([hidden_states[state] for state in tower.states], -1)  # [B, N, layers * D]


def feature_width(tower: PreTrainedModel) -> int:
    """D of a tower's features."""
    return tower.config.hidden_size * max(1, len(tower.states))


def drop_blocks(tower: PreTrainedModel, layer: int | Sequence[int]) -> None:
    """Remove the blocks after hidden state ``layer``: they would cost memory and time, and nothing reads their output.

    Of several layers, the blocks after the last of them.

    Raises:
        ValueError: there is no such layer.
    """
    blocks = tower.blocks
    layers = [layer] if isinstance(layer, int) else list(layer)
    for one in layers:
        if not -len(blocks) <= one <= -1:
            raise ValueError(f"layer {one} of an encoder of {len(blocks)} blocks; expected -{len(blocks)} to -1")
    states = tuple(len(blocks) + 1 + one for one in layers)  # hidden state 0 is the input of the first block
    del blocks[max(states) :]
    tower.config.num_hidden_layers = len(blocks)
    tower.states = () if isinstance(layer, int) else states


def resize_positions(tower: PreTrainedModel, image_size: int) -> None:
    """Change a tower to another resolution: its position embeddings are interpolated (bicubic) once and kept.

    The numbers are those that transformers' ``interpolate_pos_encoding`` computes in every call.
    """
    embeddings = tower.embeddings
    class_tokens = embeddings.num_positions - embeddings.num_patches  # CLIP's; its embedding is not interpolated
    side = image_size // embeddings.patch_size
    new = interpolate_positions(embeddings.position_embedding.weight.detach(), class_tokens, side)
    embeddings.position_embedding = nn.Embedding.from_pretrained(new, freeze=False)
    embeddings.position_ids = torch.arange(len(new), device=new.device)[None]
    embeddings.num_patches, embeddings.num_positions = side * side, len(new)
    embeddings.image_size = tower.config.image_size = image_size


def interpolate_positions(old: torch.Tensor, class_tokens: int, side: int) -> torch.Tensor:
    """Position embeddings [class_tokens + n * n, D] -> [class_tokens + side * side, D], bicubic, in the same dtype."""
    old_side = math.isqrt(len(old) - class_tokens)
    grid = old[class_tokens:].float().reshape(1, old_side, old_side, -1).permute(0, 3, 1, 2)  # [1, D, n, n]
    grid = nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)  # [1, D, n', n']
    patches = grid.permute(0, 2, 3, 1).flatten(0, 2).to(old.dtype)  # [N', D]
    return torch.cat([old[:class_tokens], patches])
