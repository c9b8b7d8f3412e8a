"""What happens: the window's state, and what each command and each event of the worker does to it.

Nothing here computes. The worker's thread loads and answers, other threads read pictures, and their events are taken
from a queue every 30 ms. Only Tk's own thread calls Tk.
"""

from __future__ import annotations

import queue
import tkinter
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from tkinter import filedialog
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from answering.checkpoints import checkpoints_under, first_choice, is_demo, max_pixels_of
from answering.conversation import Conversation, typed
from answering.worker import Problem, Worker, describe_error
from common.errors import UserError
from common.text import whole
from dataset.image import ImageError, load_image
from window.clipboard import clipboard_picture, file_in, local_path
from window.dialog import SettingsDialog
from window.look import Look, screen_scale
from window.picture import preview_of
from window.preferences import Preferences, system_language
from window.texts import text
from window.view import Variables, View

if TYPE_CHECKING:
    from answering.attention_map import AttentionMap

POLL_MS = 30  # half of what a person notices; an idle poll takes microseconds
BUSY_S = 0.02  # the longest time for which one poll takes events: keys and clicks come in between
CHECKPOINTS = Path("checkpoints")
DEFAULTS = {"max_new_tokens": 256, "system": ""}  # shown in the settings while no model is loaded
PICTURES = " ".join(f"*.{end} *.{end.upper()}" for end in "jpg jpeg png webp gif bmp tif tiff avif jp2".split())
# What the line under the picture says of each kind of map.
SHOWS = {"tokens": "shows_tokens", "queries": "shows_queries", "cross_attention": "shows_cross_attention"}


class Note(NamedTuple):
    """A sentence of the window's own in the conversation, after ``turns`` turns; ``kind`` is "note" or "problem"."""

    turns: int
    kind: str
    line: str


class Read(NamedTuple):
    """A conversation that was read, or a new one about a picture, and the picture in a size to be drawn from."""

    conversation: Conversation
    preview: Image.Image | None


