"""What is seen: the window's widgets and their layout. Left the picture, right the conversation and the question.

A view is made for one language, one palette and one scale; another replaces it when one of these changes. It keeps no
state of the conversation: the controller tells it what to show.
"""

from __future__ import annotations

import tkinter
from tkinter import ttk
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ImageTk

from answering.heat import heat_ramp
from window.keys import bind_keys
from window.look import Look, screen_scale, wrap
from window.menus import Menus
from window.picture import PicturePane
from window.question_box import QuestionBox
from window.strip import StripBar
from window.transcript import Transcript

if TYPE_CHECKING:
    from window.controller import Window


class Variables:
    """The values behind switches and menus, made once for all views.

    Python may collect an object of Tk in any thread, and Tk must be called from its own thread only.
    """

    def __init__(self, root: tkinter.Tk) -> None:
        self.look = tkinter.BooleanVar(root)  # whether attention maps are shown
        self.dark = tkinter.BooleanVar(root)
        self.language = tkinter.StringVar(root)
        self.size = tkinter.IntVar(root)
        self.checkpoint = tkinter.StringVar(root)


LOW = 400  # the height of a window, in pixels at 96 per inch, below which the note about the demo leaves the right half


class View:
    """The widgets of a window, with the colours and sizes of ``look``."""

    def __init__(self, window: Window, look: Look, variables: Variables) -> None:
        self.window, self.root, self.look, self.t, self.variables = window, window.root, look, window.t, variables
        self.model = ""  # its name, and the picture's name and size: shortened to fit at each change of the window
        self.picture: tuple[str, str] | None = None
        self.has_demo_note = False
        self.frame = ttk.Frame(self.root, padding=look.px(16))
        self.frame.pack(fill="both", expand=True)
        self.frame.columnconfigure((0, 1), weight=1, uniform="half")
        self.frame.rowconfigure(2, weight=1)
        self.root.title(self.t("title"))
        self.menus = Menus(window, look, variables)
        self._build_top()
        self._build_left()
        self._build_right()
        self.menus.bind_right_button(self.transcript, self.question_box.entry)
        bind_keys(window, self.question_box.entry, self.transcript.text)
        if window.can_drop:
            self._take_drops()
        self.question_box.entry.focus_set()

    def _take_drops(self) -> None:
        """Files can be dropped onto the picture, the small pictures, the conversation and the question."""
        from tkinterdnd2 import DND_FILES

        targets: list[Any] = [self.pane.canvas, self.strip_bar, self.transcript.text, self.question_box.entry]
        for target in targets:  # tkinterdnd2 adds the methods to every widget
            target.drop_target_register(DND_FILES)
            target.dnd_bind("<<Drop>>", lambda event: self.window.pictures.drop(event.data))

    def destroy(self) -> None:
        """Remove all widgets. The images go here, in Tk's thread, not when Python collects the view."""
        self.pane.forget_images()
        self.strip_bar.small = []
        self.transcript.ends.clear()
        self.window.start.photos.clear()
        self.ramp: ImageTk.PhotoImage | None = None
        self.frame.destroy()

    # ------------------------------------------------------------------------------------------ building

    def _build_top(self) -> None:
        gap, window, button = self.look.px(8), self.window, self.look.button
        left, right = ttk.Frame(self.frame), ttk.Frame(self.frame)
        left.grid(row=0, column=0, sticky="ew", padx=(0, gap))
        right.grid(row=0, column=1, sticky="ew", padx=(gap, 0))
        button(left, self.t("open_picture"), window.pictures.choose).pack(side="left")
        button(left, self.t("add_short"), window.pictures.choose_more).pack(side="left", padx=(gap, 0))
        button(left, self.t("conversations_short"), window.show_conversations).pack(side="left", padx=gap)
        self.model_button = ttk.Menubutton(right)
        self.model_button.bind("<Configure>", self._fit_names)
        menu = self.look.menu(self.model_button)
        menu.configure(postcommand=lambda: self.menus.fill_models(menu))
        self.model_button.configure(menu=menu)
        new = button(right, self.t("new_short"), window.new_conversation)
        settings = button(right, self.t("settings"), window.models.open_settings)
        right.columnconfigure(0, weight=1)
        for column, widget in enumerate((self.model_button, new, settings)):
            widget.grid(row=0, column=column, sticky="ew", padx=(gap if column else 0, 0))
        self.demo_note = ttk.Label(
            self.frame, text=self.t("demo"), style="Banner.TLabel", anchor="center", justify="center"
        )
        self.demo_note.bind("<Configure>", self._fit_demo_note)
        self.frame.bind("<Configure>", self._place_demo_note)

    def _build_left(self) -> None:
        px, window = self.look.px, self.window
        left = ttk.Frame(self.frame)
        left.grid(row=2, column=0, sticky="nsew", padx=(0, px(8)), pady=(px(12), 0))
        pictures = window.pictures
        self.pane = PicturePane(
            left, self.look, self.t, pictures.choose, pictures.open, window.maps.on_patch, can_drop=window.can_drop
        )
        self.pane.show_recent(window.recent.pictures)
        window.boxes.attach(self.pane)
        self.below = ttk.Frame(left)
        self.below.bind("<Configure>", self._fit_names)
        self.switch = ttk.Checkbutton(
            self.below,
            text=self.t("look"),
            variable=self.variables.look,
            command=window.maps.on_switch,
        )
        self.switch.pack(side="left")
        self.picture_name = ttk.Label(self.below, style="Small.TLabel")
        self.picture_name.pack(side="right")
        self._build_legend(left)
        self.below.pack(side="bottom", fill="x", pady=(px(10), 0))
        self.strip_bar = StripBar(left, self.look, window.strip)
        self.pane.pack(fill="both", expand=True)

    def _build_legend(self, parent: tkinter.Misc) -> None:
        """The line under the picture: what the map shows, and the scale of its colours."""
        px = self.look.px
        self.note = ttk.Frame(parent, height=px(20))
        self.note.bind("<Configure>", self._fit_legend)
        self.note.pack(side="bottom", fill="x", pady=(px(4), 0))
        self.map_note = ttk.Label(self.note, style="Small.TLabel")
        self.map_note.pack(side="left")
        self.legend = ttk.Frame(self.note)
        ttk.Label(self.legend, text=self.t("less"), style="Small.TLabel").pack(side="left")
        self.ramp = ImageTk.PhotoImage(heat_ramp(px(72), px(10)), master=self.root)
        ttk.Label(self.legend, image=str(self.ramp)).pack(side="left", padx=px(6))
        ttk.Label(self.legend, text=self.t("more"), style="Small.TLabel").pack(side="left")

    def _build_right(self) -> None:
        px = self.look.px
        right = self.right = ttk.Frame(self.frame)
        right.grid(row=2, column=1, sticky="nsew", padx=(px(8), 0), pady=(px(12), 0))
        status = ttk.Frame(right)
        status.pack(side="bottom", fill="x", pady=(px(6), 0))
        self.status_label = ttk.Label(status, style="Small.TLabel")
        self.status_label.pack(side="left")
        self.progress = ttk.Progressbar(status, mode="indeterminate", length=px(110))
        box = ttk.Frame(right, style="Box.TFrame", padding=px(3))  # first: the Tab key follows the order of making
        window, maps = self.window, self.window.maps
        actions = {"copy": window.copy_answer, "again": window.questions.again, "look": maps.look_at}

        def on_word(turn: int | None, offset: int) -> None:
            maps.on_word(turn, offset)
            window.boxes.on_word(turn, offset)

        self.transcript = Transcript(box, self.look, self.t, on_word, maps.select, actions)
        self.question_box = QuestionBox(right, self.look, self.window)
        self.question_box.pack(side="bottom", fill="x")
        box.pack(fill="both", expand=True)  # last: it takes the space that the others leave

    def fit_to_screen(self) -> None:
        """Give the window its usual size, or less on a small screen."""
        px = self.look.px
        width = min(px(1060), self.root.winfo_screenwidth())
        around = px(36) + round(64 * screen_scale(self.root))  # the menu; the title and the desktop's taskbar
        height = min(px(680), self.root.winfo_screenheight() - around)
        self.root.geometry(f"{width}x{height}")
        self.root.minsize(min(width, px(760)), min(height, px(480)))

    # ------------------------------------------------------------------------------------------ what is shown

    def show_status(self, line: str, *, answering: bool, loading: bool) -> None:
        """The status line, the stop button (in use while ``answering``) and the progress bar (while ``loading``)."""
        self.status_label.configure(text=line)
        self.question_box.stop_button.state(["!disabled" if answering else "disabled"])
        if loading:
            self.progress.pack(side="right")
            self.progress.start(20)
        else:
            self.progress.stop()
            self.progress.pack_forget()

    def show_demo_note(self, shown: bool) -> None:
        self.has_demo_note = shown
        self._place_demo_note()

    def _place_demo_note(self, event: tkinter.Event | None = None) -> None:
        """Over both halves; in a low window (200 % on a laptop) over the picture only, for the space of the answers."""
        px, low = self.look.px, self.frame.winfo_height() < self.look.px(LOW)
        beside = self.has_demo_note and low
        if self.has_demo_note:
            padx = (0, px(8)) if low else 0
            self.demo_note.grid(row=1, column=0, columnspan=1 if low else 2, sticky="ew", padx=padx, pady=(px(12), 0))
        else:
            self.demo_note.grid_remove()
        self.right.grid(row=1 if beside else 2, rowspan=2 if beside else 1)

    def _fit_demo_note(self, event: tkinter.Event) -> None:
        wrap(self.demo_note, event.width - self.look.px(24))

    def show_strip(self) -> None:
        """The small pictures, where there are several."""
        if len(self.window.strip.previews) < 2:
            self.strip_bar.pack_forget()
            return
        self.strip_bar.refresh()
        if not self.strip_bar.winfo_manager():
            self.strip_bar.pack(side="bottom", fill="x", pady=(self.look.px(8), 0), before=self.pane)

    def show_names(self, model: str, picture: tuple[str, str] | None) -> None:
        """The model's name, and the picture's name and size (None: no picture)."""
        self.model, self.picture = model, picture
        self._fit_names()

    def _fit_names(self, event: tkinter.Event | None = None) -> None:
        look, px = self.look, self.look.px
        width = self.model_button.winfo_width() - px(44)  # the padding and the arrow
        self.model_button.configure(text=look.shortened(self.model, look.font, width))
        line = ""
        if self.picture is not None:
            name, size = self.picture
            size = f"  ·  {size}"
            width = self.below.winfo_width() - self.switch.winfo_reqwidth() - px(12) - look.small.measure(size)
            line = look.shortened(name, look.small, width) + size
        self.picture_name.configure(text=line)

    def show_map(self, grid: np.ndarray | None, note: str) -> None:
        """The attention map [G, G] over the picture (None: no map), and the line below it."""
        self.pane.show_map(grid)
        self.map_note.configure(text=note)
        self._fit_legend()

    def _fit_legend(self, event: tkinter.Event | None = None) -> None:
        """Show the scale of the colours if there is a map and the line below it is short enough."""
        width = self.note.winfo_width() - self.map_note.winfo_reqwidth() - self.look.px(12)
        if self.pane.grid_shown is not None and width >= self.legend.winfo_reqwidth():
            self.legend.pack(side="right")
        else:
            self.legend.pack_forget()
