"""The type of a question, by its words."""

from __future__ import annotations

import random

import pytest

from dataset.question_types import question_type
from demo import scenes


def test_every_question_of_the_demo_is_of_the_kind_it_was_made_as():
    rng = random.Random(0)
    kinds = set()
    for _ in range(3000):
        qa = scenes.ask(scenes.draw_scene(rng), rng.choice(("en", "zh")), rng)
        assert question_type(qa.question, [qa.answer]) == qa.kind, qa
        kinds.add(qa.kind)
    assert kinds == {"color", "shape", "size", "place", "count", "yes/no"}
    assert {question_type(q) for texts in scenes.DESCRIBE.values() for q in texts} == {"caption"}


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("What color is the couch?", "color"),
        ("What is the colour of the sky in the image?", "color"),
        ("In the image, what color is the car?", "color"),
        ("Is the car red or blue?", "color"),
        ("Where was the photo taken?", "place"),
        ("What is the location of the boat in the image?", "place"),
        ("What position is this man playing?", "other"),
        ("Does the table below the water look wooden and round?", "yes/no"),
        ("Is there a boat in the image? If so, where is it?", "yes/no"),
        ("Is the horse brown, or not?", "yes/no"),
        ("Is the man sitting or standing?", "other"),
        ("Is the star large or small?", "size"),
        ("Is the bathroom spacious or small?", "size"),
        ("How large is the wave?", "size"),
        ("What shape is the table?", "shape"),
        ("Is the table square or round?", "shape"),
        ("How many people are in the image?", "count"),
        ("How are the chairs?", "other"),
        ("Can you explain the basics of surfing?", "other"),
        ("Can you see any leaves in the image?", "yes/no"),
        ("Describe the image concisely.", "caption"),
        ("Provide a brief description of the given image.", "caption"),
        ("What do you see in this photo?", "caption"),
        ("What is in the picture?", "caption"),
        ("What is in the bowl?", "other"),
        ("Can you provide any tips for a bathroom like the one in the image?", "other"),
        ("请描述这张图片。", "caption"),
        ("图中有什么？", "caption"),
        ("这张图片里有什么?", "caption"),
        ("你看到了什么？", "caption"),
        ("桌子上有什么？", "other"),
        ("图中有什么颜色？", "color"),
        ("汽车是红色还是蓝色？", "color"),
        ("这两个图形的颜色一样吗？", "yes/no"),
        ("图中有没有狗？", "yes/no"),
        ("有多少人在滑雪？", "count"),
        ("这几个人在做什么？", "other"),
        ("现在几点了？", "other"),
        ("这是什么地方？", "place"),
        ("你知道他在哪里吗？", "place"),
        ("桌子有多大？", "size"),
        ("他多大年纪？", "other"),
        ("他是坐着还是站着？", "other"),
    ],
)
def test_question_type_follows_the_words(question, kind):
    assert question_type(question) == kind


def test_several_sentences_as_references_make_a_caption_and_ten_short_answers_do_not():
    sentences = ["一个穿着红色上衣的女人在雪地上滑雪", "雪坡上有一个双手握着滑雪杖的女人"]
    assert question_type("这是哪里？", sentences) == "caption"
    assert question_type("What is it?", ["a man rides a brown horse"] * 3) == "caption"
    assert question_type("What is it?", ["a man rides a brown horse"]) == "other"
    assert question_type("What is it?", ["horse"] * 10) == "other"


def test_a_choice_that_is_answered_by_yes_is_a_yes_no_question():
    question = "Is there a television or a monitor in the room?"
    assert question_type(question, ["Yes, there is a television."]) == "yes/no"
    assert question_type(question, ["a television"]) == "other"
