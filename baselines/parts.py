"""What the models share: what each of them is, a question as the state of an LSTM, a picture as one vector.

A model maps patches [B, N, D], ``input_ids`` [B, T] and lengths [B] to logits [B, A] over the answers that it knows.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from settings import Baselines


class Widths(NamedTuple):
    """What a model has to fit: how many words and answers it knows, and the width of a patch."""

    words: int  # of the vocabulary, the unknown word (0) included
    answers: int
    patch: int  # D


class Baseline(nn.Module):
    """A model that chooses an answer."""

    # What it is given of a picture: nothing, the mean of the patches [B, 1, D], or all patches [B, N, D].
    picture: ClassVar[Literal["none", "vector", "grid"]]

    def __init__(self, widths: Widths, sizes: Baselines) -> None:
        super().__init__()

    def fit(self, vectors: torch.Tensor) -> None:
        """Learn the scale of the training pictures' mean patches [I, D]. A model of all patches needs none."""

    def no_picture(self) -> torch.Tensor | None:
        """The patch [D] that it is given where a question comes without a picture; None: zeros."""
        return None


class QuestionLSTM(nn.Module):
    """A question as the last cell state of an LSTM over its words: ``input_ids`` [B, T] -> [B, lstm_size].

    Embeddings get dropout, then tanh, as in Show, Ask, Attend and Answer. Word 0 is the unknown word; what pads a
    question is never read.
    """

    def __init__(self, words: int, embedding_size: int, lstm_size: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, embedding_size)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(embedding_size, lstm_size, batch_first=True)

    def forward(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        embedded = torch.tanh(self.dropout(self.embedding(input_ids)))  # [B, T, E]
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (_, cell) = self.lstm(packed)
        return cell[0]  # [B, lstm_size]


class PictureVector(nn.Module):
    """A picture as the mean of its patches, each number standardised over the training pictures: [B, N, D] -> [B, D].

    Towers differ in the size of their features by a hundred times; standardised, one learning rate suits them all.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def fit(self, vectors: torch.Tensor) -> None:
        """Take mean and standard deviation from the training pictures [I, D]."""
        self.mean.copy_(vectors.mean(0))
        self.deviation.copy_(vectors.std(0, unbiased=False).clamp_min(1e-6))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return (patches.mean(1) - self.mean) / self.deviation
