"""Colours, fonts and sizes, and tkinter's widgets with them: the window looks the same on every system.

window/theme.py is the same for ttk's widgets.
"""

from __future__ import annotations

import io
import os
import sys
import tkinter
from collections.abc import Callable
from dataclasses import dataclass
from tkinter import font, ttk
from typing import Any

from PIL import Image, ImageDraw

from window.theme import Theme


@dataclass(frozen=True)
class Palette:
    """The colours of a window, by test as WCAG AA asks.

    A text has a contrast of at least 4.5 : 1 to what is under it; the edge of a field or button and the ring of what
    has the focus have 3 : 1.
    """

    ground: str
    surface: str
    line: str
    edge: str
    text: str
    muted: str
    accent: str
    accent_over: str
    on_accent: str
    button: str
    button_over: str
    question: str
    warning: str
    on_warning: str
    marked: str


LIGHT = Palette(
    ground="#f3f4f6",
    surface="#ffffff",
    line="#d3d6dc",
    edge="#868d99",
    text="#1c1f26",
    muted="#5d6470",
    accent="#2459c8",
    accent_over="#1c489f",
    on_accent="#ffffff",
    button="#ffffff",
    button_over="#e8ebf0",
    question="#e9effc",
    warning="#fdf1d7",
    on_warning="#6e4700",
    marked="#ffdf9e",
)
DARK = Palette(
    ground="#1b1d22",
    surface="#23262c",
    line="#3c414b",
    edge="#7b8290",
    text="#e9ebef",
    muted="#a3aab7",
    accent="#7fa8ff",
    accent_over="#a3c0ff",
    on_accent="#10131a",
    button="#2e323a",
    button_over="#3b404a",
    question="#2b3650",
    warning="#3d3320",
    on_warning="#f3cf8a",
    marked="#6a4f1c",
)
FAMILIES = {
    "win32": ("Segoe UI", "Microsoft YaHei UI"),
    "darwin": (".AppleSystemUIFont", "Helvetica Neue"),
    "linux": ("Inter", "Noto Sans", "Cantarell", "Ubuntu", "Noto Sans CJK SC", "DejaVu Sans"),
}


def sharp_on_windows() -> None:
    """Call this before the first window: otherwise Windows draws it small and enlarges the pixels."""
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.shcore.SetProcessDpiAwareness(1)


def screen_scale(root: tkinter.Misc) -> float:
    """1.0 for a screen of 96 pixels per inch. X11 desktops that scale in whole steps set GDK_SCALE."""
    desktop = os.environ.get("GDK_SCALE", "")
    return max(1.0, root.winfo_fpixels("1i") / 96, float(desktop) if desktop.isdigit() else 0)


def wrap(label: ttk.Label, width: int) -> None:
    """Break a label's lines at a width in pixels.

    A change by one pixel is ignored. The window's columns take turns in having an odd pixel, at each layout; a text
    with another number of lines for it would be laid out without end.
    """
    if abs(width - float(str(label.cget("wraplength")) or 0)) > 1:
        label.configure(wraplength=max(1, width))


class Menu(tkinter.Menu):
    """A menu with an edge, and space around its entries.

    Tk 8.6 draws space around an entry only with a raised border. On X11 an empty image beside the text makes the space,
    and the edge is the menu's own ground, which its entries cover. Windows and macOS draw menus themselves.
    """

    def __init__(self, parent: tkinter.Misc, look: Look, bar: bool) -> None:
        options = look.menu_options()
        ground = options["background"]
        if not bar:
            options |= {"background": look.colors.edge, "borderwidth": look.px(1)}
        super().__init__(parent, tearoff=False, **options)
        self.entry: dict[str, Any] = {"background": ground}
        self.on_x11 = look.on_x11
        if self.on_x11:
            self.entry |= {"image": str(look.space), "compound": "left"}

    def add(self, itemType: str, cnf: Any = None, **options: Any) -> None:  # noqa: N803, tkinter's name
        """As tkinter's, which all its add_... methods call."""
        chosen = {**(cnf or {}), **options}
        if itemType == "separator":
            super().add(itemType, background=self.entry["background"], **chosen)
            return
        if accelerator := chosen.get("accelerator"):
            chosen["accelerator"] = f"{accelerator}  "  # space at the right edge
        if self.on_x11 and itemType in ("checkbutton", "radiobutton"):
            chosen["compound"] = "center"  # the mark has space on its right, and "left" would add to it
        super().add(itemType, **{**self.entry, **chosen})


