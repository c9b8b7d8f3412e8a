"""Guessing an answer from the words of its question."""

from __future__ import annotations

from dataset.doctor.examined import Asked
from dataset.doctor.guessing import guessed_right


def asked(picture: int, text: str, *answers: str) -> Asked:
    return Asked(f"{picture}/0", (picture,), text, answers, "en", "set", "other")


def test_a_text_that_was_asked_about_other_pictures_gets_its_usual_answer():
    questions = [asked(i, "Where is the sun?", "up") for i in range(20)]
    questions += [asked(20 + i, "Where is the sea?", "down") for i in range(20)]
    assert guessed_right(questions).tolist() == [True] * 40


def test_words_decide_where_no_text_is_repeated():
    questions = [asked(i, f"Is number {i} odd?" if i % 2 else f"Is number {i} even?", "yno"[i % 2]) for i in range(40)]
    assert guessed_right(questions).mean() > 0.9


def test_any_of_the_references_is_right():
    questions = [asked(i, "Where is the sun?", "up", "above") for i in range(10)]
    questions += [asked(10 + i, "Where is the sun?", "above", f"rare {i}") for i in range(10)]
    assert guessed_right(questions).all()


def test_an_answer_that_is_given_once_cannot_be_guessed():
    questions = [asked(i, f"What is the name of number {i}?", f"name {i}") for i in range(300)]
    assert not guessed_right(questions).any()


def test_one_picture_alone_teaches_nothing_about_itself():
    assert not guessed_right([asked(1, "Where is the sun?", "up")] * 9).any()


def test_chinese_is_learnt_by_its_characters():
    things = {"香蕉": "黄色", "草地": "绿色", "天空": "蓝色"}
    names = list(things)
    questions = [asked(i, f"第{i}张图里的{names[i % 3]}是什么颜色？", things[names[i % 3]]) for i in range(60)]
    assert guessed_right(questions).mean() > 0.9
