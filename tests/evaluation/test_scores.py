"""The scores against reference numbers made elsewhere, and the rules behind them case by case."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from demo import scenes
from evaluation import scores as metrics
from evaluation.scores import Pair

REPO = Path(__file__).resolve().parent.parent.parent

# ---------------------------------------------------------------------------------------------- short answers


def test_vqa_accuracy_equals_the_official_evaluator_on_all_cases(shared_data):
    content = json.loads((shared_data / "metrics" / "vqa_accuracy_cases.json").read_text(encoding="utf-8"))
    assert len(content["cases"]) == 300
    scores = [100 * metrics.vqa_accuracy(case["prediction"], case["answers"]) for case in content["cases"]]
    wrong = [
        (case["question_id"], score, case["accuracy"])
        for case, score in zip(content["cases"], scores, strict=True)
        if abs(score - case["accuracy"]) > 1e-6
    ]
    assert wrong == []
    assert round(sum(scores) / 300, 2) == content["overall"]


@pytest.mark.parametrize(("said_by", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_vqa_accuracy_leaves_each_of_the_ten_out_in_turn(said_by, accuracy):
    assert metrics.vqa_accuracy("cat", ["cat"] * said_by + ["dog"] * (10 - said_by)) == pytest.approx(accuracy)


def test_ten_answers_that_agree_are_compared_without_rewriting():
    assert metrics.vqa_accuracy("Net.", ["net"] * 10) == 0
    assert metrics.vqa_accuracy(" net\n", ["net"] * 10) == 1
    assert metrics.vqa_accuracy("Net.", ["net"] * 9 + ["fence"]) == 1


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
    assert metrics.normalise(text, "en") == normalised


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
    assert metrics.normalise(text, "zh") == normalised


def test_exact_match_takes_any_reference_and_no_empty_answer():
    assert metrics.exact_match("a couch", ["Sofa.", "Couch."], "en")
    assert not metrics.exact_match("a couch", ["sofa"], "en")
    assert not metrics.exact_match("", ["A"], "en")
    assert not metrics.exact_match("the", ["a"], "en")
    assert metrics.exact_match("在左上角。", ["在左上角"], "zh")
    assert not metrics.exact_match("左上角", ["右上角"], "zh")


# ---------------------------------------------------------------------------------------------- captions


def test_caption_scores_equal_the_published_ones(shared_data):
    case = json.loads((shared_data / "metrics" / "caption_cases.json").read_text(encoding="utf-8"))
    scores = metrics.caption_scores(case["hypotheses"], case["references"], "en")
    names = {f"BLEU-{n}": f"Bleu_{n}" for n in (1, 2, 3, 4)} | {"ROUGE-L": "ROUGE_L", "CIDEr": "CIDEr"}
    assert {name: scores[name] for name in names} == pytest.approx({n: case[old] for n, old in names.items()}, abs=1e-3)
    assert scores["n"] == 2


def test_a_perfect_caption_scores_one_whatever_its_case_and_punctuation():
    references = [["a dog runs on the grass"], ["two cats sleep in a small box"]]
    scores = metrics.caption_scores(["A dog runs on the grass.", "Two cats, sleep in a small box!"], references, "en")
    assert scores["BLEU-4"] == pytest.approx(1.0, abs=1e-6)
    assert scores["ROUGE-L"] == pytest.approx(1.0)
    assert scores["CIDEr"] == pytest.approx(10.0)


def test_the_segmentation_of_chinese_moves_cider():
    said = ["一个红色的圆形在左上角。", "雪地上有一个滑雪的女人"]
    wanted = [["一个大的红色圆形在左上角"], ["一个女人在雪地上滑雪"]]
    by_word = metrics.caption_scores(said, wanted, "zh")["CIDEr"]
    characters = [[c for c in text if c.isalnum()] for text in said]
    by_character = metrics.token_scores(characters, [[list(text) for text in texts] for texts in wanted])["CIDEr"]
    assert by_word > 0
    assert abs(by_word - by_character) > 0.3


def test_chinese_is_cut_into_words_and_english_is_not_cut_inside_them():
    assert metrics.caption_tokens("一个女人在雪地上滑雪。", "zh") == ["一个", "女人", "在", "雪地", "上", "滑雪"]
    words = ["it's", "a", "t-shirt", "for", "3.5", "people"]
    assert metrics.caption_tokens("It’s a T-shirt, for 3.5 people.", "en") == words


def test_scorers_and_segmenter_keep_silent():
    """In a process of its own: the segmenter speaks, through a logger of its own, only when it is first loaded."""
    call = "caption_scores(['一个女人', '一只狗'], [['一个女人在滑雪'], ['一只狗']], 'zh')"
    code = f"from evaluation import scores; scores.{call}"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_cider_of_a_single_caption_is_unknown_and_an_empty_caption_scores_nothing():
    alone = metrics.caption_scores(["a dog"], [["a dog"]], "en")
    assert alone["CIDEr"] is None and alone["ROUGE-L"] == 1
    scores = metrics.caption_scores(["", ""], [["a dog runs"], ["a cat sleeps"]], "en")
    assert scores["ROUGE-L"] == 0 and scores["CIDEr"] == 0 and scores["BLEU-1"] < 1e-6


def test_caption_packages_names_the_segmenter_only_for_chinese():
    assert set(metrics.caption_packages({"en"})) == {"pycocoevalcap"}
    assert set(metrics.caption_packages({"en", "zh"})) == {"pycocoevalcap", "jieba"}


# ---------------------------------------------------------------------------------------------- kinds of questions


def test_every_question_of_the_demo_is_of_the_kind_it_was_made_as():
    rng = random.Random(0)
    kinds = set()
    for _ in range(3000):
        qa = scenes.ask(scenes.draw_scene(rng), rng.choice(("en", "zh")), rng)
        assert metrics.question_type(qa.question, [qa.answer]) == qa.kind, qa
        kinds.add(qa.kind)
    assert kinds == {"color", "shape", "size", "place", "count", "yes/no"}
    assert {metrics.question_type(q) for texts in scenes.DESCRIBE.values() for q in texts} == {"caption"}


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
    assert metrics.question_type(question) == kind


def test_several_sentences_as_references_make_a_caption_and_ten_short_answers_do_not():
    sentences = ["一个穿着红色上衣的女人在雪地上滑雪", "雪坡上有一个双手握着滑雪杖的女人"]
    assert metrics.question_type("这是哪里？", sentences) == "caption"
    assert metrics.question_type("What is it?", ["a man rides a brown horse"] * 3) == "caption"
    assert metrics.question_type("What is it?", ["a man rides a brown horse"]) == "other"
    assert metrics.question_type("What is it?", ["horse"] * 10) == "other"


def test_a_choice_that_is_answered_by_yes_is_a_yes_no_question():
    question = "Is there a television or a monitor in the room?"
    assert metrics.question_type(question, ["Yes, there is a television."]) == "yes/no"
    assert metrics.question_type(question, ["a television"]) == "other"


# ---------------------------------------------------------------------------------------------- floors


def pair(question: str, *references: str, image: str = "x", kind: str = "other", language: str = "en") -> Pair:
    return Pair(question, references, language, kind, image)


TRAIN = [
    pair("What color is it?", "red", kind="color"),
    pair("What color is it?", "Red.", kind="color"),
    pair("What color is it?", "blue", kind="color"),
    pair("What color is the cat?", "black", kind="color"),
    pair("Is it big?", "yes", kind="yes/no"),
    pair("Is it old?", "yes", kind="yes/no"),
    pair("Is it wet?", "yes", kind="yes/no"),
    pair("Is it wet?", "no", kind="yes/no"),
    pair("它是什么颜色？", "红色", kind="color", language="zh"),
]


def test_majority_answer_is_the_commonest_of_all():
    assert metrics.majority_answer([pair("What color is it?", kind="color"), pair("Why?")], TRAIN) == ["yes", "yes"]


def test_question_only_takes_the_text_then_the_kind_in_its_language_then_all():
    asked = [
        pair("what color  is the cat?", kind="color"),
        pair("What color is the dog?", kind="color"),
        pair("狗是什么颜色？", kind="color", language="zh"),
        pair("Where is it?", kind="place"),
    ]
    assert metrics.question_only(asked, TRAIN) == ["black", "red", "红色", "yes"]


def test_a_question_with_several_references_counts_each_of_them_once():
    train = [pair("What?", "net", "net", "net", "Net."), pair("What?", "fence"), pair("What?", "fence")]
    assert metrics.question_only([pair("What?")], train) == ["fence"]


def test_without_training_data_a_question_never_sees_answers_about_its_own_picture():
    asked = [
        pair("What?", "cat", image="1"),
        pair("What?", "cat", image="1"),
        pair("What?", "cat", image="1"),
        pair("What?", "dog", image="2"),
        pair("What?", "dog", image="3"),
        pair("Who?", "man", image="3"),
    ]
    assert metrics.question_only(asked) == ["dog", "dog", "dog", "cat", "cat", "cat"]
    assert metrics.majority_answer(asked) == ["dog", "dog", "dog", "cat", "cat", "cat"]
    assert metrics.question_only([pair("What?", "cat")]) == [""]


# ---------------------------------------------------------------------------------------------- how sure


def test_the_standard_error_grows_when_questions_hang_together():
    values = [1.0, 1.0, 0.0, 0.0]
    mean, apart = metrics.clustered_mean(values, "abcd")
    assert mean == 0.5
    assert apart == pytest.approx(math.sqrt(4 / 3 * 4 * 0.25) / 4)
    _, together = metrics.clustered_mean(values, "aabb")
    assert together == pytest.approx(math.sqrt(2 / 1 * 2 * 1.0) / 4)


def test_clearly_above_takes_more_than_two_standard_errors():
    ones, half = [1.0] * 8, [0.0, 1.0] * 4
    difference, error, clear = metrics.clearly_above(ones, half, range(8))
    assert (difference, clear) == (0.5, True)
    assert error == pytest.approx(math.sqrt(8 / 7 * 8 * 0.25) / 8)
    assert not metrics.clearly_above(half, ones, range(8))[2]
    assert not metrics.clearly_above([1.0, 1, 0, 0], [0.0] * 4, range(4))[2]  # 0.5 with an error of 0.29


def test_clearly_above_with_one_group_or_without_variance():
    assert metrics.clearly_above([1.0, 1.0], [0.0, 0.0], "aa") == (1.0, math.inf, False)
    assert metrics.clearly_above([1.0, 1.0], [0.0, 0.0], "ab") == (1.0, 0.0, True)
    assert metrics.clearly_above([1.0, 1.0], [1.0, 1.0], "ab") == (0.0, 0.0, False)
