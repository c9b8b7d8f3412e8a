"""A person at a screen of the tests' own: keys and clicks go through the X server, as a real keyboard's do."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from Xlib import XK, X, display
from Xlib.ext import xtest

NAMES = {" ": "space", "?": "question", ".": "period", "/": "slash", "-": "minus", "_": "underscore", ",": "comma"}


@contextmanager
def virtual_screen(size: str = "1600x1200x24") -> Iterator[str]:
    """The name of a free display with an Xvfb on it, which ends with the block.

    Tk never lets go of a display that it had a window on, and ends the process if that goes away while it looks at
    events: no window may be opened after the block.
    """
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", size, "-dpi", "96", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=(writer,), stderr=subprocess.DEVNULL)
    os.close(writer)
    with os.fdopen(reader) as stream:
        number = stream.readline().strip()
    try:
        yield f":{number}"
    finally:
        server.terminate()
        server.wait(10)


class Person:
    """Presses keys and moves the mouse on a display, and watches one Tk root."""

    def __init__(self, root, name: str) -> None:
        self.root, self.display = root, display.Display(name)

    def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Let the window live until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it never came to that"
            self.root.update()
            time.sleep(0.005)

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)

    def press(self, *names: str) -> None:
        """Keys held together, the last one struck: ``press("Control_L", "o")``."""
        codes = [self.display.keysym_to_keycode(XK.string_to_keysym(name)) for name in names]
        for code in codes:
            xtest.fake_input(self.display, X.KeyPress, code)
        for code in reversed(codes):
            xtest.fake_input(self.display, X.KeyRelease, code)
        self.display.sync()
        self.wait(0.01)

    def type(self, words: str) -> None:
        for letter in words:
            name = NAMES.get(letter, letter)
            shifted = letter.isupper() or letter in "?_"
            self.press(*(["Shift_L"] if shifted else []), name)

    def point(self, x: int, y: int) -> None:
        xtest.fake_input(self.display, X.MotionNotify, x=x, y=y)
        self.display.sync()
        self.wait(0.05)

    def click(self, widget) -> None:
        self.root.update()
        x, y = widget.winfo_rootx() + widget.winfo_width() // 2, widget.winfo_rooty() + widget.winfo_height() // 2
        self.click_at(x, y)

    def click_at(self, x: int, y: int) -> None:
        self.point(x, y)
        for kind in (X.ButtonPress, X.ButtonRelease):
            xtest.fake_input(self.display, kind, 1)
        self.display.sync()
        self.wait(0.05)
