"""The window's texts in both languages."""

from __future__ import annotations

import re

from tests.helpers.tiny import REPO
from window.texts import TEXTS


def test_both_languages_say_the_same_things():
    english, chinese = TEXTS["en"], TEXTS["zh"]
    assert english.keys() == chinese.keys()
    for key, words in english.items():
        assert set(re.findall(r"{\w+}", words)) == set(re.findall(r"{\w+}", chinese[key])), key
    source = "".join(file.read_text(encoding="utf-8") for file in (REPO / "window").glob("*.py"))
    said = {key for key in english if f'"{key}"' in source.replace((REPO / "window/texts.py").read_text("utf-8"), "")}
    computed = ("stage_", "action_", "question_")  # beginnings of keys that the code puts together
    assert english.keys() - said == {key for key in english if key.startswith(computed)} - said
