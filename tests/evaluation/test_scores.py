"""Scores of short answers, against reference numbers from elsewhere where there are some."""

from __future__ import annotations

import json

import pytest

from evaluation.scores import exact_match, vqa_accuracy


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


def test_exact_match_takes_any_reference_and_no_empty_answer():
    assert exact_match("a couch", ["Sofa.", "Couch."], "en")
    assert not exact_match("a couch", ["sofa"], "en")
    assert not exact_match("", ["A"], "en")
    assert not exact_match("the", ["a"], "en")
    assert exact_match("在左上角。", ["在左上角"], "zh")
    assert not exact_match("左上角", ["右上角"], "zh")
