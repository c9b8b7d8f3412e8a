"""The pictures of random shapes: what they tell about their objects is what they show."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.prompt import IGNORE_INDEX
from demo.wide_pictures import (
    FILLS,
    GENERATORS,
    PLAIN,
    Pictures,
    _degraded,
    _fill_and_period,
    _resolution,
    draw_named,
    draw_pairs,
    draw_picture,
    draw_shape,
    filled,
    mirrored,
    paint,
    recolored,
    silhouette,
)

SQUARE = [np.array([(-1.0, -1), (1, -1), (1, 1), (-1, 1)])]
# A tall L: no mirroring leaves it as it is.
ELL = [np.array([(-0.6, -1.0), (-0.1, -1), (-0.1, 0.6), (0.6, 0.6), (0.6, 1), (-0.6, 1)])]


def one_ell() -> Pictures:
    """A picture of an L on a plain background, without a rim."""
    return draw_picture([ELL], random.Random(5), easy=True)


def measured(picture: Pictures) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The box (x, y, log ratio), silhouette [10, 10] and colour of the only object, read from the pixels."""
    pixels = picture.pixels.float()
    shown = (pixels - pixels[:, :1, :1]).abs().sum(0) > 60  # [112, 112]
    rows, columns = shown.any(1).nonzero().flatten(), shown.any(0).nonzero().flatten()
    top, bottom, left, right = rows[0].item(), rows[-1].item() + 1, columns[0].item(), columns[-1].item() + 1
    y, x, half = (top + bottom) / 2, (left + right) / 2, max(bottom - top, right - left) / 2
    box = torch.tensor([x / 56 - 1, y / 56 - 1, math.log((bottom - top) / (right - left))])
    square = Image.fromarray(shown.numpy()).convert("L").crop((x - half, y - half, x + half, y + half))
    cells = torch.from_numpy(np.asarray(square.resize((10, 10), Image.Resampling.BOX)) / 255)
    return box, cells, pixels[:, shown].median(1).values / 127.5 - 1


def assert_told(picture: Pictures) -> None:
    box, cells, color = measured(picture)
    told = picture.boxes[0][[0, 1, 3]]
    assert torch.allclose(box, told, atol=0.12), (box, told)
    assert (cells - picture.silhouettes[0] / 255).abs().mean() < 0.12
    assert torch.allclose(color, picture.colors[0], atol=0.02)
    in_patches = picture.mask.view(8, 4, 8, 4).float().mean((1, 3))
    assert (in_patches - picture.cover[0]).abs().max() < 10  # of 255; cells of 3.5 pixels do not divide patches of 14


def test_a_picture_tells_what_it_shows():
    assert_told(one_ell())


@pytest.mark.parametrize("axis", (0, 1, 2))
def test_mirroring_a_picture_mirrors_what_it_tells(axis):
    before, after = one_ell(), mirrored(one_ell(), axis)
    assert not torch.equal(before.pixels, after.pixels)
    assert_told(after)
    box, turned = measured(before)[0], measured(after)[0]
    expected = (
        box * torch.tensor([-1, 1, 1]),
        box * torch.tensor([1, -1, 1]),
        box[[1, 0, 2]] * torch.tensor([1, 1, -1]),
    )
    assert torch.allclose(turned, expected[axis], atol=0.01)


@pytest.mark.parametrize("negative", (False, True))
def test_recoloring_a_picture_changes_the_color_that_it_tells(negative):
    after = recolored(one_ell(), [2, 0, 1], negative)
    assert not torch.allclose(after.colors[0], one_ell().colors[0], atol=0.1)
    assert_told(after)


def test_cover_sums_to_the_area_of_the_shape():
    assert filled(SQUARE, (40, 60, 14), 112, 2).sum() == pytest.approx(28 * 28, rel=0.04)
    picture = draw_picture([SQUARE], random.Random(3))
    assert picture.cover[1].sum() == 0
    radius = (picture.boxes[0, 2].item() + 1.3) * 14
    area = picture.cover[0].float().sum().item() / 255 * 14 * 14
    assert 0.85**2 < area / (2 * radius) ** 2 < 1.15**2  # it was scaled by 0.85 to 1.1 in each direction


def test_a_silhouette_is_as_large_as_fits():
    assert silhouette(SQUARE).min() == 1
    assert silhouette([SQUARE[0] * 0.1 + 3]).min() == 1
    tall = silhouette([SQUARE[0] * (0.4, 1)])
    assert tall[:, 3:7].min() == 1 and tall[:, :2].max() == 0 and tall[:, 8:].max() == 0


