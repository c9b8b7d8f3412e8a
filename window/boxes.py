"""Parts of the picture: the rectangle that a question is about, and boxes over the picture.

A rectangle is dragged with the mouse, or begun with Ctrl+B and moved with the arrows. It waits in the question box as
a chip until a question is asked. Boxes are kept in pixels of the upright picture here, as ``ask.py --box`` takes them.
"""

from __future__ import annotations

import tkinter
from collections.abc import Callable, Sequence
from tkinter import ttk
from typing import TYPE_CHECKING, Any

from PIL import Image

from answering.checkpoints import crop_if_known
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
from dataset.boxes import Box, asked_about, find_boxes
from window.look import Look, wrap

if TYPE_CHECKING:
    from window.controller import Window
    from window.picture import PicturePane

STEP = 0.02  # of the picture's sides: how far an arrow key moves an edge
CLICK = 4  # pixels at 96 per inch: a drag that is shorter in both directions is a click
SHIFT = 0x1


class BoxChip(ttk.Frame):
    """The rectangle of the next question, above the text: its numbers, what the model makes of it, and an x."""

    def __init__(self, parent: tkinter.Misc, look: Look, remove: Callable[[], object]) -> None:
        super().__init__(parent)
        self.label = ttk.Label(self, foreground=look.colors.accent, font=look.small)
        self.button = look.button(self, "×", remove, "Chip.TButton")
        self.hint = ttk.Label(self, style="Small.TLabel")
        self.hint.bind("<Configure>", lambda event: wrap(self.hint, event.width))
        self.label.pack(side="left")
        self.button.pack(side="left", padx=look.px(8))
        self.hint.pack(side="left", fill="x", expand=True)


