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
    for widget in (dialog.dark_switch, dialog.greedy):
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
    assert dialog.length.get() == "99" and dialog.device.get() == "cpu"
    dialog.length.set("12")
    dialog.system.delete("1.0", "end")
    dialog.system.focus_set()
    person.type("Be brief.")
    dialog.device.set(dialog.names["cuda"])
    dialog.greedy.focus_set()
    person.press("Return")
    wanted = {"do_sample": False, "temperature": 1.0, "max_new_tokens": 12, "system": "Be brief."}
    assert window.preferences.overrides() == wanted
    assert window.loads == [(window.models.checkpoint, "cuda")]  # on another device it is loaded again


def test_a_wrong_number_in_the_settings_is_reported_and_escape_changes_nothing(dialog):
    window, person, dialog = dialog
    before = vars(window.preferences).copy()
    dialog.greedy.focus_set()
    for variable, value, line in (
        (dialog.length, "0", "Longest answer (tokens): 0 is not a number from 1 to 4096"),
        (dialog.length, "many", "Longest answer (tokens): many is not a number from 1 to 4096"),
        (dialog.temperature, "6", "Temperature: 6 is not a number from 0.1 to 5"),
    ):
        variable.set(value)
        person.press("Return")
        assert dialog.message.cget("text") == line
    dialog.length.set("5")
    dialog.temperature.set("0.2")
    person.press("Escape")
    assert not dialog.winfo_exists() and vars(window.preferences) == before and window.loads == []


def test_defaults_in_the_settings_are_what_the_checkpoint_says(dialog):
    window, person, dialog = dialog
    dialog.do_sample.set(True)
    dialog.temperature.set("0.2")
    (defaults,) = [w for w in every_widget(dialog) if w.winfo_class() == "TButton" and w.cget("text") == "Defaults"]
    defaults.invoke()
    shown = [v.get() for v in (dialog.do_sample, dialog.temperature, dialog.length, dialog.device, dialog.dark)]
    assert shown == [False, "1", "8", "Automatic", False]  # 8: the run's config
    dialog.greedy.focus_set()
    person.press("Return")
    assert window.preferences == Preferences()
