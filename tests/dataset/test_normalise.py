"""The form in which answers are compared, in English and in Chinese."""

from __future__ import annotations

import pytest

from dataset.normalise import normalise


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
        ("yes，it is。", "yes it is"),
        ("ｒｅｄ！", "red"),
        ("don’t", "don't"),
        ("３，000", "3000"),
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


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        *{
            "三": "3",
            "两": "2",
            "兩個": "2個",
            "零": "0",
            "十": "10",
            "十二": "12",
            "二十": "20",
            "二十三": "23",
        }.items(),
        *{"一百零五": "105", "一百二": "120", "一百一十": "110", "两万五": "25000", "一万零三": "10003"}.items(),
        *{"十万": "100000", "二十三万四千五百": "234500", "一亿": "100000000", "二〇二四年": "2024年"}.items(),
        *{"三个人": "3个人", "大约 三十 ％": "大约30%"}.items(),
        # No numbers, and left as they are.
        *{"百": "百", "千万": "千万", "一二百": "一二百", "十十": "十十", "万": "万"}.items(),
    ],
)
def test_chinese_number_words_are_digits(text, normalised):
    assert normalise(text, "zh") == normalised
