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


def test_one_process_and_two_draw_the_same_pictures():
    rng = random.Random(0)
    draw = partial(draw_named, shapes=[draw_shape(rng) for _ in range(3)])
    alone, together = (draw_in_chunks(Pictures, draw, 10, "some", workers) for workers in (1, 2))
    assert len(alone.pixels) == 10
    assert all(torch.equal(values, getattr(together, name)) for name, values in vars(alone).items())


def test_pictures_of_the_demo_are_drawn_in_chunks_too():
    draw = partial(draw_demo, folds=range(2, 10))
    once, again = (draw_in_chunks(DemoPictures, draw, 6, "some", 1) for _ in range(2))
    assert once.words.shape == (6, 63, 17) and torch.equal(once.pixels, again.pixels)


def test_chunks_and_seeds_differ():
    pictures, other = (draw_in_chunks(Pictures, draw_pairs, 10, seed, 1) for seed in ("some", "other"))
    assert len({picture.numpy().tobytes() for picture in (*pictures.pixels, *other.pixels)}) == 20
    silhouettes = pictures.silhouettes[:, 0].float()
    apart = (silhouettes[:, None] - silhouettes).abs().mean((2, 3)) + 1000 * torch.eye(10)
    assert (apart.argmin(1) == torch.arange(10) ^ 1).float().mean() > 0.5  # pairs stay together
