"""Shortcuts and Ctrl+A in every field and keyboard layout, by real keys on a virtual screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.helpers.screen import FILE_DIALOG, Person, in_file_dialog, loaded, talked

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.conversation_list import ConversationList  # noqa: E402
from window.dialog import SettingsDialog  # noqa: E402

UNICODE = 0x01000000  # X11's keysyms of all other characters
LAYOUTS = {  # what the keys A, N and the comma have written on them
    "latin": {},
    "russian": {"a": ord("ф") | UNICODE, "n": ord("т") | UNICODE, "comma": ord("б") | UNICODE},
    "chinese": {"a": ord("ㄇ") | UNICODE, "n": ord("ㄙ") | UNICODE, "comma": ord("，") | UNICODE},
}


@contextmanager
def layout(person: Person, name: str) -> Iterator[None]:
    """Write other characters on some keys of the screen's keyboard."""
    screen, before = person.display, {}
    for key, keysym in LAYOUTS[name].items():
        code = screen.keysym_to_keycode(person.XK.string_to_keysym(key))
        before[code] = list(screen.get_keyboard_mapping(code, 1)[0])
        screen.change_keyboard_mapping(code, [[keysym] * 4])
    screen.sync()
    person.wait(0.2)
    try:
        yield
    finally:
        for code, keysyms in before.items():
            screen.change_keyboard_mapping(code, [keysyms])
        screen.sync()
        person.wait(0.1)


def with_control(person: Person, key: str) -> None:
    """Press Ctrl and the key that has ``key`` written on it in English, whatever it has now."""
    codes = [person.display.keysym_to_keycode(person.XK.string_to_keysym("Control_L")), CODES[key]]
    for code in codes:
        person.fake_input(person.display, person.X.KeyPress, code)
    for code in reversed(codes):
        person.fake_input(person.display, person.X.KeyRelease, code)
    person.display.sync()
    person.wait(0.02)


CODES = {"a": 38, "n": 57, "comma": 59}  # of Xvfb's keyboard, which is a PC's


@pytest.mark.parametrize("name", LAYOUTS)
def test_ctrl_a_selects_all_in_every_field_and_shortcuts_work(open_window, red, name):
    window, person = open_window(red)
    loaded(window, person)
    talked(window, person, "a red circle")

    def check(field) -> None:
        field.delete("1.0" if field.winfo_class() == "Text" else 0, "end")
        field.insert("insert", "some")
        field.focus_force()
        person.until(lambda: str(window.root.tk.call("focus", "-displayof", ".")) == str(field), 10)
        with_control(person, "a")
        person.press("BackSpace")
        person.until(lambda: field.get(*(("1.0", "end-1c") if field.winfo_class() == "Text" else ())) == "", 10)

    with layout(person, name):
        check(window.view.question_box.entry)
        window.keeping.keep()
        window.keeping.history.close()  # it is written, so the list has it
        window.show_conversations()
        found = next(child for child in window.root.winfo_children() if isinstance(child, ConversationList))
        found.rename()
        for field in (found.title_entry, found.search):
            check(field)
        found.destroy()
        if name != "russian":
            check_file_dialog(window, person)
        window.root.focus_force()
        with_control(person, "n")
        person.until(lambda: window.conversation.turns == [], 10)
        with_control(person, "comma")
        found = next(child for child in window.root.winfo_children() if isinstance(child, SettingsDialog))
        found.do_sample.set(True)
        found._show_use()
        fields = (*found.fields.values(), found.stop_field, found.system)
        for field in fields if name == "latin" else fields[-3:]:
            check(field)
        found.destroy()


def check_file_dialog(window, person) -> None:
    def check() -> None:
        person.type("some")
        with_control(person, "a")
        person.press("BackSpace")
        assert str(window.root.tk.call(f"{FILE_DIALOG}.f2.ent", "get")) == ""

    in_file_dialog(window, person, window.pictures.choose, check)
