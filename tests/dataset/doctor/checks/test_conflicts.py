"""The same question about the same picture with answers that have nothing in common."""

from __future__ import annotations

from dataset.doctor.checks.conflicts import conflicting_answers


def test_fair_data_have_no_conflicts(fair):
    assert conflicting_answers(fair.examine()) is None


def test_two_answers_conflict_however_the_question_is_spelled(fair):
    fair.ask("0.png", "What shape is the sign?", "round")
    fair.ask("0.png", "Is there a cat?", "no", "What  shape is the SIGN?", "A square.")
    finding = conflicting_answers(fair.examine())
    assert finding.problem.startswith("1 of 1 questions (100.0 %) that are asked again")
    assert finding.examples[0].endswith('0.png: "What shape is the sign?" "round" or "A square." (0/3, 0/4)')


def test_the_same_answer_in_other_words_or_a_shared_reference_is_no_conflict(fair):
    fair.ask("0.png", "How many cats are there?", "two")
    fair.ask("0.png", "How many cats are there?", "2.")
    fair.ask("1.png", "What shape is the sign?", ["round", "circle"])
    fair.ask("1.png", "What shape is the sign?", ["a circle", "oval"])
    assert conflicting_answers(fair.examine()) is None


def test_descriptions_and_questions_that_refer_back_may_differ(fair):
    fair.ask("0.png", "Describe the picture.", "A dog.")
    fair.ask("0.png", "Describe the picture.", "A cat.")
    fair.ask("0.png", "Where is the dog?", "left", "What color is it?", "brown")
    fair.ask("0.png", "Where is the cat?", "right", "What color is it?", "black")
    fair.ask("0.png", "它是什么颜色？", "红色", language="zh")
    fair.ask("0.png", "它是什么颜色？", "蓝色", language="zh")
    assert conflicting_answers(fair.examine()) is None
