"""Captions' scores against published ones, and how captions are cut into words."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from evaluation.captions import caption_packages, caption_scores, caption_tokens, token_scores
from tests.helpers.tiny import REPO


def test_caption_scores_equal_the_published_ones(shared_data):
    case = json.loads((shared_data / "metrics" / "caption_cases.json").read_text(encoding="utf-8"))
    scores = caption_scores(case["hypotheses"], case["references"], "en")
    names = {f"BLEU-{n}": f"Bleu_{n}" for n in (1, 2, 3, 4)} | {"ROUGE-L": "ROUGE_L", "CIDEr": "CIDEr"}
    assert {name: scores[name] for name in names} == pytest.approx({n: case[old] for n, old in names.items()}, abs=1e-3)
    assert scores["n"] == 2


def test_a_perfect_caption_scores_one_whatever_its_case_and_punctuation():
    references = [["a dog runs on the grass"], ["two cats sleep in a small box"]]
    scores = caption_scores(["A dog runs on the grass.", "Two cats, sleep in a small box!"], references, "en")
    assert scores["BLEU-4"] == pytest.approx(1.0, abs=1e-6)
    assert scores["ROUGE-L"] == pytest.approx(1.0)
    assert scores["CIDEr"] == pytest.approx(10.0)


def test_the_segmentation_of_chinese_moves_cider():
    said = ["一个红色的圆形在左上角。", "雪地上有一个滑雪的女人"]
    wanted = [["一个大的红色圆形在左上角"], ["一个女人在雪地上滑雪"]]
    by_word = caption_scores(said, wanted, "zh")["CIDEr"]
    characters = [[c for c in text if c.isalnum()] for text in said]
    by_character = token_scores(characters, [[list(text) for text in texts] for texts in wanted])["CIDEr"]
    assert by_word > 0
    assert abs(by_word - by_character) > 0.3


def test_chinese_is_cut_into_words_and_english_is_not_cut_inside_them():
    assert caption_tokens("一个女人在雪地上滑雪。", "zh") == ["一个", "女人", "在", "雪地", "上", "滑雪"]
    words = ["it's", "a", "t-shirt", "for", "3.5", "people"]
    assert caption_tokens("It’s a T-shirt, for 3.5 people.", "en") == words


def test_scorers_and_segmenter_keep_silent():
    """In a process of its own: the segmenter speaks, through a logger of its own, only when it is first loaded."""
    call = "caption_scores(['一个女人', '一只狗'], [['一个女人在滑雪'], ['一只狗']], 'zh')"
    code = f"from evaluation import captions; captions.{call}"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_cider_of_a_single_caption_is_unknown_and_an_empty_caption_scores_nothing():
    alone = caption_scores(["a dog"], [["a dog"]], "en")
    assert alone["CIDEr"] is None and alone["ROUGE-L"] == 1
    scores = caption_scores(["", ""], [["a dog runs"], ["a cat sleeps"]], "en")
    assert scores["ROUGE-L"] == 0 and scores["CIDEr"] == 0 and scores["BLEU-1"] < 1e-6


def test_caption_packages_names_the_segmenter_only_for_chinese():
    assert set(caption_packages({"en"})) == {"pycocoevalcap"}
    assert set(caption_packages({"en", "zh"})) == {"pycocoevalcap", "jieba"}
