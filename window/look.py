"""Colours, fonts, sizes and the drawn parts of buttons: the window looks the same on every system.

ttk's own themes have neither dark colours nor rounded corners. This makes a theme on top of "clam" from small images,
which are drawn at four times their size and reduced, at the scale of the screen.
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

from PIL import Image, ImageDraw, ImageTk


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
        self._images: list[ImageTk.PhotoImage] = []  # Tk itself keeps no reference
        self._make_theme()
        self._color_file_dialogs()

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

    # ------------------------------------------------------------------------------------------ ttk

    def _make_theme(self) -> None:
        style, name = ttk.Style(self.root), f"ask-{self.dark}-{self.scale}"
        if name not in style.theme_names():
            style.theme_create(name, parent="clam")
            style.theme_use(name)
            self._make_elements(style)
            root: Any = self.root  # keeps the images for as long as the themes: Tk itself keeps no reference
            root.theme_images = [*getattr(root, "theme_images", []), *self._images]
        style.theme_use(name)
        self._configure(style)
        self.root.configure(background=self.colors.ground)

    def _make_elements(self, style: ttk.Style) -> None:
        c, edge = self.colors, self.px(7)
        plain, over = self._box(c.button, c.edge), self._box(c.button_over, c.edge)
        focused, off = self._box(c.button, c.accent), self._box(c.ground, c.line)
        full, full_over = self._box(c.accent, c.accent), self._box(c.accent_over, c.accent_over)
        full_focused = self._box(c.accent, c.text)
        # Tk fills a box with copies of its image's middle, and for each it waits for the display: 370 times for the
        # widest button of this window with a middle of 6 px, 8 times with one of 166. The box itself may be smaller.
        options: dict[str, Any] = {
            "border": edge,
            "padding": 0,
            "sticky": "nsew",
            "width": self.px(20),
            "height": self.px(20),
        }
        create: Any = style.element_create
        states = [("disabled", off), ("pressed", over), ("active", over), ("focus", focused)]
        create("Plain.button", "image", plain, *states, **options)
        states = [("disabled", off), ("pressed", full_over), ("active", full_over), ("focus", full_focused)]
        create("Accent.button", "image", full, *states, **options)
        focused_field = self._box(c.surface, c.accent)
        create("Box.field", "image", self._box(c.surface, c.line), ("focus", focused_field), **options)
        create("Input.field", "image", self._box(c.surface, c.edge), ("focus", focused_field), **options)
        create("Banner.field", "image", self._box(c.warning, c.warning), **options)
        chip, chip_over = self._box(c.question, c.question), self._box(c.question, c.accent)
        create("Chip.button", "image", chip, ("active", chip_over), ("focus", chip_over), **options)
        thumb, grabbed = self._thumb(c.line), self._thumb(c.muted)
        options = {"border": self.px(5), "padding": 0, "sticky": "nsew"}
        create("Vertical.Bar.thumb", "image", thumb, ("active", grabbed), **options)
        on, off = self._switch(True), self._switch(False)
        create("Switch.indicator", "image", off, ("selected", on), sticky="w")
        dot, ring = self._dot(True), self._dot(False)
        create("Dot.indicator", "image", ring, ("selected", dot), sticky="w")

    def _configure(self, style: ttk.Style) -> None:
        c, px = self.colors, self.px
        style.configure(".", background=c.ground, foreground=c.text, font=self.font, borderwidth=0, focuscolor=c.accent)
        style.map(".", foreground=[("disabled", c.muted)])
        self._configure_buttons(style)
        self._configure_switches(style)
        self._configure_scrollbars(style)
        self._configure_fields(style)
        style.configure("Surface.TFrame", background=c.surface)
        style.configure("Small.TLabel", foreground=c.muted, font=self.small)
        style.configure("Banner.TLabel", background=c.warning, foreground=c.on_warning, padding=(px(12), px(7)))
        style.configure("TProgressbar", background=c.accent, lightcolor=c.accent, darkcolor=c.accent)
        style.configure("TProgressbar", troughcolor=c.ground, bordercolor=c.ground, thickness=px(4))
        style.configure("Treeview", background=c.surface, fieldbackground=c.surface, foreground=c.text)
        style.configure("Treeview", bordercolor=c.line, rowheight=px(52), font=self.font)
        style.map("Treeview", background=[("selected", c.question)], foreground=[("selected", c.text)])

    def _configure_buttons(self, style: ttk.Style) -> None:
        c, px = self.colors, self.px
        layout: Any = style.layout  # typeshed knows no nested layouts
        for name, element in (
            ("TButton", "Plain.button"),
            ("Accent.TButton", "Accent.button"),
            ("Chip.TButton", "Chip.button"),
            ("Thumb.TButton", "Chip.button"),
            ("Shown.TButton", "Accent.button"),
        ):
            inside = ("Button.padding", {"sticky": "nsew", "children": [("Button.label", {"sticky": "nsew"})]})
            layout(name, [(element, {"sticky": "nsew", "children": [inside]})])
            style.configure(name, padding=(px(14), px(6)), anchor="center")
        style.configure("Accent.TButton", foreground=c.on_accent, font=self.bold)
        style.map("Accent.TButton", foreground=[("disabled", c.muted)])
        style.configure("Chip.TButton", padding=(px(10), px(4)), font=self.small)
        for name in ("Thumb.TButton", "Shown.TButton"):  # of the strip of pictures
            style.configure(name, padding=px(3), font=self.small)
        style.configure("Shown.TButton", foreground=c.on_accent)
        label = ("Menubutton.label", {"side": "left", "sticky": "w"})
        arrow = ("Menubutton.indicator", {"side": "right", "sticky": ""})
        inside = ("Menubutton.padding", {"sticky": "nsew", "children": [arrow, label]})
        layout("Plain.TMenubutton", [("Plain.button", {"sticky": "nsew", "children": [inside]})])
        style.configure("Plain.TMenubutton", padding=(px(12), px(6)))
        style.configure("TMenubutton", arrowcolor=c.text, arrowsize=px(5), arrowpadding=px(2))

    def _configure_switches(self, style: ttk.Style) -> None:
        c, px = self.colors, self.px
        layout: Any = style.layout
        for kind, indicator in (("TCheckbutton", "Switch"), ("TRadiobutton", "Dot")):
            parts = [(f"{indicator}.indicator", {"side": "left"}), (f"{kind[1:]}.label", {"side": "left"})]
            focus = (f"{kind[1:]}.focus", {"side": "left", "sticky": "w", "children": parts})
            layout(f"{indicator}.{kind}", [(f"{kind[1:]}.padding", {"sticky": "nsew", "children": [focus]})])
            style.configure(f"{indicator}.{kind}", padding=px(2), focusthickness=px(1))
            style.map(f"{indicator}.{kind}", background=[("active", c.ground)])
        for name in ("Box", "Input"):
            layout(f"{name}.TFrame", [(f"{name}.field", {"sticky": "nsew"})])
        inside = ("Label.padding", {"sticky": "nsew", "children": [("Label.label", {"sticky": "nsew"})]})
        layout("Banner.TLabel", [("Banner.field", {"sticky": "nsew", "children": [inside]})])

    def _configure_scrollbars(self, style: ttk.Style) -> None:
        c = self.colors
        layout: Any = style.layout
        thumb = ("Vertical.Bar.thumb", {"sticky": "nsew"})
        layout("Vertical.TScrollbar", [("Vertical.Scrollbar.trough", {"sticky": "ns", "children": [thumb]})])
        for name, color in (("Vertical.TScrollbar", c.surface), ("Page.Vertical.TScrollbar", c.ground)):
            style.configure(name, troughcolor=color, bordercolor=color, lightcolor=color, darkcolor=color)
        style.configure("Horizontal.TScrollbar", background=c.line, troughcolor=c.surface, arrowcolor=c.text)

    def _configure_fields(self, style: ttk.Style) -> None:
        """Number fields and choices; a choice's list is not of ttk and takes its colours from Tk's options."""
        c, px = self.colors, self.px
        fields = {"fieldbackground": c.surface, "foreground": c.text, "bordercolor": c.edge, "insertcolor": c.text}
        for name in ("TEntry", "TSpinbox", "TCombobox"):
            style.configure(name, padding=px(5), arrowcolor=c.text, lightcolor=c.surface, darkcolor=c.surface, **fields)
            style.map(
                name,
                bordercolor=[("focus", c.accent)],
                fieldbackground=[("disabled", c.ground), ("readonly", c.surface)],
                foreground=[("disabled", c.muted), ("readonly", c.text)],
                selectbackground=[("readonly", c.surface)],
                selectforeground=[("readonly", c.text)],
            )
            style.configure(name, background=c.button, arrowsize=px(13))
        self.root.option_add("*TCombobox*Listbox.background", c.surface)
        self.root.option_add("*TCombobox*Listbox.foreground", c.text)
        self.root.option_add("*TCombobox*Listbox.font", self.font)

    def _color_file_dialogs(self) -> None:
        """On X11 the file dialogs are Tk's own; their list is black on white in every theme. Hide dot files too."""
        tk, c = self.root.tk, self.colors
        if tk.call("tk", "windowingsystem") != "x11":
            return
        tk.eval("catch {tk_getOpenFile -no-such-option}; destroy .__tk_filedialog .__tk_choosedir")  # loads the script
        tk.setvar("::tk::dialog::file::showHiddenBtn", "1")
        tk.setvar("::tk::dialog::file::showHiddenVar", "0")
        self.root.option_add("*TkFDialog*Canvas.foreground", c.text)
        self.root.option_add("*TkChooseDir*Canvas.foreground", c.text)
        self.root.bind_class("TkFDialog", "<Map>", lambda event: self._color_file_list(event.widget))
        self.root.bind_class("TkChooseDir", "<Map>", lambda event: self._color_file_list(event.widget))

    def _color_file_list(self, dialog: tkinter.Misc | str) -> None:
        canvas = f"{dialog}.contents.icons.cHull.canvas"
        if self.root.tk.call("winfo", "exists", canvas):
            self.root.tk.call(canvas, "configure", "-background", self.colors.surface)

    # ------------------------------------------------------------------------------------------ widgets

    @staticmethod
    def button(parent: tkinter.Misc, text: str, command: Callable[[], object], style: str = "TButton") -> ttk.Button:
        button = ttk.Button(parent, text=text, style=style, command=command, width=0, cursor="hand2")
        button.bind("<Return>", lambda event: button.invoke())  # Tk itself only lets the space bar press a button
        return button

    def menu(self, parent: tkinter.Misc) -> tkinter.Menu:
        c = self.colors
        return tkinter.Menu(
            parent,
            tearoff=False,
            font=self.font,
            background=c.ground,
            foreground=c.text,
            activebackground=c.accent,
            activeforeground=c.on_accent,
            disabledforeground=c.muted,
            selectcolor=c.text,
            relief="raised",
            borderwidth=self.px(1),
            activeborderwidth=self.px(4),
        )

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

    def _photo(self, image: Image.Image) -> ImageTk.PhotoImage:
        small = image.resize((image.width // 4, image.height // 4), Image.Resampling.BOX)
        self._images.append(ImageTk.PhotoImage(small, master=self.root))
        return self._images[-1]

    def _box(self, fill: str, line: str) -> ImageTk.PhotoImage:
        side, width = self.px(180) * 4, self.px(1) * 4
        image = Image.new("RGBA", (side, side))
        draw = ImageDraw.Draw(image)
        draw.rounded_rectangle((0, 0, side - 1, side - 1), self.px(6) * 4, fill=fill, outline=line, width=width)
        return self._photo(image)

    def _switch(self, on: bool) -> ImageTk.PhotoImage:
        width, height, gap = self.px(34) * 4, self.px(18) * 4, self.px(8) * 4
        image = Image.new("RGBA", (width + gap, height))  # the gap is the distance to the label
        draw = ImageDraw.Draw(image)
        c, edge = self.colors, self.px(3) * 4
        draw.rounded_rectangle((0, 0, width - 1, height - 1), height // 2, fill=c.accent if on else c.muted)
        left = width - height + edge if on else edge
        knob = c.on_accent if on else c.surface
        draw.ellipse((left, edge, left + height - 2 * edge, height - edge), fill=knob)
        return self._photo(image)

    def _thumb(self, color: str) -> ImageTk.PhotoImage:
        width, height = self.px(10) * 4, self.px(24) * 4
        image = Image.new("RGBA", (width, height))
        edge = self.px(2) * 4
        draw = ImageDraw.Draw(image)
        draw.rounded_rectangle((edge, 0, width - edge - 1, height - 1), width // 2 - edge, fill=color)
        return self._photo(image)

    def _dot(self, on: bool) -> ImageTk.PhotoImage:
        side, gap = self.px(16) * 4, self.px(8) * 4
        image = Image.new("RGBA", (side + gap, side))
        draw = ImageDraw.Draw(image)
        c, width = self.colors, self.px(5 if on else 1.5) * 4
        color = c.accent if on else c.muted
        draw.ellipse((0, 0, side - 1, side - 1), fill=c.surface, outline=color, width=width)
        return self._photo(image)
