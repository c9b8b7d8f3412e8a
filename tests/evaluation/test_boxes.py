"""Boxes in answers: IoU, pairing, and the floors that need no picture."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from dataset.boxes import write_box
from dataset.question_types import kind_of
from evaluation.baselines import fit_baselines
from evaluation.boxes import _pairs, box_accuracy, box_iou, box_recall, commonest_boxes, has_boxes, iou
from evaluation.questions import Question
from evaluation.scores import metric_for

A, B, FAR = (0, 0, 100, 100), (0, 0, 100, 50), (500, 500, 600, 600)


def text(*boxes) -> str:
    return "<ref>x</ref>" + "".join(map(write_box, boxes))


def test_iou():
    assert iou(A, A) == 1.0 and iou(A, B) == iou(B, A) == 0.5
    assert iou(A, (50, 0, 150, 100)) == pytest.approx(1 / 3)
    assert iou(A, FAR) == iou(A, (100, 0, 200, 100)) == 0.0


@pytest.mark.parametrize(
    ("found", "wanted", "accuracy", "recall", "mean"),
    [
        ([A], [A], 1.0, 1.0, 1.0),
        ([B], [A], 1.0, 1.0, 0.5),
        ([FAR], [A], 0.0, 0.0, 0.0),
        ([], [A], 0.0, 0.0, 0.0),
        ([A, FAR], [A], 0.5, 1.0, 0.5),  # a box too many costs accuracy, not recall
        ([A], [A, FAR], 0.5, 0.5, 0.5),
        ([A, A], [A, FAR], 0.5, 0.5, 0.5),  # a box is paired once
        ([FAR, A], [A, FAR], 1.0, 1.0, 1.0),
    ],
)
def test_scores_of_an_answer(found, wanted, accuracy, recall, mean):
    answer, references = text(*found), [text(*wanted)]
    assert box_accuracy(answer, references) == accuracy
    assert box_recall(answer, references) == recall
    assert box_iou(answer, references) == mean


def test_the_reference_that_fits_best_counts():
    assert box_accuracy(text(A), [text(FAR), text(A)]) == 1.0
    assert box_accuracy("nowhere", [text(A)]) == 0.0


def test_pairing_finds_the_most_pairs():
    """Against all assignments of up to four boxes."""
    rng = random.Random(3)
    for _ in range(200):
        some = [(x, y, x + 100, y + 100) for x, y in ((rng.randint(0, 60), rng.randint(0, 60)) for _ in range(8))]
        found, wanted = some[: rng.randint(1, 4)], some[4 : 4 + rng.randint(1, 4)]
        fits = [[iou(a, b) >= 0.5 for b in wanted] + [False] * 4 for a in found]
        best = max(sum(fits[i][j] for i, j in enumerate(order)) for order in permutations(range(4), len(found)))
        assert _pairs(found, wanted) == best


def question(words: str, box, group: str, type: str = "grounding") -> Question:
    return Question("", words, [text(box)], ["p"], group, "s", "en", type, metric="box_accuracy", prediction=text(A))


def test_the_commonest_box_and_that_of_the_text_are_floors():
    near = [question("Where is it?", (0, 0, 100, 100 - n), str(n)) for n in range(5)]
    train = [*near, question("Where is the dog?", FAR, "5"), question("Where is the dog?", FAR, "6")]
    asked = [question("Where is the dog?", FAR, "7"), question("Where is the cat?", A, "8")]
    (dog, dog_text), (cat, cat_text) = commonest_boxes(asked, train)
    assert dog == cat == cat_text and iou((0, 0, 100, 98), A) >= 0.9 and box_accuracy(cat, [text(A)]) == 1.0
    assert dog_text == text(FAR)
    fit_baselines(asked, train)
    assert [q.baseline_score("majority") for q in asked] == [0.0, 1.0]
    assert [q.baseline_score("question_only") for q in asked] == [1.0, 1.0]


def test_without_training_questions_those_of_the_same_picture_are_left_out():
    asked = [question("Where?", A, "1"), question("Where?", A, "1"), question("Where?", FAR, "2")]
    assert [box_accuracy(common, [text(A)]) for common, _ in commonest_boxes(asked, None)] == [0.0, 0.0, 1.0]
    assert commonest_boxes(asked[:1], None) == [("", "")]


def test_which_questions_are_scored_by_boxes():
    assert has_boxes([text(A)]) and not has_boxes([text(A), "there"]) and not has_boxes([])
    assert metric_for([text(A)], "exact_match") == "box_accuracy" and metric_for([text(A)], "box_iou") == "box_iou"
    assert metric_for(["yes"], "box_iou") == "exact_match" and metric_for(["yes"], "anls") == "anls"
    several = Question("", "", [text(A, FAR)], [], "", "", "en", "grounding", metric="box_accuracy")
    assert question("Where?", A, "1").metrics == ["box_accuracy", "box_iou"]
    assert several.metrics == ["box_accuracy", "box_iou", "box_recall"]


def test_types_of_questions_with_boxes():
    assert kind_of({"q": "", "a": [text(A)]}, "Where is the dog in the long red grass?", "en") == ("grounding", [])
    assert kind_of({"q": "", "a": ["red"]}, f"{write_box(A)} What color is this?", "en") == ("region", [])
    assert kind_of({"q": "", "a": ["red"], "type": "t"}, f"{write_box(A)} What?", "en") == ("t", [])
