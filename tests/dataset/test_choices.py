"""Multiple choice: the options of a question, and which of them an answer chooses."""

from __future__ import annotations

import random

import pytest

from dataset.choices import LABELS, bare_options, chosen_label, options_in
from evaluation.questions import conversation_questions, number_ids
from evaluation.scores import METRICS


@pytest.mark.parametrize(
    ("question", "stem", "options"),
    [
        ("Which color? A. red B. dark blue", "Which color?", ["red", "dark blue"]),
        ("Which?\n(A) red\n(B) blue\nAnswer with the option's letter.", "Which?", ["red", "blue"]),
        ("Which?\nA: red\nB: blue, or so\nC: none", "Which?", ["red", "blue, or so", "none"]),
        ("Is vitamin A. good? A. yes B. no", "Is vitamin A. good?", ["yes", "no"]),
        ("Pick one: (a) yes (b) no", "Pick one:", ["yes", "no"]),
        ("哪种颜色？A.红色 B.蓝色 C、绿色", "哪种颜色？", ["红色", "蓝色", "绿色"]),
        ("哪种颜色？\n（A）红色\n（B）蓝色", "哪种颜色？", ["红色", "蓝色"]),
    ],
)
def test_options_are_found_in_a_question(question, stem, options):
    assert options_in(question) == (stem, options)


@pytest.mark.parametrize(
    "question",
    ["Is vitamin A. good?", "What is A?", "Which? B. red C. blue", "Which? A. B. blue", "Is it red or blue?", ""],
)
def test_a_question_without_two_labelled_options_has_none(question):
    assert options_in(question) == (question, [])


OPTIONS = ["red", "dark blue", "green", "2"]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        *(
            (text, "A")
            for text in ("A", "a", "(A)", "A.", "（A）", "[A]", "red", "Red.", "the red", "A. red", "(A) red")
        ),
        *(
            (text, "A")
            for text in ("A: red", "A、red", "Answer: A", "The answer is A.", "The correct answer is (A) red")
        ),
        *((text, "A") for text in ("Option A", "A. red, because of the light", "答案是A", "选A", "答案：（A）")),
        *((text, "B") for text in ("dark-blue", "B", "b) Dark blue")),
        ("two", "D"),
        *((text, None) for text in ("blue", "purple", "", "E", "A or B", "B. red", "A red B blue")),
    ],
)
def test_label_text_and_both_are_one_answer(answer, label):
    assert chosen_label(answer, OPTIONS, "en") == label


def test_labels_written_into_a_field_are_taken_off():
    assert bare_options(["A. red", "(B) blue"]) == ["red", "blue"]
    assert bare_options(["B. red", "A. blue"]) == ["B. red", "A. blue"]
    assert bare_options([" red ", "B. blue"]) == ["red", "B. blue"]


def turn(question: str, *answers: str, **fields) -> dict:
    return {"q": question, "a": list(answers), **fields}


def test_a_question_with_options_is_scored_by_option_and_is_a_type_of_its_own():
    turns = [
        turn("Which? A. red B. blue", "B. blue"),
        turn("Which?", "A", options=["A. red", "B. blue"]),
        turn("Which?", "red", options=["red", "blue"], type="hue", id="7"),
        turn("Does A. Smith or B. Jones play?", "yes"),
    ]
    talk = {"images": [], "turns": turns, "source": "s", "language": "en"}
    found = conversation_questions({}, [("text/0", talk)])
    assert [q.type for q in found] == ["multiple choice", "multiple choice", "hue", "yes/no"]
    assert [q.options for q in found] == [["red", "blue"]] * 3 + [[]]
    assert [q.id for q in found] == ["text/0/0", "text/0/1", "s/7", "text/0/3"]
    assert [q.score_of("blue") for q in found] == [1, 0, 0, 0]
    assert [q.score_of("(A)") for q in found] == [0, 1, 1, 0]


def test_type_options_and_id_of_a_conversation_are_those_of_its_turns():
    turns = [turn("Which?", "A"), turn("Which?", "B. green", options=["red", "green"])]
    talk = {"images": [], "turns": turns, "source": "s", "language": "en", "id": "42", "type": "hue"}
    found = conversation_questions({}, [("text/0", talk | {"options": ["red", "blue"]})])
    assert [(q.type, q.id, q.options[1]) for q in found] == [("hue", "s/42", "blue"), ("hue", "s/42", "green")]
    number_ids(found)
    assert [q.id for q in found] == ["s/42", "s/42/2"]


def test_any_text_can_be_a_question_an_option_and_an_answer():
    rng = random.Random(0)
    letters = "AaBb(（)）.．:：、 \n?？,，一三两十百万零redRED。'\"\u3000\ud800%-−½²"
    for _ in range(500):
        question, answer, *given = ("".join(rng.choices(letters, k=rng.randint(0, 12))) for _ in range(5))
        _, options = options_in(question)
        for language in ("en", "zh"):
            for choices in (options, bare_options(given)):
                label = chosen_label(answer, choices, language)
                assert label is None or LABELS.index(label) < len(choices)
            for metric in METRICS.values():
                assert 0.0 <= metric.score(answer, given, language) <= 1.0
