"""What the window remembers, where it is kept, and what damaged settings become."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from common.language import system_language
from window.preferences import Preferences, preferences_file


def test_settings_live_in_the_users_config_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert preferences_file() == tmp_path / "xdg" / "ask-a-picture" / "settings.json"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("APPDATA", str(tmp_path / "roaming"))
    assert preferences_file() == tmp_path / "roaming" / "ask-a-picture" / "settings.json"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert preferences_file().relative_to(Path.home()).parts[:2] == ("Library", "Application Support")


def test_settings_are_kept_and_a_value_that_cannot_be_used_becomes_the_default(tmp_path):
    file = tmp_path / "new" / "settings.json"
    kept = Preferences(language="zh", dark=True, size=150, do_sample=True, temperature=0.7, system="", device="cpu")
    kept.save(file)
    assert Preferences.load(file) == kept
    assert kept.overrides() == {"do_sample": True, "temperature": 0.7, "system": ""}
    bad = {"language": "xx", "dark": 1, "size": 117, "temperature": -1, "max_new_tokens": 0, "more": 1, "look": True}
    bad |= {"do_sample": 1, "top_p": 1.5, "top_k": 0, "seed": 2**32, "num_beams": 1.5, "repetition_penalty": 0}
    bad |= {"no_repeat_ngram_size": -1, "min_new_tokens": "3", "stop_strings": ["a", ""]}
    file.write_text(json.dumps(bad), encoding="utf-8")
    assert Preferences.load(file) == Preferences(look=True)
    good = Preferences(top_p=1, top_k=1, seed=0, num_beams=2, repetition_penalty=1.1, stop_strings=["a"])
    good.save(file)
    assert Preferences.load(file) == good
    for damaged in ("{", "[]", ""):
        file.write_text(damaged, encoding="utf-8")
        assert Preferences.load(file) == Preferences()


@pytest.mark.parametrize(("name", "language"), [("zh_CN.UTF-8", "zh"), ("en_GB.UTF-8", "en"), ("C.UTF-8", "en")])
def test_the_language_is_the_locales(monkeypatch, name, language):
    monkeypatch.setenv("LC_ALL", name)
    assert system_language() == language
