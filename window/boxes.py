"""Parts of the picture: the rectangle that a question is about, and boxes over the picture.

A rectangle is dragged with the mouse, or begun with Ctrl+B and moved with the arrows. It waits in the question box as
a chip until a question is asked. Boxes are kept in pixels of the upright picture here, as ``ask.py --box`` takes them.
"""

from __future__ import annotations

import tkinter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from tkinter import ttk
from typing import TYPE_CHECKING, Any

from answering.checkpoints import crop_in
from answering.conversation import Exchange, typed
from answering.drawing import (
    ANSWERED,
    ASKED,
    Corners,
    Drawn,
    asked_box,
    boxes_of_answer,
    captions,
    in_pixels,
    line_width,
)
from common.errors import UserError
from dataset.boxes import Box, Crop, asked_about, find_boxes
from dataset.prompt import IMAGE_TOKEN
from window.look import Look

if TYPE_CHECKING:
    from window.controller import Window
    from window.picture import PicturePane

STEP = 0.02  # of the picture's sides: how far an arrow key moves an edge
CLICK = 4  # pixels at 96 per inch: a drag that is shorter in both directions is a click
SHIFT = 0x1


def described(corners: Corners) -> str:
    """A rectangle as ``ask.py --box`` takes it, for the chip and the conversation."""
    return "▭ " + ",".join(map(str, corners))


@lru_cache
def crop_of_checkpoint(checkpoint: str) -> Crop | None:
    """What the encoder of a checkpoint is not shown; None where its folder is gone."""
    try:
        return crop_in(Path(checkpoint)) if checkpoint else None
    except UserError:
        return None


class BoxChip(ttk.Frame):
    """The rectangle of the next question, above the text: its numbers, what the model makes of it, and an x."""

    def __init__(self, parent: tkinter.Misc, look: Look, remove: Callable[[], object]) -> None:
        super().__init__(parent)
        self.label = ttk.Label(self, foreground=look.colors.accent, font=look.small)
        self.button = look.button(self, "×", remove, "Chip.TButton")
        self.hint = ttk.Label(self, style="Small.TLabel")
        self.hint.bind("<Configure>", lambda event: self.hint.configure(wraplength=max(1, event.width)))
        self.label.pack(side="left")
        self.button.pack(side="left", padx=look.px(8))
        self.hint.pack(side="left", fill="x", expand=True)


