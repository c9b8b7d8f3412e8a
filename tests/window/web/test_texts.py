"""The page's texts, and the browser's language."""

from __future__ import annotations

import re

import pytest

from tests.helpers.tiny import REPO
from window.web.sessions import SETTINGS
from window.web.texts import TEXTS, preferred, text


def test_both_languages_have_the_same_texts_with_the_same_parts():
    assert TEXTS["en"].keys() == TEXTS["zh"].keys()
    for key, english in TEXTS["en"].items():
        parts = [sorted(re.findall(r"\{(\w+)", one)) for one in (english, TEXTS["zh"][key])]
        assert parts[0] == parts[1], key


def test_every_text_that_the_code_names_exists_and_none_is_left_over():
    """Keys that the window no longer has would be a KeyError in someone's browser."""
    code = "".join(
        file.read_text(encoding="utf-8") for file in (REPO / "window" / "web").glob("*.py") if file.stem != "texts"
    )
    named = set(re.findall(r'(?:\bt|text|note|refuse|Status)\((?:"en", |language, )?"(\w+)"', code))
    named |= {number.key for number in SETTINGS}
    named |= {"greedy", "sampling", "question_1", "question_2", "question_3", "baseline_on_device", "on_device"}
    named |= {"stage_libraries", "stage_weights", "stage_device", "shows_tokens", "shows_queries"}
    named |= {"shows_cross_attention", "ask_more", "type_here", "empty", "replaced_one", "replaced", "nothing"}
    assert {"busy", "picture_first", "cannot_open", "memory", "waiting"} <= named
    parts = "name value least most before count limit size pixels names reason device baseline who share score"
    values = dict.fromkeys(parts.split(), 1)
    for key in named:
        assert text("en", key, **values) and text("zh", key, **values), key
    assert set(TEXTS["en"]) <= named


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("de-DE,de;q=0.9,zh-TW;q=0.7,en;q=0.6", "zh"),
        ("en;q=0.2,zh;q=0.3", "zh"),
        ("fr", "en"),
        ("", "en"),
        ("*;q=;;,,zh;q=moon", "en"),
    ],
)
def test_the_language_is_the_first_of_the_browsers_that_the_page_speaks(header, language):
    assert preferred(header) == language
