"""Making a picture worse: noise, blur, occlusion and low resolution, each at three strengths, the same for one seed.

``evaluate.py --corrupt`` asks about such pictures, and ``data.augment`` trains on them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from PIL import Image, ImageFilter

if TYPE_CHECKING:
    import numpy as np

STRENGTHS = (1, 2, 3)
NOISE = (16, 32, 64)  # standard deviation, of 255 levels
BLUR = (0.01, 0.02, 0.04)  # radius, in shares of the shorter side
HIDDEN = (0.1, 0.25, 0.5)  # the share of the picture that is covered
SCALE = (0.5, 0.25, 0.125)  # of each side, before it is enlarged again
CELLS = 8  # the picture is covered in cells of an 8 x 8 grid


def corrupted(
    image: Image.Image, kind: str, strength: int, seed: str, looked_at: np.ndarray | None = None
) -> Image.Image:
    """Another picture of the same size.

    Args:
        kind: one of :data:`KINDS`, or "most looked at".
        strength: 1, 2 or 3.
        seed: the same seed gives the same picture.
        looked_at: for "most looked at": how much the model looks at each part [rows, columns]; NaN is least.
    """
    if kind == "most looked at":
        assert looked_at is not None, "these cells are chosen by a map"
        return _cover(image, _most(looked_at, HIDDEN[strength - 1]), looked_at.shape)
    return KINDS[kind](image, strength - 1, random.Random(seed))


def augmented(image: Image.Image, seed: str) -> Image.Image:
    """A picture for training: as it is in half of the cases, else made worse in one way at one strength."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        return image
    return corrupted(image, rng.choice(list(KINDS)), rng.choice(STRENGTHS), seed)


def _noise(image: Image.Image, level: int, rng: random.Random) -> Image.Image:
    import numpy as np

    noise = np.random.default_rng(rng.getrandbits(64)).normal(0, NOISE[level], (image.height, image.width, 3))
    pixels = np.asarray(image, dtype=np.float32) + noise  # [H, W, 3]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _blur(image: Image.Image, level: int, rng: random.Random) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(BLUR[level] * min(image.size)))


def _occlusion(image: Image.Image, level: int, rng: random.Random) -> Image.Image:
    count = round(HIDDEN[level] * CELLS * CELLS)
    return _cover(image, rng.sample(range(CELLS * CELLS), count), (CELLS, CELLS))


def _low_resolution(image: Image.Image, level: int, rng: random.Random) -> Image.Image:
    small = [max(1, round(side * SCALE[level])) for side in image.size]
    return image.resize((small[0], small[1]), Image.Resampling.BOX).resize(image.size, Image.Resampling.BILINEAR)


KINDS: dict[str, Callable[[Image.Image, int, random.Random], Image.Image]] = {
    "noise": _noise,
    "blur": _blur,
    "occlusion": _occlusion,
    "low resolution": _low_resolution,
}


def _most(looked_at: np.ndarray, share: float) -> list[int]:
    """The cells that are looked at most, as many as make up a share of the picture."""
    import numpy as np

    weights = np.nan_to_num(looked_at, nan=-1.0).ravel()
    return np.argsort(-weights, kind="stable")[: round(share * weights.size)].tolist()


def _cover(image: Image.Image, cells: list[int], grid: tuple[int, ...]) -> Image.Image:
    """Cells of a grid (rows, columns), numbered in reading order, in grey."""
    rows, columns = grid
    covered = image.copy()
    for cell in cells:
        row, column = divmod(cell, columns)
        left, right = (image.width * edge // columns for edge in (column, column + 1))
        top, bottom = (image.height * edge // rows for edge in (row, row + 1))
        covered.paste((128, 128, 128), (left, top, right, bottom))
    return covered