class Boxes:
    """The boxes of a window's conversation. ``attach`` is called for each new view."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.pending: Corners | None = None  # the rectangle that the next question is about
        self.before: Corners | None = None  # the rectangle before the present drag, which Escape brings back
        self.start: tuple[int, int] | None = None  # where the mouse was pressed, in the canvas
        self.by_keys = False  # whether the arrows move the rectangle
        self.lit: set[int] = set()  # the numbers of the answer's boxes whose words are under the mouse

    def attach(self, pane: PicturePane) -> None:
        """Take the mouse and the keys of a picture, and draw over it whenever it is drawn."""
        canvas, self.by_keys, self.start = pane.canvas, False, None
        pane.drawn = self.draw
        canvas.bind("<Button-1>", self._on_press, add=True)
        canvas.bind("<B1-Motion>", self._on_drag)
        canvas.bind("<ButtonRelease-1>", self._on_release)
        canvas.bind("<KeyPress>", self._on_key)
        canvas.bind("<FocusOut>", lambda event: self._end_keys())

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the picture that the next question's rectangle belongs to: the last."""
        images = self.window.conversation.images
        return images[-1].size if images else None

    def _picture_of(self, turn: Exchange) -> int:
        """The index of the picture that a turn's boxes belong to: the last before its question; -1 without pictures."""
        talk = self.window.conversation
        # A question that is no longer in the conversation was its last.
        index = next((i for i, other in enumerate(talk.turns) if other is turn), len(talk.turns))
        return min(talk.pictures_before(index) + turn.question.count(IMAGE_TOKEN), len(talk.images)) - 1

    def _size_at(self, turn: Exchange) -> tuple[int, int] | None:
        picture = self._picture_of(turn)
        return self.window.conversation.images[picture].size if picture >= 0 else None

    def _refuse_here(self) -> bool:
        """Whether no rectangle can be drawn on the shown picture; says why."""
        window = self.window
        if self.size is None:
            window.view.question_box.refuse(window.t("picture_first"))
        elif window.strip.shown != len(window.conversation.images) - 1:
            window.view.map_note.configure(text=window.t("box_last"))
        else:
            return False
        return True

    # ------------------------------------------------------------------------------------------ the rectangle

    def choose(self, corners: Corners | None) -> None:
        """Ask the next question about this rectangle; None: about the whole picture."""
        self.pending = corners
        self.show()
        self.window.on_typed()

    def restore(self, kept: object) -> None:
        """The rectangle of a question that was kept before it was asked, if there is one."""
        if self.size is not None and isinstance(kept, list) and len(kept) == 4:
            left, top, right, bottom = (number if type(number) is int else -1 for number in kept)
            if 0 <= left < right <= self.size[0] and 0 <= top < bottom <= self.size[1]:
                self.choose((left, top, right, bottom))

    def remove(self) -> None:
        """The chip's x, or Escape."""
        self.choose(None)
        self.window.view.question_box.entry.focus_set()

    def escape(self) -> None:
        """End a drag, or remove the rectangle if there is one."""
        if self.start is not None:
            self.start = None
            self.choose(self.before)
        elif self.pending is not None:
            self.remove()

    def _on_press(self, event: tkinter.Event) -> None:
        if self.size is not None and not self._refuse_here():
            self.start, self.before = (event.x, event.y), self.pending

    def _on_drag(self, event: tkinter.Event) -> None:
        if self.start is not None:
            self.pending = self._between(self.start, (event.x, event.y)) or self.before
            self.draw()

    def _on_release(self, event: tkinter.Event) -> None:
        if self.start is None:
            return
        found, self.start = self._between(self.start, (event.x, event.y)), None
        self.choose(found or self.before)
        if found is not None:
            self.window.view.question_box.entry.focus_set()

    def _between(self, start: tuple[int, int], end: tuple[int, int]) -> Corners | None:
        """The rectangle between two points of the canvas; None for a click, or where none of it is in the picture."""
        size, pane = self.size, self.window.view.pane
        if size is None or max(abs(end[axis] - start[axis]) for axis in (0, 1)) < pane.look.px(CLICK):
            return None
        sides = []
        for axis in (0, 1):
            first, length = pane.drawn_at[axis], pane.drawn_at[axis + 2]
            inside = [min(max((point[axis] - first) / length, 0.0), 1.0) for point in (start, end)]
            sides.append(sorted(round(share * size[axis]) for share in inside))
        (left, right), (top, bottom) = sides
        return (left, top, right, bottom) if left < right and top < bottom else None

    # ------------------------------------------------------------------------------------------ by keys

    def begin_keys(self) -> None:
        """Ctrl+B: move the rectangle with the arrows; without one, begin with the middle of the picture."""
        if self._refuse_here() or self.size is None:
            return
        width, height = self.size
        self.before, self.by_keys = self.pending, True
        middle = (width // 3, height // 3, max(width // 3 + 1, 2 * width // 3), max(height // 3 + 1, 2 * height // 3))
        self.window.view.pane.canvas.focus_set()
        self.choose(self.pending or middle)
        self.window.view.map_note.configure(text=self.window.t("box_keys"))

    def _on_key(self, event: tkinter.Event) -> str | None:
        if not self.by_keys or self.pending is None:
            return None
        moves = {"Left": (0, -1), "Right": (0, 1), "Up": (1, -1), "Down": (1, 1)}
        if event.keysym in ("Return", "KP_Enter", "Tab"):
            self.window.view.question_box.entry.focus_set()
        elif event.keysym in moves:
            axis, sign = moves[event.keysym]
            self.choose(self._moved(self.pending, axis, sign, bool(int(event.state) & SHIFT)))
        else:
            return None  # a shortcut of the window, such as Escape
        return "break"

    def _moved(self, corners: Corners, axis: int, sign: int, sizes: bool) -> Corners:
        """A rectangle moved along an axis, or its right or lower edge alone, inside the picture."""
        assert self.size is not None
        whole, moved = self.size[axis], list(corners)
        step = sign * max(1, round(STEP * whole))
        low, high = corners[axis], corners[axis + 2]
        if sizes:
            moved[axis + 2] = min(max(high + step, low + 1), whole)
        else:
            step = min(max(step, -low), whole - high)
            moved[axis], moved[axis + 2] = low + step, high + step
        return moved[0], moved[1], moved[2], moved[3]

    def _end_keys(self) -> None:
        if self.by_keys:
            self.by_keys = False
            self.window.maps.show(self.window.maps.span)  # the line under the picture says again what the map shows

    # ------------------------------------------------------------------------------------------ asking

    def refusal(self, boxes: Sequence[Corners]) -> str:
        """Why the model cannot be asked about these boxes; "" if it can, or if there are none."""
        window, assistant = self.window, self.window.worker.assistant
        if not boxes:
            return ""
        if window.models.loading is not None or assistant is None:
            return window.t("box_waits")
        if not assistant.takes_boxes:
            return window.t("box_unknown")
        try:
            self.thousandths(boxes)
        except UserError as error:
            return window.said(str(error))
        return ""

    def thousandths(self, boxes: Sequence[Corners]) -> list[Box]:
        """Boxes of the last picture as a question has them.

        Raises:
            UserError: a box is outside what the encoder is shown.
        """
        size, assistant = self.size, self.window.worker.assistant
        crop = assistant.crop if assistant is not None else None
        return [asked_box(corners, size, crop) for corners in boxes if size is not None]

    def asked(self, turn: Exchange) -> list[Corners]:
        """The boxes that a question is about."""
        boxes, _ = asked_about(typed(turn.question))
        size = self._size_at(turn)
        return in_pixels(boxes, size, crop_of_checkpoint(turn.checkpoint)) if size else []

    def answered(self, turn: Exchange) -> list[Drawn]:
        """The boxes of an answer."""
        size = self._size_at(turn)
        if not size or not turn.answer:
            return []
        return boxes_of_answer(turn.answer, size, crop_of_checkpoint(turn.checkpoint))

    def words(self, turn: Exchange) -> str:
        """A question as the conversation shows it: the boxes that it is about, then its text."""
        _, question = asked_about(typed(turn.question))
        return "\n".join([*map(described, self.asked(turn)), question])

    def hint(self) -> str:
        """What the chip says of the loaded model, if it cannot be expected to know the rectangle."""
        assistant = self.window.worker.assistant
        if assistant is None or self.window.models.loading is not None or assistant.learnt_boxes:
            return ""
        return self.window.t("box_unlearnt" if assistant.takes_boxes else "box_unknown")

    # ------------------------------------------------------------------------------------------ showing

    def shown_turn(self) -> Exchange | None:
        """The turn whose boxes are drawn: the question that is being answered, else that of the shown map."""
        window = self.window
        turn = len(window.conversation.turns) - 1 if window.asking is not None else window.maps.shown_turn()
        return window.conversation.turns[turn] if turn is not None else None

    def show(self) -> None:
        """Show the chip and the boxes as they are now."""
        if self.start is None and self.size is None:
            self.pending = None  # of a picture that is no longer shown
        self.window.view.question_box.show_box(described(self.pending) if self.pending else "", self.hint())
        self.draw()

    def draw(self) -> None:
        """Draw the boxes over the picture, with the colours and captions of ``ask.py --draw``."""
        pane, turn, shown = self.window.view.pane, self.shown_turn(), self.window.strip.shown
        pane.canvas.delete("box")
        if pane.preview is None or self.size is None:
            return
        if turn is not None and self._picture_of(turn) != shown:
            turn = None  # its boxes belong to another picture
        width = line_width((pane.drawn_at[2], pane.drawn_at[3]))
        for corners in self.asked(turn) if turn is not None else ():
            self._rectangle(corners, outline=ASKED, width=width, tags=("box", "asked"))
        answered = self.answered(turn) if turn is not None else []
        texts = captions([label for label, _ in answered])
        for number, (text, (_, corners)) in enumerate(zip(texts, answered, strict=True)):
            wide = 3 * width if number in self.lit else width
            self._rectangle(corners, outline=ANSWERED, width=wide, tags=("box", f"answer-{number}"))
            if text:
                self._caption(corners, text)
        if self.pending is not None and shown == len(self.window.conversation.images) - 1:
            dash = (pane.look.px(6), pane.look.px(3))
            self._rectangle(self.pending, outline=ASKED, width=width, dash=dash, tags=("box", "pending"))

    def _rectangle(self, corners: Corners, **options: Any) -> None:
        (left, top), (right, bottom) = self._in_canvas(corners[:2]), self._in_canvas(corners[2:])
        self.window.view.pane.canvas.create_rectangle(left, top, right, bottom, **options)

    def _in_canvas(self, point: tuple[int, int]) -> tuple[int, int]:
        left, top, width, height = self.window.view.pane.drawn_at
        picture = self.window.conversation.images[self.window.strip.shown]
        return left + round(point[0] * width / picture.width), top + round(point[1] * height / picture.height)

    def _caption(self, corners: Corners, text: str) -> None:
        pane, (left, top) = self.window.view.pane, self._in_canvas(corners[:2])
        item = pane.canvas.create_text(
            left, top, text=text, anchor="nw", fill="white", font=pane.look.small, tags=("box", "caption")
        )
        ground = pane.canvas.create_rectangle(*pane.canvas.bbox(item), fill=ANSWERED, width=0, tags="box")
        pane.canvas.tag_lower(ground, item)

    # ------------------------------------------------------------------------------------------ words and boxes

    def on_word(self, turn: int | None, offset: int) -> None:
        """The mouse is over character ``offset`` of an answer, or (None) over none: light the boxes it names."""
        shown = self.shown_turn()
        found = []
        if turn is not None and self.window.conversation.turns[turn] is shown and shown.answer:
            found = find_boxes(shown.answer)
        self.light({number for number, box in enumerate(found) if box.start <= offset < box.end})

    def light(self, lit: set[int]) -> None:
        if lit != self.lit:
            self.lit = lit
            self.draw()

    def step(self, step: int) -> None:
        """Alt+Left and Alt+Right while no map is shown: light the next box of the answer; after the last, none."""
        turn, index = self.shown_turn(), self.window.maps.shown_turn()
        found = find_boxes(turn.answer) if turn is not None and turn.answer else []
        if not found or index is None:
            return
        choices = [None, *range(len(found))]
        now = choices[(choices.index(min(self.lit, default=None)) + step) % len(choices)]
        self.window.view.transcript.mark_words(index, (found[now].start, found[now].end) if now is not None else None)
        self.light(set() if now is None else {now})
