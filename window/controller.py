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
from typing import Any, NamedTuple

from answering.checkpoints import first_choice
from answering.conversation import Conversation
from answering.worker import Problem, Worker, describe_error
from common.errors import UserError
from common.language import in_chinese, system_language
from common.text import whole
from window.boxes import Boxes
from window.conversation_list import ConversationList
from window.file_dialogs import dress_file_dialogs
from window.history import History
from window.keeping import Keeping
from window.look import Look, screen_scale
from window.looking import Maps
from window.models import CHECKPOINTS, Models
from window.pictures import Pictures, Read
from window.preferences import Preferences
from window.questions import Questions
from window.recent import Recent
from window.start import Start
from window.strip import Strip
from window.texts import text
from window.view import Variables, View

POLL_MS = 30  # half of what a person notices; an idle poll takes microseconds
BUSY_S = 0.02  # the longest time for which one poll takes events: keys and clicks come in between


class Note(NamedTuple):
    """A sentence of the window's own in the conversation, after ``turns`` turns; ``kind`` is "note" or "problem"."""

    turns: int
    kind: str
    line: str


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
        self.root, self.can_drop, self.overrides = root, can_drop, overrides
        self.preferences = preferences or Preferences.load()
        self.worker = Worker()
        self.conversation = Conversation()
        self.missing = ""  # why a picture of the conversation cannot be read
        self.notes: list[Note] = []
        self.status: tuple[str, dict[str, object]] = ("ready", {})
        self.pictures, self.strip = Pictures(self), Strip(self)
        self.questions = Questions(self)
        self.models = Models(self, device, verify)
        self.maps = Maps(self)
        self.boxes = Boxes(self)
        self.start = Start(self)
        self.keeping = Keeping(self, History())
        self.recent = Recent(self)
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
            self.models.load(found)
        if picture:
            self.pictures.open(picture)
        self.recent.read()
        root.bind("<FocusIn>", self.recent.on_focus)
        self.polling = root.after(POLL_MS, self.poll)

    @property
    def language(self) -> str:
        return self.preferences.language or system_language()

    def t(self, key: str, **values: object) -> str:
        line = text(self.language, key, **values)
        return whole(line)[0]  # Tk takes no lone surrogates, which are in a file's name that is not UTF-8

    def said(self, error: str) -> str:
        """An error's message in the window's language."""
        return in_chinese(error) if self.language == "zh" else error

    # ------------------------------------------------------------------------------------------ what is shown

    def _make_view(self) -> View:
        preferences, variables = self.preferences, self.variables
        variables.look.set(preferences.look)
        variables.dark.set(preferences.dark)
        variables.language.set(self.language)
        variables.size.set(preferences.size)
        look = Look(self.root, preferences.dark, preferences.size / 100 or screen_scale(self.root))
        self.looks.append(look)
        dress_file_dialogs(self.root, look, self.language)
        return View(self, look, variables)

    def rebuild(self) -> None:
        """Replace the view, after a change of language, colours or size."""
        (draft, _), scale = whole(self.view.question_box.text), self.view.look.scale
        self.view.destroy()
        self.view = self._make_view()
        if self.view.look.scale != scale:
            self.view.fit_to_screen()
        self.view.question_box.text = draft
        self.show_all()

    def show_all(self) -> None:
        """Show the whole state in a new view, or another conversation."""
        transcript = self.view.transcript
        self.view.pane.show(self.strip.preview)
        transcript.clear()
        self.start.show()
        for index, turn in enumerate(self.conversation.turns):
            self._show_notes(index)
            self.show_question(index)
            if turn.answer is None:
                transcript.piece(self.questions.partial)
            else:
                transcript.end_answer(index, turn.answer)
        self._show_notes(len(self.conversation.turns))
        self.show_state()
        self.maps.show()

    def show_question(self, index: int) -> None:
        """Show a turn's question, and where its answer begins."""
        turn = self.conversation.turns[index]
        self.view.transcript.question(index, self.boxes.words(turn), turn.when)
        self.view.transcript.begin_answer(index, turn.checkpoint)

    def _show_notes(self, turns: int) -> None:
        for note in self.notes:
            if note.turns == turns:
                self.view.transcript.note(note.kind, note.line)

    def show_state(self, key: str | None = None, **values: object) -> None:
        """The status line (by default the same as before), the names, and which buttons can be used."""
        if key is not None:
            self.status = key, values
        key, values = self.status
        name = whole(self.models.name)[0]
        line = self.t(key, **{"name": name, **values})
        self.view.show_status(line, answering=self.questions.job is not None, loading=self.models.loading is not None)
        self.view.show_demo_note(self.models.is_demo)
        picture = None
        if images := self.conversation.images:
            image, number = images[self.strip.shown], ""
            if len(images) > 1:
                number = f"{self.strip.shown + 1}/{len(images)}  "
            picture = number + whole(self.strip.name(self.strip.shown))[0], f"{image.width} × {image.height}"
        self.view.show_strip()
        self.view.show_names(name or self.t("no_checkpoint"), picture)

    def show_idle(self) -> None:
        """The status line when nothing is being done: what answers, and on which device."""
        assistant = self.worker.assistant
        if self.models.loading is not None:
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
        self.say("problem", self.reason(key, problem))

    def reason(self, key: str, problem: Problem) -> str:
        return self.t("memory") if problem.kind == "memory" else self.t(key, reason=self.said(problem.text))

    def prefer(self, **changes: Any) -> None:
        """Change preferences, save them, and show what they change."""
        for name, value in changes.items():
            setattr(self.preferences, name, value)
        self.preferences.save()
        if changes.keys() & {"dark", "language", "size"}:
            self.root.after_idle(self.rebuild)  # not at once: the menu that was clicked will be destroyed

    # ------------------------------------------------------------------------------------------ the conversation

    def begin(self, conversation: Conversation, name: str | None = None, missing: str = "") -> None:
        """Show another conversation, ending the answer in progress, whose words are kept.

        ``name`` and ``missing`` are those of :class:`window.pictures.Read`.
        """
        self.worker.stop()
        self.questions.end()
        self.keeping.keep_now()
        self.keeping.begin(name)
        self.maps.looking, self.questions.partial, self.notes, self.missing = None, "", [], missing
        self.boxes.pending, self.strip.states = None, []
        self.maps.clear()
        self.conversation = conversation
        self.show_all()
        if missing:
            self.say("problem", self.said(missing))
        self.show_idle()
        self.view.question_box.entry.focus_set()

    def new_conversation(self) -> None:
        last = self.conversation
        self.begin(Conversation(last.images, last.paths, times=last.times), missing=self.missing)

    def take(self, read: Read) -> None:
        """Show what was read: a picture with an empty conversation, or a saved conversation."""
        self.worker.stop()
        self.questions.end()  # with the picture that it is about
        self.keeping.keep_now()
        self.strip.begin(read.previews)
        self.begin(read.conversation, read.name, read.missing)
        draft = read.conversation.about.get("draft")
        if isinstance(draft, str) and draft and not self.view.question_box.text:
            self.view.question_box.text = whole(draft)[0]
            about = read.conversation.about
            self.boxes.restore(about.get("draft_box"), about.get("draft_picture"))

    def escape(self) -> None:
        """Esc ends a drag or the answer in progress, else it removes the rectangle."""
        if self.questions.job is None or self.boxes.start is not None:
            self.boxes.escape()
        else:
            self.questions.stop()

    def answered_turns(self) -> list[int]:
        return [index for index, turn in enumerate(self.conversation.turns) if turn.answer]

    def copy_answer(self, turn: int | None = None) -> None:
        """Copy an answer (None: the one whose map is selected, or the last)."""
        turn = self.maps.shown_turn() if turn is None else turn
        if turn is not None:
            self.root.clipboard_clear()
            self.root.clipboard_append(self.conversation.plain(self.conversation.turns[turn])[1])
            self.show_state("copied")

    def save(self, file: Path) -> None:
        checkpoint, settings = self.models.checkpoint, self.models.answer_settings()
        about = {"checkpoint": str(checkpoint) if checkpoint else None, **settings}
        if self.worker.assistant is not None:
            about |= {"device": self.worker.assistant.device, **self.models.defaults(), **settings}
        title = {name: value for name, value in self.conversation.about.items() if name == "title"}
        self.conversation.about = title | about
        try:
            self.conversation.with_files(file.parent, file.stem).save(file)
        except (UserError, OSError) as error:
            self.say("problem", self.t("cannot_save", reason=self.said(str(error))))
        else:
            self.show_state("saved", name=file.name)

    def on_typed(self) -> None:
        """The input has another text, which a crash must not lose."""
        if self.conversation.images:
            self.keeping.keep_soon()

    def show_conversations(self) -> None:
        ConversationList(self)

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
        if job == self.models.loading:
            self.models.on_event(kind, value)
        elif job == self.questions.job:
            self.questions.on_event(kind, value)
        elif job == self.maps.looking:
            self.maps.on_event(kind, value)
        elif job in self.pictures.jobs:
            self.pictures.on_event(job, kind, value)
        elif job == self.start.reading:
            self.start.on_event(kind, value)
        elif job == self.recent.reading:
            self.recent.on_event(kind, value)

    def on_exception(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """Say what Tk would print as a traceback on a terminal that nobody looks at."""
        if isinstance(error, Exception):
            self.say("problem", self.said(describe_error(error).text))
        else:  # Ctrl-C on the terminal
            self.close()

    def close(self) -> None:
        self.worker.stop()
        self.questions.end()
        self.keeping.close()
        self.view.progress.stop()
        self.root.after_cancel(self.polling)
        self.root.destroy()
