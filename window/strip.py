"""The pictures of the conversation: which one is shown, and adding, removing and moving them.

A picture that was added waits for the next question, before which the model is shown it. Until then it can be removed
or moved; afterwards the answers are about it.
"""

from __future__ import annotations

import tkinter
from dataclasses import dataclass, field
from pathlib import Path
from tkinter import ttk
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageOps, ImageTk

from dataset.video import file_of, frame_in
from window.look import Look

if TYPE_CHECKING:
    from window.controller import Window

SIDE = 44  # pixels of a small picture at 96 per inch


@dataclass
class Added:
    """Pictures that were read, their files, and small copies to draw from.

    ``begins``: they begin a conversation. ``times``: the model was trained with the times of frames. ``notes`` and
    ``problems`` are for the person: what was shortened, and what could not be read.
    """

    begins: bool = False
    images: list[Image.Image] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    previews: list[Image.Image] = field(default_factory=list)
    times: bool = False
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class State(NamedTuple):
    """The pictures before a change, and what was typed at that time."""

    images: list[Image.Image]
    paths: list[str]
    previews: list[Image.Image]
    shown: int
    typed: str


class Strip:
    """The pictures of a window. ``previews`` has a copy of each, or the one that is left of a picture that is gone."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.previews: list[Image.Image] = []
        self.shown = 0  # the index of the picture in the pane
        self.states: list[State] = []  # before each change since the last question; the last can be undone

    def begin(self, previews: list[Image.Image]) -> None:
        """Another conversation has these pictures; the last is shown, to which boxes belong."""
        self.previews, self.shown = previews, max(0, len(previews) - 1)

    @property
    def preview(self) -> Image.Image | None:
        return self.previews[self.shown] if self.previews else None

    def name(self, index: int) -> str:
        """A picture's name: that of its file and, for a frame, its time."""
        path = self.window.conversation.paths[index]
        return " ".join(filter(None, (Path(file_of(path)).name, self.time(index))))

    def time(self, index: int) -> str:
        """When a frame of a video is shown, such as "1.5 s"; "" for other pictures."""
        paths = self.window.conversation.paths
        frame = frame_in(paths[index]) if index < len(paths) else None
        return f"{frame[1]:.1f} s" if frame else ""

    @property
    def waits(self) -> bool:
        """Whether the shown picture waits for the next question."""
        talk = self.window.conversation
        return self.window.questions.job is None and talk.pictures_before() <= self.shown < len(talk.images)

    def show(self, index: int) -> None:
        """Show another picture, with its own heat map and boxes."""
        if 0 <= index < len(self.previews):
            self.shown = index
            self._changed()

    def step(self, step: int) -> None:
        self.show(self.shown + step)

    def add(self, added: Added) -> None:
        """Add pictures to the conversation. The next question is about them too."""
        self._remember()
        talk = self.window.conversation
        talk.images, talk.paths = talk.images + added.images, talk.paths + added.paths
        talk.times = talk.times or added.times
        self.previews = self.previews + added.previews
        self.show(len(self.previews) - 1)
        self.window.view.question_box.entry.focus_set()

    def remove(self) -> None:
        """Remove the shown picture if it waits; the last one stays."""
        if self.waits and len(self.previews) > 1:
            self._remember()
            talk, index = self.window.conversation, self.shown
            for pictures in (talk.images, talk.paths, self.previews):
                del pictures[index]
            self.show(min(index, len(self.previews) - 1))
            self.window.view.question_box.entry.focus_set()  # the button with the focus may be gone

    def move(self, step: int) -> None:
        """Move the shown picture by one among those that wait."""
        talk, index, other = self.window.conversation, self.shown, self.shown + step
        if self.waits and talk.pictures_before() <= other < len(talk.images):
            self._remember()
            lists: tuple[list[Any], ...] = (talk.images, talk.paths, self.previews)
            for pictures in lists:
                pictures[index], pictures[other] = pictures[other], pictures[index]
            self.show(other)

    def _remember(self) -> None:
        talk, typed = self.window.conversation, self.window.view.question_box.text
        self.states.append(State([*talk.images], [*talk.paths], [*self.previews], self.shown, typed))

    def undo(self) -> None:
        """Undo the last adding, removing or moving. What a question has shown stays."""
        if self.states:
            talk = self.window.conversation
            talk.images, talk.paths, self.previews, self.shown, _ = self.states.pop()
            self._changed()
            self.window.show_idle()

    def on_undo(self) -> str | None:
        """Ctrl+Z in the question: the last change was to the pictures if the text is as it was then."""
        if not self.states or self.states[-1].typed != self.window.view.question_box.text:
            return None
        self.undo()
        return "break"

    def _changed(self) -> None:
        window = self.window
        window.view.pane.show(self.preview)
        window.show_state()
        window.maps.show()
        window.on_typed()


