"""The settings dialog on a virtual screen."""

from __future__ import annotations

import json

import pytest

from tests.helpers.screen import every_widget, loaded

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.dialog import SettingsDialog  # noqa: E402
from window.preferences import Preferences  # noqa: E402


@pytest.fixture
def dialog(open_window, monkeypatch):
    """The settings' dialog, opened by key: (window, person, dialog). The loads that it brings are in window.loads."""
    window, person = open_window(preferences=Preferences(max_new_tokens=99, dark=True, device="cpu"))
    loaded(window, person)
    window.loads = []

    def load(checkpoint, device, verify, overrides) -> None:
        window.loads.append((checkpoint, device))

    monkeypatch.setattr(window.worker, "load", load)
    person.press("Control_L", "comma")
    person.until(lambda: any(isinstance(child, SettingsDialog) for child in window.root.winfo_children()))
    dialog = window.root.winfo_children()[-1]
    dialog.focus_force()
    return window, person, dialog


def test_on_a_low_screen_the_settings_scroll_to_what_the_keyboard_reaches(open_window, monkeypatch):
    monkeypatch.setattr(tkinter.Misc, "winfo_screenheight", lambda widget: 700)
    window, person = open_window(preferences=Preferences(size=200))
    loaded(window, person)
    assert window.root.winfo_height() + window.root.winfo_rooty() < 700
    window.models.open_settings()
    dialog = window.root.winfo_children()[-1]
    person.until(dialog.winfo_viewable)
    assert dialog.winfo_rooty() + dialog.winfo_height() <= 700
    tops = []
    for widget in (dialog.system, dialog.greedy):
        widget.focus_force()
        person.wait(0.1)
        top = widget.winfo_rooty() - dialog.page.winfo_rooty()
        assert 0 <= top and top + widget.winfo_height() <= dialog.page.winfo_height()
        tops.append(dialog.page.yview()[0])
    assert tops[0] > 0


def test_settings_are_changed_by_keys_and_kept_outside_the_repository(open_window, config_home):
    window, person = open_window()
    loaded(window, person)
    person.press("Control_L", "comma")
    person.until(lambda: any(isinstance(child, tkinter.Toplevel) for child in window.root.winfo_children()))
    dialog = window.root.winfo_children()[-1]
    dialog.focus_force()
    dialog.greedy.focus_set()
    person.press("Tab")
    person.press("space")  # sampling
    person.press("Tab")
    person.type("0.5")
    person.press("Return")
    assert not dialog.winfo_exists()
    assert window.preferences.overrides() == {"do_sample": True, "temperature": 0.5}
    saved = json.loads((config_home / "ask-a-picture" / "settings.json").read_text(encoding="utf-8"))
    assert saved["do_sample"] is True and saved["temperature"] == 0.5 and saved["max_new_tokens"] is None


def test_the_settings_set_length_system_prompt_and_device(dialog):
    window, person, dialog = dialog
    assert dialog.numbers["max_new_tokens"].get() == "99" and dialog.device.get() == "cpu"
    dialog.numbers["max_new_tokens"].set("12")
    dialog.system.delete("1.0", "end")
    dialog.system.focus_set()
    person.type("Be brief.")
    dialog.device.set(dialog.names["cuda"])
    dialog.greedy.focus_set()
    person.press("Return")
    assert window.preferences.overrides() == {"max_new_tokens": 12, "system": "Be brief."}
    assert window.loads == [(window.models.checkpoint, "cuda")]  # on another device it is loaded again


