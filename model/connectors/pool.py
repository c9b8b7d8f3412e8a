"""n x n neighbouring patches become one visual token: pixel shuffle, then the MLP.

InternVL 1.5 (Chen et al. 2024, arXiv:2404.16821, section 3.1) joins 2 x 2 patches, SmolVLM (Marafioti et al. 2025,
arXiv:2504.05299, section 2.3) up to 4 x 4.
"""

from __future__ import annotations

import torch
from torch import nn

from common.errors import UserError
from model.connectors.base import Connector
from model.connectors.mlp import mlp_layers
from visual.geometry import PatchGrid


class PoolConnector(Connector):
    """The features of ``pool`` x ``pool`` patches are concatenated, row by row, and go through linear layers with GELU.

    Where the grid has no multiple of ``pool`` rows or columns, zeros are added below and on the right. Of standardised
    features, zero is the mean. Weights start as the MLP's do.

    Args:
        vision_width: Dv, of the tower's features.
        language_width: Dl, of the language model's embeddings.
        grid: of the features; every patch, and no class token.
        pool: n, patches along one side of a cell.
        hidden_size: width between the linear layers (None: ``language_width``).
        layers: how many linear layers.
        standardize: begin with statistics that change nothing (mean 0, deviation 1), to be set before training.

    Raises:
        UserError: the features are not all patches, or there are class tokens among them.
    """

    name = "pool"
    needs_grid = True

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        *,
        grid: PatchGrid,
        pool: int = 3,
        hidden_size: int | None = None,
        layers: int = 2,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        if (wanted := grid.drop_first_for_patches) is not None:
            raise UserError(
                f"projector.kind = pool: it joins the patches of a whole picture; set vision.drop_first_token={wanted}"
            )
        self.grid, self.pool = grid, pool
        width = pool * pool * vision_width
        self.mlp = nn.Sequential(*mlp_layers(width, hidden_size or language_width, language_width, layers))
        self.start_statistics(vision_width, standardize)

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.joined(features))  # [K, M, Dl]

    def joined(self, features: torch.Tensor) -> torch.Tensor:
        """[K, R * C, Dv] -> [K, M, n * n * Dv], M cells in reading order."""
        n, rows, columns = self.pool, self.grid.rows, self.grid.columns
        images = features.unflatten(1, (rows, columns))  # [K, R, C, Dv]
        images = nn.functional.pad(images, (0, 0, 0, -columns % n, 0, -rows % n))
        cells = images.unflatten(2, (-1, n)).unflatten(1, (-1, n))  # [K, R / n, n, C / n, n, Dv]
        return cells.transpose(2, 3).flatten(3).flatten(1, 2)

    def num_tokens(self, grid: PatchGrid) -> int:
        return grid.pooled(self.pool).features

    def token_grid(self, grid: PatchGrid) -> PatchGrid:
        return grid.pooled(self.pool)
