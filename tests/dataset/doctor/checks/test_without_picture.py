"""Questions that are answered by one who never looks."""

from __future__ import annotations

import random

from dataset.doctor.checks.without_picture import answered_without_picture


def test_fair_questions_cannot_be_guessed(planted):
    assert answered_without_picture(planted.fair(60).examine()) is None


def test_answers_that_follow_from_a_word_of_questions_that_are_all_different(planted):
    """No text is repeated: only the words tell, as in "Is the sky in picture 17 blue?"."""
    rng = random.Random(0)
    answers = {"banana": "yellow", "grass": "green", "snow": "white", "coal": "black", "sky": "blue"}
    for i in range(120):
        thing = rng.choice(list(answers))
        planted.ask(f"{i % 40}.png", f"What color is the {thing} near {rng.randrange(10**6)}?", answers[thing])
    finding = answered_without_picture(planted.examine())
    assert finding.problem.startswith("100.0% of 120 questions are answered right without the picture")
    assert "color (en) 100%" in finding.problem and len(finding.examples) == 120


def test_one_type_that_can_be_guessed_among_fair_ones(planted):
    planted.fair(60)
    for i in range(60):
        planted.ask(f"{i}.png", "Where is the sun?", "in the sky")
    finding = answered_without_picture(planted.examine())
    assert finding.problem.endswith(": place (en) 100%")
    assert finding.examples[0] == '"Where is the sun?" "in the sky"'


def test_what_is_asked_about_one_picture_only_is_not_learnt(planted):
    """A question that is repeated about its own picture says nothing about another: folds are by picture."""
    rng = random.Random(0)
    for i in range(80):
        answer = str(rng.randrange(9))
        planted.ask(f"{i}.png", f"How many pixels has number{i}?", answer)
        planted.ask(f"{i}.png", f"How many pixels has number{i}?", answer)
    assert answered_without_picture(planted.examine()) is None


def test_a_handful_of_questions_says_nothing(planted):
    for i in range(20):
        planted.ask(f"{i}.png", "Where is the sun?", "in the sky")
    assert answered_without_picture(planted.examine()) is None
