"""Questions and answers in different languages, wrong marks, rare languages."""

from __future__ import annotations

import pytest

from dataset.doctor.checks.languages import answers_in_another_language, declared_language, rare_language, script_of


def test_fair_data_are_in_one_language(fair):
    data = fair.examine()
    assert (answers_in_another_language(data), declared_language(data), rare_language(data)) == (None, None, None)


def test_two_languages_that_are_both_common_are_no_fault(fair):
    for i in range(24):
        fair.ask(f"{i}.png", "图中有几个人？", "3", language="zh", split="validation" if i % 5 == 4 else "train")
    data = fair.examine()
    assert (answers_in_another_language(data), declared_language(data), rare_language(data)) == (None, None, None)


def test_chinese_questions_with_english_answers(fair):
    for i in range(10):
        fair.ask(f"{i}.png", "这是什么？", "a dog", language="zh")
    finding = answers_in_another_language(fair.examine())
    assert finding.problem == "10 of 82 questions (12.2 %) have an answer in another language"
    assert finding.examples[0] == '"这是什么？" "a dog" (source set)'


def test_text_that_is_not_in_the_language_it_is_marked_as(fair):
    for i in range(10):
        fair.ask(f"{i}.png", "这是什么？", "一只狗", language="en", source="marked")
        fair.ask(f"{i}.png", "これは何ですか？", "いぬ", language="en", source="japanese")
    finding = declared_language(fair.examine())
    assert finding.problem.startswith("20 of 92 questions (21.7 %) are not in the language")
    assert "marked (10), japanese (10)" in finding.problem


def test_a_language_with_too_few_conversations_to_be_learnt(planted):
    planted.fair(60)
    planted.ask("0.png", "图中有几个人？", "三个", language="zh")
    finding = rare_language(planted.examine())
    assert finding.problem == "a language is rare: zh: 1 of 145 conversations of train (0.7 %), 1 in all"


def test_a_language_that_is_only_in_another_split(fair):
    for i in range(4, 24, 5):
        fair.ask(f"{i}.png", "图中有几个人？", "三个", language="zh", split="validation")
    assert "zh: 0 of 60 conversations of train (0.0 %), 4 in all" in rare_language(fair.examine()).problem


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("A dog", "en"),
        ("两只狗", "zh"),
        ("12", None),
        ("B", None),
        ("Хлеб", "other"),
        ("개", "other"),
        ("犬です", "other"),
    ],
)
def test_script(text, script):
    assert script_of(text) == script
