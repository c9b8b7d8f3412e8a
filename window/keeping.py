"""The window's conversation in the history: when it is written, and how a kept one is opened again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from answering.conversation import Conversation, typed
from dataset.boxes import asked_about
from window.history import History, new_name
from window.picture import preview_of
from window.pictures import Read

if TYPE_CHECKING:
    from window.controller import Window

SOON_MS = 1000  # a crash costs at most the last second of an answer in progress or of typing


class Keeping:
    """Writes a window's conversation into its history. A conversation without a question is not kept."""

    def __init__(self, window: Window, history: History) -> None:
        self.window, self.history = window, history
        self.name: str | None = None  # in the history
        self.scheduled: str | None = None  # Tk's timer
        self.told = ""  # the problem that the person was told of
        history.empty_bin()

    def begin(self, name: str | None) -> None:
        """Another conversation is shown; ``name`` if the history has it already."""
        self.name = name

    def keep(self) -> None:
        """Write the conversation as it is now: an answer in progress so far, or the question that waits for one."""
        self._cancel()
        window = self.window
        turns = [replace(turn) for turn in window.conversation.turns]
        draft, (boxes, picture) = window.view.question_box.text.strip(), window.boxes.of_next()
        if turns and turns[-1].answer is None:
            if window.questions.partial.strip():
                turns[-1].answer = window.questions.partial.strip()
            else:
                waiting = turns.pop()
                draft, (boxes, picture) = asked_about(typed(waiting.question))[1], window.boxes.of_turn(waiting)
        if not turns and not draft:
            return
        if self.name is None:
            self.name = new_name()
        shown = window.conversation
        copy = Conversation(shown.images, shown.paths, turns, shown.about, shown.times)
        self._tell()
        about = {"draft": draft, "draft_box": next(iter(boxes), None), "draft_picture": picture}
        self.history.keep(self.name, copy, next(iter(window.strip.previews), None), **about)

    def _tell(self) -> None:
        """Say once why the conversations are not kept; known from the write before."""
        if self.history.problem != self.told:
            self.told = self.history.problem
            if self.told:
                self.window.say("problem", self.window.t("not_kept", reason=self.window.said(self.told)))

    def keep_soon(self) -> None:
        """:meth:`keep` within a second."""
        if self.scheduled is None:
            self.scheduled = self.window.root.after(SOON_MS, self.keep)

    def keep_now(self) -> None:
        """Write what waits to be written, before another conversation is shown."""
        if self.scheduled is not None:
            self.keep()

    def _cancel(self) -> None:
        if self.scheduled is not None:
            self.window.root.after_cancel(self.scheduled)
            self.scheduled = None

    def open(self, name: str) -> None:
        """Read a kept conversation in another thread, and show it."""
        self.keep_now()
        pictures = self.window.pictures

        def read() -> Read:
            kept = self.history.open(name, pictures.max_pixels())
            images = kept.conversation.images or [image for image in [kept.picture] if image is not None]
            return Read(kept.conversation, [preview_of(image) for image in images], name, kept.missing)

        pictures.start(read)

    def rename(self, name: str, title: str) -> None:
        self.history.rename(name, title)
        if name == self.name:
            self.window.conversation.about["title"] = title

    def close(self) -> None:
        self.keep_now()
        self.history.close()
