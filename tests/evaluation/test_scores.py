"""Scores of short answers, against reference numbers from elsewhere where there are some."""

from __future__ import annotations

import json

import pytest

from common.errors import UserError
from evaluation.questions import Question
from evaluation.scores import METRICS, anls, check_metrics, exact_match, relaxed_accuracy, vqa_accuracy
from settings import Source


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
    assert exact_match("三个。", ["3 个"], "zh") == exact_match("两", ["2"], "zh") == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("100", "104", 1.0),
        ("100", "106", 0.0),
        ("$1,050.00", "1000", 1.0),
        ("-100", "100", 0.0),
        ("−98", "-100", 1.0),
        ("12.4 %", "12%", 1.0),
        ("0.12", "12％", 1.0),
        ("12", "12%", 0.0),
        ("0", "0.0", 1.0),
        ("0.01", "0", 0.0),
        ("two", "2", 1.0),
        ("The Pacific.", "pacific", 1.0),
        ("nan", "nan", 1.0),
        ("nan", "5", 0.0),
    ],
)
def test_relaxed_accuracy_takes_numbers_within_five_percent_and_words_exactly(answer, reference, score):
    assert relaxed_accuracy(answer, ["never", reference], "en") == score


def test_relaxed_accuracy_reads_chinese_numbers():
    assert relaxed_accuracy("二十一", ["20"], "zh") == 1.0
    assert relaxed_accuracy("二十二", ["20"], "zh") == 0.0


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("Stop  Sign", ["stop sign"], 1.0),
        ("stop sigm", ["exit", "stop sign"], 1 - 1 / 9),
        ("kitten", ["sitting"], 1 - 3 / 7),
        ("ab", ["ac"], 0.0),  # half of it is wrong
        ("", ["x"], 0.0),
        ("出口处", ["出口"], 1 - 1 / 3),
    ],
)
def test_anls_is_one_less_the_edits_over_the_length(answer, references, score):
    assert anls(answer, references, "en") == pytest.approx(score)


def test_every_metric_is_between_zero_and_one_and_one_for_the_reference_itself():
    for metric in METRICS.values():
        for answer in ("cat", "", "12%", "the cat sat on the mat", "?"):
            assert 0.0 <= metric.score(answer, ["cat"] * 10, "en") <= 1.0
        assert metric.score("cat", ["cat"] * 10, "en") == 1.0


def test_the_first_of_a_ranking_is_right_to_the_letter_and_scored_by_no_other_metric():
    assert METRICS["top_1"].score("a-1.png", ["b.png", "a-1.png"], "en") == 1.0
    assert METRICS["top_1"].score("a_1.png", ["a-1.png"], "en") == 0.0  # the same by exact match
    question = Question("", "", ["red"] * 10, ["p"], "p", "s", "en", "label", metric="top_1", prediction="red")
    assert question.metrics == ["top_1"] and question.score() == 1.0


def test_a_metric_that_does_not_exist_is_found_before_training():
    source = Source(name="s", format="llava", annotations=["a.json"], images=["photos"], metric="bleu")
    with pytest.raises(UserError, match="data.sources.0.metric = 'bleu': no such metric; choose one of exact_match"):
        check_metrics([source])
