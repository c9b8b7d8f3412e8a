"""Recall@k, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.recall import Captioned, distinct, first_right, nearest, recall, similarities


def test_what_comes_before_the_first_right_one_is_counted_and_a_tie_is_wrong():
    scores = np.array([[0.9, 0.5, 0.7], [0.4, 0.4, 0.1]])
    right = np.array([[False, True, False], [True, False, False]])
    assert first_right(scores, right).tolist() == [2, 1]
    assert nearest(scores, right).tolist() == [0, 1]  # of the second row's tie, the wrong one
    assert nearest(scores, ~right).tolist() == [0, 0]


def test_recall_both_ways_by_hand():
    pictures = [Captioned("a", ["red", "a red dot"]), Captioned("b", ["blue"]), Captioned("c", ["red"])]
    assert distinct(pictures) == ["red", "a red dot", "blue"]
    images = np.eye(3)
    captions = np.array([[0.5, 0.1, 0.9], [0.2, 0.6, 0.1], [0.7, 0.8, 0.0]])  # red, a red dot, blue
    found = recall(similarities(images, captions, pictures))
    text = found["text_to_image"]
    # "red" is right for a and c, and c is first; "a red dot" is a's, which comes second; "blue" is b's, first.
    assert text["recall_at_1"] == pytest.approx((1 + 0 + 1 + 1) / 4) and text["recall_at_5"] == 1.0 and text["n"] == 4
    # Deviations by picture: -0.5 (two captions), 0.25, 0.25.
    assert text["standard_error_at_1"] == pytest.approx((3 / 2 * (0.5**2 + 2 * 0.25**2)) ** 0.5 / 4)
    assert text["chance_at_1"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 3 + 2 / 3) / 4)
    # The nearest captions: of a "blue" (wrong; "red" is second), of b "blue" (right), of c "red" (right).
    assert found["image_to_text"]["recall_at_1"] == pytest.approx(2 / 3) and found["image_to_text"]["n"] == 3


def test_one_picture_has_no_standard_error():
    found = recall(similarities(np.eye(1), np.eye(1), [Captioned("a", ["red"])]))
    assert found["image_to_text"]["recall_at_1"] == 1.0 and "standard_error_at_1" not in found["image_to_text"]
