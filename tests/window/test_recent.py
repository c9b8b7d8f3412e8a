"""The recent pictures of the empty pane, by real keys and clicks on a virtual screen."""

from __future__ import annotations

import pytest

from tests.helpers.screen import loaded
from window.history import History

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tk")

from answering.conversation import Conversation  # noqa: E402
from tests.helpers.tiny import picture  # noqa: E402
from window.conversation_list import ConversationList  # noqa: E402


@pytest.fixture
def kept(config_home, red, blue):
    """Two kept conversations, about a red picture and, later, a blue one."""
    history = History()
    for name, file, color in (("1", red, "red"), ("2", blue, "blue")):
        conversation = Conversation([picture(color)], [str(file)])
        conversation.ask("What color?")
        conversation.answer(color)
        history.keep(name, conversation, picture(color))
    history.close()
    return history


def shown(window) -> list[str]:
    items = window.view.pane.canvas.find_withtag("recent")
    assert len(items) == len(window.view.pane.small)
    return [path for path, _ in window.view.pane.small]


def test_recent_pictures_change_with_the_history(open_window, kept, red, blue):
    window, person = open_window()
    loaded(window, person)
    person.until(lambda: shown(window) == [str(blue), str(red)])
    person.press("Control_L", "h")
    person.until(lambda: any(isinstance(child, ConversationList) for child in window.root.winfo_children()))
    found = window.root.winfo_children()[-1]
    found.rows.focus_force()
    person.press("Delete")
    person.until(lambda: shown(window) == [str(red)])
    person.press("Control_L", "z")
    person.until(lambda: shown(window) == [str(blue), str(red)])
    found.destroy()


def test_recent_pictures_are_looked_for_again_when_the_person_comes_back(open_window, kept, red, blue):
    window, person = open_window()
    loaded(window, person)
    person.until(lambda: shown(window) == [str(blue), str(red)])
    other = tkinter.Toplevel(window.root)
    person.until(other.winfo_viewable)
    other.focus_force()
    blue.unlink()
    person.wait(0.1)
    assert shown(window) == [str(blue), str(red)]
    window.root.focus_force()
    person.until(lambda: shown(window) == [str(red)])
    (item,) = window.view.pane.canvas.find_withtag("recent")
    x, y, *_ = window.view.pane.canvas.bbox(item)
    person.click_at(window.view.pane.canvas.winfo_rootx() + x + 9, window.view.pane.canvas.winfo_rooty() + y + 9)
    person.until(lambda: window.conversation.paths == [str(red)])
