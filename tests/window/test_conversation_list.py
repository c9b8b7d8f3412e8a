"""The list of the kept conversations, by real keys on a virtual screen."""

from __future__ import annotations

import pytest
from PIL import Image

from answering.conversation import Conversation
from tests.helpers.screen import loaded, seen

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.conversation_list import ConversationList  # noqa: E402


@pytest.fixture
def listed(open_window, red):
    """A window with three kept conversations and their list, opened by key: (window, person, list)."""
    window, person = open_window(red)
    loaded(window, person)
    for question in ("one", "two", "three"):
        conversation = Conversation([Image.new("RGB", (8, 8))], [str(red)])
        conversation.ask(question)
        conversation.answer(f"the answer to {question}")
        window.keeping.history.keep(question, conversation, None)
    window.keeping.history.close()
    person.press("Control_L", "h")
    person.until(lambda: any(isinstance(child, ConversationList) for child in window.root.winfo_children()))
    shown = window.root.winfo_children()[-1]
    shown.search.focus_force()
    return window, person, shown


def titles(shown: ConversationList) -> list[str]:
    return [entry.title for entry in shown.entries.values()]


def test_the_list_is_searched_in_questions_and_answers_and_opens_what_is_chosen(listed):
    window, person, shown = listed
    assert titles(shown) == ["three", "two", "one"]
    person.type("to tw")
    assert titles(shown) == ["two"]
    for _ in range(5):
        person.press("BackSpace")
    assert titles(shown) == ["three", "two", "one"]
    person.press("Down")  # from the search into the list
    person.press("Down")
    person.press("Return")
    person.until(lambda: window.conversation.turns)
    assert "the answer to two" in seen(window) and not shown.winfo_exists()


def test_a_conversation_is_renamed_with_f2_and_escape_leaves_its_title(listed):
    window, person, shown = listed
    person.press("Down")
    person.press("F2")
    person.press("Control_L", "a")
    person.type("Mine")
    person.press("Return")
    assert titles(shown) == ["Mine", "two", "one"] and shown.chosen == "three"
    person.press("F2")
    person.type("other")
    person.press("Escape")
    assert shown.winfo_exists() and titles(shown) == ["Mine", "two", "one"]
    assert window.keeping.history.entries()[0].title == "Mine"


def test_deleted_conversations_come_back_in_order_with_control_z(listed):
    window, person, shown = listed
    person.press("Down")
    person.press("Delete")
    assert titles(shown) == ["two", "one"] and "Deleted: three" in shown.message.cget("text") and shown.chosen == "two"
    person.press("Delete")
    assert titles(shown) == ["one"]
    person.press("Control_L", "z")
    assert titles(shown) == ["two", "one"] and shown.chosen == "two"
    person.press("Control_L", "z")
    assert titles(shown) == ["three", "two", "one"]
    person.press("Escape")
    assert not shown.winfo_exists() and window.notes == []
