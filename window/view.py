"""What is seen: the window's widgets and their layout. Left the picture, right the conversation and the question.

A view is made for one language, one palette and one scale; another replaces it when one of these changes. It keeps no
state of the conversation: the controller tells it what to show, and it calls the controller's :class:`Commands`.
"""

from __future__ import annotations

import tkinter
from collections.abc import Callable
from pathlib import Path
from tkinter import ttk
from typing import Any, Protocol

import numpy as np
from PIL import ImageTk

from window.look import Look, screen_scale
from window.picture import PicturePane, heat_ramp
from window.preferences import LANGUAGES, SIZES, system_language
from window.transcript import Transcript


class Commands(Protocol):
    """What a view calls: menus, buttons, keys and the mouse."""

    def choose_picture(self) -> None: ...
    def paste_picture(self) -> None: ...
    def drop(self, data: str) -> None: ...
    def choose_conversation(self) -> None: ...
    def choose_where_to_save(self) -> None: ...
    def close(self) -> None: ...
    def new_conversation(self) -> None: ...
    def copy_answer(self) -> None: ...
    def ask(self) -> None: ...
    def stop(self) -> None: ...
    def on_look(self) -> None: ...
    def toggle_look(self) -> None: ...
    def select(self, turn: int) -> None: ...
    def step_answer(self, step: int) -> None: ...
    def step_word(self, step: int) -> None: ...
    def on_word(self, turn: int | None, offset: int) -> None: ...
    def on_patch(self, patch: tuple[int, int] | None) -> None: ...
    def on_paste(self) -> str | None: ...
    def prefer(self, **changes: Any) -> None: ...
    def checkpoints(self) -> list[tuple[Path, str]]: ...
    def load(self, checkpoint: Path) -> None: ...
    def choose_checkpoint(self) -> None: ...
    def open_settings(self) -> None: ...


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


