"""The LSTM of the first VQA paper (Antol et al. 2015, arXiv:1505.00468), beside one vector of the picture."""

from __future__ import annotations

import torch
from torch import nn

from baselines.parts import Baseline, PictureVector, QuestionLSTM, Widths
from settings import Baselines


class LSTM(Baseline):
    """Question and picture are brought to one width, then multiplied or concatenated (``baselines.fusion``)."""

    picture = "vector"

    def __init__(self, widths: Widths, sizes: Baselines) -> None:
        super().__init__(widths, sizes)
        self.pointwise = sizes.fusion == "pointwise"
        self.text = QuestionLSTM(widths.words, sizes.embedding_size, sizes.lstm_size, sizes.dropout)
        self.vector = PictureVector(widths.patch)
        self.from_question = nn.Linear(sizes.lstm_size, sizes.hidden_size)
        self.from_picture = nn.Linear(widths.patch, sizes.hidden_size)
        self.classifier = nn.Sequential(
            nn.Dropout(sizes.dropout),
            nn.Linear(sizes.hidden_size * (1 if self.pointwise else 2), sizes.hidden_size),
            nn.Tanh(),
            nn.Dropout(sizes.dropout),
            nn.Linear(sizes.hidden_size, widths.answers),
        )

    def fit(self, vectors: torch.Tensor) -> None:
        self.vector.fit(vectors)

    def no_picture(self) -> torch.Tensor:
        return self.vector.mean

    def forward(self, patches: torch.Tensor, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        question = torch.tanh(self.from_question(self.text(input_ids, lengths)))  # [B, H]
        picture = torch.tanh(self.from_picture(self.vector(patches)))  # [B, H]
        joined = question * picture if self.pointwise else torch.cat([question, picture], 1)
        return self.classifier(joined)  # [B, A]