class Boxes:
    """The boxes of a window's conversation. ``attach`` is called for each new view."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.pending: Corners | None = None  # the rectangle that the next question is about
        self.owner: Image.Image | None = None  # the picture of the conversation that it is on
        # The rectangle before the present drag, which Escape brings back, and its picture.
        self.before: tuple[Corners | None, Image.Image | None] = None, None
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
    def picture(self) -> int:
        """The index of the picture that the rectangle is on, or a new one would be on; -1 where there is none."""
        images = self.window.conversation.images
        if self.pending is None:
            return min(self.window.strip.shown, len(images) - 1)
        return next((index for index, image in enumerate(images) if image is self.owner), -1)

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of that picture."""
        return self.window.conversation.images[self.picture].size if self.picture >= 0 else None

    def _shown(self) -> Image.Image | None:
        """The picture of the conversation that is shown."""
        images = self.window.conversation.images
        return images[self.window.strip.shown] if images else None

    def _size_at(self, turn: Exchange) -> tuple[int, int] | None:
        talk = self.window.conversation
        picture = talk.picture_of(turn)
        return talk.images[picture].size if picture >= 0 else None

    # ------------------------------------------------------------------------------------------ the rectangle

    def choose(self, corners: Corners | None, picture: int | None = None) -> None:
        """Ask the next question about this rectangle of a picture (None: of the shown one).

        Without ``corners`` it is about the pictures as a whole.
        """
        images = self.window.conversation.images
        self.owner = self._shown() if picture is None or not images else images[picture]
        self.pending = corners
        self.show()
        self.window.on_typed()

    def restore(self, kept: object, picture: object) -> None:
        """The rectangle of a question that was kept before it was asked, if there is one, and its picture's index."""
        images = self.window.conversation.images
        if not (images and isinstance(kept, list) and len(kept) == 4):
            return
        number = picture if type(picture) is int and 0 <= picture < len(images) else len(images) - 1
        left, top, right, bottom = (number if type(number) is int else -1 for number in kept)
        width, height = images[number].size
        if 0 <= left < right <= width and 0 <= top < bottom <= height:
            self.choose((left, top, right, bottom), number)

    def remove(self) -> None:
        """The chip's x, or Escape."""
        self.choose(None)
        self.window.view.question_box.entry.focus_set()

    def escape(self) -> None:
        """End a drag, or remove the rectangle if there is one."""
        if self.start is not None:
            self._end_drag(None)
        elif self.pending is not None:
            self.remove()

    def _on_press(self, event: tkinter.Event) -> None:
        if self._shown() is not None:
            self.start, self.before = (event.x, event.y), (self.pending, self.owner)

    def _on_drag(self, event: tkinter.Event) -> None:
        if self.start is not None:
            found = self._between(self.start, (event.x, event.y))
            self.pending, self.owner = (found, self._shown()) if found else self.before
            self.draw()

    def _on_release(self, event: tkinter.Event) -> None:
        if self.start is not None and self._end_drag(self._between(self.start, (event.x, event.y))):
            self.window.view.question_box.entry.focus_set()

    def _end_drag(self, found: Corners | None) -> bool:
        """Take the rectangle of a drag; None: the one before it. Returns whether there is a new one."""
        self.start = None
        self.pending, self.owner = (found, self._shown()) if found else self.before
        self.show()
        self.window.on_typed()
        return found is not None

    def _between(self, start: tuple[int, int], end: tuple[int, int]) -> Corners | None:
        """The rectangle between two points of the canvas; None for a click, or where none of it is in the picture."""
        image, pane = self._shown(), self.window.view.pane
        if image is None or max(abs(end[axis] - start[axis]) for axis in (0, 1)) < pane.look.px(CLICK):
            return None
        sides = []
        for axis in (0, 1):
            first, length = pane.drawn_at[axis], pane.drawn_at[axis + 2]
            inside = [min(max((point[axis] - first) / length, 0.0), 1.0) for point in (start, end)]
            sides.append(sorted(round(share * image.size[axis]) for share in inside))
        (left, right), (top, bottom) = sides
        return (left, top, right, bottom) if left < right and top < bottom else None

    # ------------------------------------------------------------------------------------------ by keys

    def begin_keys(self) -> None:
        """Ctrl+B: move the rectangle with the arrows; where the picture has none, begin with its middle."""
        window, image = self.window, self._shown()
        if image is None:
            window.view.question_box.refuse(window.t("picture_first"))
            return
        width, height = image.size
        middle = (width // 3, height // 3, max(width // 3 + 1, 2 * width // 3), max(height // 3 + 1, 2 * height // 3))
        self.by_keys = True
        window.view.pane.canvas.focus_set()
        self.choose(self.pending if self.owner is image and self.pending else middle)
        window.view.map_note.configure(text=window.t("box_keys"))

    def _on_key(self, event: tkinter.Event) -> str | None:
        if not self.by_keys or self.pending is None or self.owner is not self._shown():
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

    def refusal(self, boxes: Sequence[Corners], picture: int | None) -> str:
        """Why the model cannot be asked about these boxes of a picture; "" if it can, or if there are none."""
        window, assistant = self.window, self.window.worker.assistant
        if not boxes:
            return ""
        if window.models.loading is not None or assistant is None:
            return window.t("box_waits")
        if not assistant.takes_boxes:
            return window.t("box_unknown")
        try:
            self.thousandths(boxes, picture)
        except UserError as error:
            return window.said(str(error))
        return ""

    def thousandths(self, boxes: Sequence[Corners], picture: int | None) -> list[Box]:
        """Boxes of a picture, by its index, as a question has them.

        Raises:
            UserError: a box is outside what the encoder is shown.
        """
        if picture is None:
            return []
        size, assistant = self.window.conversation.images[picture].size, self.window.worker.assistant
        crop = assistant.crop if assistant is not None else None
        return [asked_box(corners, size, crop) for corners in boxes]

    def of_next(self) -> tuple[list[Corners], int | None]:
        """The boxes of the next question, and the index of their picture; None without boxes."""
        return ([self.pending], self.picture) if self.pending is not None and self.picture >= 0 else ([], None)

    def of_turn(self, turn: Exchange) -> tuple[list[Corners], int | None]:
        """The boxes that a question is about, and the index of their picture; None without boxes."""
        boxes, _ = asked_about(typed(turn.question))
        size = self._size_at(turn)
        if not boxes or size is None:
            return [], None
        picture = self.window.conversation.picture_of(turn)
        return in_pixels(boxes, size, crop_if_known(turn.checkpoint)), picture

    def answered(self, turn: Exchange) -> list[Drawn]:
        """The boxes of an answer."""
        size = self._size_at(turn)
        if not size or not turn.answer:
            return []
        return boxes_of_answer(turn.answer, size, crop_if_known(turn.checkpoint))

    def words(self, turn: Exchange) -> str:
        """A question as the conversation shows it: the boxes that it is about, then its text."""
        boxes, picture = self.of_turn(turn)
        lines = [self._described(corners, picture) for corners in boxes]
        return "\n".join([*lines, asked_about(typed(turn.question))[1]])

    def _described(self, corners: Corners, picture: int | None) -> str:
        """A rectangle as ``ask.py --box`` takes it and, where there are several pictures, which one it is on."""
        line = "▭ " + ",".join(map(str, corners))
        if picture is None or len(self.window.conversation.images) < 2:
            return line
        return line + "  " + self.window.t("box_on", number=picture + 1)

    def hint(self) -> str:
        """What the chip says of the loaded model, if it cannot be expected to know the rectangle."""
        assistant = self.window.worker.assistant
        if assistant is None or self.window.models.loading is not None:
            return ""
        if not assistant.learnt_boxes:
            return self.window.t("box_unlearnt" if assistant.takes_boxes else "box_unknown")
        is_last = self.picture == len(self.window.conversation.images) - 1
        if is_last or assistant.config.language.picture_numbers:
            return ""
        return self.window.t("box_unnumbered", number=self.picture + 1)

    # ------------------------------------------------------------------------------------------ showing

    def shown_turn(self) -> Exchange | None:
        """The turn whose boxes are drawn: the question that is being answered, else that of the shown map."""
        window = self.window
        turn = len(window.conversation.turns) - 1 if window.questions.job is not None else window.maps.shown_turn()
        return window.conversation.turns[turn] if turn is not None else None

    def go_to(self, index: int) -> None:
        """Show the picture of a turn's boxes, if it has some."""
        talk, strip = self.window.conversation, self.window.strip
        turn = talk.turns[index]
        if (self.of_turn(turn)[0] or self.answered(turn)) and talk.picture_of(turn) != strip.shown:
            strip.show(talk.picture_of(turn))

    def show(self) -> None:
        """Show the chip and the boxes as they are now."""
        if self.start is None and self.picture < 0:
            self.pending = None  # of a picture that is no longer in the conversation
        words = self._described(self.pending, self.picture) if self.pending is not None else ""
        self.window.view.question_box.show_box(words, self.hint() if words else "")
        self.draw()

    def draw(self) -> None:
        """Draw the boxes over the picture, with the colours and captions of ``ask.py --draw``."""
        pane, turn, shown = self.window.view.pane, self.shown_turn(), self.window.strip.shown
        pane.canvas.delete("box")
        if pane.preview is None or self._shown() is None:
            return
        if turn is not None and self.window.conversation.picture_of(turn) != shown:
            turn = None  # its boxes belong to another picture
        width = line_width((pane.drawn_at[2], pane.drawn_at[3]))
        for corners in self.of_turn(turn)[0] if turn is not None else ():
            self._rectangle(corners, outline=ASKED, width=width, tags=("box", "asked"))
        answered = self.answered(turn) if turn is not None else []
        texts = captions([label for label, _ in answered])
        for number, (text, (_, corners)) in enumerate(zip(texts, answered, strict=True)):
            wide = 3 * width if number in self.lit else width
            self._rectangle(corners, outline=ANSWERED, width=wide, tags=("box", f"answer-{number}"))
            if text:
                self._caption(corners, text)
        if self.pending is not None and self.picture == shown:
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
