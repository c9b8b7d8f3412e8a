"""Drawing in chunks: the number of processes changes nothing but the time."""

from __future__ import annotations

import random
from functools import partial

import pytest
import torch

from demo import parallel
from demo.parallel import draw_in_chunks
from demo.wide_pictures import Pictures, draw_named, draw_pairs, draw_shape
from demo.wide_vision import DemoPictures, draw_demo


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(parallel, "CHUNK", 4)


def same(one: Pictures | DemoPictures, other: Pictures | DemoPictures) -> bool:
    return all(torch.equal(values, getattr(other, name)) for name, values in vars(one).items())


def test_one_process_and_three_draw_the_same_pictures():
    rng = random.Random(0)
    shapes = [draw_shape(rng) for _ in range(3)]
    draws = (draw_pairs, partial(draw_named, shapes=shapes), partial(draw_demo, folds=range(2, 10)))
    for kind, draw in zip((Pictures, Pictures, DemoPictures), draws, strict=True):
        alone, together = (draw_in_chunks(kind, draw, 10, "some", workers) for workers in (1, 3))
        assert len(alone.pixels) == 10 and same(alone, together)


def test_chunks_and_seeds_differ():
    pictures, other = (draw_in_chunks(Pictures, draw_pairs, 10, seed, 1) for seed in ("some", "other"))
    assert len({picture.numpy().tobytes() for picture in (*pictures.pixels, *other.pixels)}) == 20
    silhouettes = pictures.silhouettes[:, 0].float()
    apart = (silhouettes[:, None] - silhouettes).abs().mean((2, 3)) + 1000 * torch.eye(10)
    assert (apart.argmin(1) == torch.arange(10) ^ 1).float().mean() > 0.5  # pairs stay together
