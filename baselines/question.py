"""The question alone, as a bag of words: a learnt blind floor. A model that sees has to be above it."""

from __future__ import annotations

import torch
from torch import nn

from baselines.parts import Baseline, Widths
from settings import Baselines


class Question(Baseline):
    """Words are counted, embedded and added up; a linear layer chooses the answer."""

    picture = "none"

    def __init__(self, widths: Widths, sizes: Baselines) -> None:
        super().__init__(widths, sizes)
        self.bag = nn.EmbeddingBag(widths.words, sizes.hidden_size, mode="sum", padding_idx=0)
        self.classifier = nn.Linear(sizes.hidden_size, widths.answers)

    def forward(self, patches: torch.Tensor, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.bag(input_ids))  # [B, A]
