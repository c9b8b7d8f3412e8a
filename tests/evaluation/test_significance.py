"""Standard errors clustered by picture, and what is clearly higher."""

from __future__ import annotations

import math

import pytest

from evaluation.significance import chance_probability, clearly_above, clustered_mean, holm_levels, paired_difference


def test_the_standard_error_grows_when_questions_hang_together():
    values = [1.0, 1.0, 0.0, 0.0]
    mean, apart = clustered_mean(values, "abcd")
    assert mean == 0.5
    assert apart == pytest.approx(math.sqrt(4 / 3 * 4 * 0.25) / 4)
    _, together = clustered_mean(values, "aabb")
    assert together == pytest.approx(math.sqrt(2 / 1 * 2 * 1.0) / 4)


def test_clearly_above_takes_more_than_two_standard_errors():
    ones, half = [1.0] * 8, [0.0, 1.0] * 4
    difference, error = paired_difference(ones, half, range(8))
    assert difference == 0.5 and clearly_above(difference, error)
    assert error == pytest.approx(math.sqrt(8 / 7 * 8 * 0.25) / 8)
    assert not clearly_above(*paired_difference(half, ones, range(8)))
    assert not clearly_above(*paired_difference([1.0, 1, 0, 0], [0.0] * 4, range(4)))  # 0.5 with an error of 0.29


def test_clearly_above_with_one_group_or_without_variance():
    cases = {("aa", 0.0): (1.0, math.inf, False), ("ab", 0.0): (1.0, 0.0, True), ("ab", 1.0): (0.0, 0.0, False)}
    for (groups, other), expected in cases.items():
        difference, error = paired_difference([1.0, 1.0], [other, other], groups)
        assert (difference, error, clearly_above(difference, error)) == expected


@pytest.mark.parametrize(
    ("t", "groups", "exact"),  # critical values of Student's t from a printed table
    [(2.571, 6, 0.025), (4.032, 6, 0.005), (2.262, 10, 0.025), (3.690, 10, 0.0025), (2.086, 21, 0.025)],
)
def test_the_probability_of_chance_is_students_t(t, groups, exact):
    assert chance_probability(t, 1.0, groups) == pytest.approx(exact, abs=3e-4)


def test_no_difference_and_one_picture_are_chance_and_no_variance_is_not():
    assert chance_probability(0.0, 1.0, 10) == chance_probability(0.5, math.inf, 1) == 1.0
    assert chance_probability(0.5, 0.0, 10) == 0.0


def test_holm_asks_less_of_each_further_type_up_to_the_first_that_fails():
    levels = holm_levels({"a": 0.02, "b": 0.001, "c": 0.019, "d": 0.9}, level=0.04)
    assert levels == pytest.approx({"b": 0.01, "c": 0.04 / 3, "a": 0.04 / 3, "d": 0.04 / 3})
    assert holm_levels({"a": 0.03}, level=0.04) == {"a": 0.04}
    assert holm_levels({}) == {}
