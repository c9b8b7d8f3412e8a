"""Shortcuts that work with Caps Lock and in every keyboard layout, and Ctrl+A that selects all in every field."""

from __future__ import annotations

import sys
import tkinter
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from window.controller import Window

SHIFT = 0x1
# Of X11: the number of a key says where it is, whatever the layout has written on it.
LETTERS = dict(enumerate("qwertyuiop", 24)) | dict(enumerate("asdfghjkl", 38)) | dict(enumerate("zxcvbnm,", 52))
NAMES = {"comma": ","}
# Tk knows these by their Latin letters only.
EDITING = {"a": "<<SelectAll>>", "c": "<<Copy>>", "x": "<<Cut>>", "v": "<<Paste>>", "z": "<<Undo>>"}


def letter_of(event: tkinter.Event) -> str:
    """The letter of a key, small, as a keyboard in English has it: a Russian layout has another on the same key."""
    name = str(event.keysym)
    if len(name) == 1 and name.isascii() or name in NAMES:
        return NAMES.get(name, name.lower())
    if sys.platform == "win32":  # the key's number there is the letter's
        return chr(event.keycode).lower() if 65 <= event.keycode <= 90 else ""
    return LETTERS.get(event.keycode, "") if sys.platform == "linux" else ""


def is_latin(event: tkinter.Event) -> bool:
    return str(event.keysym).isascii() and len(str(event.keysym)) == 1


def commands_of(window: Window) -> dict[tuple[bool, str], Callable[[], object]]:
    """The command of each key with Ctrl: (with Shift?, letter) -> command."""
    return {
        (False, "o"): window.pictures.choose,
        (True, "o"): window.pictures.choose_more,
        (True, "v"): window.pictures.paste,
        (False, "s"): window.pictures.choose_where_to_save,
        (False, "q"): window.close,
        (False, "n"): window.new_conversation,
        (True, "c"): window.copy_answer,
        (False, "h"): window.show_conversations,
        (False, "l"): window.maps.toggle,
        (False, "b"): window.boxes.begin_keys,
        (False, ","): window.models.open_settings,
    }


def bind_keys(window: Window, *texts: tkinter.Text) -> None:
    """Bind the shortcuts to the window, and to ``texts`` before the meaning that a key has in a text."""
    root, controls = window.root, commands_of(window)
    root.event_delete("<<LineStart>>", "<Control-a>")
    root.event_add("<<SelectAll>>", "<Control-a>", "<Control-Lock-A>")
    # In the question these are of its text too, which Strip.on_undo and Pictures.on_paste decide.
    elsewhere: dict[str, Callable[[], object]] = {"z": window.strip.undo, "v": window.pictures.on_paste}
    others: dict[str, Callable[[], object]] = {
        "<Escape>": window.escape,
        "<Alt-Up>": lambda: window.maps.step_answer(-1),
        "<Alt-Down>": lambda: window.maps.step_answer(1),
        "<Alt-Left>": lambda: window.maps.step_word(-1),
        "<Alt-Right>": lambda: window.maps.step_word(1),
        "<Control-Prior>": lambda: window.strip.step(-1),
        "<Control-Next>": lambda: window.strip.step(1),
    }

    def on_control(event: tkinter.Event) -> str | None:
        if event.widget.winfo_toplevel() is not root:  # a dialog's key
            return None
        letter, shift = letter_of(event), bool(int(event.state) & SHIFT)
        if command := controls.get((shift, letter)):
            command()
            return "break"
        if not shift and letter in elsewhere and event.widget is not window.view.question_box.entry:
            elsewhere[letter]()
            return "break"
        return None

    def on_editing(event: tkinter.Event) -> None:
        """In every field, also of a file dialog, which tkinter knows by name only."""
        letter = letter_of(event)
        if letter in EDITING and not is_latin(event) and not int(event.state) & SHIFT:
            root.tk.call("event", "generate", str(event.widget), EDITING[letter])

    root.bind_all("<Control-KeyPress>", on_editing)
    for widget in (root, *texts):
        widget.bind("<Control-KeyPress>", on_control)
    for pattern, command in others.items():

        def run(event: tkinter.Event, command: Callable[[], object] = command) -> str | None:
            if event.widget.winfo_toplevel() is not root:
                return None
            command()
            return "break"

        for widget in (root, *texts):
            widget.bind(pattern, run)
