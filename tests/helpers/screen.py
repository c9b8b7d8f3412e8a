"""A person at a virtual screen: keys and clicks go through the X server, as those of a real keyboard."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from answering.conversation import Conversation
from tests.helpers.tiny import never_ends

if TYPE_CHECKING:
    import tkinter

    from window.controller import Window


NAMES = {" ": "space", "?": "question", ".": "period", "/": "slash", "-": "minus", "_": "underscore", ",": "comma"}


class Person:
    """Presses keys and moves the mouse on a display, and runs the loop of one Tk root meanwhile."""

    def __init__(self, root: tkinter.Tk, name: str) -> None:
        from Xlib import XK, X, display
        from Xlib.ext import xtest

        self.root, self.display = root, display.Display(name)
        self.X, self.XK, self.fake_input = X, XK, xtest.fake_input

    def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Run the window's loop until the condition holds; it fails after some seconds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s"
            self.root.update()
            time.sleep(0.005)

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)

    def press(self, *names: str) -> None:
        """Press keys together and release them: ``press("Control_L", "o")``."""
        codes = [self.display.keysym_to_keycode(self.XK.string_to_keysym(name)) for name in names]
        for code in codes:
            self.fake_input(self.display, self.X.KeyPress, code)
        for code in reversed(codes):
            self.fake_input(self.display, self.X.KeyRelease, code)
        self.display.sync()
        self.wait(0.01)

    def type(self, words: str) -> None:
        for letter in words:
            name = NAMES.get(letter, letter)
            shifted = letter.isupper() or letter in "?_"
            self.press(*(["Shift_L"] if shifted else []), name)

    def point(self, x: int, y: int) -> None:
        self.fake_input(self.display, self.X.MotionNotify, x=x, y=y)
        self.display.sync()
        self.wait(0.05)

    def click(self, widget) -> None:
        self.root.update()
        x, y = widget.winfo_rootx() + widget.winfo_width() // 2, widget.winfo_rooty() + widget.winfo_height() // 2
        self.click_at(x, y)

    def click_at(self, x: int, y: int) -> None:
        self.point(x, y)
        for kind in (self.X.ButtonPress, self.X.ButtonRelease):
            self.fake_input(self.display, kind, 1)
        self.display.sync()
        self.wait(0.05)

    def drag(self, start: tuple[int, int], end: tuple[int, int], release: bool = True) -> None:
        """Press the left button at a point of the screen, move to another, and release it there."""
        self.point(*start)
        self.fake_input(self.display, self.X.ButtonPress, 1)
        self.point((start[0] + end[0]) // 2, (start[1] + end[1]) // 2)
        self.point(*end)
        if release:
            self.release()

    def release(self) -> None:
        self.fake_input(self.display, self.X.ButtonRelease, 1)
        self.display.sync()
        self.wait(0.05)


FILE_DIALOG = ".__tk_filedialog.contents"


def in_file_dialog(window: Window, person: Person, open_it: Callable[[], object], act: Callable[[], object]) -> None:
    """Open a file dialog, call ``act`` while it waits, and close it, also after an error, which is raised here."""
    call, errors = window.root.tk.call, ["the dialog did not open"]

    def run() -> None:
        try:
            person.until(lambda: "filedialog" in str(call("focus")), 20)
            act()
            errors.clear()
        except (AssertionError, RuntimeError) as error:  # raised in Tk's loop it would leave the dialog open for ever
            errors[:] = [repr(error)]
        finally:
            call(f"{FILE_DIALOG}.f2.cancel", "invoke")

    window.root.focus_force()  # there is no window manager to do it
    window.root.after(200, run)
    open_it()
    person.until(lambda: not window.root.tk.call("winfo", "viewable", ".__tk_filedialog"))
    assert errors == []


def endless(window: Window, tokens: int = 3000) -> None:
    """Make every answer this long; 3,000 tokens take longer than any test."""
    never_ends(window.worker.assistant)
    window.preferences.max_new_tokens = tokens


def loaded(window: Window, person: Person) -> None:
    person.until(lambda: window.models.loading is None and window.pictures.reading is None)


def seen(window: Window) -> str:
    return window.view.transcript.text.get("1.0", "end")


def answers(window: Window) -> list[str | None]:
    return [turn.answer for turn in window.conversation.turns]


def talked(window: Window, person: Person, *answers: str) -> None:
    """A conversation with these answers, and the map of the last where maps are shown."""
    conversation = Conversation(window.conversation.images, window.conversation.paths)
    for answer in answers:
        conversation.ask("What?")
        conversation.answer(answer)
    window.begin(conversation)
    person.until(lambda: not window.preferences.look or len(answers) - 1 in window.maps.found)


def every_widget(widget) -> list:
    return [widget, *(found for child in widget.winfo_children() for found in every_widget(child))]
