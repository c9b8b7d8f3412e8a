"""What is seen in the window, on a virtual screen."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest

from tests.helpers.screen import answers, every_widget, loaded, seen, talked
from tests.helpers.tiny import picture

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.pictures import filedialog  # noqa: E402
from window.preferences import Preferences  # noqa: E402


def test_shift_enter_is_a_new_line_and_enter_without_a_picture_asks_for_one(open_window):
    window, person = open_window()
    person.type("one")
    person.press("Shift_L", "Return")
    person.type("two")
    assert window.view.question_box.entry.get("1.0", "end-1c") == "one\ntwo" and window.conversation.turns == []
    person.press("Return")
    assert (
        window.view.question_box.reason == "Open a picture first."
        and window.view.question_box.entry.get("1.0", "end-1c") == "one\ntwo"
    )


def test_the_open_button_and_the_empty_pane_ask_for_a_picture(open_window, red, blue, monkeypatch):
    window, person = open_window()
    (button,) = [
        w for w in every_widget(window.view.frame) if w.winfo_class() == "TButton" and "Open" in w.cget("text")
    ]
    for widget, file in ((window.view.pane.canvas, red), (button, blue)):
        monkeypatch.setattr(filedialog, "askopenfilenames", lambda file=file, **options: (str(file),))
        person.click(widget)
        person.until(lambda file=file: window.conversation.paths == [str(file)])
    monkeypatch.setattr(filedialog, "askopenfilenames", lambda **options: (str(red),))
    person.click(window.view.pane.canvas)  # no longer empty
    person.wait(0.2)
    assert window.pictures.reading is None and window.conversation.paths == [str(blue)]


def test_what_is_drawn_at_a_question_seldom_waits_for_the_display(open_window, red):
    """While a model keeps all cores busy, each wait takes some milliseconds: 480 of them took 130 ms."""
    window, person = open_window(red)
    loaded(window, person)
    drawn, draw = [], window.view.pane.draw
    window.view.pane.draw = lambda: drawn.append(draw())
    window.worker.ask = lambda request, **options: 0
    for _ in range(2):  # the first removes the example questions
        window.view.question_box.entry.insert("1.0", "What?")
        window.root.update()
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        window.questions.ask()
        window.root.update()
        assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before < 100
        assert drawn == []
        window.questions.job = None


def test_the_names_of_picture_and_model_are_shortened_to_fit(open_window, tmp_path):
    long = tmp_path / ("a picture with a very long name, " * 4 + "its end.png")
    picture("red").save(long)
    window, person = open_window(long, preferences=Preferences(size=100))
    loaded(window, person)
    window.root.geometry("760x480")
    window.models.checkpoint = Path("a/run-with-a-very-long-name-of-its-own/checkpoint-1600")
    window.show_state()
    person.until(lambda: window.root.winfo_width() == 760)
    person.wait(0.2)
    for label, end in ((window.view.picture_name, "nd.png  ·  30 × 60"), (window.view.model_button, "0")):
        assert "…" in label.cget("text") and label.cget("text").endswith(end)
        assert label.winfo_reqwidth() <= label.winfo_width()
    assert (
        window.view.picture_name.winfo_rootx() > window.view.switch.winfo_rootx() + window.view.switch.winfo_reqwidth()
    )


def test_language_colours_and_size_change_during_a_conversation(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    person.type("What?")
    person.press("Return")
    person.until(lambda: window.questions.job is None)
    person.type("half a ques")
    before = window.view.question_box.entry.winfo_height()
    window.prefer(language="zh", dark=True, size=200)
    person.until(lambda: window.root.title() == "看图问答")
    person.until(lambda: window.view.question_box.entry.winfo_height() > 1.5 * before)
    assert window.root.cget("background") == "#1b1d22"
    assert answers(window)[0] in seen(window) and "What?" in seen(window)
    assert window.view.question_box.entry.get("1.0", "end-1c") == "half a ques" and Preferences.load().size == 200
    window.prefer(language="en")
    person.until(lambda: window.root.title() == "Ask a picture")
    window.prefer(dark=False)
    person.until(lambda: window.root.cget("background") == "#f3f4f6")


def test_the_window_opens_as_it_was_closed_and_in_the_language_of_the_locale(open_window, monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    Preferences(dark=True, size=150).save()
    window, person = open_window()
    assert window.root.title() == "看图问答" and window.view.look.dark and window.view.look.scale == 1.5


def test_enter_presses_the_button_that_has_the_focus(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    talked(window, person, "a red circle")
    (new,) = [w for w in every_widget(window.view.frame) if w.winfo_class() == "TButton" and w.cget("text") == "New"]
    new.focus_set()
    person.press("Return")
    assert window.conversation.turns == []


def test_tab_goes_through_everything_as_it_is_read(open_window):
    window, person = open_window()
    loaded(window, person)
    person.until(lambda: window.start.small)
    window.view.question_box.stop_button.state(["!disabled"])
    reached = []
    for _ in range(12):
        person.press("Tab")
        reached.append(window.root.focus_get())
    named = [w.cget("text") if w.winfo_class() != "Text" else "the input" for w in reached]
    right = ["test / checkpoint-1", "New", "Settings..."]
    left = ["Ask", "Stop", "Open picture...", "Add...", "History"]
    assert named == [*left, *right, "Where it looks", "", "the input", "Ask"]
    assert reached[9].master.master is window.view.transcript.text  # the example picture
    backwards = []
    for _ in range(2):
        person.press("Shift_L", "Tab")
        backwards.append(window.root.focus_get())
    assert backwards == reached[10:8:-1]


def test_a_demo_model_is_labelled_as_one(open_window, tmp_path):
    other = shutil.copytree(tmp_path / "checkpoints" / "test" / "checkpoint-1", tmp_path / "elsewhere")
    config = tmp_path / "checkpoints" / "test" / "checkpoint-1" / "config.yaml"
    config.write_text("language: {path: demo/backbones/qwen}", encoding="utf-8")
    window, person = open_window()
    assert (
        "only the tiny demo" in window.view.demo_note.cget("text") and window.view.demo_note.winfo_manager() == "grid"
    )
    window.models.load(other)
    assert not window.view.demo_note.winfo_manager()


def test_everything_is_in_reach_on_a_laptop_at_200_percent(open_window, red, monkeypatch):
    monkeypatch.setattr(tkinter.Misc, "winfo_screenwidth", lambda widget: 1366)
    monkeypatch.setattr(tkinter.Misc, "winfo_screenheight", lambda widget: 768)
    window, person = open_window(red, preferences=Preferences(language="en", size=200))
    loaded(window, person)
    view, root, line = window.view, window.root, window.view.look.font.metrics("linespace")
    view.show_demo_note(True)
    talked(window, person, *["a red circle"] * 3)
    person.until(lambda: root.winfo_width() == 1366)
    person.wait(0.2)
    assert root.winfo_rooty() + root.winfo_height() + 64 <= 768  # with the title and the taskbar
    buttons = [widget for widget in every_widget(view.frame) if widget.winfo_class() in ("TButton", "TMenubutton")]
    for button in (button for button in buttons if button.winfo_ismapped()):
        assert button.winfo_reqwidth() <= button.winfo_width(), button.cget("text")
        assert 0 <= button.winfo_rootx() and button.winfo_rootx() + button.winfo_width() <= 1366
        assert button.winfo_rooty() + button.winfo_height() <= root.winfo_rooty() + root.winfo_height()
    text = view.transcript.text
    assert text.winfo_height() >= 6 * line and text.dlineinfo("end-1c") is not None
    assert view.question_box.entry.winfo_height() >= 2 * line and view.pane.canvas.winfo_height() >= 6 * line
    for show in (window.show_conversations, window.models.open_settings):
        show()
        found = root.winfo_children()[-1]
        person.until(found.winfo_viewable)
        assert found.winfo_rootx() + found.winfo_width() <= 1366 and found.winfo_rooty() + found.winfo_height() <= 768
        found.destroy()


def test_shrinking_keeps_the_last_answer_in_view(open_window, red):
    window, person = open_window(red, preferences=Preferences(size=100))
    loaded(window, person)
    talked(window, person, *["a red circle"] * 9, "a red circle and many words more " * 3)
    text = window.view.transcript.text
    for size in ("1060x480", "760x480", "760x680"):
        window.root.geometry(size)
        person.until(lambda size=size: window.root.geometry().startswith(size))
        person.wait(0.1)
        last = text.tag_ranges("answer-9")[-1]
        assert text.dlineinfo(last) is not None and text.dlineinfo("end-1c") is not None
    text.yview_moveto(0)
    window.root.geometry("760x500")
    person.until(lambda: window.root.geometry().startswith("760x500"))
    person.wait(0.1)
    assert text.dlineinfo("1.0") is not None  # scrolled up by the person: it stays there


def test_what_can_be_clicked_shows_a_hand(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    clickable = ("TButton", "TMenubutton", "TCheckbutton")
    shown = [widget for widget in every_widget(window.view.frame) if widget.winfo_class() in clickable]
    assert len(shown) >= 8 and {str(widget.cget("cursor")) for widget in shown} == {"hand2"}
    talked(window, person, "a red circle")
    text, hands = window.view.transcript.text, []
    for name in ("copy-0", "answer-0"):
        x, y, width, height = text.bbox(text.tag_ranges(name)[0])
        person.point(text.winfo_rootx() + x + width // 2, text.winfo_rooty() + y + height // 2)
        hands.append(str(text.cget("cursor")))
    assert hands == ["hand2", "arrow"]
