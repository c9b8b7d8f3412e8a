"""Nothing is lost: conversations and refused questions, by real keys and clicks."""

from __future__ import annotations

import json

import pytest

from tests.helpers.screen import answers, endless, loaded, seen

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.conversation_list import ConversationList  # noqa: E402
from window.preferences import Preferences  # noqa: E402


def ask(window, person, question: str) -> None:
    person.type(question)
    person.press("Return")
    person.until(lambda: window.questions.job is None)


def files(home) -> list[dict]:
    folder = home / "ask-a-picture" / "conversations"
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]


def test_a_conversation_is_kept_and_opened_again_from_the_list(open_window, red, blue, config_home):
    window, person = open_window(red)
    loaded(window, person)
    ask(window, person, "What color?")
    wanted = answers(window)
    window.pictures.open(str(blue))
    person.until(lambda: window.conversation.paths == [str(blue)])
    person.press("Control_L", "h")
    person.until(lambda: any(isinstance(child, ConversationList) for child in window.root.winfo_children()))
    found = window.root.winfo_children()[-1]
    found.search.focus_force()
    person.type("color")
    assert [entry.title for entry in found.entries.values()] == ["What color?"]
    person.press("Return")
    person.until(lambda: window.conversation.turns)
    assert answers(window) == wanted and window.conversation.paths == [str(red)] and "What color?" in seen(window)
    window.close()
    window.closed = True
    (content,) = files(config_home)
    assert content["turns"][0]["checkpoint"].endswith("checkpoint-1") and content["turns"][0]["when"]


def test_a_history_that_cannot_be_written_is_said_once(open_window, red, config_home):
    config_home.mkdir(exist_ok=True)
    (config_home / "ask-a-picture").write_text("in the way", encoding="utf-8")
    window, person = open_window(red)
    loaded(window, person)
    for question in ("What?", "What color?", "Where?"):
        ask(window, person, question)
    person.until(lambda: seen(window).count("Conversations are not kept: ") == 1)
    assert len(answers(window)) == 3


def test_a_crash_in_the_middle_of_an_answer_loses_at_most_a_second(open_window, red, config_home):
    window, person = open_window(red)
    loaded(window, person)
    endless(window)
    person.type("What?")
    person.press("Return")
    person.until(lambda: files(config_home))
    assert files(config_home)[0]["turns"] or files(config_home)[0]["about"]["draft"] == "What?"
    person.until(lambda: files(config_home)[0]["turns"])
    assert window.questions.job is not None and files(config_home)[0]["turns"][0]["answer"]


def test_a_question_that_is_too_long_goes_back_into_the_input_with_the_reason(open_window, red):
    window, person = open_window(red, preferences=Preferences(language="zh", max_new_tokens=250))
    loaded(window, person)
    ask(window, person, "What color is it?")
    box = window.view.question_box
    assert box.text == "What color is it?" and "无法回答：这个问题不能提问：太长：" in box.reason
    assert window.conversation.turns == []
    person.type("x")
    assert box.reason == ""


def test_up_recalls_the_questions_and_the_input_grows(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    ask(window, person, "one")
    ask(window, person, "two")
    box, low = window.view.question_box, window.view.question_box.entry.winfo_height()
    person.press("Up")
    assert box.text == "two"
    person.press("Up")
    assert box.text == "one"
    person.press("Down")
    person.press("Down")
    assert box.text == ""
    for _ in range(5):
        person.press("Shift_L", "Return")
    assert box.entry.winfo_height() > 1.5 * low
    person.press("Control_L", "a")
    person.press("BackSpace")
    assert box.text == ""


def test_shortcuts_work_with_caps_lock(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    ask(window, person, "one")
    person.press("Caps_Lock")
    try:
        person.press("Control_L", "n")
        person.until(lambda: window.conversation.turns == [], 10)
    finally:
        person.press("Caps_Lock")
