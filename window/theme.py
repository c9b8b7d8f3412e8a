"""The ttk theme: parts of buttons and fields are small images, drawn at four times their size and reduced.

ttk's own themes have neither dark colours nor rounded corners. The styles have ttk's own names, which Tk's file dialogs
use on X11.
"""

from __future__ import annotations

from collections.abc import Sequence
from tkinter import ttk
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageTk

if TYPE_CHECKING:
    from window.look import Look

FINE = 4  # images are drawn so many times as large


class Theme:
    """The theme for one :class:`window.look.Look`, made once for each of its colours and scales, and used at once."""

    def __init__(self, look: Look) -> None:
        self.look, self.colors, self.px = look, look.colors, look.px
        self.images: list[ImageTk.PhotoImage] = []
        self.style, name = ttk.Style(look.root), f"ask-{look.dark}-{look.scale}"
        if name not in self.style.theme_names():
            self.style.theme_create(name, parent="clam")
            self.style.theme_use(name)
            self._make_elements()
            root: Any = look.root  # keeps the images for as long as the themes: Tk itself keeps no reference
            root.theme_images = [*getattr(root, "theme_images", []), *self.images]
        self.style.theme_use(name)
        self._configure()
        look.root.configure(background=self.colors.ground)

    # ------------------------------------------------------------------------------------------ elements

    def _element(self, name: str, image: ImageTk.PhotoImage, *states: tuple[str, Any], **options: Any) -> None:
        create: Any = self.style.element_create  # typeshed knows no images by state
        create(name, "image", image, *states, **{"border": 0, "padding": 0, "sticky": "nsew", **options})

    def _make_elements(self) -> None:
        c, px = self.colors, self.px
        # Tk fills a box with copies of its image's middle, and for each it waits for the display: 370 times for the
        # widest button of this window with a middle of 6 px, 8 times with one of 166. The box itself may be smaller.
        box: dict[str, Any] = {"border": px(7), "width": px(20), "height": px(20)}
        over, off = self._box(c.button_over, c.edge), self._box(c.ground, c.line)
        states = [("disabled", off), ("pressed", over), ("active", over), ("focus", self._box(c.button, c.accent))]
        self._element("Plain.button", self._box(c.button, c.edge), *states, **box)
        full_over = self._box(c.accent_over, c.accent_over)
        states = [("disabled", off), ("pressed", full_over), ("active", full_over)]
        self._element(
            "Accent.button", self._box(c.accent, c.accent), *states, ("focus", self._box(c.accent, c.text)), **box
        )
        chip, chip_over = self._box(c.question, c.question), self._box(c.question, c.accent)
        self._element("Chip.button", chip, ("active", chip_over), ("focus", chip_over), **box)
        clear = self._box(c.ground, c.ground)
        self._element("Tab.button", clear, ("selected focus", chip_over), ("selected", chip), ("active", over), **box)
        focused = ("focus", self._box(c.surface, c.accent))
        self._element("Box.field", self._box(c.surface, c.line), focused, **box)
        self._element("Input.field", self._box(c.surface, c.edge), ("disabled", off), focused, **box)
        self._element("Banner.field", self._box(c.warning, c.warning), **box)
        self._make_small_elements()

    def _make_small_elements(self) -> None:
        """Indicators, arrows, and the parts of scrollbars and progress bars."""
        c, px = self.colors, self.px
        upright, flat = (px(10), px(24), px(2), 0), (px(24), px(10), 0, px(2))
        for name, size in (("Vertical", upright), ("Horizontal", flat)):
            grabbed, none = self._bar(c.muted, *size), self._photo(Image.new("RGBA", (size[0] * FINE, size[1] * FINE)))
            states = ("disabled", none), ("active", grabbed)  # disabled: there is nothing to scroll
            self._element(f"{name}.Bar.thumb", self._bar(c.edge, *size), *states, border=px(5))
        self._element("Switch.indicator", self._switch(False), ("selected", self._switch(True)), sticky="w")
        self._element("Dot.indicator", self._dot(False), ("selected", self._dot(True)), sticky="w")
        down, off = self._arrow(c.text, down=True), self._arrow(c.muted, down=True)
        self._element("Arrow.indicator", down, ("disabled", off), sticky="e")
        self._element("Arrow.downarrow", down, ("disabled", off), sticky="e")
        self._element("Arrow.uparrow", self._arrow(c.text), ("disabled", self._arrow(c.muted)), sticky="e")
        self._element("Horizontal.Line.trough", self._bar(c.line, px(20), px(4)), border=(px(2), 0))
        self._element("Horizontal.Line.pbar", self._bar(c.accent, px(40), px(4)), border=(px(2), 0))

    # ------------------------------------------------------------------------------------------ styles

    def _layout(self, style: str, *parts: str, inside: Sequence[Any] = ()) -> None:
        """Give a style nested ``parts``, the outermost first, with ``inside`` in the innermost."""
        layout: Any = self.style.layout  # typeshed knows no nested layouts
        tree = list(inside)
        for part in reversed(parts):
            tree = [(part, {"sticky": "nsew", **({"children": tree} if tree else {})})]
        layout(style, tree)

    def _configure(self) -> None:
        c, px, style, look = self.colors, self.px, self.style, self.look
        style.configure(".", background=c.ground, foreground=c.text, font=look.font, borderwidth=0, focuscolor=c.accent)
        style.map(".", foreground=[("disabled", c.muted)])
        self._configure_buttons()
        self._configure_switches()
        self._configure_bars()
        self._configure_fields()
        self._configure_pages()
        self._show_hands()
        for name in ("Box", "Input"):
            self._layout(f"{name}.TFrame", f"{name}.field")
        self._layout("Banner.TLabel", "Banner.field", "Label.padding", "Label.label")
        style.configure("Banner.TLabel", foreground=c.on_warning, padding=(px(12), px(7)))
        style.configure("Surface.TFrame", background=c.surface)
        style.configure("Small.TLabel", foreground=c.muted, font=look.small)
        self._layout("Treeview", "Input.field", "Treeview.padding", "Treeview.treearea")
        style.configure("Treeview", background=c.surface, foreground=c.text, font=look.font)
        style.configure("Treeview", padding=px(4), rowheight=px(52))
        style.map("Treeview", background=[("selected", c.question)], foreground=[("selected", c.text)])

    def _configure_buttons(self) -> None:
        c, px, style = self.colors, self.px, self.style
        for name, element in (
            ("TButton", "Plain.button"),
            ("Accent.TButton", "Accent.button"),
            ("Chip.TButton", "Chip.button"),
            ("Thumb.TButton", "Chip.button"),
            ("Shown.TButton", "Accent.button"),
        ):
            self._layout(name, element, "Button.padding", "Button.label")
            style.configure(name, padding=(px(14), px(6)), anchor="center")
        style.configure("Accent.TButton", foreground=c.on_accent, font=self.look.bold)
        style.map("Accent.TButton", foreground=[("disabled", c.muted)])
        style.configure("Chip.TButton", padding=(px(10), px(4)), font=self.look.small)
        for name in ("Thumb.TButton", "Shown.TButton"):  # of the strip of pictures
            style.configure(name, padding=px(3), font=self.look.small)
        style.configure("Shown.TButton", foreground=c.on_accent)
        parts = [
            ("Arrow.indicator", {"side": "right", "sticky": ""}),
            ("Menubutton.label", {"side": "left", "sticky": "w"}),
        ]
        self._layout("TMenubutton", "Plain.button", "Menubutton.padding", inside=parts)
        style.configure("TMenubutton", padding=(px(12), px(6), px(9), px(6)))

    def _configure_switches(self) -> None:
        for kind, indicator in (("Checkbutton", "Switch"), ("Radiobutton", "Dot")):
            parts = [(f"{indicator}.indicator", {"side": "left"}), (f"{kind}.label", {"side": "left"})]
            focus = (f"{kind}.focus", {"side": "left", "sticky": "w", "children": parts})
            self._layout(f"T{kind}", f"{kind}.padding", inside=[focus])
            self.style.configure(f"T{kind}", padding=self.px(2), focusthickness=self.px(1))
            self.style.map(f"T{kind}", background=[("active", self.colors.ground)])

    def _configure_bars(self) -> None:
        c = self.colors
        for name in ("Vertical", "Horizontal"):
            self._layout(f"{name}.TScrollbar", f"{name}.Scrollbar.trough", f"{name}.Bar.thumb")
            for style, color in ((f"{name}.TScrollbar", c.surface), (f"Page.{name}.TScrollbar", c.ground)):
                self.style.configure(style, troughcolor=color, bordercolor=color, lightcolor=color, darkcolor=color)
        part = ("Horizontal.Line.pbar", {"side": "left", "sticky": ""})
        trough = ("Horizontal.Line.trough", {"sticky": "ew", "children": [part]})
        self._layout("Horizontal.TProgressbar", inside=[trough])

    def _configure_fields(self) -> None:
        """Fields and choices; a choice's list is not of ttk and takes its colours from Tk's options."""
        c, px, style, root = self.colors, self.px, self.style, self.look.root
        down = ("Arrow.downarrow", {"side": "right", "sticky": ""})
        up = [("Arrow.uparrow", {"side": "top"}), ("Arrow.downarrow", {"side": "bottom"})]
        arrows = ("null", {"side": "right", "sticky": "", "children": up})
        for kind, before in (("Entry", []), ("Combobox", [down]), ("Spinbox", [arrows])):
            area = [*before, (f"{kind}.textarea", {"sticky": "nsew"})]
            self._layout(f"T{kind}", "Input.field", f"{kind}.padding", inside=area)
            style.configure(f"T{kind}", padding=(px(8), px(5)), insertcolor=c.text, foreground=c.text)
            style.configure(f"T{kind}", selectbackground=c.accent, selectforeground=c.on_accent)
            style.map(
                f"T{kind}",
                foreground=[("disabled", c.muted)],
                selectbackground=[("readonly", c.surface)],
                selectforeground=[("readonly", c.text)],
            )
        style.configure("ComboboxPopdownFrame", relief="solid", borderwidth=1, bordercolor=c.edge)
        colors = {"background": c.surface, "foreground": c.text}
        colors |= {"selectBackground": c.accent, "selectForeground": c.on_accent}
        for option, value in {**colors, "font": self.look.font}.items():
            root.option_add(f"*TCombobox*Listbox.{option}", value)

    def _configure_pages(self) -> None:
        """The pages of the settings."""
        px = self.px
        self._layout("TNotebook", "null")
        self._layout("TNotebook.Tab", "Tab.button", "Notebook.padding", "Notebook.label")
        self.style.configure("TNotebook", tabmargins=(px(20), px(14), px(20), px(4)))
        self.style.configure("TNotebook.Tab", padding=(px(14), px(5)))

    def _show_hands(self) -> None:
        """The mouse is a hand over all that can be clicked."""
        for kind in ("TButton", "TMenubutton", "TCheckbutton", "TRadiobutton", "TCombobox"):
            self.look.root.option_add(f"*{kind}.cursor", "hand2")

    # ------------------------------------------------------------------------------------------ drawing

    def _photo(self, image: Image.Image) -> ImageTk.PhotoImage:
        small = image.resize((image.width // FINE, image.height // FINE), Image.Resampling.BOX)
        self.images.append(ImageTk.PhotoImage(small, master=self.look.root))
        return self.images[-1]

    def _box(self, fill: str, line: str) -> ImageTk.PhotoImage:
        side, width = self.px(180) * FINE, self.px(1) * FINE
        image = Image.new("RGBA", (side, side))
        draw = ImageDraw.Draw(image)
        draw.rounded_rectangle((0, 0, side - 1, side - 1), self.px(6) * FINE, fill=fill, outline=line, width=width)
        return self._photo(image)

    def _bar(self, color: str, width: int, height: int, left: int = 0, top: int = 0) -> ImageTk.PhotoImage:
        """A bar with round ends; ``left`` and ``top`` pixels, and as many on the other side, stay empty."""
        image = Image.new("RGBA", (width * FINE, height * FINE))
        box = (left * FINE, top * FINE, (width - left) * FINE - 1, (height - top) * FINE - 1)
        radius = min(width - 2 * left, height - 2 * top) * FINE // 2
        ImageDraw.Draw(image).rounded_rectangle(box, radius, fill=color)
        return self._photo(image)

    def _switch(self, on: bool) -> ImageTk.PhotoImage:
        width, height, gap = self.px(34) * FINE, self.px(18) * FINE, self.px(8) * FINE
        image = Image.new("RGBA", (width + gap, height))  # the gap is the distance to the label
        draw = ImageDraw.Draw(image)
        c, edge = self.colors, self.px(3) * FINE
        draw.rounded_rectangle((0, 0, width - 1, height - 1), height // 2, fill=c.accent if on else c.muted)
        left = width - height + edge if on else edge
        knob = c.on_accent if on else c.surface
        draw.ellipse((left, edge, left + height - 2 * edge, height - edge), fill=knob)
        return self._photo(image)

    def _dot(self, on: bool) -> ImageTk.PhotoImage:
        side, gap = self.px(16) * FINE, self.px(8) * FINE
        image = Image.new("RGBA", (side + gap, side))
        draw = ImageDraw.Draw(image)
        c, width = self.colors, self.px(5 if on else 1.5) * FINE
        color = c.accent if on else c.muted
        draw.ellipse((0, 0, side - 1, side - 1), fill=c.surface, outline=color, width=width)
        return self._photo(image)

    def _arrow(self, color: str, down: bool = False) -> ImageTk.PhotoImage:
        """A triangle with a gap on its left, the distance to the text before it."""
        width, height, gap = self.px(9) * FINE, self.px(5) * FINE, self.px(8) * FINE
        above = self.px(2) * FINE
        image = Image.new("RGBA", (width + gap, height + 2 * above))
        tip, base = (height + above, above) if down else (above, height + above)
        corners = [(gap, base), (gap + width - 1, base), (gap + width // 2, tip)]
        ImageDraw.Draw(image).polygon(corners, fill=color)
        return self._photo(image)
