"""SigLIP's vision tower as a plain tensor of patch features.

SigLIP and SigLIP 2 of fixed resolution share one architecture and one key layout (both are ``model_type: siglip``).
A folder may hold the vision tower alone or both towers; only the vision tower is read.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel, SiglipVisionModel

# Tensors of a checkpoint of both towers that are not part of the vision tower.
TEXT_TOWER = [r"^text_model\.", r"^text_projection\.", r"^visual_projection\.", r"^logit_scale$", r"^logit_bias$"]
# A table of 0, 1, 2, ... that older versions of transformers saved.
POSITION_IDS = r"embeddings\.position_ids$"


class SiglipViT(SiglipVisionModel):
    """transformers' SigLIP vision model whose ``forward`` returns the last hidden state and nothing else.

    There is no class token: so400m/14 at 384 px gives 27 x 27 = 729 patches, in reading order. Its one convolution is
    0.15 % of the arithmetic, so ``channels_last`` does not pay (26.0 ms instead of 20.6 ms on one core).
    """

    _keys_to_ignore_on_load_unexpected = [*TEXT_TOWER, POSITION_IDS]

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> torch.Tensor:
        """``pixel_values`` [B, 3, H, W] -> last hidden state [B, N, D], after the final layer norm."""
        return super().forward(pixel_values=pixel_values.to(self.dtype), **kwargs).last_hidden_state

    def end_at_layer(self, layer: int) -> None:
        """Return hidden state ``layer`` from now on, counted as transformers does: -1 is the last, -2 the one before.

        An earlier state is the plain output of its block: the final norm is for the last state only. The pooling head
        (15 of so400m's 428 million parameters) is removed in any case, because nothing reads its output.

        Raises:
            ValueError: there is no such layer.
        """
        self.use_head, self.head = False, None
        if layer != -1:
            drop_blocks(self, layer)
            self.post_layernorm = nn.Identity()


def drop_blocks(tower: PreTrainedModel, layer: int) -> None:
    """Remove the blocks after hidden state ``layer``: they would cost memory and time, and nothing reads their output.

    Raises:
        ValueError: there is no such layer.
    """
    blocks = tower.encoder.layers
    if not -len(blocks) <= layer <= -1:
        raise ValueError(f"layer {layer} of an encoder of {len(blocks)} blocks; expected -{len(blocks)} to -1")
    del blocks[len(blocks) + 1 + layer :]
    tower.config.num_hidden_layers = len(blocks)


def resize_positions(tower: PreTrainedModel, image_size: int) -> None:
    """Change a tower to another resolution: its position embeddings are interpolated (bicubic) once and kept.

    The numbers are those that transformers' ``interpolate_pos_encoding`` computes in every call.
    """
    embeddings = tower.embeddings
    class_tokens = embeddings.num_positions - embeddings.num_patches  # CLIP's; its embedding is not interpolated
    side = image_size // embeddings.patch_size
    old = embeddings.position_embedding.weight.detach()  # [class_tokens + N, D]
    old_side = int(embeddings.num_patches**0.5)
    grid = old[class_tokens:].float().reshape(1, old_side, old_side, -1).permute(0, 3, 1, 2)  # [1, D, n, n]
    grid = nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)  # [1, D, n', n']
    patches = grid.permute(0, 2, 3, 1).flatten(0, 2).to(old.dtype)  # [N', D]
    new = torch.cat([old[:class_tokens], patches])  # [class_tokens + N', D]
    embeddings.position_embedding = nn.Embedding.from_pretrained(new, freeze=False)
    embeddings.position_ids = torch.arange(len(new), device=old.device)[None]
    embeddings.num_patches, embeddings.num_positions = side * side, len(new)
    embeddings.image_size = tower.config.image_size = image_size
