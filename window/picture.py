"""The picture, and the attention map over it."""

from __future__ import annotations

import tkinter
from collections.abc import Callable, Sequence
from pathlib import Path
from tkinter import ttk
from typing import Any

import numpy as np
from PIL import Image, ImageOps, ImageTk

from answering.heat import with_heat
from window.look import Look

LARGEST = 2048  # pixels on a side of the preview: more than any pane has, and scaled in milliseconds


def preview_of(image: Image.Image) -> Image.Image:
    """A copy that is small enough to be scaled at every change of the window's size."""
    preview = image.copy()
    preview.thumbnail((LARGEST, LARGEST))
    return preview


class PicturePane(ttk.Frame):
    """The picture in a frame, or an invitation to open one.

    ``clicked`` is called when the empty pane is clicked, ``opened`` with the path of a recent picture. ``pointed`` is
    called with (row, column) of the patch under the mouse while a map is shown, or with None.
    """

    def __init__(
        self,
        parent: tkinter.Misc,
        look: Look,
        t: Callable[..., str],
        clicked: Callable[[], None],
        opened: Callable[[str], None],
        pointed: Callable[[tuple[int, int] | None], None],
        can_drop: bool,
    ) -> None:
        super().__init__(parent)
        self.look, self.t, self.pointed, self.can_drop = look, t, pointed, can_drop
        self.clicked, self.opened = clicked, opened
        self.preview: Image.Image | None = None
        self.grid_shown: np.ndarray | None = None
        self.photo: ImageTk.PhotoImage | None = None
        self.small: list[tuple[str, ImageTk.PhotoImage]] = []  # recent pictures: path and small copy
        self.drawn_at = (0, 0, 1, 1)  # left, top, width and height of the picture in the canvas
        self.drawn: Callable[[], object] = lambda: None  # called when the picture was drawn
        colors = look.colors
        frame = ttk.Frame(self, style="Box.TFrame", padding=look.px(8))
        frame.pack(fill="both", expand=True)
        self.canvas = tkinter.Canvas(
            frame, background=colors.surface, highlightthickness=0, width=1, height=1, takefocus=False
        )
        self.canvas.pack(fill="both", expand=True)
        self.canvas.bind("<Configure>", lambda event: self.draw())
        self.canvas.bind("<Button-1>", self._on_click)
        self.canvas.bind("<Motion>", self._on_motion)
        self.canvas.bind("<Leave>", lambda event: self.pointed(None))

    def show(self, preview: Image.Image | None) -> None:
        if preview is not self.preview or self.grid_shown is not None:
            self.preview, self.grid_shown = preview, None
            self.draw()

    def show_recent(self, pictures: Sequence[tuple[str, Path]]) -> None:
        """Recent pictures for the empty pane: each one's path, and the file of its small copy."""
        side, self.small = self.look.px(56), []
        for path, file in pictures:
            try:
                with Image.open(file) as image:
                    self.small.append((path, ImageTk.PhotoImage(ImageOps.fit(image, (side, side)), master=self)))
            except OSError:
                continue
        if self.preview is None:
            self.draw()

    def forget_images(self) -> None:
        self.photo, self.small = None, []

    def show_map(self, grid: np.ndarray | None) -> None:
        """``grid`` [rows, columns] is of an :class:`answering.attention_map.AttentionMap`; None: only the picture."""
        if grid is not self.grid_shown:  # drawing sends a megabyte to the display: 100 ms while a model uses all cores
            self.grid_shown = grid
            self.draw()

    def draw(self) -> None:
        width, height = self.canvas.winfo_width(), self.canvas.winfo_height()
        self.canvas.delete("all")
        self.canvas.configure(cursor="hand2" if self.preview is None else "crosshair")
        if width < 8 or height < 8:
            return
        if self.preview is None:
            self._invite(width, height)
            return
        scale = min(width / self.preview.width, height / self.preview.height)
        size = (max(1, round(self.preview.width * scale)), max(1, round(self.preview.height * scale)))
        picture = self.preview.resize(size, Image.Resampling.BILINEAR)
        if self.grid_shown is not None:
            picture = with_heat(picture, self.grid_shown)
        self.photo = ImageTk.PhotoImage(picture, master=self)
        left, top = (width - size[0]) // 2, (height - size[1]) // 2
        self.drawn_at = (left, top, *size)
        self.canvas.create_image(left, top, image=self.photo, anchor="nw")
        self.drawn()

    def _invite(self, width: int, height: int) -> None:
        """Draw what says how to open a picture."""
        px, colors, middle = self.look.px, self.look.colors, width // 2
        edge, dash = px(10), (px(6), px(5))
        self.canvas.create_rectangle(
            edge, edge, width - edge, height - edge, outline=colors.edge, dash=dash, width=px(2)
        )
        top = height // 2 - px(64)
        if height >= px(220):
            self._draw_icon(middle, top)
        else:
            top -= px(32)  # the texts take the middle
        width_of_text = max(1, width - px(60))
        text: dict[str, Any] = {"width": width_of_text, "justify": "center", "anchor": "n"}
        self.canvas.create_text(
            middle, top + px(64), text=self.t("drop_here"), font=self.look.large, fill=colors.text, **text
        )
        keys = self.t("drop_keys_dnd" if self.can_drop else "drop_keys")
        self.canvas.create_text(middle, top + px(96), text=keys, font=self.look.font, fill=colors.muted, **text)

        self._draw_recent(width, height)

    def _draw_recent(self, width: int, height: int) -> None:
        """The recent pictures in a row at the bottom, as many as fit."""
        step = self.look.px(66)
        shown = self.small[: max(0, (width - self.look.px(40)) // step)]
        if not shown or height < self.look.px(320):
            return
        left, top = (width - step * len(shown)) // 2 + self.look.px(5), height - self.look.px(84)
        self.canvas.create_text(
            width // 2,
            top - self.look.px(10),
            text=self.t("recent"),
            font=self.look.small,
            anchor="s",
            fill=self.look.colors.muted,
        )
        for number, (_, photo) in enumerate(shown):
            item = self.canvas.create_image(left + step * number, top, image=photo, anchor="nw")
            self.canvas.itemconfigure(item, tags=("recent", f"recent-{number}"))

    def _on_click(self, event: tkinter.Event) -> None:
        if self.preview is not None:
            return
        tags = self.canvas.gettags("current")
        number = next((int(tag.removeprefix("recent-")) for tag in tags if tag.startswith("recent-")), None)
        self.clicked() if number is None else self.opened(self.small[number][0])

    def _draw_icon(self, middle: int, top: int) -> None:
        """A picture in outline: a frame, a sun, a hill."""
        px, color = self.look.px, self.look.colors.accent
        left, right, bottom, line = middle - px(30), middle + px(30), top + px(46), px(2)
        self.canvas.create_rectangle(left, top, right, bottom, outline=color, width=line)
        self.canvas.create_oval(left + px(9), top + px(8), left + px(20), top + px(19), outline=color, width=line)
        hill = [(left, bottom - px(6)), (left + px(20), top + px(22)), (left + px(33), bottom - px(12))]
        self.canvas.create_line([*hill, (left + px(43), top + px(26)), (right, bottom - px(8))], fill=color, width=line)

    def patch_at(self, x: int, y: int) -> tuple[int, int] | None:
        """Row and column of the patch at a point of the canvas, while a map is shown."""
        if self.grid_shown is None:
            return None
        left, top, width, height = self.drawn_at
        rows, columns = self.grid_shown.shape
        row, column = (y - top) * rows // height, (x - left) * columns // width
        return (row, column) if 0 <= row < rows and 0 <= column < columns else None

    def _on_motion(self, event: tkinter.Event) -> None:
        self.pointed(self.patch_at(event.x, event.y))
