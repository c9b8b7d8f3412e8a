"""Embeddings that differ for the tokens that the pretraining never wrote, so that LoRA can learn to write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from demo import BACKBONES

ALIKE = (
    0.95  # cosine with the mean row: at least 0.997 for the 647 tokens that are never answers, at most 0.92 for others
)


@torch.no_grad()
def separate_unused(table: torch.Tensor, generator: torch.Generator) -> int:
    """Change the rows of ``table`` [V, D] that are alike; return how many there were.

    The table is also the output matrix, and each answer of the pretraining pushed all rows of other tokens the same
    way. A row becomes 0.7 of their mean, which keeps the token as unlikely as before, and 0.7 of its length in a random
    direction. The mean length of the rows stays: visual tokens are compared with it (model/sight.py).
    """
    alike = F.cosine_similarity(table, table.mean(0, keepdim=True)) > ALIKE  # [V]
    mean = table[alike].mean(0)  # [D]
    random = F.normalize(torch.randn(int(alike.sum()), len(mean), generator=generator), dim=1) * mean.norm()
    table[alike] = 0.5**0.5 * (mean + random)
    return int(alike.sum())


def separate_rows() -> None:
    """Do this to the language model in ``demo/backbones``."""
    model = AutoModelForCausalLM.from_pretrained(BACKBONES / "qwen")
    count = separate_unused(model.get_input_embeddings().weight, torch.Generator().manual_seed(0))
    model.save_pretrained(BACKBONES / "qwen")
    print(f"spelling: {count} rows changed")
