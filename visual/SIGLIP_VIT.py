"""The picture's side: a SigLIP vision tower that returns a plain tensor of patch features.

SigLIP and SigLIP 2 of fixed resolution share one architecture and one key layout (both are ``model_type: siglip``).
A folder may hold the vision tower alone or both towers; only the vision part is read.
"""

from __future__ import annotations

import torch
from transformers import SiglipVisionModel


class SiglipViT(SiglipVisionModel):
    """transformers' SigLIP vision model whose ``forward`` gives the last hidden state and nothing else.

    There is no CLS token: so400m/14 at 384 px gives 27 x 27 = 729 patches, in reading order.
    """

    # A two-tower checkpoint also holds the text tower and the two logit parameters; they are not ours to load.
    _keys_to_ignore_on_load_unexpected = [r"^text_model\.", r"^logit_scale$", r"^logit_bias$"]

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> torch.Tensor:
        """``pixel_values`` [B, 3, H, W] -> last hidden state [B, N, D], behind the final layer norm."""
        return super().forward(pixel_values=pixel_values.to(self.dtype), **kwargs).last_hidden_state
