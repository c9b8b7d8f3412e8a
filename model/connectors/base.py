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
    """

    name: ClassVar[str]  # its key in model.connectors.CONNECTORS

    @abstractmethod
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """``features`` [K, N, Dv], in :attr:`dtype` -> visual tokens [K, M, Dl]."""

    @abstractmethod
    def num_tokens(self, grid: PatchGrid) -> int:
        """How many visual tokens a picture with the features of ``grid`` becomes."""

    @abstractmethod
    def token_grid(self, grid: PatchGrid) -> PatchGrid | None:
        """The part of the picture that each visual token belongs to, so that a heat map can draw them.

        The tokens are first the result's ``kept_class_tokens``, which have no position, and then its cells in reading
        order without the first ``dropped_patches``. None if tokens do not belong to one part of the picture each.
        """

    @property
    def dtype(self) -> torch.dtype:
        """Of its parameters, and so of the features it takes."""
        return next(self.parameters()).dtype
