import math

import pytest
import torch

from baselines.answers import Answers, find_answers, soft_loss, soft_targets
from dataset.doctor.examined import Asked


def asked(*answers: str, language: str = "en") -> Asked:
    return Asked("0/0", (0,), "What is it?", answers, language, "test", "other")


def test_the_commonest_answers_are_kept_as_they_are_written_most_often():
    questions = [asked("Two"), asked("2"), asked("2"), asked("red"), asked("red"), asked("blue")]
    assert find_answers(questions, 2) == [("en", "2"), ("en", "red")]


def test_an_answer_belongs_to_its_language():
    answers = Answers(find_answers([asked("3"), asked("三", language="zh")], 10))
    assert sorted(answers.answers) == [("en", "3"), ("zh", "三")]


def test_ten_people_vote_in_tenths_and_unknown_answers_have_no_vote():
    answers = Answers([("en", "red"), ("en", "blue")])
    ten = asked(*["red"] * 6, *["blue"] * 2, *["green"] * 2)
    assert answers.votes(ten) == {0: pytest.approx(0.6), 1: pytest.approx(0.2)}
    assert [answers.score(i, ten) for i in (0, 1)] == [1.0, pytest.approx(2 / 3)]
    assert answers.score(1, asked("blue", "red", "navy")) == 1.0
    assert answers.known_share([ten, asked("green")]) == 0.5


def test_the_loss_is_the_sum_of_votes_times_the_negative_log_softmax():
    targets = soft_targets([{0: 0.6, 1: 0.2}, {1: 1.0}], 2)
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    wanted = ((0.6 + 0.2) * math.log(2) + math.log(4)) / 2
    assert soft_loss(logits, targets).item() == pytest.approx(wanted)
