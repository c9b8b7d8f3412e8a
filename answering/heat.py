"""A picture with the map of an :class:`answering.attention_map.AttentionMap` over it. Without torch."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

DIM = 0.25  # how much of a patch without attention is left: the hottest keeps its own colours
OUTLINE = "#f59e0b"  # around the patches with at least half of the largest share; amber is seen on light and dark


def shares_of(grid: np.ndarray) -> np.ndarray:
    """A map [rows, columns], NaN for dropped patches -> 0 to 1, where 1 is the hottest."""
    return np.nan_to_num(grid) / max(float(np.nanmax(grid)), 1e-12)


def with_heat(picture: Image.Image, grid: np.ndarray) -> Image.Image:
    """The picture, lighter towards white where there was less attention, so that hues stay what they are.

    The hottest patches are outlined; dropped patches are crossed out.
    """
    share = shares_of(grid)
    kept = Image.fromarray((255 * (DIM + (1 - DIM) * share)).round().astype(np.uint8))  # [rows, columns]
    white = Image.new("RGB", picture.size, "white")
    page = Image.composite(picture, white, kept.resize(picture.size, Image.Resampling.NEAREST))
    draw, shape = ImageDraw.Draw(page), (grid.shape[0], grid.shape[1])
    line = max(1, min(picture.size) // 150)
    for row, column in np.argwhere(share >= 0.5):
        left, top, right, bottom = patch_box(page.size, shape, row, column)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=OUTLINE, width=line)
    for row, column in np.argwhere(np.isnan(grid)):
        _cross_out(page, patch_box(page.size, shape, row, column))
    return page


def heat_ramp(width: int, height: int) -> Image.Image:
    """How the darkest colour looks from the least attention to the most."""
    share = np.linspace(0, 1, width)[None].repeat(height, 0)  # [H, W]
    return Image.fromarray((255 * (1 - DIM - (1 - DIM) * share)).round().astype(np.uint8)).convert("RGB")


def patch_box(size: tuple[int, int], shape: tuple[int, int], row: int, column: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a patch in a picture of ``size``, which the encoder stretches to a square."""
    (width, height), (rows, columns) = size, shape
    return (
        round(column * width / columns),
        round(row * height / rows),
        round((column + 1) * width / columns),
        round((row + 1) * height / rows),
    )


def _cross_out(page: Image.Image, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    patch = Image.new("RGB", (max(1, right - left), max(1, bottom - top)), "#6b7280")
    draw = ImageDraw.Draw(patch)
    line = max(1, patch.width // 24)
    for offset in range(-patch.height, patch.width, max(4, patch.width // 4)):
        draw.line((offset, patch.height, offset + patch.height, 0), fill="#f3f4f6", width=line)
    page.paste(patch, (left, top))
