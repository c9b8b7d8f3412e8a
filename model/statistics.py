"""Mean and standard deviation of a tower's features, by which the projector standardises them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from model.model import MMultiModal

LEAST_STD = 0.01  # of the root mean square deviation: a dimension that hardly changes is not made loud


@torch.no_grad()
def feature_statistics(
    model: MMultiModal, pictures: Iterable[torch.Tensor], batch_size: int = 16
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [Dv] in fp32, over all features of ``pictures`` that the projector is given.

    Args:
        pictures: of each its ``pixel_values`` [3, H, W], or its features [N, Dv] before the first is dropped.

    Raises:
        ValueError: there is no picture.
    """
    count, total, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for chunk in _chunks(pictures, batch_size):
        stacked = torch.stack(chunk).to(next(model.vision.parameters()).device)  # [K, 3, H, W], or [K, N, Dv]
        features = model.vision(stacked) if stacked.ndim == 4 else stacked
        flat = model.kept(features).flatten(0, 1).cpu().double()  # [K * 728, Dv]
        count, total, squares = count + len(flat), total + flat.sum(0), squares + (flat**2).sum(0)
    if not count:
        raise ValueError("no picture")
    mean = total / count
    std = (squares / count - mean**2).clamp(min=0).sqrt()
    least = LEAST_STD * std.pow(2).mean().sqrt()
    std = std.clamp(min=least) if least else torch.ones_like(std)
    return mean.float(), std.float()


def _chunks(pictures: Iterable[torch.Tensor], size: int) -> Iterable[list[torch.Tensor]]:
    chunk: list[torch.Tensor] = []
    for picture in pictures:
        chunk.append(picture)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
