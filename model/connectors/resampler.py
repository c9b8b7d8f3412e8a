"""One cross-attention layer from learnt queries to the features of a picture (Qwen-VL: Bai et al. 2023,
arXiv:2308.12966, section 2.1; the layer norms and the last matrix are in its released code)."""

from __future__ import annotations

import math

import torch
from torch import nn

from common.errors import UserError
from model.connectors.base import Connector
from visual.geometry import PatchGrid

EPS = 1e-6  # of its layer norms
HEAD = 128  # width of an attention head


class ResamplerConnector(Connector):
    """``queries`` visual tokens for a picture of any size.

    With P_q and P_k the sine positions of the queries' square grid and of the patches:

        x = ln_kv(kv_proj(features));  y = ln_post(attention(ln_q(query) + P_q, x + P_k, x)) proj

    There is no residual. P_k is P_q, bicubically interpolated to the grid of the patches; a patch that was dropped is
    left out of it, and a class token has position 0. As in Qwen-VL, queries and linear layers start from a truncated
    normal distribution of deviation 0.02, biases at 0, the attention's input matrix as torch's, and ``proj`` from
    N(0, 1 / Dl). Parameters have the names of Qwen-VL's ``attn_pool``, ``ln_post`` and ``proj``.

    Args:
        vision_width: Dv, of the tower's features.
        language_width: Dl, of the language model's embeddings; heads are 128 wide.
        grid: of the features.
        queries: M, a square number.
        standardize: begin with statistics that change nothing (mean 0, deviation 1), to be set before training.

    Raises:
        UserError: no whole number of heads is as wide as the language model.
    """

    name = "resampler"
    needs_grid = True
    positions: torch.Tensor
    key_positions: torch.Tensor

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        *,
        grid: PatchGrid,
        queries: int = 256,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        heads = max(1, language_width // HEAD)
        if language_width % heads or language_width % 4:
            raise UserError(
                f"projector.kind = resampler: the language model's width {language_width} is not {heads} heads of one "
                "width; choose another kind"
            )
        width = language_width
        self.query = nn.Parameter(torch.empty(queries, width))
        self.kv_proj = nn.Linear(vision_width, width, bias=False)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(width, eps=EPS) for _ in range(3))
        self.proj = nn.Parameter(torch.randn(width, width) * width**-0.5)
        for weight in (self.query, self.kv_proj.weight, self.attn.out_proj.weight):
            nn.init.trunc_normal_(weight, std=0.02)
        positions = sine_positions(math.isqrt(queries), width)  # [M, Dl]
        self.register_buffer("positions", positions, persistent=False)
        self.register_buffer("key_positions", positions_on(grid, positions), persistent=False)
        self.start_statistics(vision_width, standardize)

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        out, _ = self.attend(features)
        return self.ln_post(out) @ self.proj  # [K, M, Dl]

    def looks(self, features: torch.Tensor) -> torch.Tensor | None:
        return self.attend(features, need_weights=True)[1]

    def attend(self, features: torch.Tensor, need_weights: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``features`` [K, N, Dv] -> what the queries read [K, M, Dl], and if asked for, their weights [K, M, N]."""
        x = self.ln_kv(self.kv_proj(features))  # [K, N, Dl]
        query = (self.ln_q(self.query) + self.positions.to(x)).expand(len(x), -1, -1)  # [K, M, Dl]
        return self.attn(query, x + self.key_positions.to(x), x, need_weights=need_weights)

    def num_tokens(self, grid: PatchGrid) -> int:
        return len(self.query)

    def token_grid(self, grid: PatchGrid) -> PatchGrid | None:
        return None


def sine_positions(side: int, width: int) -> torch.Tensor:
    """Positions [side * side, width] in fp32, reading order: half of ``width`` for the column, half for the row.

    Each half is sin(p w_i), then cos(p w_i), with w_i = 10000^(-4 i / width) for i < width / 4.
    """
    rates = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) * 4 / width)  # [width / 4]
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates  # [side, width / 4]
    line = torch.cat([angles.sin(), angles.cos()], 1)  # [side, width / 2]
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return torch.cat([columns, rows], 2).flatten(0, 1).float()


def positions_on(grid: PatchGrid, positions: torch.Tensor) -> torch.Tensor:
    """``positions`` [M, D] of a square -> [N, D] of the features of ``grid``, by bicubic interpolation."""
    side = math.isqrt(len(positions))
    found = positions
    if (side, side) != (grid.rows, grid.columns):
        square = positions.unflatten(0, (side, side)).permute(2, 0, 1)[None]  # [1, D, side, side]
        wanted = nn.functional.interpolate(square, (grid.rows, grid.columns), mode="bicubic", align_corners=False)
        found = wanted[0].flatten(1).T  # [rows * columns, D]
    classes = found.new_zeros(grid.kept_class_tokens, found.shape[1])
    return torch.cat([classes, found[grid.dropped_patches :]])
