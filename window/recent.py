"""The recent pictures in the empty pane: those of the last conversations that are still there."""

from __future__ import annotations

import tkinter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from window.controller import Window

MOST = 6


class Recent:
    """Reads the history in another thread and shows its pictures, while no picture is open."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.reading: int | None = None  # the worker's job
        self.pictures: list[tuple[str, Path]] = []  # each one's path, and the file of its small copy

    def read(self) -> None:
        """Look for them again."""
        window = self.window
        if self.reading is None and not window.conversation.images:
            self.reading = window.worker.read(lambda: window.keeping.history.recent_pictures(MOST))

    def on_focus(self, event: tkinter.Event) -> None:
        """The window has the focus again: files may have been deleted, and another window may have added pictures."""
        if event.widget is self.window.root:
            self.read()

    def on_event(self, kind: str, value: Any) -> None:
        """What was found. A history that cannot be read is not reported here: nobody asked for it."""
        self.reading = None
        if kind == "read" and value != self.pictures:
            self.pictures = value
            self.window.view.pane.show_recent(value)
