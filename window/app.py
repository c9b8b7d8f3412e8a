"""The window: left the picture, right the conversation, below it the question.

Nothing here computes. The worker's thread loads and answers, other threads read pictures, and all they have to say is
taken from a queue every 30 ms. Nothing but the Tk thread touches Tk.
"""

from __future__ import annotations

import queue
import tkinter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from tkinter import filedialog, ttk

from PIL import Image, ImageTk

from answering.checkpoints import checkpoints_under, first_choice, is_demo
from answering.conversation import Conversation, typed
from answering.worker import Problem, Worker, describe_error
from common.errors import UserError
from dataset.image import ImageError, load_image
from window.clipboard import clipboard_picture, file_in, local_path
from window.dialog import SettingsDialog
from window.look import Look, screen_scale
from window.picture import PicturePane, heat_ramp, preview_of
from window.preferences import LANGUAGES, SIZES, Preferences, system_language
from window.texts import text as words
from window.transcript import Transcript

POLL_MS = 30  # half of what an eye notices; an idle poll costs microseconds
BUSY_S = 0.02  # longest time one poll takes events for, so that keys and clicks come between
CHECKPOINTS = Path("checkpoints")
USUAL = {"max_new_tokens": 256, "system": ""}  # shown in the settings while no checkpoint says otherwise


