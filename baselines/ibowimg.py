"""iBOWIMG (Zhou et al. 2015, arXiv:1512.02167): a bag of words beside one vector of the picture, and a softmax."""

from __future__ import annotations

import torch
from torch import nn

from baselines.parts import Baseline, PictureVector, Widths
from settings import Baselines


class IBowImg(Baseline):
    """A linear layer over both, so words and picture add to the score of an answer and never act together."""

    picture = "vector"

    def __init__(self, widths: Widths, sizes: Baselines) -> None:
        super().__init__(widths, sizes)
        self.bag = nn.EmbeddingBag(widths.words, sizes.hidden_size, mode="sum", padding_idx=0)
        self.vector = PictureVector(widths.patch)
        self.classifier = nn.Linear(sizes.hidden_size + widths.patch, widths.answers)

    def fit(self, vectors: torch.Tensor) -> None:
        self.vector.fit(vectors)

    def no_picture(self) -> torch.Tensor:
        return self.vector.mean

    def forward(self, patches: torch.Tensor, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.cat([self.bag(input_ids), self.vector(patches)], 1))  # [B, A]