class StripBar(tkinter.Frame):
    """A row of small pictures under the shown one, with buttons that move and remove it; hidden for one picture.

    Of many pictures, those next to the shown one are in the row.
    """

    def __init__(self, parent: tkinter.Misc, look: Look, strip: Strip) -> None:
        super().__init__(parent, background=look.colors.ground)
        self.look, self.strip = look, strip
        self.row = tkinter.Frame(self, background=look.colors.ground)
        self.bind("<Configure>", lambda event: self._fit())
        self.inside = range(0)  # the indices of the pictures in the row
        self.small: list[tuple[Image.Image, ImageTk.PhotoImage]] = []
        self.thumbs: list[ttk.Button] = []
        commands = {"×": strip.remove, "▶": lambda: strip.move(1), "◀": lambda: strip.move(-1)}
        self.buttons = {sign: look.button(self, sign, command, "Chip.TButton") for sign, command in commands.items()}
        for button in self.buttons.values():
            button.pack(side="right", padx=(look.px(4), 0))
        self.row.pack(side="left")  # last: the buttons keep their space

    def refresh(self) -> None:
        """Show the pictures as they are now."""
        previews = self.strip.previews
        if [id(preview) for preview, _ in self.small] != [id(preview) for preview in previews]:  # == compares pixels
            self._fill(previews)
        for index, thumb in enumerate(self.thumbs):
            thumb.configure(style="Shown.TButton" if index == self.strip.shown else "Thumb.TButton")
        for button in self.buttons.values():
            button.state(["!disabled" if self.strip.waits else "disabled"])
        self._fit()

    def _fit(self) -> None:
        """Put as many small pictures into the row as there is room for, the shown one among them."""
        if not self.thumbs:
            return
        gap = self.look.px(4)
        room = self.winfo_width() - sum(button.winfo_reqwidth() + gap for button in self.buttons.values())
        count = max(1, room // (max(thumb.winfo_reqwidth() for thumb in self.thumbs) + gap))
        first = max(0, min(self.strip.shown - count // 2, len(self.thumbs) - count))
        if (inside := range(first, min(first + count, len(self.thumbs)))) != self.inside:
            self.inside = inside
            for thumb in self.thumbs:
                thumb.pack_forget()
            for index in inside:
                self.thumbs[index].pack(side="left", padx=(0, gap))

    def _fill(self, previews: list[Image.Image]) -> None:
        while self.thumbs:
            self.thumbs.pop().destroy()
        self.inside = range(0)
        side = self.look.px(SIDE)
        known = {id(preview): photo for preview, photo in self.small}
        self.small = [
            (preview, known.get(id(preview)) or ImageTk.PhotoImage(ImageOps.fit(preview, (side, side)), master=self))
            for preview in previews
        ]
        for index, (_, photo) in enumerate(self.small):

            def show(index: int = index) -> None:
                self.strip.show(index)

            thumb = self.look.button(self.row, "", show, "Thumb.TButton")
            time = self.strip.time(index)
            thumb.configure(image=str(photo), text=time, compound="top" if time else "image")
            self.thumbs.append(thumb)
