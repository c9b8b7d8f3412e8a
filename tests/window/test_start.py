"""What is shown before the first question, by real clicks and keys on a virtual screen."""

from __future__ import annotations

import shutil
import webbrowser

import pytest

from tests.helpers.screen import every_widget, loaded, seen
from tests.helpers.tiny import REPO

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.models import filedialog  # noqa: E402
from window.preferences import Preferences  # noqa: E402


def offered(window) -> list:
    """The buttons of the start."""
    return [widget for widget in every_widget(window.view.transcript.text) if widget.winfo_class() == "TButton"]


def test_an_example_picture_and_then_its_question_are_asked_by_clicks(open_window, tested):
    window, person = open_window()
    loaded(window, person)
    person.until(lambda: len(offered(window)) == 2)
    person.click(offered(window)[1])
    person.until(lambda: window.conversation.paths == tested[1:])
    assert Preferences.load().folder == ""  # the dialogues do not begin among the examples
    (chip,) = offered(window)
    assert chip.cget("text") == "Is it 3?"
    person.click(chip)
    person.until(lambda: window.questions.job is None and window.conversation.turns)
    assert "Is it 3?" in seen(window) and offered(window) == []


def test_the_examples_are_reached_with_the_tab_key(open_window, tested):
    window, person = open_window()
    loaded(window, person)
    person.until(lambda: len(offered(window)) == 2)
    for _ in range(20):
        if window.root.focus_get() in offered(window):
            break
        person.press("Tab")
    person.press("Return")
    person.until(lambda: window.conversation.paths == tested[:1])


def test_a_picture_that_is_no_example_gets_questions_that_fit_any(open_window, tested, red):
    window, person = open_window(red)
    loaded(window, person)
    person.until(lambda: window.start.reading is None)
    assert [chip.cget("text") for chip in offered(window)][0] == "Describe the picture."
    window.prefer(language="zh")
    person.until(lambda: window.root.title() == "看图问答" and window.start.reading is None)
    assert [chip.cget("text") for chip in offered(window)][0] == "描述这张图片。"


def test_a_note_leaves_the_examples_where_they_are(open_window, tested, tmp_path):
    window, person = open_window()
    loaded(window, person)
    person.until(lambda: len(offered(window)) == 2)
    window.pictures.open(str(tmp_path / "nowhere.png"))
    person.until(lambda: window.notes)
    assert len(offered(window)) == 2 and seen(window).index("take one of these") < seen(window).index("nowhere.png")


def test_without_a_model_a_button_opens_the_readme_and_another_asks_for_a_folder(open_window, tmp_path, monkeypatch):
    shutil.move(tmp_path / "checkpoints", tmp_path / "moved")
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or len(opened) > 1)
    monkeypatch.setattr(filedialog, "askdirectory", lambda **options: str(tmp_path / "moved" / "test"))
    window, person = open_window()
    readme, folder = offered(window)
    person.click(readme)
    assert opened == [(REPO / "README.md").as_uri()] and str(REPO / "README.md") in seen(window)  # no browser here
    person.click(readme)
    assert len(opened) == 2 and len(window.notes) == 2
    person.click(folder)
    loaded(window, person)
    assert window.worker.assistant is not None and "No model" not in seen(window)
