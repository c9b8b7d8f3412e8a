"""The conversation as it is shown, on a virtual screen."""

from __future__ import annotations

import pytest

from tests.helpers.screen import loaded, talked

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tk")


def test_a_long_conversation_shows_its_end_unless_it_was_scrolled_up(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    talked(window, person, *["a red circle"] * 20)
    text, bar = window.view.transcript.text, window.view.transcript.bar
    assert text.dlineinfo("end-1c") is not None and text.dlineinfo("1.0") is None
    window.root.update()
    x, y = bar.winfo_rootx() + bar.winfo_width() // 2, bar.winfo_rooty() + bar.winfo_height() // 2
    assert window.root.winfo_containing(x, y) is bar  # the text does not cover it
    window.worker.ask = lambda request, **options: 99
    for _ in range(3):
        window.view.question_box.entry.insert("1.0", "And now?")
        text.yview_moveto(0)
        window.questions.ask()
        assert text.dlineinfo("end-1c") is not None
        window.on_event(99, "piece", "a red circle\n" * 5)
        assert text.dlineinfo("end-1c") is not None
        window.on_event(99, "answer", "a red circle\n" * 9)
        assert text.dlineinfo("end-1c") is not None
    window.view.question_box.entry.insert("1.0", "And now?")
    window.questions.ask()
    text.yview_moveto(0)
    window.on_event(99, "piece", "a red circle")
    window.on_event(99, "answer", "a red circle")
    assert text.yview()[0] == 0
    talked(window, person, "a red circle")
    window.root.update()
    assert not bar.winfo_ismapped()
