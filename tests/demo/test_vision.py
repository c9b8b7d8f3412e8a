"""What the encoder is taught about the demo's pictures: the words of each patch."""

from __future__ import annotations

import math

import pytest
import torch

from demo.scenes import Thing
from demo.vision import WORDS, words_loss, words_of_patches


def test_patches_on_an_object_have_its_four_words():
    words = words_of_patches((Thing("star", "red", "large", "top left"),)).view(8, 8, -1)
    named = {WORDS[k] for k in words[1, 1].nonzero().flatten()}
    assert named == {"star", "red", "large", "top left"}
    assert words[4:].sum() == 0 and words[:, 4:].sum() == 0


def test_patches_on_objects_count_as_much_as_all_others():
    words = torch.zeros(1, 63, 17)
    words[0, 5, [0, 5, 11, 14]] = 1
    said = torch.zeros(1, 63, 17)
    loss, named = words_loss(said, words)
    assert loss.item() == pytest.approx(2 * 17 * math.log(2), rel=1e-5) and named == 0
    said[0, 5] = 100 * (2 * words[0, 5] - 1)  # all words of the only patch on an object are right
    loss, named = words_loss(said, words)
    assert loss.item() == pytest.approx(17 * math.log(2), rel=1e-5) and named == 1
