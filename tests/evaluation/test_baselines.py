"""Baselines: the majority answer, the best answer per question text, and the choice of another picture."""

from __future__ import annotations

from evaluation.baselines import choose_other_images, majority_answers, question_only_answers
from evaluation.questions import Question


def pair(question: str, *references: str, image: str = "x", type: str = "other", language: str = "en") -> Question:
    return Question("", question, list(references), [image], image, "s", language, type)


TRAIN = [
    pair("What color is it?", "red", type="color"),
    pair("What color is it?", "Red.", type="color"),
    pair("What color is it?", "blue", type="color"),
    pair("What color is the cat?", "black", type="color"),
    pair("Is it big?", "yes", type="yes/no"),
    pair("Is it old?", "yes", type="yes/no"),
    pair("Is it wet?", "yes", type="yes/no"),
    pair("Is it wet?", "no", type="yes/no"),
    pair("它是什么颜色？", "红色", type="color", language="zh"),
]


def test_the_majority_answer_is_the_most_common_of_its_type_in_its_language_then_of_all():
    asked = [
        pair("What color is the cat?", type="color"),
        pair("它是什么颜色？", type="color", language="zh"),
        pair("Is it old?", type="yes/no"),
        pair("Why?"),
    ]
    assert majority_answers(asked, TRAIN) == ["red", "红色", "yes", "yes"]


def choice(question: str, options: list[str], reference: str) -> Question:
    return Question("", question, [reference], ["x"], "x", "s", "en", "multiple choice", options=options)


def test_of_multiple_choice_the_majority_is_a_label_and_question_only_the_most_common_option_that_is_offered():
    train = [
        choice("What is it? A. a cat B. a dog", ["a cat", "a dog"], "B"),
        choice("What is it? A. a cow B. a dog", ["a cow", "a dog"], "(B)"),
        choice("What is it? A. a cat B. a cow", ["a cat", "a cow"], "A. a cat"),
        choice("Where is it? A. here B. there", ["here", "there"], "B"),
    ]
    asked = [
        choice("What is it? A. a dog B. a cow", ["a dog", "a cow"], "A"),
        choice("What is it? A. a cow B. a cat", ["a cow", "a cat"], "A"),
        choice("Who is it? A. Ann B. Bob", ["Ann", "Bob"], "A"),
    ]
    assert majority_answers(asked, train) == ["B", "B", "B"]
    assert question_only_answers(asked, train) == ["a dog", "a cat", "B"]


def test_question_only_takes_the_text_then_the_type_in_its_language_then_all():
    asked = [
        pair("what color  is the cat?", type="color"),
        pair("What color is the dog?", type="color"),
        pair("狗是什么颜色？", type="color", language="zh"),
        pair("Where is it?", type="place"),
    ]
    assert question_only_answers(asked, TRAIN) == ["black", "red", "红色", "yes"]


def test_a_question_with_several_references_counts_each_of_them_once():
    train = [pair("What?", "net", "net", "net", "Net."), pair("What?", "fence"), pair("What?", "fence")]
    assert question_only_answers([pair("What?")], train) == ["fence"]


def test_without_training_data_a_question_never_sees_answers_about_its_own_picture():
    asked = [
        pair("What?", "cat", image="1"),
        pair("What?", "cat", image="1"),
        pair("What?", "cat", image="1"),
        pair("What?", "dog", image="2"),
        pair("What?", "dog", image="3"),
        pair("Who?", "man", image="3"),
    ]
    assert question_only_answers(asked) == ["dog", "dog", "dog", "cat", "cat", "cat"]
    assert majority_answers(asked) == ["dog", "dog", "dog", "cat", "cat", "cat"]
    assert question_only_answers([pair("What?", "cat")]) == [""]


def test_of_several_pictures_none_is_replaced_by_another_of_the_same_question():
    def question(*images: str) -> Question:
        return Question("", "", ["x"], list(images), images[0], "s", "en", "other")

    questions = [question("a", "b"), question("c"), question("b", "a", "c"), question("d", "a")]
    choose_other_images(questions, questions, seed=3)
    assert [len(q.other_images) for q in questions] == [2, 1, 0, 2]  # four pictures leave one for three
    for q in questions:
        assert not set(q.images) & set(q.other_images)
        assert len(set(q.other_images)) == len(q.other_images)


def test_the_other_pictures_depend_on_the_seed_alone():
    def replaced(seed: int) -> list[list[str]]:
        questions = [Question("", "", ["x"], [c], c, "s", "en", "other") for c in "abcdefgh"]
        choose_other_images(questions, questions, seed)
        return [q.other_images for q in questions]

    assert replaced(0) == replaced(0)
    assert replaced(0) != replaced(1)