def test_a_wrong_number_in_the_settings_is_reported_and_escape_changes_nothing(dialog):
    window, person, dialog = dialog
    before = vars(window.preferences).copy()
    dialog.greedy.focus_set()
    for key, value, line in (
        ("max_new_tokens", "0", "Longest answer (tokens): 0 is not a number from 1 to 4096"),
        ("max_new_tokens", "many", "Longest answer (tokens): many is not a number from 1 to 4096"),
        ("temperature", "6", "Temperature: 6 is not a number from 0.1 to 5"),
        ("num_beams", "", "Beams: – is not a number from 1 to 32"),
        ("min_new_tokens", "100", "Shortest answer (tokens): 100 is not a number from 0 to 99"),
    ):
        before_it = dialog.numbers[key].get()
        dialog.numbers[key].set(value)
        person.press("Return")
        assert dialog.message.cget("text") == line
        dialog.numbers[key].set(before_it)
    for stops in ("[", '["a", ""]', '["a", 1]'):
        dialog.stops.set(stops)
        person.press("Return")
        assert dialog.message.cget("text").startswith("Stop strings: expected one text, or several")
    dialog.numbers["max_new_tokens"].set("5")
    dialog.numbers["temperature"].set("0.2")
    person.press("Escape")
    assert not dialog.winfo_exists() and vars(window.preferences) == before and window.loads == []


def test_every_key_of_decoding_is_set_by_keys_and_decides_the_answer(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    person.press("Control_L", "comma")
    person.until(lambda: any(isinstance(child, SettingsDialog) for child in window.root.winfo_children()))
    dialog = window.root.winfo_children()[-1]
    dialog.focus_force()
    dialog.greedy.focus_set()
    person.press("Tab")
    person.press("space")  # sampling
    typed = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 7, "num_beams": 2, "repetition_penalty": 1.5}
    typed |= {"min_new_tokens": 2, "max_new_tokens": 6, "no_repeat_ngram_size": 3}
    for value in typed.values():
        person.press("Tab")
        person.press("Control_L", "a")
        person.type(str(value))
    person.press("Tab")
    person.type("END")
    person.press("Return")
    wanted = {"do_sample": True, **typed, "stop_strings": ["END"]}
    assert window.preferences.overrides() == wanted == Preferences.load().overrides()
    given = []
    stream = window.worker.assistant.stream
    window.worker.assistant.stream = lambda *args, **options: (given.append(options), stream(*args, **options))[1]
    for _ in range(2):
        window.view.question_box.text = "What?"
        window.questions.ask()
        person.until(lambda: window.questions.job is None)
        window.new_conversation()
    assert given == [wanted, wanted] and window.view.question_box.reason == ""


def test_an_emptied_seed_or_top_k_is_the_null_of_the_config(dialog):
    window, person, dialog = dialog
    dialog.defaults |= {"seed": 3, "top_k": 5, "stop_strings": ["\n", "Q:"]}
    dialog.fill_answers(Preferences())
    assert [dialog.numbers[key].get() for key in ("seed", "top_k")] == ["3", "5"]
    assert dialog.stops.get() == '["\\n", "Q:"]'
    dialog.do_sample.set(True)
    for key in ("seed", "top_k"):
        dialog.numbers[key].set("")
    dialog.greedy.focus_set()
    person.press("Return")
    assert window.preferences.overrides() == {"do_sample": True, "seed": None, "top_k": None}
    assert Preferences.load() == window.preferences


def test_defaults_are_what_the_checkpoint_says_and_of_the_shown_page_only(dialog):
    window, person, dialog = dialog
    dialog.do_sample.set(True)
    dialog.numbers["temperature"].set("0.2")
    dialog.stops.set("x")
    (defaults,) = [w for w in every_widget(dialog) if w.winfo_class() == "TButton" and w.cget("text") == "Defaults"]
    person.click(defaults)
    shown = [dialog.do_sample.get(), *(dialog.numbers[key].get() for key in ("temperature", "max_new_tokens"))]
    assert shown == [False, "1", "8"] and dialog.stops.get() == ""  # 8: the run's config
    assert [dialog.device.get(), dialog.dark.get()] == ["cpu", True]  # of the other page
    dialog.numbers["num_beams"].set("2")
    dialog.book.focus_set()
    person.press("Right")
    assert dialog.book.index("current") == 1
    person.click(defaults)
    assert [dialog.device.get(), dialog.dark.get(), dialog.numbers["num_beams"].get()] == ["Automatic", False, "2"]
    dialog.book.focus_set()
    person.press("Return")
    assert window.preferences == Preferences(num_beams=2)
