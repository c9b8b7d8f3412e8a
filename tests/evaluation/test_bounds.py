"""Chance and ceiling: what guessing scores, and the most that any answers can score."""

from __future__ import annotations

import pytest

from evaluation.bounds import chance, set_ceilings
from evaluation.questions import Question
from evaluation.report import score


def question(*references: str, text: str = "Which?", language: str = "en", **fields) -> Question:
    return Question("", text, list(references), ["x"], "x", "s", language, "other", prediction="?", **fields)


def test_chance_is_known_where_options_are_given_or_the_answer_is_yes_or_no():
    assert chance(question("B", options=["red", "blue", "green", "black"])) == 0.25
    assert chance(question("Yes.")) == chance(question("没有", language="zh")) == 0.5
    assert chance(question("red")) is chance(question("yes", "maybe")) is None
    ten = question(*["yes"] * 8, *["no"] * 2, metric="vqa_accuracy")
    assert chance(ten) == pytest.approx((1 + 0.6) / 2)


def test_a_group_has_a_chance_only_if_all_of_its_questions_have():
    known, unknown = question("A", options=["x", "y"]), question("red")
    assert score([known])["chance"] == 0.5
    assert score([known, unknown])["chance"] is None


def test_the_ceiling_is_below_one_where_no_answer_agrees_with_all_references():
    people = question(*["cat"] * 2, *["dog"] * 2, *"abcdef", metric="vqa_accuracy")
    twice = [
        question("red", text="What color?"),
        question("red", text="what  color?"),
        question("blue", text="What color?"),
    ]
    agreed = question("cat", "dog")
    set_ceilings([people, *twice, agreed])
    assert people.ceiling == pytest.approx(0.6)
    assert [q.ceiling for q in twice] == [1.0, 1.0, 0.0]
    assert agreed.ceiling == 1.0
    assert score(twice)["ceiling"] == pytest.approx(2 / 3)