class View:
    """The widgets of the window, in the language of ``t`` and with the colours and sizes of ``look``."""

    def __init__(
        self,
        root: tkinter.Tk,
        look: Look,
        t: Callable[..., str],
        commands: Commands,
        variables: Variables,
        can_drop: bool,
    ) -> None:
        self.root, self.look, self.t, self.commands, self.variables = root, look, t, commands, variables
        self.can_drop = can_drop
        self.model = ""  # its name, and the picture's name and size: shortened to fit at each change of the window
        self.picture: tuple[str, str] | None = None
        self.frame = ttk.Frame(root, padding=look.px(16))
        self.frame.pack(fill="both", expand=True)
        self.frame.columnconfigure((0, 1), weight=1, uniform="half")
        self.frame.rowconfigure(2, weight=1)
        root.title(t("title"))
        self._build_menu()
        self._build_top()
        self._build_left()
        self._build_right()
        self._bind_keys()
        self._show_hint()
        self.entry.focus_set()

    def destroy(self) -> None:
        """Remove all widgets. The images go here, in Tk's thread, not when Python collects the view."""
        self.pane.photo = None
        self.ramp: ImageTk.PhotoImage | None = None
        self.frame.destroy()

    # ------------------------------------------------------------------------------------------ menus

    def _build_menu(self) -> None:
        commands, variables = self.commands, self.variables
        bar = self.look.menu(self.root)
        self.root.configure(menu=bar)
        file = self._menu(bar, "file")
        self._item(file, "open_picture", commands.choose_picture, "Ctrl+O")
        self._item(file, "paste_picture", commands.paste_picture, "Ctrl+Shift+V")
        file.add_separator()
        self._item(file, "open_conversation", commands.choose_conversation)
        self._item(file, "save_conversation", commands.choose_where_to_save, "Ctrl+S")
        file.add_separator()
        self._item(file, "quit", commands.close, "Ctrl+Q")
        talk = self._menu(bar, "conversation")
        self._item(talk, "new", commands.new_conversation, "Ctrl+N")
        self._item(talk, "copy", commands.copy_answer, "Ctrl+Shift+C")
        self._item(talk, "stop", commands.stop, "Esc")
        view = self._menu(bar, "view")
        view.add_checkbutton(
            label=self.t("look"), variable=variables.look, command=commands.on_look, accelerator="Ctrl+L"
        )
        self._item(view, "previous_answer", lambda: commands.step_answer(-1), "Alt+Up")
        self._item(view, "next_answer", lambda: commands.step_answer(1), "Alt+Down")
        self._item(view, "previous_word", lambda: commands.step_word(-1), "Alt+Left")
        self._item(view, "next_word", lambda: commands.step_word(1), "Alt+Right")
        view.add_separator()
        self._build_appearance(view)
        self.models = self._menu(bar, "model")
        self.models.configure(postcommand=lambda: self.fill_models(self.models))

    def _build_appearance(self, view: tkinter.Menu) -> None:
        """Dark, language and size, in the menu ``view``."""
        commands, variables = self.commands, self.variables
        view.add_checkbutton(
            label=self.t("dark"), variable=variables.dark, command=lambda: commands.prefer(dark=variables.dark.get())
        )
        languages = self._menu(view, "language")
        for key, name in LANGUAGES.items():

            def choose(key: str = key) -> None:
                commands.prefer(language="" if key == system_language() else key)

            languages.add_radiobutton(label=name, value=key, variable=variables.language, command=choose)
        sizes = self._menu(view, "size")
        for size in SIZES:

            def resize(size: int = size) -> None:
                commands.prefer(size=size)

            label = f"{size} %" if size else self.t("size_auto")
            sizes.add_radiobutton(label=label, value=size, variable=variables.size, command=resize)

    def _menu(self, parent: tkinter.Menu, key: str) -> tkinter.Menu:
        menu = self.look.menu(parent)
        parent.add_cascade(label=self.t(key), menu=menu, underline=self._underline())
        return menu

    def _item(self, menu: tkinter.Menu, key: str, command: Callable[[], object], keys: str = "") -> None:
        menu.add_command(label=self.t(key), command=command, accelerator=keys, underline=self._underline())

    def _underline(self) -> int:
        """The letter that opens a menu with Alt. Chinese menus have none; F10 reaches them."""
        return -1 if self.variables.language.get() == "zh" else 0

    def fill_models(self, menu: tkinter.Menu) -> None:
        """List the checkpoints that there are now, the newest first."""
        menu.delete(0, "end")
        for found, name in self.commands.checkpoints():

            def load(found: Path = found) -> None:
                self.commands.load(found)

            menu.add_radiobutton(label=name, value=str(found), variable=self.variables.checkpoint, command=load)
        if menu.index("end") is not None:
            menu.add_separator()
        menu.add_command(label=self.t("choose_checkpoint"), command=self.commands.choose_checkpoint)
        menu.add_command(label=self.t("settings"), command=self.commands.open_settings, accelerator="Ctrl+,")

    # ------------------------------------------------------------------------------------------ building

    def _build_top(self) -> None:
        gap, commands = self.look.px(8), self.commands
        left, right = ttk.Frame(self.frame), ttk.Frame(self.frame)
        left.grid(row=0, column=0, sticky="ew", padx=(0, gap))
        right.grid(row=0, column=1, sticky="ew", padx=(gap, 0))
        self._button(left, "open_picture", commands.choose_picture).pack(side="left")
        self.model_button = ttk.Menubutton(right, style="Plain.TMenubutton")
        self.model_button.bind("<Configure>", self._fit_names)
        menu = self.look.menu(self.model_button)
        menu.configure(postcommand=lambda: self.fill_models(menu))
        self.model_button.configure(menu=menu)
        self._button(right, "settings", commands.open_settings).pack(side="right")
        self._button(right, "save_short", commands.choose_where_to_save).pack(side="right", padx=gap)
        self._button(right, "new_short", commands.new_conversation).pack(side="right")
        self.model_button.pack(side="left", fill="x", expand=True, padx=(0, gap))
        self.demo_note = ttk.Label(self.frame, text=self.t("demo"), style="Demo.TLabel", anchor="center")

    def _button(
        self, parent: tkinter.Misc, key: str, command: Callable[[], object], style: str = "TButton"
    ) -> ttk.Button:
        button = ttk.Button(parent, text=self.t(key), style=style, command=command, width=0)
        button.bind("<Return>", lambda event: button.invoke())  # Tk itself only lets the space bar press a button
        return button

    def _build_left(self) -> None:
        px, commands = self.look.px, self.commands
        left = ttk.Frame(self.frame)
        left.grid(row=2, column=0, sticky="nsew", padx=(0, px(8)), pady=(px(12), 0))
        self.pane = PicturePane(
            left, self.look, self.t, commands.choose_picture, commands.on_patch, can_drop=self.can_drop
        )
        self.below = ttk.Frame(left)
        self.below.bind("<Configure>", self._fit_names)
        self.switch = ttk.Checkbutton(
            self.below,
            text=self.t("look"),
            variable=self.variables.look,
            style="Switch.TCheckbutton",
            command=commands.on_look,
        )
        self.switch.pack(side="left")
        self.picture_name = ttk.Label(self.below, style="Small.TLabel")
        self.picture_name.pack(side="right")
        self._build_legend(left)
        self.below.pack(side="bottom", fill="x", pady=(px(10), 0))
        self.pane.pack(fill="both", expand=True)
        if self.can_drop:
            from tkinterdnd2 import DND_FILES

            canvas: Any = self.pane.canvas  # tkinterdnd2 adds the methods to every widget
            canvas.drop_target_register(DND_FILES)
            canvas.dnd_bind("<<Drop>>", lambda event: commands.drop(event.data))

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
        right = ttk.Frame(self.frame)
        right.grid(row=2, column=1, sticky="nsew", padx=(px(8), 0), pady=(px(12), 0))
        status = ttk.Frame(right)
        status.pack(side="bottom", fill="x", pady=(px(6), 0))
        self.status_label = ttk.Label(status, style="Small.TLabel")
        self.status_label.pack(side="left")
        self.progress = ttk.Progressbar(status, mode="indeterminate", length=px(110))
        self._build_question(right)
        box = ttk.Frame(right, style="Box.TFrame", padding=px(3))
        box.pack(fill="both", expand=True)
        self.transcript = Transcript(box, self.look, self.commands.on_word, self.commands.select)

    def _build_question(self, parent: tkinter.Misc) -> None:
        px, row = self.look.px, ttk.Frame(parent)
        row.pack(side="bottom", fill="x", pady=(px(10), 0))
        buttons = ttk.Frame(row)
        buttons.pack(side="right", fill="y", padx=(px(8), 0))  # packed first: the entry takes all the space it can
        self._button(buttons, "ask", self.commands.ask, "Accent.TButton").pack(fill="both", expand=True)
        self.stop_button = self._button(buttons, "stop", self.commands.stop)
        self.stop_button.pack(fill="x", pady=(px(6), 0))
        self.box = ttk.Frame(row, style="Box.TFrame", padding=px(3))
        self.box.pack(side="left", fill="both", expand=True)
        self.entry = self.look.text_box(self.box, height=3, padx=px(9), pady=px(7), undo=True)
        self.entry.pack(fill="both", expand=True)
        colors = self.look.colors
        self.hint = ttk.Label(self.entry, text=self.t("type_here"), foreground=colors.muted, background=colors.surface)
        self.hint.bind("<Button-1>", lambda event: self.entry.focus_set())
        self.entry.bind("<FocusIn>", lambda event: self.box.state(["focus"]))
        self.entry.bind("<FocusOut>", lambda event: self.box.state(["!focus"]))
        self.entry.bind("<Configure>", lambda event: self.hint.configure(wraplength=max(1, event.width - px(20))))
        self.entry.bind("<<Modified>>", lambda event: self._show_hint())
        self.entry.bind("<Return>", self._on_return)
        self.entry.bind("<KP_Enter>", self._on_return)
        self.entry.bind("<Tab>", self._on_tab)
        self.entry.bind("<<Paste>>", lambda event: self.commands.on_paste())

    def _bind_keys(self) -> None:
        commands = self.commands
        keys: dict[str, Callable[[], object]] = {
            "<Control-o>": commands.choose_picture,
            "<Control-Shift-V>": commands.paste_picture,
            "<Control-s>": commands.choose_where_to_save,
            "<Control-q>": commands.close,
            "<Control-n>": commands.new_conversation,
            "<Control-Shift-C>": commands.copy_answer,
            "<Control-l>": commands.toggle_look,
            "<Control-comma>": commands.open_settings,
            "<Escape>": commands.stop,
            "<Alt-Up>": lambda: commands.step_answer(-1),
            "<Alt-Down>": lambda: commands.step_answer(1),
            "<Alt-Left>": lambda: commands.step_word(-1),
            "<Alt-Right>": lambda: commands.step_word(1),
        }
        for pattern, command in keys.items():

            def run(event: tkinter.Event, command: Callable[[], object] = command) -> str:
                command()
                return "break"

            def run_in_window(event: tkinter.Event, command: Callable[[], object] = command) -> str | None:
                if event.widget.winfo_toplevel() is not self.root:  # a dialog's key
                    return None
                command()
                return "break"

            self.root.bind(pattern, run_in_window)
            self.entry.bind(pattern, run)  # before the meaning that the key has in a text
            self.transcript.text.bind(pattern, run)

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
        self.stop_button.state(["!disabled" if answering else "disabled"])
        if loading:
            self.progress.pack(side="right")
            self.progress.start(20)
        else:
            self.progress.stop()
            self.progress.pack_forget()

    def show_demo_note(self, shown: bool) -> None:
        if shown:
            self.demo_note.grid(row=1, column=0, columnspan=2, sticky="ew", pady=(self.look.px(12), 0))
        else:
            self.demo_note.grid_remove()

    def show_names(self, model: str, picture: tuple[str, str] | None) -> None:
        """The model's name, and the picture's name and size (None: no picture)."""
        self.model, self.picture = model, picture
        self._fit_names()

    def _fit_names(self, event: tkinter.Event | None = None) -> None:
        look, px = self.look, self.look.px
        width = self.model_button.winfo_width() - px(24) - look.font.measure("  ▾")
        self.model_button.configure(text=look.shortened(self.model, look.font, width) + "  ▾")
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

    # ------------------------------------------------------------------------------------------ the question

    @property
    def question(self) -> str:
        """What is typed, with spaces and line breaks at its ends."""
        return self.entry.get("1.0", "end-1c")

    @question.setter
    def question(self, text: str) -> None:
        self.entry.delete("1.0", "end")
        self.entry.insert("1.0", text)
        self._show_hint()

    def _show_hint(self) -> None:
        self.entry.edit_modified(False)
        if self.question:
            self.hint.place_forget()
        else:
            self.hint.place(x=self.look.px(1), y=0)  # inside the padding

    def _on_return(self, event: tkinter.Event) -> str | None:
        if int(event.state) & 0x1:  # with Shift: a new line
            return None
        self.commands.ask()
        return "break"

    def _on_tab(self, event: tkinter.Event) -> str:
        next_widget = event.widget.tk_focusNext()
        if next_widget is not None:
            next_widget.focus_set()
        return "break"
