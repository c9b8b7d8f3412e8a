"""The form in which answers are compared, in English and in Chinese."""

from __future__ import annotations

import pytest

from evaluation.normalise import normalise


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("A teddy bear.", "teddy bear"),
        ("  Red\n", "red"),
        ("The dog, and the cat!", "dog and cat"),
        ("blue/green", "blue green"),
        ("t-shirt", "t shirt"),
        ("black- white", "black white"),
        ("1,000", "1000"),
        ("10.5.", "10.5"),
        ("U.S.", "us"),
        ("Two", "2"),
        ("none", "0"),
        ("ten dogs", "10 dogs"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("3:30", "3:30"),
        ("$5", "$5"),
        ("A", "a"),
        ("?", "?"),
    ],
)
def test_english_answers_are_normalised_as_vqa_does(text, normalised):
    assert normalise(text, "en") == normalised


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("红色。", "红色"),
        ("红色 ，蓝色!", "红色蓝色"),
        ("３ 个", "3个"),
        ("3.5米", "3.5米"),
        ("1,000", "1000"),
        ("50％", "50%"),
        ("“Wii”游戏", "wii游戏"),
        ("。", "。"),
    ],
)
def test_chinese_answers_lose_punctuation_of_both_widths_and_spaces(text, normalised):
    assert normalise(text, "zh") == normalised
