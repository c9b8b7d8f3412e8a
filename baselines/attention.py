"""Show, Ask, Attend and Answer (Kazemi and Elqursh 2017, arXiv:1704.03162): the question chooses where to look.

As the public PyTorch re-implementation computes it; tests/baselines/test_attention.py holds its numbers.
"""

from __future__ import annotations

import torch
from torch import nn

from baselines.parts import Baseline, QuestionLSTM, Widths
from settings import Baselines


class Glimpses(nn.Module):
    """How much each glimpse looks at each patch: patches [B, N, D] and questions [B, Q] -> scores [B, G, N].

    A 1 x 1 convolution over patches is a linear layer of each patch.
    """

    def __init__(self, patch: int, question: int, width: int, glimpses: int, dropout: float) -> None:
        super().__init__()
        self.v_conv = nn.Linear(patch, width, bias=False)
        self.q_lin = nn.Linear(question, width)
        self.x_conv = nn.Linear(width, glimpses)
        self.dropout = nn.Dropout(dropout)

    def forward(self, patches: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        hidden = self.v_conv(self.dropout(patches)) + self.q_lin(self.dropout(question))[:, None]  # [B, N, width]
        return self.x_conv(self.dropout(hidden.relu())).transpose(1, 2)


class Attention(Baseline):
    """Two glimpses at the normalised patches, joined with the question and classified."""

    picture = "grid"

    def __init__(self, widths: Widths, sizes: Baselines) -> None:
        super().__init__(widths, sizes)
        question, patch, dropout = sizes.lstm_size, widths.patch, sizes.dropout
        self.text = QuestionLSTM(widths.words, sizes.embedding_size, question, dropout)
        self.attention = Glimpses(patch, question, sizes.attention_size, sizes.glimpses, dropout)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(sizes.glimpses * patch + question, sizes.hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(sizes.hidden_size, widths.answers),
        )

    def forward(self, patches: torch.Tensor, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        question = self.text(input_ids, lengths)  # [B, Q]
        patches = normalised(patches)
        weights = self.attention(patches, question).softmax(-1)  # [B, G, N]
        glimpses = (weights @ patches).flatten(1)  # [B, G * D]
        return self.classifier(torch.cat([glimpses, question], 1))  # [B, A]

    def weights(self, patches: torch.Tensor, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Where each glimpse looks: [B, G, N], each map adding up to 1."""
        return self.attention(normalised(patches), self.text(input_ids, lengths)).softmax(-1)


def normalised(patches: torch.Tensor) -> torch.Tensor:
    """Each patch [B, N, D] over its length plus 1e-8: a patch of zeros stays zero."""
    return patches / (patches.norm(dim=-1, keepdim=True) + 1e-8)
