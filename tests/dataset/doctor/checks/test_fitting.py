"""Answers of another kind than their questions ask for."""

from __future__ import annotations

import pytest

from dataset.doctor.checks import fitting

ALL = (fitting.unfit_answers, fitting.same_answer_to_all, fitting.empty_words, fitting.answers_that_ask)
CAPTIONS = ("A man riding a wave on top of a surfboard.", "Several boats on a lake at dusk", "Food on a wooden table")


def found(planted) -> list[str]:
    data = planted.examine()
    return [check.__name__ for check in ALL if check(data) is not None]


def test_fair_data_have_none_of_these_faults(fair):
    assert found(fair) == []


def test_captions_where_short_answers_are_asked(fair):
    for i in range(12):
        caption = CAPTIONS[i % 3]
        fair.ask(f"{i}.png", "Is it daytime?", caption, "What color is the sky?", caption, source="vqa")
    data = fair.examine()
    unfit = fitting.unfit_answers(data)
    assert unfit.problem.startswith("source vqa: 24 of 24 yes/no, count and colour questions (100.0 %)")
    assert '"Is it daytime?" "A man riding a wave on top of a surfboard."' in unfit.examples[0]
    assert fitting.same_answer_to_all(data) is None  # the fair questions have other answers


def test_one_caption_for_all_questions_of_a_picture(planted):
    for i in range(12):
        caption = CAPTIONS[i % 3]
        planted.ask(f"{i}.png", "What is on the left?", caption, "Where are they?", caption)
    finding = fitting.same_answer_to_all(planted.examine())
    assert finding.problem.startswith("12 of 12 pictures (100.0 %) with several questions have the same sentence")


def test_every_answer_is_the(planted):
    """The story of the labels of another set: a caption's first word taken as the answer."""
    for i in range(12):
        planted.ask(f"{i}.png", "Is there a dog?", "the")
        planted.ask(f"{i}.png", "这是什么？", "的", language="zh")
    finding = fitting.empty_words(planted.examine())
    assert finding.problem == '24 of 24 answers (100.0 %) are one word that says nothing, such as "the"'
    assert "unfit_answers" in found(planted)


def test_swapped_columns(planted):
    for i in range(12):
        planted.ask(f"{i}.png", "yes", f"Is there a dog number {i}?")
    assert found(planted) == ["answers_that_ask"]


@pytest.mark.parametrize(
    ("question", "answer", "language"),
    [
        ("Is the man smiling?", "Yes, he is smiling at the camera.", "en"),
        ("Is the man smiling?", "Not sure", "en"),
        ("图中有狗吗？", "没有", "zh"),
        ("他会游泳吗？", "会的", "zh"),
        ("狗在睡觉吗？", "睡觉", "zh"),
        ("How many people are there?", "There are several people.", "en"),
        ("How many people are there?", "nobody", "en"),
        ("图中有几个人？", "三个", "zh"),
        ("What color is the car?", "lime", "en"),
        ("What color is the car?", "The car in the picture is painted bright red.", "en"),
        ("车是什么颜色？", "浅蓝色", "zh"),
    ],
)
def test_answers_that_fit(planted, question, answer, language):
    for i in range(12):
        planted.ask(f"{i}.png", question, answer, language=language)
    assert found(planted) == []


@pytest.mark.parametrize(
    ("question", "answer", "language"),
    [
        ("Is the man smiling?", "a surfboard", "en"),
        ("图中有狗吗？", "一个男人骑马", "zh"),
        ("How many people are there?", "a surfboard", "en"),
        ("What color is the car?", "a man on a surfboard", "en"),
        ("车是什么颜色？", "男人", "zh"),
    ],
)
def test_answers_that_do_not_fit(planted, question, answer, language):
    for i in range(12):
        planted.ask(f"{i}.png", question, answer, language=language)
    assert "unfit_answers" in found(planted)