@pytest.mark.parametrize("fill", FILLS)
def test_a_fill_has_its_number_of_colors(fill):
    color = np.array([200, 30, 90], np.float32)
    for seed in range(5):
        painted = np.broadcast_to(paint(fill, color, 12.0, random.Random(seed)), (112, 112, 3)).reshape(-1, 3)
        distance = np.abs(painted - color).sum(1)
        if fill in ("solid", "outline"):
            assert distance.max() == 0
        else:
            assert distance.max() >= 109  # the second colour
            at_ends = (distance < 0.01).mean(), (distance > distance.max() - 0.01).mean()
            if fill == "gradient":
                assert max(at_ends) < 0.1
            else:
                assert min(at_ends) > 0.04 and sum(at_ends) > 0.4  # between them are edges only


@pytest.mark.parametrize("period", (4.0, 25.0))
def test_stripes_and_dots_have_their_period(period):
    for fill in ("stripes", "dots", "checks"):
        for seed in range(5):
            levels = paint(fill, np.zeros(3, np.float32), period, random.Random(seed)).sum(-1)  # [112, 112]
            waves = np.abs(np.fft.fft2(levels - levels.mean()))
            row, column = (np.fft.fftfreq(112)[i] for i in np.unravel_index(waves.argmax(), waves.shape))
            waves_in_a_pixel = math.hypot(row, column) / (math.sqrt(2) if fill == "checks" else 1)
            assert waves_in_a_pixel == pytest.approx(1 / period, abs=0.01)


def test_a_small_object_at_low_resolution_has_a_plain_fill():
    rng = random.Random(0)
    assert {_fill_and_period(9, 12, rng)[0] for _ in range(100)} == set(PLAIN)
    drawn = [_fill_and_period(20, 4, rng) for _ in range(200)]
    assert {fill for fill, _ in drawn} == set(FILLS)
    assert all(4 <= period <= 18 for fill, period in drawn if fill not in PLAIN)


def test_pictures_are_saved_with_32_to_256_pixels():
    rng = random.Random(0)
    sides = [_resolution(rng) for _ in range(400)]
    assert min(sides) < 36 and max(sides) > 230 and 0.2 < sides.count(112) / 400 < 0.3
    image = np.random.default_rng(0).uniform(0, 255, (112, 112, 3)).astype(np.float32)
    fine, coarse = (_degraded(image, side, random.Random(4)) for side in (200, 40))
    assert fine.shape == coarse.shape == (112, 112, 3)
    assert np.abs(fine - image).mean() < np.abs(coarse - image).mean()


def test_one_seed_draws_the_same_pictures_and_another_seed_others():
    first, again, other = (draw_pairs(6, random.Random(seed)) for seed in (1, 1, 2))
    for name, values in vars(first).items():
        assert torch.equal(values, getattr(again, name)), name
    assert not torch.equal(first.pixels, other.pixels)


def test_both_pictures_of_a_pair_show_the_same_shape():
    pictures = draw_pairs(60, random.Random(0))
    assert len(pictures) == 60 and (pictures.names == IGNORE_INDEX).all()
    first, second = (pictures.silhouettes[start::2, 0] / 255 for start in (0, 1))  # [30, 10, 10]
    same, other = ((first - shapes).abs().mean() for shapes in (second, second.roll(1, 0)))
    assert same < 0.5 * other


def test_named_pictures_have_the_numbers_of_their_shapes():
    rng = random.Random(0)
    shapes = [draw_shape(rng) for _ in range(5)]
    pictures = draw_named(40, rng, shapes)
    known = torch.stack([torch.from_numpy(silhouette(shape)) for shape in shapes])  # [5, 10, 10]
    shown = pictures.cover.flatten(2).sum(-1) > 0  # [40, 2]
    assert torch.equal(shown, pictures.names != IGNORE_INDEX)
    assert shown[:, 0].all() and 0 < shown[:, 1].sum() < 30
    distance = (pictures.silhouettes[shown][:, None] / 255 - known).abs().mean((2, 3))
    assert (distance.argmin(1) == pictures.names[shown]).float().mean() > 0.9


def test_a_second_shape_without_room_is_left_out(monkeypatch):
    monkeypatch.setattr("demo.wide_pictures._free_square", lambda taken, radii, rng: None if taken else (56, 56, 28))
    picture = draw_picture([SQUARE, ELL], random.Random(0), names=(4, 7))
    assert picture.names.tolist() == [4, IGNORE_INDEX]
    assert picture.cover[1].sum() == 0 and picture.boxes[1].abs().sum() == 0


@pytest.mark.parametrize("generator", GENERATORS[:7], ids=lambda generator: generator.__name__)
def test_each_generator_draws_different_shapes_that_stay_near_the_box(generator):
    rng = random.Random(0)
    shapes = [generator(rng) for _ in range(20)]
    assert len({silhouette(shape).tobytes() for shape in shapes}) > 5
    for shape in shapes:
        assert max(np.abs(part).max() for part in shape) < 1.5
        assert silhouette(shape).mean() > 0.03


def test_no_regular_polygon_is_the_hexagon_of_the_signs():
    rng = random.Random(0)
    assert 6 not in {len(GENERATORS[0](rng)[0]) for _ in range(200)}
