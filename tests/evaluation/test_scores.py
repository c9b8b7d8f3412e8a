"""Scores of short answers against reference numbers from elsewhere, and the standard errors."""

from __future__ import annotations

import json
import math

import pytest

from evaluation.scores import clearly_above, clustered_mean, exact_match, normalise, vqa_accuracy


def test_vqa_accuracy_equals_the_official_evaluator_on_all_cases(shared_data):
    content = json.loads((shared_data / "metrics" / "vqa_accuracy_cases.json").read_text(encoding="utf-8"))
    assert len(content["cases"]) == 300
    scores = [100 * vqa_accuracy(case["prediction"], case["answers"]) for case in content["cases"]]
    wrong = [
        (case["question_id"], score, case["accuracy"])
        for case, score in zip(content["cases"], scores, strict=True)
        if abs(score - case["accuracy"]) > 1e-6
    ]
    assert wrong == []
    assert round(sum(scores) / 300, 2) == content["overall"]


@pytest.mark.parametrize(("said_by", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_vqa_accuracy_leaves_each_of_the_ten_out_in_turn(said_by, accuracy):
    assert vqa_accuracy("cat", ["cat"] * said_by + ["dog"] * (10 - said_by)) == pytest.approx(accuracy)


def test_ten_answers_that_agree_are_compared_without_rewriting():
    assert vqa_accuracy("Net.", ["net"] * 10) == 0
    assert vqa_accuracy(" net\n", ["net"] * 10) == 1
    assert vqa_accuracy("Net.", ["net"] * 9 + ["fence"]) == 1


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("A teddy bear.", "teddy bear"),
        ("  Red\n", "red"),
        ("The dog, and the cat!", "dog and cat"),
        ("blue/green", "blue green"),
        ("t-shirt", "t shirt"),
        ("black- white", "black white"),
        ("1,000", "1000"),
        ("10.5.", "10.5"),
        ("U.S.", "us"),
        ("Two", "2"),
        ("none", "0"),
        ("ten dogs", "10 dogs"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("3:30", "3:30"),
        ("$5", "$5"),
        ("A", "a"),
        ("?", "?"),
    ],
)
def test_english_answers_are_normalised_as_vqa_does(text, normalised):
    assert normalise(text, "en") == normalised


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("红色。", "红色"),
        ("红色 ，蓝色!", "红色蓝色"),
        ("３ 个", "3个"),
        ("3.5米", "3.5米"),
        ("1,000", "1000"),
        ("50％", "50%"),
        ("“Wii”游戏", "wii游戏"),
        ("。", "。"),
    ],
)
def test_chinese_answers_lose_punctuation_of_both_widths_and_spaces(text, normalised):
    assert normalise(text, "zh") == normalised


def test_exact_match_takes_any_reference_and_no_empty_answer():
    assert exact_match("a couch", ["Sofa.", "Couch."], "en")
    assert not exact_match("a couch", ["sofa"], "en")
    assert not exact_match("", ["A"], "en")
    assert not exact_match("the", ["a"], "en")
    assert exact_match("在左上角。", ["在左上角"], "zh")
    assert not exact_match("左上角", ["右上角"], "zh")


def test_the_standard_error_grows_when_questions_hang_together():
    values = [1.0, 1.0, 0.0, 0.0]
    mean, apart = clustered_mean(values, "abcd")
    assert mean == 0.5
    assert apart == pytest.approx(math.sqrt(4 / 3 * 4 * 0.25) / 4)
    _, together = clustered_mean(values, "aabb")
    assert together == pytest.approx(math.sqrt(2 / 1 * 2 * 1.0) / 4)


def test_clearly_above_takes_more_than_two_standard_errors():
    ones, half = [1.0] * 8, [0.0, 1.0] * 4
    difference, error, clear = clearly_above(ones, half, range(8))
    assert (difference, clear) == (0.5, True)
    assert error == pytest.approx(math.sqrt(8 / 7 * 8 * 0.25) / 8)
    assert not clearly_above(half, ones, range(8))[2]
    assert not clearly_above([1.0, 1, 0, 0], [0.0] * 4, range(4))[2]  # 0.5 with an error of 0.29


def test_clearly_above_with_one_group_or_without_variance():
    assert clearly_above([1.0, 1.0], [0.0, 0.0], "aa") == (1.0, math.inf, False)
    assert clearly_above([1.0, 1.0], [0.0, 0.0], "ab") == (1.0, 0.0, True)
    assert clearly_above([1.0, 1.0], [1.0, 1.0], "ab") == (0.0, 0.0, False)
