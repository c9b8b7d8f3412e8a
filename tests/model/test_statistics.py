"""Mean and deviation of a tower's features."""

from __future__ import annotations

import pytest
import torch

from model.statistics import LEAST_STD, feature_statistics
from tests.helpers.models import build


@pytest.fixture
def model(make_config):
    return build(make_config())


def test_they_are_over_all_kept_features_of_all_pictures(model):
    size = model.vision.config.image_size
    pictures = torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    mean, std = feature_statistics(model, pictures, batch_size=2)
    with torch.no_grad():
        flat = model.vision(pictures)[:, 1:].flatten(0, 1)  # the first is dropped
    torch.testing.assert_close(mean, flat.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(std, flat.std(0, correction=0), rtol=1e-4, atol=1e-5)


def test_cached_features_give_those_of_their_pictures(model):
    size = model.vision.config.image_size
    pictures = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model.vision(pictures)
    for one, other in zip(feature_statistics(model, pictures), feature_statistics(model, features), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_a_dimension_that_hardly_changes_is_not_made_loud(model):
    features = torch.randn(4, 9, model.vision.config.hidden_size, generator=torch.Generator().manual_seed(0))
    features[..., 0] = 5.0
    _, std = feature_statistics(model, features)
    assert std[0] == pytest.approx(LEAST_STD * std.pow(2).mean().sqrt().item(), rel=0.01)


def test_features_that_are_all_alike_are_only_centred(model):
    mean, std = feature_statistics(model, torch.ones(2, 9, model.vision.config.hidden_size))
    assert torch.equal(mean, torch.ones_like(mean)) and torch.equal(std, torch.ones_like(std))


def test_no_picture_is_an_error(model):
    with pytest.raises(ValueError, match="no picture"):
        feature_statistics(model, [])