class Window:
    """One window with its worker. ``preferences`` (default: the saved ones) are saved at every change.

    ``overrides`` are KEY=VALUE of the command line, for every checkpoint; they come before the preferences.
    """

    def __init__(
        self,
        root: tkinter.Tk,
        checkpoint: Path | None = None,
        device: str | None = None,
        picture: str | None = None,
        preferences: Preferences | None = None,
        can_drop: bool = False,
        verify: bool = False,
        overrides: Sequence[str] = (),
    ) -> None:
        self.root, self.can_drop, self.verify, self.overrides = root, can_drop, verify, overrides
        self.preferences = preferences or Preferences.load()
        self.device = device  # from the command line: for this run only
        self.worker = Worker()
        self.conversation = Conversation()
        self.preview: Image.Image | None = None
        self.checkpoint: Path | None = None
        self.is_demo = False
        # The numbers of the jobs that the window waits for.
        self.loading: int | None = None
        self.asking: int | None = None
        self.looking: int | None = None
        self.reading: int | None = None
        self.stopped = False  # whether the person stopped the answer in progress
        self.notes: list[Note] = []
        self.partial = ""  # the answer in progress
        self.maps: dict[int, AttentionMap] = {}  # turn -> the map of its answer
        self.selected: int | None = None  # the turn whose map is shown; None: the last answer's
        self.looking_at = 0  # the turn whose map is being computed
        self.span: tuple[int, int] | None = None  # the word whose map is shown; None: the whole answer's
        self.status: tuple[str, dict[str, object]] = ("ready", {})
        self.variables = Variables(root)
        self.looks: list[Look] = []  # kept, as the variables are: Python may collect Tk's objects in any thread
        self.view = self._make_view()
        self.view.fit_to_screen()
        self.show_all()
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

    def t(self, key: str, **values: object) -> str:
        line = text(self.preferences.language or system_language(), key, **values)
        return whole(line)[0]  # Tk takes no lone surrogates, which are in a file's name that is not UTF-8

    # ------------------------------------------------------------------------------------------ what is shown

    def _make_view(self) -> View:
        preferences, variables = self.preferences, self.variables
        variables.look.set(preferences.look)
        variables.dark.set(preferences.dark)
        variables.language.set(preferences.language or system_language())
        variables.size.set(preferences.size)
        look = Look(self.root, preferences.dark, preferences.size / 100 or screen_scale(self.root))
        self.looks.append(look)
        return View(self.root, look, self.t, self, variables, self.can_drop)

    def rebuild(self) -> None:
        """Replace the view, after a change of language, colours or size."""
        (draft, _), scale = whole(self.view.question), self.view.look.scale
        self.view.destroy()
        self.view = self._make_view()
        if self.view.look.scale != scale:
            self.view.fit_to_screen()
        self.view.question = draft
        self.show_all()

    def show_all(self) -> None:
        """Show the whole state in a new view, or another conversation."""
        transcript = self.view.transcript
        self.view.pane.show(self.preview)
        transcript.clear(self.t("empty"))
        for index, turn in enumerate(self.conversation.turns):
            self._show_notes(index)
            transcript.question(typed(turn.question))
            transcript.begin_answer(index)
            if turn.answer is None:
                transcript.piece(self.partial)
            else:
                transcript.end_answer(index, turn.answer)
        self._show_notes(len(self.conversation.turns))
        self.show_state()
        self.show_map()

    def _show_notes(self, turns: int) -> None:
        for note in self.notes:
            if note.turns == turns:
                self.view.transcript.note(note.kind, note.line)

    def show_state(self, key: str | None = None, **values: object) -> None:
        """The status line (by default the same as before), the names, and which buttons can be used."""
        if key is not None:
            self.status = key, values
        key, values = self.status
        name = whole(name_of(self.checkpoint))[0] if self.checkpoint else ""
        line = self.t(key, **{"name": name, **values})
        self.view.show_status(line, answering=self.asking is not None, loading=self.loading is not None)
        self.view.show_demo_note(self.is_demo)
        picture = None
        if self.conversation.images:
            image = self.conversation.images[0]
            picture = whole(Path(self.conversation.paths[0]).name)[0], f"{image.width} × {image.height}"
        self.view.show_names(name or self.t("no_checkpoint"), picture)

    def show_idle(self) -> None:
        """The status line when nothing is being done: what answers, and on which device."""
        assistant = self.worker.assistant
        if self.loading is not None:
            self.show_state()
        elif assistant is None:
            self.show_state("no_checkpoint")
        else:
            key = "baseline_on_device" if assistant.baseline else "on_device"
            self.show_state(key, device=assistant.device, baseline=assistant.baseline)

    def say(self, kind: str, line: str) -> None:
        """A sentence of the window's own in the conversation: "note" or "problem"."""
        self.notes.append(Note(len(self.conversation.turns), kind, line))
        self.view.transcript.note(kind, line)

    def say_problem(self, key: str, problem: Problem) -> None:
        self.say("problem", self.t("memory") if problem.kind == "memory" else self.t(key, reason=problem.text))

    def prefer(self, **changes: Any) -> None:
        """Change preferences, save them, and show what they change."""
        for name, value in changes.items():
            setattr(self.preferences, name, value)
        self.preferences.save()
        if changes.keys() & {"dark", "language", "size"}:
            self.root.after_idle(self.rebuild)  # not at once: the menu that was clicked will be destroyed

    # ------------------------------------------------------------------------------------------ the picture

    def choose_picture(self) -> None:
        kinds = [(self.t("pictures"), PICTURES), (self.t("all_files"), "*")]
        if path := filedialog.askopenfilename(parent=self.root, title=self.t("open_picture"), filetypes=kinds):
            self.open_picture(path)

    def _max_pixels(self) -> int:
        """The largest picture that the chosen checkpoint's run allows. Reads a file: not for Tk's thread."""
        return max_pixels_of(self.checkpoint, self.overrides)

    def open_picture(self, path: str) -> None:
        """Read a picture in another thread. The conversation continues until it is there."""

        def read() -> Read:
            try:
                image = load_image(path, self._max_pixels())
            except ImageError as error:
                raise UserError(self.t("cannot_open", name=Path(path).name, reason=error)) from error
            return Read(Conversation([image], [str(Path(path).resolve())]), preview_of(image))

        self.reading = self.worker.read(read)

    def drop(self, data: str) -> None:
        """Open the first of the dropped files, which come as a list of Tcl. A browser may drop an address."""
        dropped = next(iter(self.root.tk.splitlist(data)), "")
        if dropped.startswith(("http://", "https://")):
            self.say("problem", self.t("no_file_dropped", name=dropped))
        elif dropped:
            self.open_picture(local_path(dropped))

    def paste_picture(self) -> None:
        """Open the picture in the clipboard, or the file whose path is in it."""
        path = file_in(self._clipboard_text())
        if path is not None:
            self.open_picture(path)
            return

        def read() -> Read:
            name, image = clipboard_picture(self.t, self._max_pixels())
            return Read(Conversation([image], [name]), preview_of(image))

        self.reading = self.worker.read(read)

    def on_paste(self) -> str | None:
        """Ctrl+V in the question pastes a text as a text, anything else as a picture."""
        copied = self._clipboard_text()
        if copied and file_in(copied) is None:
            return None
        self.paste_picture()
        return "break"

    def _clipboard_text(self) -> str:
        try:
            return self.root.clipboard_get()
        except tkinter.TclError:  # empty, or not a text
            return ""

    # ------------------------------------------------------------------------------------------ the conversation

    def begin(self, conversation: Conversation) -> None:
        """Show another conversation, ending the answer in progress."""
        self.worker.stop()
        self.asking = self.looking = self.selected = None
        self.stopped = False
        self.partial, self.maps, self.notes = "", {}, []
        self.conversation = conversation
        self.show_all()
        self.show_idle()
        self.view.entry.focus_set()

    def new_conversation(self) -> None:
        self.begin(Conversation(self.conversation.images, self.conversation.paths))

    def ask(self) -> None:
        """Ask what is typed, ending the answer in progress."""
        question, replaced = whole(self.view.question.strip())
        if not question:
            return
        if not self.conversation.images:
            self.say("note", self.t("picture_first"))
            return
        if self.worker.assistant is None and self.loading is None:
            self.say("problem", self.t("no_model_yet"))
            return
        self.view.question = ""
        self.view.entry.focus_set()
        if self.asking is not None:
            self._end_answer()
        if replaced:
            self.say("note", self.t("replaced", count=replaced))
        request = self.conversation.ask(question)
        self.partial, self.looking, self.selected = "", None, None
        self.show_map()
        self.view.transcript.question(typed(self.conversation.turns[-1].question))
        self.view.transcript.begin_answer(len(self.conversation.turns) - 1)
        self.asking = self.worker.ask(request, **self._answer_settings())
        self.show_state("stage_waiting" if self.loading is not None else "stage_answer")

    def _end_answer(self) -> None:
        """Wait no longer for the answer: keep its words; remove the question if there are none."""
        answer, self.partial, self.asking, self.stopped = self.partial.strip(), "", None, False
        if answer:
            self._set_answer(answer)
        else:
            self.conversation.turns.pop()
            self.view.transcript.drop_question()

    def _set_answer(self, answer: str) -> None:
        self.conversation.answer(answer)
        self.view.transcript.end_answer(len(self.conversation.turns) - 1, answer)

    def stop(self) -> None:
        """End the answer in progress; its words so far stay."""
        if self.asking is not None:
            self.stopped = True
            self.worker.stop()
            self.view.entry.focus_set()  # the button, which may have the focus, is going to be disabled

    def copy_answer(self) -> None:
        """Copy the selected answer, or the last one."""
        turn = self.shown_turn()
        if turn is not None:
            self.root.clipboard_clear()
            self.root.clipboard_append(self.conversation.turns[turn].answer or "")
            self.show_state("copied")

    def choose_where_to_save(self) -> None:
        path = filedialog.asksaveasfilename(
            parent=self.root,
            title=self.t("save_conversation"),
            defaultextension=".json",
            filetypes=[("JSON", "*.json"), ("Markdown", "*.md")],
            initialfile="conversation.json",
        )
        if path:
            self.save(Path(path))

    def save(self, file: Path) -> None:
        about = {"checkpoint": str(self.checkpoint) if self.checkpoint else None, **self._answer_settings()}
        if self.worker.assistant is not None:
            about |= {"device": self.worker.assistant.device, **self._defaults(), **self._answer_settings()}
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
        """Read a saved conversation in another thread."""

        def read() -> Read:
            conversation = Conversation.open(file, self._max_pixels())
            return Read(conversation, preview_of(conversation.images[0]) if conversation.images else None)

        self.reading = self.worker.read(read)

    # ------------------------------------------------------------------------------------------ the model

    def checkpoints(self) -> list[tuple[Path, str]]:
        """The checkpoints to choose from, with their names. The current one is marked in the menu."""
        self.variables.checkpoint.set(str(self.checkpoint))
        return [(found, name_of(found)) for found in checkpoints_under(CHECKPOINTS)]

    def load(self, checkpoint: Path) -> None:
        """Load another checkpoint, ending the answer in progress. The conversation can be continued with it."""
        if self.asking is not None:
            self._end_answer()
        self.checkpoint, self.looking = Path(checkpoint), None
        self.is_demo = is_demo(self.checkpoint)  # only here: reading its config takes as long as a person notices
        self.maps.clear()  # they are another model's
        device = self.device or self.preferences.device or None
        self.loading = self.worker.load(self.checkpoint, device, verify=self.verify, overrides=self.overrides)
        self.show_map()
        self.show_state("stage_libraries")

    def choose_checkpoint(self) -> None:
        if path := filedialog.askdirectory(parent=self.root, title=self.t("choose_checkpoint"), mustexist=True):
            self.load(Path(path))

    def _answer_settings(self) -> dict[str, Any]:
        """The preferences for an answer, without those that the command line has set."""
        set_there = {text.partition("=")[0].removeprefix("generate.") for text in self.overrides}
        return {name: value for name, value in self.preferences.overrides().items() if name not in set_there}

    def _defaults(self) -> dict[str, Any]:
        """The checkpoint's own settings, which the preferences may override."""
        assistant = self.worker.assistant
        if assistant is None:
            return DEFAULTS
        return {"max_new_tokens": assistant.config.generate.max_new_tokens, "system": assistant.config.language.system}

    def open_settings(self) -> None:
        devices = ["cpu", "cuda"]
        if self.preferences.device not in ("", *devices):
            devices.append(self.preferences.device)
        SettingsDialog(
            self.root, self.view.look, self.t, self.preferences, self._defaults(), devices, self.apply_settings
        )

    def apply_settings(self, changed: Preferences) -> None:
        new_device = changed.device != self.preferences.device
        before = vars(self.preferences)
        self.prefer(**{name: value for name, value in vars(changed).items() if value != before[name]})
        if new_device and self.checkpoint is not None:
            self.device = None
            self.load(self.checkpoint)

    # ------------------------------------------------------------------------------------------ where it looks

    def toggle_look(self) -> None:
        self.variables.look.set(not self.variables.look.get())
        self.on_look()

    def on_look(self) -> None:
        """The switch "Where it looks" was turned on or off."""
        self.prefer(look=self.variables.look.get())
        self.show_map()

    def select(self, turn: int) -> None:
        """Show where the model looked for this answer."""
        self.selected = turn
        self.show_map()

    def answered_turns(self) -> list[int]:
        return [index for index, turn in enumerate(self.conversation.turns) if turn.answer]

    def shown_turn(self) -> int | None:
        """The turn whose map is shown: the selected one, else the last that has an answer."""
        answered = self.answered_turns()
        return self.selected if self.selected in answered else (answered[-1] if answered else None)

    def shown_map(self) -> AttentionMap | None:
        """The map of the shown turn; None if maps are switched off or it is not there yet."""
        turn = self.shown_turn()
        return self.maps.get(turn) if self.preferences.look and turn is not None else None

    def show_map(self, span: tuple[int, int] | None = None) -> None:
        """Show the map of the shown turn, or of a word of its answer. If it is not there, ask the worker for it."""
        self.span, turn, found = span, self.shown_turn(), self.shown_map()
        self.view.transcript.mark(turn if found is not None else None, span)
        grid = found.of(span) if found is not None else None
        self.view.show_map(grid, self._about_map(found, grid, span))
        idle = self.asking is None and self.looking is None and self.loading is None
        if self.preferences.look and found is None and turn is not None and idle and self.worker.assistant is not None:
            self.looking_at = turn
            self.looking = self.worker.look(self.conversation.up_to(turn), **self._answer_settings())

    def _about_map(self, found: AttentionMap | None, grid: np.ndarray | None, span: tuple[int, int] | None) -> str:
        if found is None or grid is None:
            return self.t("no_map_yet") if self.preferences.look and not self.conversation.turns else ""
        share = f"{100 * float(np.nansum(grid)):.0f} %"
        who = self.t("whole_answer") if span is None else self.t("one_word", word=found.text[slice(*span)])
        return self.t(SHOWS[found.shows], who=who, share=share)

    def on_word(self, turn: int | None, offset: int) -> None:
        """The mouse is over character ``offset`` of an answer, or (None) over none."""
        found = self.shown_map() if turn == self.shown_turn() else None
        span = None
        if found is not None:
            span = next((word for word in found.words() if word[0] <= offset < word[1]), None)
        if span != self.span:
            self.show_map(span)

    def step_word(self, step: int) -> None:
        """Show the next word's map; after the last word comes the whole answer."""
        found = self.shown_map()
        if found is not None:
            choices = [None, *found.words()]
            self.show_map(choices[(choices.index(self.span) + step) % len(choices)])

    def step_answer(self, step: int) -> None:
        """Show the next answer's map."""
        answered, shown = self.answered_turns(), self.shown_turn()
        if shown is not None:
            position = answered.index(shown) + step
            turn = answered[max(0, min(position, len(answered) - 1))]
            self.select(turn)
            self.view.transcript.see(turn)

    def on_patch(self, patch: tuple[int, int] | None) -> None:
        """The mouse is over a patch (row, column) of the map, or over none."""
        found = self.shown_map()
        if found is None:
            return
        grid = found.of(self.span)
        if patch is None:
            line = self._about_map(found, grid, self.span)
        elif np.isnan(grid[patch]):
            line = self.t("dropped_patch")
        else:
            share = f"{100 * float(grid[patch]):.1f} %"
            line = self.t("one_patch", row=patch[0] + 1, column=patch[1] + 1, share=share)
        self.view.map_note.configure(text=line)

    # ------------------------------------------------------------------------------------------ events

    def poll(self) -> None:
        """Take the worker's events; no other way leads from its threads to the window."""
        until = perf_counter() + BUSY_S
        try:
            while perf_counter() < until:
                self.on_event(*self.worker.events.get_nowait())
        except queue.Empty:
            pass
        self.polling = self.root.after(POLL_MS, self.poll)

    def on_event(self, job: int, kind: str, value: Any) -> None:
        """Events of jobs that are no longer waited for are ignored."""
        if job == self.loading:
            self._on_loading(kind, value)
        elif job == self.asking:
            self._on_answering(kind, value)
        elif job == self.looking:
            self._on_looking(kind, value)
        elif job == self.reading:
            self._on_reading(kind, value)

    def _on_loading(self, kind: str, value: Any) -> None:
        if kind == "stage":
            self.show_state(f"stage_{value}")
            return
        self.loading = None
        if kind == "problem":
            self.say_problem("cannot_load", value)
        self.show_idle()
        self.show_map()

    def _on_answering(self, kind: str, value: Any) -> None:
        if kind == "stage":
            self.show_state("stage_answer")
        elif kind == "piece":
            piece = value if self.partial else value.lstrip()
            self.partial += piece
            self.view.transcript.piece(piece)
        elif kind == "answer":
            self._on_answer(value)
        elif kind == "problem":
            self._end_answer()
            self.say_problem("cannot_answer", value)
            self.show_idle()

    def _on_answer(self, answer: str) -> None:
        if self.stopped:
            self._end_answer()
            self.say("note", self.t("stopped"))
        else:
            self.partial, self.asking = "", None
            self._set_answer(answer)
            if not answer:
                self.say("note", self.t("nothing"))
        self.show_idle()
        self.show_map()

    def _on_looking(self, kind: str, value: Any) -> None:
        if kind == "stage":
            self.show_state("stage_look")
            return
        self.looking = None
        self.show_idle()
        if kind == "looked":
            self.maps[self.looking_at] = value
            self.show_map()
        else:
            self.say_problem("cannot_look", value)

    def _on_reading(self, kind: str, value: Any) -> None:
        self.reading = None
        if kind == "problem":
            self.say("problem", value.text)
        else:
            self.take(value)

    def take(self, read: Read) -> None:
        """Show what was read: a picture with an empty conversation, or a saved conversation."""
        self.preview = read.preview
        self.begin(read.conversation)

    def on_exception(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """Say what Tk would print as a traceback on a terminal that nobody looks at."""
        if isinstance(error, Exception):
            self.say("problem", describe_error(error).text)
        else:  # Ctrl-C on the terminal
            self.close()

    def close(self) -> None:
        self.worker.stop()
        self.root.after_cancel(self.polling)
        self.root.destroy()


def name_of(checkpoint: Path) -> str:
    """Run and step of a checkpoint; the folder's name if it is not in a run."""
    if checkpoint.name.startswith("checkpoint-"):
        return f"{checkpoint.parent.name} / {checkpoint.name}"
    return checkpoint.name
