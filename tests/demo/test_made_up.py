"""Made-up words and questions about them."""

from __future__ import annotations

import random
import re

import pytest

from demo import made_up
from demo.elsewhere import WORLDS
from demo.made_up import ANSWERS, FORMS, LANGUAGES, MOST, VALUES, Level
from demo.texts import FIRST

HARD = Level(pictures=True, fewest=1, long=1.0)


def test_no_word_and_no_form_of_a_question_is_of_the_worlds_that_are_kept_out(monkeypatch):
    kept_out = {
        w for world in WORLDS.values() for table in world.words.values() for pair in table.items() for w in pair
    }
    english = [word for word in sorted(kept_out) if word.isascii()]
    rng = random.Random(0)
    # A generator that makes the worlds' words, and then another.
    monkeypatch.setattr(made_up, "ONSETS", [""])
    monkeypatch.setattr(made_up, "CODAS", [""])
    monkeypatch.setattr(made_up, "NUCLEI", [*english, "zorp"])
    drawn = {made_up.draw_word(rng, "en", 1.0) for _ in range(3000)}
    assert not drawn & kept_out and "zorp" in drawn
    for world in WORLDS.values():
        for forms in FORMS.values():
            assert not set(world.check) & {form for own in forms.values() for form in own}


def test_there_are_hundreds_of_forms_in_each_language():
    rng = random.Random(0)
    for language in LANGUAGES:
        own = {made_up.draw_form(kind, rng, language, Level(long=0.99)) for kind in FORMS for _ in range(3000)}
        assert len(own) > 400
        assert all(re.fullmatch(r"[^{}]*\{\}[^{}]*(\{\}[^{}]*)?", form) for form in own)


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_are_true_of_what_is_shown(language):
    rng, seen = random.Random(1), set()
    for _ in range(400):
        values = made_up.draw_values(rng, language, HARD)
        words = [word for own in values for word in own]
        assert 1 <= len(values) <= MOST and len(set(words)) == VALUES * len(values)
        question, answer = made_up.draw_question(values, rng, language, HARD)
        edge = r"\b" if language == "en" else ""
        longest = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
        named = re.findall(f"{edge}({longest}){edge}", question)
        wrong = {word for own in values for word in own[1:]}
        if answer in ANSWERS[language]:
            seen.add(answer)
            if len(named) <= 2:  # no noun was a word as well
                assert (answer == ANSWERS[language][False]) == bool(wrong & set(named)), question
        else:
            assert answer in question
            seen.add("word")
    assert seen == {*ANSWERS[language], "word"}


def test_single_tokens_come_first_and_take_one_token_each():
    values = made_up.draw_values(random.Random(0), "en", Level())
    assert all(len(word) == 1 and ord(word) >= FIRST for own in values for word in own)
    assert len({made_up.draw_form("check", random.Random(n), "en", Level()) for n in range(50)}) == 1


def test_the_level_rises_only_with_right_answers():
    level = Level()
    for _ in range(5):
        level.rise({})
        level.rise({"text yes/no": 0.8})
    assert level == Level()
    level.rise({"text yes/no": 0.9})
    assert level == Level(True, 1, 1, 0.0)
    level.rise({"text yes/no": 0.9, "picture yes/no": 0.85})
    assert level.most == 1
    level.rise({"text yes/no": 0.9, "picture yes/no": 0.92})
    assert (level.most, level.long) == (2, 0.0)
    for look in range(1, 51):
        level.rise({"text yes/no": 0.82, "picture yes/no": 0.78})
        assert level.long == pytest.approx(0.02 * look) and level.most == 2
    level.rise({"text yes/no": 0.82, "picture yes/no": 0.78})
    assert (level.most, level.long) == (3, 1.0)
    for _ in range(5):
        level.rise({"text yes/no": 0.82, "picture yes/no": 0.78})
    assert (level.most, level.long) == (MOST, 1.0)
    hard = Level(True, 1, 2, 0.5)
    hard.rise({"text yes/no": 0.82, "picture yes/no": 0.7})
    assert hard.long == 0.5
