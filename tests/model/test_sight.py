"""The numbers that tell whether a model looks at its pictures."""

from __future__ import annotations

import math

import pytest
import torch

from model.sight import IMAGES_TO_SIGHT, OtherPictures, PictureGap, TokenShape, token_shape, warnings_of
from tests.helpers.models import build


@pytest.fixture
def model(make_config):
    return build(make_config())


def test_the_gap_is_the_difference_of_losses_over_all_tokens():
    gap = PictureGap()
    gap.add(1.0, 1.5, labels=10)
    gap.add(2.0, 2.1, labels=30)
    value, error = gap.result()
    assert value == pytest.approx((0.5 * 10 + 0.1 * 30) / 40)
    # The ratio estimator by hand: residuals d - gap n of the two batches, 5 - 2 and 3 - 6.
    assert error == pytest.approx(math.sqrt(2 / 1 * (3**2 + 3**2)) / 40)


def test_its_error_is_the_spread_of_batches_that_were_drawn_many_times():
    generator = torch.Generator().manual_seed(0)
    gaps, errors = [], []
    for _ in range(400):
        gap = PictureGap()
        for _ in range(25):
            labels = int(torch.randint(10, 40, (1,), generator=generator))
            gap.add(1.0, 1.3 + 0.2 * torch.randn(1, generator=generator).item(), labels)
        value, error = gap.result()
        gaps.append(value)
        errors.append(error)
    assert sum(errors) / len(errors) == pytest.approx(torch.tensor(gaps).std().item(), rel=0.1)


def test_a_single_batch_has_no_error_and_no_batch_has_no_gap():
    gap = PictureGap()
    assert gap.result() is None
    gap.add(1.0, 2.0, labels=4)
    assert gap.result() == (1.0, math.inf)


def test_sums_of_two_processes_are_those_of_one():
    whole, parts = PictureGap(), [PictureGap(), PictureGap()]
    for number in range(6):
        values = (1.0 + number, 1.1 + number**2, 5 + number)
        whole.add(*values)
        parts[number % 2].add(*values)
    parts[0].sums += parts[1].sums
    assert parts[0].result() == pytest.approx(whole.result())


def test_each_picture_becomes_one_of_another_tree():
    pictures = torch.arange(6.0)[:, None]
    one_each = OtherPictures().swap(pictures, 1)
    assert one_each.flatten().tolist() == [5, 0, 1, 2, 3, 4]
    two_each = OtherPictures().swap(pictures, 2)
    assert two_each.flatten().tolist() == [4, 5, 0, 1, 2, 3]


def test_a_batch_of_one_picture_shows_the_one_before_it():
    others = OtherPictures()
    assert others.swap(torch.tensor([[7.0]]), 1) is None
    assert others.swap(torch.tensor([[8.0]]), 1).tolist() == [[7.0]]
    assert others.swap(torch.tensor([[9.0]]), 1).tolist() == [[8.0]]


def test_lengths_and_spread_of_tokens_are_those_of_their_vectors(model):
    with torch.no_grad():
        model.language.get_input_embeddings().weight.fill_(0.0)[:, 0] = 2.0
    width = model.language.config.hidden_size
    tokens = torch.zeros(2, 2, width)
    tokens[..., 0] = 6.0
    tokens[0, :, 1], tokens[1, :, 1] = 8.0, -8.0  # length 10, at distance 8 from their mean
    shape = token_shape(model, tokens)
    assert shape == pytest.approx((10.0, 8.0, 2.0))
    assert (shape.lengths, shape.relative_spread) == pytest.approx((5.0, 0.8))


SEES = TokenShape(length=1.0, spread=0.9, word_length=0.5)


@pytest.mark.parametrize(
    ("gap", "shape", "images", "words"),
    [
        ((0.0002, 0.0004), SEES, IMAGES_TO_SIGHT, "the loss is the same with another picture (+0.0002 nats"),
        ((0.05, 0.03), SEES, IMAGES_TO_SIGHT, "does not look at them"),
        ((0.5, 0.01), TokenShape(6.0, 3.0, 0.5), IMAGES_TO_SIGHT, "visual tokens are 12 times as long as words"),
        ((0.5, 0.01), TokenShape(1.0, 0.05, 0.5), IMAGES_TO_SIGHT, "visual tokens differ by 5% of their length"),
    ],
)
def test_each_sign_of_blindness_is_a_warning_that_says_what_to_try(gap, shape, images, words):
    (warning,) = warnings_of(gap, shape, images)
    assert words in warning and "try projector.standardize=true" in warning


def test_a_gap_that_is_too_noisy_to_tell_asks_for_more_questions():
    (warning,) = warnings_of((0.48, 0.26), SEES)
    assert "not clearly higher with another picture (+0.4800 nats, standard error 0.2600)" in warning
    assert "too few questions" in warning and "try" not in warning


def test_a_model_that_sees_and_one_that_has_seen_few_pictures_give_no_warning():
    assert warnings_of((0.5, 0.01), SEES, 10**6) == []
    assert warnings_of((0.5, 0.01), TokenShape(length=6.0, spread=6.6, word_length=0.5)) == []  # long, but not alike
    assert warnings_of((0.0, 0.01), TokenShape(9.0, 0.1, 0.5), IMAGES_TO_SIGHT - 1) == []
    assert warnings_of(None, None, 10**6) == []
    assert warnings_of((0.0, math.inf), SEES) == []  # a single batch tells nothing