class Window:
    """One window on one worker. ``preferences`` (default: those kept) are kept at every change."""

    def __init__(
        self,
        root: tkinter.Tk,
        checkpoint: Path | None = None,
        device: str | None = None,
        picture: str | None = None,
        preferences: Preferences | None = None,
        can_drop: bool = False,
    ) -> None:
        self.root, self.can_drop = root, can_drop
        self.preferences = preferences or Preferences.load()
        self.device = device  # said on the command line: for this run only
        self.worker = Worker()
        self.conversation = Conversation()
        self.preview: Image.Image | None = None
        self.checkpoint: Path | None = None
        self.is_demo = False
        self.loading = self.asking = self.looking = self.reading = None  # numbers of the jobs that are waited for
        self.stopped = False  # whether the answer in progress was told to end
        self.notes: list[tuple[int, str, str]] = []  # what the window said: behind how many turns, kind, words
        self.partial = ""  # the answer in progress
        self.maps: dict[int, object] = {}  # turn -> where the model looked for its answer
        self.selected: int | None = None  # the turn whose map is shown; None: the last answer's
        self.looking_at = 0  # the turn whose map is being computed
        self.span: tuple[int, int] | None = None  # the word whose map is shown; None: the whole answer's
        self.frame: ttk.Frame | None = None
        # Made once and kept, as the looks are: Tk's things that Python throws away can be collected in any thread.
        self.look_on, self.dark_on = tkinter.BooleanVar(root), tkinter.BooleanVar(root)
        self.language, self.chosen, self.size = tkinter.StringVar(root), tkinter.StringVar(root), tkinter.IntVar(root)
        self.looks: list[Look] = []
        self.status = "ready", {}
        self.rebuild()
        root.protocol("WM_DELETE_WINDOW", self.close)
        root.report_callback_exception = self.on_exception
        found = checkpoint or first_choice(CHECKPOINTS)
        if found is None:
            self.say("problem", self.t("no_model"))
        else:
            self.load(found)
        if picture:
            self.open_picture(picture)
        self.polling = root.after(POLL_MS, self.poll)

    def t(self, key: str, **values) -> str:
        return words(self.preferences.language or system_language(), key, **values)

    # ------------------------------------------------------------------------------------------ building

    def rebuild(self) -> None:
        """Make everything that is seen, anew after a change of language, colours or size."""
        draft = self.entry.get("1.0", "end-1c") if self.frame else ""
        if self.frame:
            self.pane.photo = None
            self.frame.destroy()
        scale = self.preferences.size / 100 or screen_scale(self.root)
        self.look = Look(self.root, self.preferences.dark, scale)
        self.looks.append(self.look)
        px = self.look.px
        self.root.title(self.t("title"))
        if self.frame is None or scale != self.scale:
            self._fit_to_screen(px(1060), px(680))
        self.scale = scale
        self.frame = ttk.Frame(self.root, padding=px(16))
        self.frame.pack(fill="both", expand=True)
        self.frame.columnconfigure((0, 1), weight=1, uniform="half")
        self.frame.rowconfigure(2, weight=1)
        self._build_menu()
        self._build_top()
        self._build_left()
        self._build_right()
        self._bind_keys()
        self.entry.insert("1.0", draft)
        self.on_typed()
        self.show_all()
        self.entry.focus_set()

    def _fit_to_screen(self, width: int, height: int) -> None:
        width = min(width, self.root.winfo_screenwidth())
        around = self.look.px(36) + round(64 * screen_scale(self.root))  # the menu; a title and a taskbar
        height = min(height, self.root.winfo_screenheight() - around)
        self.root.geometry(f"{width}x{height}")
        self.root.minsize(min(width, self.look.px(760)), min(height, self.look.px(480)))

    def _build_menu(self) -> None:
        bar = self.look.menu(self.root)
        self.root.configure(menu=bar)
        self.look_on.set(self.preferences.look)
        self.dark_on.set(self.preferences.dark)
        self.language.set(self.preferences.language or system_language())
        self.size.set(self.preferences.size)
        file = self._menu(bar, "file")
        self._item(file, "open_picture", self.choose_picture, "Ctrl+O")
        self._item(file, "paste_picture", self.paste_picture, "Ctrl+Shift+V")
        file.add_separator()
        self._item(file, "open_conversation", self.choose_conversation)
        self._item(file, "save_conversation", self.choose_where_to_save, "Ctrl+S")
        file.add_separator()
        self._item(file, "quit", self.close, "Ctrl+Q")
        talk = self._menu(bar, "conversation")
        self._item(talk, "new", self.new_conversation, "Ctrl+N")
        self._item(talk, "copy", self.copy_answer, "Ctrl+Shift+C")
        self._item(talk, "stop", self.stop, "Esc")
        view = self._menu(bar, "view")
        view.add_checkbutton(label=self.t("look"), variable=self.look_on, command=self.on_look, accelerator="Ctrl+L")
        for key, step, keys in (("previous_answer", -1, "Alt+Up"), ("next_answer", 1, "Alt+Down")):
            self._item(view, key, lambda step=step: self.step_answer(step), keys)
        for key, step, keys in (("previous_word", -1, "Alt+Left"), ("next_word", 1, "Alt+Right")):
            self._item(view, key, lambda step=step: self.step_word(step), keys)
        view.add_separator()
        view.add_checkbutton(
            label=self.t("dark"), variable=self.dark_on, command=lambda: self.prefer(dark=self.dark_on.get())
        )
        languages = self._menu(view, "language")
        for key, name in LANGUAGES.items():
            choose = lambda key=key: self.prefer(language="" if key == system_language() else key)  # noqa: E731
            languages.add_radiobutton(label=name, value=key, variable=self.language, command=choose)
        sizes = self._menu(view, "size")
        for size in SIZES:
            label = f"{size} %" if size else self.t("size_auto")
            sizes.add_radiobutton(
                label=label, value=size, variable=self.size, command=lambda size=size: self.prefer(size=size)
            )
        self.models = self._menu(bar, "model")
        self.models.configure(postcommand=lambda: self.fill_models(self.models))

    def _menu(self, parent: tkinter.Menu, key: str) -> tkinter.Menu:
        menu = self.look.menu(parent)
        parent.add_cascade(label=self.t(key), menu=menu, underline=self._underline())
        return menu

    def _item(self, menu: tkinter.Menu, key: str, command: Callable, keys: str = "") -> None:
        menu.add_command(label=self.t(key), command=command, accelerator=keys, underline=self._underline())

    def _underline(self) -> int:
        """The letter that Alt opens a menu with; Chinese menus have none, and are reached with F10."""
        return -1 if self.language.get() == "zh" else 0

    def fill_models(self, menu: tkinter.Menu) -> None:
        """The checkpoints there are now, the newest first."""
        menu.delete(0, "end")
        self.chosen.set(str(self.checkpoint))
        for found in checkpoints_under(CHECKPOINTS):
            load = lambda found=found: self.load(found)  # noqa: E731
            menu.add_radiobutton(label=name_of(found), value=str(found), variable=self.chosen, command=load)
        if menu.index("end") is not None:
            menu.add_separator()
        menu.add_command(label=self.t("choose_checkpoint"), command=self.choose_checkpoint)
        menu.add_command(label=self.t("settings"), command=self.open_settings, accelerator="Ctrl+,")

    def _build_top(self) -> None:
        gap = self.look.px(8)
        left, right = ttk.Frame(self.frame), ttk.Frame(self.frame)
        left.grid(row=0, column=0, sticky="ew", padx=(0, gap))
        right.grid(row=0, column=1, sticky="ew", padx=(gap, 0))
        self._button(left, "open_picture", self.choose_picture).pack(side="left")
        self.model_button = ttk.Menubutton(right, style="Plain.TMenubutton")
        self.model_button.bind("<Configure>", self.show_names)
        menu = self.look.menu(self.model_button)
        menu.configure(postcommand=lambda: self.fill_models(menu))
        self.model_button.configure(menu=menu)
        self._button(right, "settings", self.open_settings).pack(side="right")
        self._button(right, "save_short", self.choose_where_to_save).pack(side="right", padx=gap)
        self._button(right, "new_short", self.new_conversation).pack(side="right")
        self.model_button.pack(side="left", fill="x", expand=True, padx=(0, gap))
        self.demo_note = ttk.Label(self.frame, text=self.t("demo"), style="Demo.TLabel", anchor="center")

    def _button(self, parent, key: str, command: Callable, style: str = "TButton") -> ttk.Button:
        button = ttk.Button(parent, text=self.t(key), style=style, command=command, width=0)
        button.bind("<Return>", lambda event: button.invoke())  # Tk itself gives a button the space bar only
        return button

    def _build_left(self) -> None:
        px = self.look.px
        left = ttk.Frame(self.frame)
        left.grid(row=2, column=0, sticky="nsew", padx=(0, px(8)), pady=(px(12), 0))
        self.pane = PicturePane(left, self.look, self.t, self.choose_picture, self.on_patch, self.can_drop)
        self.below = below = ttk.Frame(left)
        below.bind("<Configure>", self.show_names)
        self.switch = ttk.Checkbutton(
            below, text=self.t("look"), variable=self.look_on, style="Switch.TCheckbutton", command=self.on_look
        )
        self.switch.pack(side="left")
        self.picture_name = ttk.Label(below, style="Small.TLabel")
        self.picture_name.pack(side="right")
        note = ttk.Frame(left, height=px(20))
        note.bind("<Configure>", self.show_legend)
        note.pack(side="bottom", fill="x", pady=(px(4), 0))
        self.map_note = ttk.Label(note, style="Small.TLabel")
        self.map_note.pack(side="left")
        self.legend = ttk.Frame(note)
        ttk.Label(self.legend, text=self.t("less"), style="Small.TLabel").pack(side="left")
        self.ramp = ImageTk.PhotoImage(heat_ramp(px(72), px(10)), master=self.root)
        ttk.Label(self.legend, image=self.ramp).pack(side="left", padx=px(6))
        ttk.Label(self.legend, text=self.t("more"), style="Small.TLabel").pack(side="left")
        below.pack(side="bottom", fill="x", pady=(px(10), 0))
        self.pane.pack(fill="both", expand=True)
        if self.can_drop:
            from tkinterdnd2 import DND_FILES

            self.pane.canvas.drop_target_register(DND_FILES)
            self.pane.canvas.dnd_bind("<<Drop>>", self.on_drop)

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
        self.transcript = Transcript(box, self.look, self.on_word, self.select)

    def _build_question(self, parent) -> None:
        px, row = self.look.px, ttk.Frame(parent)
        row.pack(side="bottom", fill="x", pady=(px(10), 0))
        buttons = ttk.Frame(row)
        buttons.pack(side="right", fill="y", padx=(px(8), 0))  # before the entry, which would take all the room
        self._button(buttons, "ask", self.ask, "Accent.TButton").pack(fill="both", expand=True)
        self.stop_button = self._button(buttons, "stop", self.stop)
        self.stop_button.pack(fill="x", pady=(px(6), 0))
        self.box = ttk.Frame(row, style="Box.TFrame", padding=px(3))
        self.box.pack(side="left", fill="both", expand=True)
        self.entry = self.look.text_box(self.box, height=3, padx=px(9), pady=px(7), undo=True)
        self.entry.pack(fill="both", expand=True)
        self.hint = ttk.Label(
            self.entry, text=self.t("type_here"), foreground=self.look.colors.muted, background=self.look.colors.surface
        )
        self.hint.bind("<Button-1>", lambda event: self.entry.focus_set())
        self.entry.bind("<FocusIn>", lambda event: self.box.state(["focus"]))
        self.entry.bind("<FocusOut>", lambda event: self.box.state(["!focus"]))
        self.entry.bind("<Configure>", lambda event: self.hint.configure(wraplength=max(1, event.width - px(20))))
        self.entry.bind("<<Modified>>", self.on_typed)
        self.entry.bind("<Return>", self.on_return)
        self.entry.bind("<KP_Enter>", self.on_return)
        self.entry.bind("<Tab>", self.on_tab)
        self.entry.bind("<<Paste>>", self.on_paste)

    def _bind_keys(self) -> None:
        keys = {
            "<Control-o>": self.choose_picture,
            "<Control-Shift-V>": self.paste_picture,
            "<Control-s>": self.choose_where_to_save,
            "<Control-q>": self.close,
            "<Control-n>": self.new_conversation,
            "<Control-Shift-C>": self.copy_answer,
            "<Control-l>": lambda: (self.look_on.set(not self.look_on.get()), self.on_look()),
            "<Control-comma>": self.open_settings,
            "<Escape>": self.stop,
            "<Alt-Up>": lambda: self.step_answer(-1),
            "<Alt-Down>": lambda: self.step_answer(1),
            "<Alt-Left>": lambda: self.step_word(-1),
            "<Alt-Right>": lambda: self.step_word(1),
        }
        for pattern, command in keys.items():
            run = lambda event, command=command: (command(), "break")[1]  # noqa: E731
            self.root.bind(
                pattern, lambda event, run=run: run(event) if event.widget.winfo_toplevel() is self.root else None
            )
            self.entry.bind(pattern, run)  # before the text's own meaning of the key
            self.transcript.text.bind(pattern, run)

    # ------------------------------------------------------------------------------------------ what is seen

    def show_all(self) -> None:
        """Everything from the state, into new widgets."""
        self.pane.show(self.preview)
        self.transcript.clear(self.t("empty"))
        for index, turn in enumerate(self.conversation.turns):
            self._show_notes(index)
            self.transcript.question(typed(turn.question))
            self.transcript.begin_answer(index)
            if turn.answer is None:
                self.transcript.piece(self.partial)
            else:
                self.transcript.end_answer(index, turn.answer)
        self._show_notes(len(self.conversation.turns))
        self.show_state()
        self.show_map()

    def _show_notes(self, index: int) -> None:
        for behind, kind, line in self.notes:
            if behind == index:
                self.transcript.note(kind, line)

    def show_state(self, key: str | None = None, **values) -> None:
        """The status line, the names, and which buttons can be used."""
        if key is not None:
            self.status = key, values
        name = name_of(self.checkpoint) if self.checkpoint else ""
        self.status_label.configure(text=self.t(self.status[0], **{"name": name, **self.status[1]}))
        self.stop_button.state(["disabled" if self.asking is None else "!disabled"])
        if self.loading is not None:
            self.progress.pack(side="right")
            self.progress.start(20)
        else:
            self.progress.stop()
            self.progress.pack_forget()
        if self.is_demo:
            self.demo_note.grid(row=1, column=0, columnspan=2, sticky="ew", pady=(self.look.px(12), 0))
        else:
            self.demo_note.grid_remove()
        self.show_names()

    def show_names(self, event=None) -> None:
        """The model's and the picture's, in the room there is for them."""
        look, px = self.look, self.look.px
        name = name_of(self.checkpoint) if self.checkpoint else self.t("no_checkpoint")
        room = self.model_button.winfo_width() - px(24)
        self.model_button.configure(text=look.shortened(name, look.font, room - look.font.measure("  ▾")) + "  ▾")
        name = ""
        if self.conversation.images:
            image = self.conversation.images[0]
            size = f"  ·  {image.width} × {image.height}"
            room = self.below.winfo_width() - self.switch.winfo_reqwidth() - px(12) - look.small.measure(size)
            name = look.shortened(Path(self.conversation.paths[0]).name, look.small, room) + size
        self.picture_name.configure(text=name)

    def say(self, kind: str, line: str) -> None:
        """A sentence of the window's own, among the conversation: "note" or "problem"."""
        self.notes.append((len(self.conversation.turns), kind, line))
        self.transcript.note(kind, line)

    def problem(self, key: str, problem: Problem, **values) -> None:
        reason = self.t("memory") if problem.kind == "memory" else problem.text
        self.say("problem", reason if problem.kind == "memory" else self.t(key, reason=reason, **values))

    def prefer(self, **changes) -> None:
        """Change preferences, keep them, and show what they change."""
        for name, value in changes.items():
            setattr(self.preferences, name, value)
        self.preferences.save()
        if changes.keys() & {"dark", "language", "size"}:
            self.root.after_idle(self.rebuild)  # not from inside the menu that is about to go

    # ------------------------------------------------------------------------------------------ the picture

    def choose_picture(self) -> None:
        patterns = " ".join(f"*.{end} *.{end.upper()}" for end in "jpg jpeg png webp gif bmp tif tiff avif jp2".split())
        kinds = [(self.t("pictures"), patterns), (self.t("all_files"), "*")]
        if path := filedialog.askopenfilename(parent=self.root, title=self.t("open_picture"), filetypes=kinds):
            self.open_picture(path)

    def open_picture(self, path: str) -> None:
        """Read a file beside everything else; the conversation goes on until the picture is there."""

        def read() -> tuple:
            try:
                image = load_image(path)
            except ImageError as error:
                raise UserError(self.t("cannot_open", name=Path(path).name, reason=error)) from error
            return str(Path(path).resolve()), image, preview_of(image)

        self.reading = self.worker.read(read)

    def on_drop(self, event) -> None:
        """The first of the dropped files, a list of Tcl's; from a browser it may be an address."""
        dropped = next(iter(self.root.tk.splitlist(event.data)), "")
        if dropped.startswith(("http://", "https://")):
            self.say("problem", self.t("no_file_dropped", name=dropped))
        elif dropped:
            self.open_picture(local_path(dropped))

    def paste_picture(self) -> None:
        """The picture in the clipboard, or the file whose path is in it."""
        copied = self._clipboard_text()
        if (path := file_in(copied)) is not None:
            self.open_picture(path)
            return

        def read() -> tuple:
            found = clipboard_picture(self.t)
            return (*found, preview_of(found[1]))

        self.reading = self.worker.read(read)

    def _clipboard_text(self) -> str:
        try:
            return self.root.clipboard_get()
        except tkinter.TclError:  # empty, or something that is no text
            return ""

    def on_paste(self, event) -> str | None:
        """In the question: text as text, anything else as a picture."""
        copied = self._clipboard_text()
        if copied and file_in(copied) is None:
            return None
        self.paste_picture()
        return "break"

    def take_picture(self, path: str, image: Image.Image, preview: Image.Image) -> None:
        self.preview = preview
        self.begin(Conversation([image], [path]))

    # ------------------------------------------------------------------------------------------ the conversation

    def begin(self, conversation: Conversation) -> None:
        """Show another conversation, ending the answer in progress."""
        self.worker.stop()
        self.asking = self.looking = self.selected = None
        self.stopped = False
        self.partial, self.maps, self.notes = "", {}, []
        self.conversation = conversation
        self.show_all()
        self.rest()
        self.entry.focus_set()

    def new_conversation(self) -> None:
        self.begin(Conversation(self.conversation.images, self.conversation.paths))

    def ask(self) -> None:
        question = self.entry.get("1.0", "end").strip()
        if not question:
            return
        if not self.conversation.images:
            self.say("note", self.t("picture_first"))
            return
        if self.worker.assistant is None and self.loading is None:
            self.say("problem", self.t("no_model_yet"))
            return
        self.entry.delete("1.0", "end")
        self.entry.focus_set()
        if self.asking is not None:
            self._give_up()
        request = self.conversation.ask(question)
        self.partial, self.looking, self.selected = "", None, None
        self.show_map()
        self.transcript.question(typed(self.conversation.turns[-1].question))
        self.transcript.begin_answer(len(self.conversation.turns) - 1)
        self.asking = self.worker.ask(request, **self.preferences.overrides())
        self.show_state("stage_waiting" if self.loading is not None else "stage_answer")

    def _give_up(self) -> None:
        """Wait no longer. What there is of an answer stays; a question without a word of one goes."""
        answer, self.partial, self.asking, self.stopped = self.partial.strip(), "", None, False
        if answer:
            self._settle(answer)
        else:
            self.conversation.turns.pop()
            self.transcript.drop_question()

    def _settle(self, answer: str) -> None:
        self.conversation.answer(answer)
        self.transcript.end_answer(len(self.conversation.turns) - 1, answer)

    def stop(self) -> None:
        """End the answer in progress; what is there of it stays."""
        if self.asking is not None:
            self.stopped = True
            self.worker.stop()
            self.entry.focus_set()  # the button goes out of use with the focus on it

    def copy_answer(self) -> None:
        answers = [turn.answer for turn in self.conversation.turns if turn.answer]
        if self.selected is not None:
            answers = [self.conversation.turns[self.selected].answer]
        if answers:
            self.root.clipboard_clear()
            self.root.clipboard_append(answers[-1])
            self.show_state("copied")

    def choose_where_to_save(self) -> None:
        kinds = [("JSON", "*.json"), ("Markdown", "*.md")]
        options = {"defaultextension": ".json", "filetypes": kinds, "initialfile": "conversation.json"}
        if path := filedialog.asksaveasfilename(parent=self.root, title=self.t("save_conversation"), **options):
            self.save(Path(path))

    def save(self, file: Path) -> None:
        about = {"checkpoint": str(self.checkpoint) if self.checkpoint else None, **self.preferences.overrides()}
        if self.worker.assistant is not None:
            about |= {"device": self.worker.assistant.device, **self._usual(), **self.preferences.overrides()}
        self.conversation.about = about
        try:
            self.conversation.save(file)
        except UserError as error:
            self.say("problem", self.t("cannot_save", reason=error))
        else:
            self.show_state("saved", name=file.name)

    def choose_conversation(self) -> None:
        kinds = [("JSON", "*.json"), (self.t("all_files"), "*")]
        if path := filedialog.askopenfilename(parent=self.root, title=self.t("open_conversation"), filetypes=kinds):
            self.open_conversation(Path(path))

    def open_conversation(self, file: Path) -> None:
        def read() -> Conversation:
            conversation = Conversation.open(file)
            return conversation, preview_of(conversation.images[0]) if conversation.images else None

        self.reading = self.worker.read(read)

    # ------------------------------------------------------------------------------------------ the model

    def load(self, checkpoint: Path) -> None:
        """Load another checkpoint, ending the answer in progress. The conversation stays and can be gone on with."""
        if self.asking is not None:
            self._give_up()
        self.checkpoint, self.looking = Path(checkpoint), None
        self.is_demo = is_demo(self.checkpoint)  # once: reading its config takes as long as an eye notices
        self.maps.clear()  # they were another model's
        self.loading = self.worker.load(self.checkpoint, self.device or self.preferences.device or None)
        self.show_map()
        self.show_state("stage_libraries")

    def choose_checkpoint(self) -> None:
        if path := filedialog.askdirectory(parent=self.root, title=self.t("choose_checkpoint"), mustexist=True):
            self.load(Path(path))

    def _usual(self) -> dict:
        assistant = self.worker.assistant
        if assistant is None:
            return USUAL
        return {"max_new_tokens": assistant.config.generate.max_new_tokens, "system": assistant.config.language.system}

    def open_settings(self) -> None:
        devices = ["cpu", "cuda"]
        if self.preferences.device not in ("", *devices):
            devices.append(self.preferences.device)
        SettingsDialog(self.root, self.look, self.t, self.preferences, self._usual(), devices, self.apply_settings)

    def apply_settings(self, changed: Preferences) -> None:
        new_device = changed.device != self.preferences.device
        before = vars(self.preferences)
        self.prefer(**{name: value for name, value in vars(changed).items() if value != before[name]})
        if new_device and self.checkpoint is not None:
            self.device = None
            self.load(self.checkpoint)

    # ------------------------------------------------------------------------------------------ where it looks

    def on_look(self) -> None:
        self.prefer(look=self.look_on.get())
        self.show_map()

    def select(self, turn: int) -> None:
        """Show where the model looked for this answer."""
        self.selected = turn
        self.show_map()

    def shown_turn(self) -> int | None:
        """The answer whose map is shown: the one selected, else the last."""
        answered = [index for index, turn in enumerate(self.conversation.turns) if turn.answer]
        return self.selected if self.selected in answered else (answered[-1] if answered else None)

    def show_map(self, span: tuple[int, int] | None = None) -> None:
        """The map of the shown answer, or of a word of it; it is asked for where it is not there yet."""
        self.span, turn = span, self.shown_turn()
        found = self.maps.get(turn) if self.preferences.look else None
        self.transcript.mark(turn if found is not None else None, span)
        grid = found.of(span) if found is not None else None
        self.pane.show_map(grid)
        self.map_note.configure(text=self._about_map(found, grid, span))
        self.show_legend()
        idle = self.asking is None and self.looking is None and self.loading is None
        if self.preferences.look and found is None and turn is not None and idle and self.worker.assistant is not None:
            self.looking_at = turn
            self.looking = self.worker.look(self.conversation.up_to(turn), **self.preferences.overrides())

    def show_legend(self, event=None) -> None:
        """The colours' scale, beside a map and where the words leave room for it."""
        room = self.map_note.master.winfo_width() - self.map_note.winfo_reqwidth() - self.look.px(12)
        if self.pane.grid_shown is not None and room >= self.legend.winfo_reqwidth():
            self.legend.pack(side="right")
        else:
            self.legend.pack_forget()

    def _about_map(self, found, grid, span) -> str:
        if grid is None:
            return self.t("no_map_yet") if self.preferences.look and not self.conversation.turns else ""
        share = f"{100 * float(grid[grid == grid].sum()):.0f} %"
        if span is None:
            return self.t("whole_answer", share=share)
        return self.t("one_word", word=found.text[slice(*span)], share=share)

    def on_word(self, turn: int | None, offset: int) -> None:
        """The mouse is over character ``offset`` of an answer, or (None) over none."""
        found = self.maps.get(turn) if self.preferences.look and turn == self.shown_turn() else None
        span = next((s for s in found.words() if s[0] <= offset < s[1]), None) if found is not None else None
        if span != self.span:
            self.show_map(span)

    def step_word(self, step: int) -> None:
        """The next word's map, from the keyboard; behind the last comes the whole answer."""
        found = self.maps.get(self.shown_turn()) if self.preferences.look else None
        if found is not None:
            choices = [None, *found.words()]
            self.show_map(choices[(choices.index(self.span) + step) % len(choices)])

    def step_answer(self, step: int) -> None:
        answered = [index for index, turn in enumerate(self.conversation.turns) if turn.answer]
        if answered:
            place = answered.index(self.shown_turn()) + step
            self.select(answered[max(0, min(place, len(answered) - 1))])
            self.transcript.see(self.selected)

    def on_patch(self, patch: tuple[int, int] | None) -> None:
        """The mouse is over a patch of the map."""
        found = self.maps.get(self.shown_turn()) if self.preferences.look else None
        if found is None:
            return
        grid = found.of(self.span)
        line = self._about_map(found, grid, self.span)
        if patch is not None and grid[patch] == grid[patch]:
            share = f"{100 * float(grid[patch]):.1f} %"
            line = self.t("one_patch", row=patch[0] + 1, column=patch[1] + 1, share=share)
        elif patch is not None:
            line = self.t("dropped_patch")
        self.map_note.configure(text=line)

    # ------------------------------------------------------------------------------------------ events

    def poll(self) -> None:
        """Take what the threads have to say; the only way from them to the window."""
        until = perf_counter() + BUSY_S
        try:
            while perf_counter() < until:
                self.on_event(*self.worker.events.get_nowait())
        except queue.Empty:
            pass
        self.polling = self.root.after(POLL_MS, self.poll)

    def on_event(self, job: int, kind: str, value) -> None:
        if job == self.loading:
            self._on_loading(kind, value)
        elif job == self.asking:
            self._on_answering(kind, value)
        elif job == self.looking:
            self._on_looking(kind, value)
        elif job == self.reading:
            self._on_reading(kind, value)

    def _on_loading(self, kind: str, value) -> None:
        if kind == "stage":
            self.show_state(f"stage_{value}")
            return
        self.loading = None
        if kind == "problem":
            self.problem("cannot_load", value)
        self.rest()
        self.show_map()

    def _on_answering(self, kind: str, value) -> None:
        if kind == "stage":
            self.show_state("stage_answer")
        elif kind == "piece":
            value = value if self.partial else value.lstrip()
            self.partial += value
            self.transcript.piece(value)
        elif kind == "answer":
            self._on_answer(value)
        elif kind == "problem":
            self._give_up()
            self.problem("cannot_answer", value)
            self.rest()

    def _on_answer(self, answer: str) -> None:
        if self.stopped:
            self._give_up()
            self.say("note", self.t("stopped"))
        else:
            self.partial, self.asking = "", None
            self._settle(answer)
            if not answer:
                self.say("note", self.t("nothing"))
        self.rest()
        self.show_map()

    def rest(self) -> None:
        """Nothing is being done: say what answers, and where."""
        assistant = self.worker.assistant
        if self.loading is None and assistant is None:
            self.show_state("no_checkpoint")
        elif self.loading is None:
            self.show_state("on_device", device=assistant.device)
        else:
            self.show_state()

    def _on_looking(self, kind: str, value) -> None:
        if kind == "stage":
            self.show_state("stage_look")
            return
        self.looking = None
        self.rest()
        if kind == "looked":
            self.maps[self.looking_at] = value
            self.show_map()
        else:
            self.problem("cannot_look", value)

    def _on_reading(self, kind: str, value) -> None:
        self.reading = None
        if kind == "problem":
            self.say("problem", value.text)
        elif isinstance(value[0], Conversation):
            self.preview = value[1]
            self.begin(value[0])
        else:
            self.take_picture(*value)

    # ------------------------------------------------------------------------------------------ the question

    def on_typed(self, event=None) -> None:
        self.entry.edit_modified(False)
        if self.entry.get("1.0", "end-1c"):
            self.hint.place_forget()
        else:
            self.hint.place(x=self.look.px(1), y=0)  # inside the padding

    def on_return(self, event) -> str | None:
        if event.state & 0x1:  # Shift: a new line
            return None
        self.ask()
        return "break"

    def on_tab(self, event) -> str:
        event.widget.tk_focusNext().focus_set()
        return "break"

    # ------------------------------------------------------------------------------------------ the end

    def on_exception(self, kind, error, trace) -> None:
        """What Tk would print as a traceback on a terminal that nobody sees."""
        if isinstance(error, KeyboardInterrupt):
            self.close()
        else:
            self.say("problem", describe_error(error).text)

    def close(self) -> None:
        self.worker.stop()
        self.root.after_cancel(self.polling)
        self.root.destroy()


def name_of(checkpoint: Path) -> str:
    """Run and step, or the name of a folder that is elsewhere."""
    return (
        f"{checkpoint.parent.name} / {checkpoint.name}"
        if checkpoint.name.startswith("checkpoint-")
        else checkpoint.name
    )