class Look:
    """A palette, fonts and a ttk theme for one root window, at one scale."""

    def __init__(self, root: tkinter.Tk, dark: bool, scale: float) -> None:
        self.root, self.scale, self.dark = root, scale, dark
        self.colors = DARK if dark else LIGHT
        known = set(font.families(root))
        wanted = FAMILIES.get(sys.platform, FAMILIES["linux"])
        family = next(
            (name for name in wanted if name in known), font.nametofont("TkDefaultFont", root).actual("family")
        )
        self.font = font.Font(root, family=family, size=-self.px(14))
        self.bold = font.Font(root, family=family, size=-self.px(14), weight="bold")
        self.small = font.Font(root, family=family, size=-self.px(12))
        self.tiny = font.Font(root, family=family, size=-1)
        self.large = font.Font(root, family=family, size=-self.px(18), weight="bold")
        for name in ("TkDefaultFont", "TkTextFont", "TkMenuFont"):  # used by the system's dialogs
            font.nametofont(name, root).configure(family=family, size=-self.px(13))
        height = self.font.metrics("linespace") + self.px(10)
        self.space = tkinter.PhotoImage(master=root, width=self.px(6), height=height)  # beside a menu's entries
        Theme(self)

    @property
    def on_x11(self) -> bool:
        """Whether menus and file dialogs are Tk's own; on Windows and macOS they are the system's."""
        return bool(self.root.tk.call("tk", "windowingsystem") == "x11")

    def px(self, pixels: float) -> int:
        """Pixels on this screen for ``pixels`` on a screen of 96 per inch."""
        return max(1, round(pixels * self.scale))

    @staticmethod
    def shortened(text: str, face: font.Font, width: int) -> str:
        """``text`` in at most ``width`` pixels; its middle is left out, since names of files differ at the end."""
        short = text
        for kept in range(len(text) - 1, -1, -1):
            if face.measure(short) <= width:
                break
            short = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
        return short

    # ------------------------------------------------------------------------------------------ widgets

    @staticmethod
    def button(parent: tkinter.Misc, text: str, command: Callable[[], object], style: str = "TButton") -> ttk.Button:
        button = ttk.Button(parent, text=text, style=style, command=command, width=0)
        button.bind("<Return>", lambda event: button.invoke())  # Tk itself only lets the space bar press a button
        return button

    def menu(self, parent: tkinter.Misc, bar: bool = False) -> Menu:
        """A menu; ``bar``: the menu bar, which has no edge."""
        return Menu(parent, self, bar)

    def menu_options(self) -> dict[str, Any]:
        """The colours and the font of menus, by Tk's names."""
        c = self.colors
        return {
            "font": self.font,
            "background": c.ground,
            "foreground": c.text,
            "activebackground": c.accent,
            "activeforeground": c.on_accent,
            "disabledforeground": c.muted,
            "selectcolor": c.text,
            "relief": "flat",
            "borderwidth": 0,
            "activeborderwidth": 0,
        }

    def text_box(self, parent: tkinter.Misc, **options: Any) -> tkinter.Text:
        c = self.colors
        return tkinter.Text(
            parent,
            wrap="word",
            width=1,
            font=self.font,
            background=c.surface,
            foreground=c.text,
            insertbackground=c.text,
            insertwidth=self.px(2),
            selectbackground=c.accent,
            selectforeground=c.on_accent,
            relief="flat",
            highlightthickness=0,
            borderwidth=0,
            **options,
        )

    def text_field(self, parent: tkinter.Misc, **options: Any) -> tuple[ttk.Frame, tkinter.Text]:
        """A text in a field with an edge, which shows the focus; ttk has no text of several lines."""
        frame = ttk.Frame(parent, style="Input.TFrame", padding=self.px(3))
        text = self.text_box(frame, **options)
        text.pack(fill="both", expand=True)
        text.bind("<FocusIn>", lambda event: frame.state(["focus"]))
        text.bind("<FocusOut>", lambda event: frame.state(["!focus"]))
        return frame, text

    # ------------------------------------------------------------------------------------------ drawn parts

    def bubble_end(self, width: int, color: str, top: bool) -> bytes:
        """The rounded end of a bubble, as a PNG of ``width`` pixels for Tk."""
        height, radius = self.px(8), self.px(8)
        image = Image.new("RGB", (4 * width, 4 * height), self.colors.surface)
        box = (0, 0 if top else -4 * radius, 4 * width - 1, 4 * (height + radius) if top else 4 * height - 1)
        ImageDraw.Draw(image).rounded_rectangle(box, 4 * radius, fill=color)
        data = io.BytesIO()
        image.resize((width, height), Image.Resampling.BOX).save(data, "PNG", compress_level=1)
        return data.getvalue()
