"""What every connector answers, so that nothing else in the project needs to know which one a run has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

from visual.geometry import PatchGrid


class Connector(nn.Module, ABC):
    """Turns the features of a vision tower into visual tokens: [K, N, Dv] -> [K, M, Dl].

    N is ``grid.features`` and M is ``num_tokens(grid)``, the same for every picture. All parameters are trained.

    Features are standardised first: each of their Dv dimensions has mean 0 and standard deviation 1 over the tokens of
    training pictures. The features of a tower share one large component, and Adam makes what they share larger first:
    after 150 pictures without this, visual tokens were 41 times as long as words and nearly alike (docs/sight.md). The
    statistics are the buffers ``feature_mean`` and ``feature_std`` [Dv], fixed before the first step. A connector
    without them takes features as they are.
    """

    name: ClassVar[str]  # its key in model.connectors.CONNECTORS
    needs_grid: ClassVar[bool] = False  # its constructor is given the grid of the features
    needs_decoder_layers: ClassVar[bool] = False  # its constructor is given how many the language model has
    in_sequence: ClassVar[bool] = True  # what it gives replaces the placeholders; else it is read from outside
    feature_mean: torch.Tensor | None
    feature_std: torch.Tensor | None

    def start_statistics(self, width: int, standardize: bool) -> None:
        """With ``standardize``, statistics [``width``] that change nothing (mean 0, deviation 1); else none."""
        self.set_statistics(*((torch.zeros(width), torch.ones(width)) if standardize else (None, None)))

    def set_statistics(self, mean: torch.Tensor | None, std: torch.Tensor | None) -> None:
        """Standardise features by ``mean`` and ``std`` [Dv]; not at all if they are None."""
        for name, value in (("feature_mean", mean), ("feature_std", std)):
            self.register_buffer(name, None if value is None else value.detach().clone())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """``features`` [K, N, Dv] -> visual tokens [K, M, Dl]."""
        return self.tokens(self.standardised(features))

    def standardised(self, features: torch.Tensor) -> torch.Tensor:
        """``features`` [K, N, Dv] by the statistics, in :attr:`dtype`."""
        if self.feature_mean is not None and self.feature_std is not None:
            # In fp32: the mean is several times as long as what differs, and bf16 keeps 8 bits.
            features = (features.float() - self.feature_mean.float()) / self.feature_std.float()  # [K, N, Dv]
        return features.to(self.dtype)

    @abstractmethod
    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        """``features`` [K, N, Dv], standardised and in :attr:`dtype` -> visual tokens [K, M, Dl]."""

    @abstractmethod
    def num_tokens(self, grid: PatchGrid) -> int:
        """How many visual tokens a picture with the features of ``grid`` becomes."""

    @abstractmethod
    def token_grid(self, grid: PatchGrid) -> PatchGrid | None:
        """The part of the picture that each visual token belongs to, so that a heat map can draw them.

        The tokens are first the result's ``kept_class_tokens``, which have no position, and then its cells in reading
        order without the first ``dropped_patches``. None if tokens do not belong to one part of the picture each.
        """

    def looks(self, features: torch.Tensor) -> torch.Tensor | None:
        """How much each visual token attended to each of ``features`` [K, N, Dv], standardised: [K, M, N].

        A mean over heads and layers; each token's sum is 1. None if the tokens are not learnt queries.
        """
        return None

    @property
    def dtype(self) -> torch.dtype:
        """Of its parameters."""
        return next(self.parameters()).dtype
