"""What each browser tab has of its own: its pictures, its conversation, and the answer in progress.

A question becomes a job of :class:`window.web.turns.Turns`. The job's thread changes the session, and whoever shows the
session follows the job: a tab that is closed in the middle of an answer holds nobody up.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from PIL import Image

from answering.checkpoints import max_pixels_of, name_of
from answering.conversation import Conversation
from answering.examples import Examples
from answering.worker import Problem, describe_error
from common.errors import UserError
from common.language import in_chinese
from common.text import whole
from dataset.image import ImageError, load_image
from window.preferences import NULLABLE, NUMBERS
from window.web import limits
from window.web.model import Model
from window.web.texts import text
from window.web.turns import Job, Turns

if TYPE_CHECKING:
    from answering.assistant import Assistant
    from answering.attention_map import AttentionMap
    from answering.baseline import BaselineAssistant

MB = 1_000_000
SETTINGS = [number for number in NUMBERS if number.key not in NULLABLE]  # an empty field is the checkpoint's own


class Status(NamedTuple):
    """The line under the conversation: a key of window/web/texts.py with its values."""

    key: str
    values: dict[str, Any] = {}
    problem: Problem | None = None  # the {reason} of the text
    refused: bool = False  # whether something could not be done


@dataclass
class Line:
    """What is shown of a conversation. ``turn`` is the number of an answer in its conversation."""

    kind: Literal["question", "answer", "note"]
    text: str
    turn: int | None = None


@dataclass
class Session:
    """One tab. Only the job that is being done and the handlers of this tab change it."""

    checkpoint: Path  # the chosen one
    key: str = ""  # the browser's own for the tab
    language: str = "en"
    conversation: Conversation = field(default_factory=Conversation)
    example: str = ""  # the path of the conversation's picture, if it is an example
    lines: list[Line] = field(default_factory=list)
    status: Status = Status("empty")
    given_back: str = ""  # a question that was not answered, for the input
    job: Job | None = None  # the answer in progress
    settings: dict[str, Any] = field(default_factory=dict)  # of the last question
    answered_by: Path | None = None  # the checkpoint of the last answer
    looks: bool = False  # whether maps are shown
    selected: int | None = None  # the turn whose maps are shown; None: the last answer's
    maps: dict[int, list[AttentionMap]] = field(default_factory=dict)  # turn -> a map for each picture
    used: float = field(default_factory=time.monotonic)
    closed: bool = False

    @property
    def pixels(self) -> int:
        return sum(image.width * image.height for image in self.conversation.images)

    def t(self, key: str, **values: object) -> str:
        return text(self.language, key, **values)

    def said(self, status: Status | None = None) -> str:
        """A status in the session's language (None: its own)."""
        key, values, problem, _ = status or self.status
        if problem is None:
            return self.t(key, **values)
        if problem.kind == "memory":
            return self.t("memory")
        reason = in_chinese(problem.text) if self.language == "zh" else problem.text
        return self.t(key, reason=reason, **values)

    def refuse(self, key: str, problem: Problem | None = None, **values: object) -> None:
        self.status = Status(key, values, problem, refused=True)

    def refuse_file(self, name: str, size: int) -> None:
        """A file has more than :data:`limits.MOST_BYTES` bytes."""
        self.refuse("too_large", name=whole(name)[0], size=-(-size // MB), limit=limits.MOST_BYTES // MB)

    def take_back(self) -> str | None:
        """The question that was given back, once; None if there is none."""
        question, self.given_back = self.given_back, ""
        return question or None

    def shown_turn(self) -> int | None:
        """The turn whose maps are shown: the selected one, else the last that has an answer; None: no maps."""
        if not self.looks:
            return None
        answered = [number for number, turn in enumerate(self.conversation.turns) if turn.answer]
        return self.selected if self.selected in answered else (answered[-1] if answered else None)

    def note(self, key: str, **values: object) -> None:
        self.lines.append(Line("note", self.t(key, **values)))
        del self.lines[: -limits.MOST_LINES]


class Sessions:
    """All tabs, the model that answers them, and their turns at it."""

    def __init__(self, model: Model, turns: Turns | None = None) -> None:
        self.model, self.turns = model, turns or Turns()
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # one tab's pictures at a time: decoding one may take 300 MB

    # ------------------------------------------------------------------------------------------ tabs

    def open(self, tab: str, key: str, language: str) -> Session:
        """The session of a tab that was opened, in the browser's language.

        ``key`` is the browser's own for a tab. One that was reloaded has the same key, and finds its conversation
        again; an answer that was in progress ends.
        """
        with self._lock:
            before = next((old for old, one in self._sessions.items() if key and one.key == key), None)
            found = self._sessions.pop(before) if before is not None else None
            if found is not None:
                self._sessions[tab] = found
        session = self.of(tab)
        if found is None:
            session.key, session.language = key, language
        else:
            self.stop(session)
        return session

    def of(self, tab: str) -> Session:
        """The session of a tab, which is made if it is new."""
        with self._lock:
            session = self._sessions.get(tab)
            if session is None:
                session = self._sessions[tab] = Session(self.model.first)
            session.used, session.closed = time.monotonic(), False
            self._drop(keep=session, pixels=0)
        return session

    def close(self, tab: str) -> None:
        """A tab was closed: its answer ends, and its conversation is kept for a while in case it was only asleep."""
        with self._lock:
            session = self._sessions.get(tab)
            if session is not None:
                session.closed, session.used = True, time.monotonic()
        if session is not None:
            self.stop(session)

    def _drop(self, keep: Session, pixels: int) -> None:
        """Drop what is too old, then closed and idle tabs, until there is room for ``pixels`` more."""
        for tab, session in list(self._sessions.items()):
            if session.closed and time.monotonic() - session.used > limits.KEPT_S:
                del self._sessions[tab]
        others = [(tab, one) for tab, one in self._sessions.items() if one is not keep and one.job is None]
        others.sort(key=lambda item: (not item[1].closed, item[1].used))
        for tab, _ in others:
            total = pixels + sum(one.pixels for one in self._sessions.values())
            if len(self._sessions) <= limits.MOST_SESSIONS and total <= limits.MOST_PIXELS:
                return
            del self._sessions[tab]

    # ------------------------------------------------------------------------------------------ pictures

    def show(self, session: Session, files: Sequence[str]) -> bool:
        """Read pictures and begin a conversation about them.

        Returns whether all could be read; if not, the session's status says why and its conversation stays.
        """
        with self._reading:
            images = self._read(session, files)
        if images is None:
            return False
        self._leave(session)
        session.example = ""
        names = [whole(Path(path).name)[0] for path in files]
        session.conversation, session.maps = Conversation(images, names), {}
        if session.lines:
            session.note("about", names=", ".join(names))
        session.status = Status("pictures_read")
        return True

    def show_example(self, session: Session, number: int) -> bool:
        """As :meth:`show`, for an example picture of the chosen checkpoint."""
        pictures = self.examples(session).pictures
        if not 0 <= number < len(pictures):
            return False  # the files of its run were changed
        if not self.show(session, [pictures[number].picture]):
            return False
        session.example = pictures[number].picture
        return True

    def examples(self, session: Session) -> Examples:
        """Those of the chosen checkpoint, in the session's language."""
        return self.model.examples(session.checkpoint, session.language)

    def example_questions(self, session: Session) -> list[str]:
        """What can be asked about the session's picture; nothing without one, and after the first question."""
        if session.lines or not session.conversation.images:
            return []
        examples = self.examples(session)
        for picture, questions in examples.pictures:
            if picture == session.example:
                return questions
        return examples.questions or [session.t(f"question_{number}") for number in (1, 2, 3)]

    def _read(self, session: Session, files: Sequence[str]) -> list[Image.Image] | None:
        if len(files) > limits.MOST_PICTURES:
            session.refuse("too_many", count=len(files), limit=limits.MOST_PICTURES)
            return None
        images: list[Image.Image] = []
        pixels, most = 0, max_pixels_of(session.checkpoint, self.model.overrides)
        for path in files:
            name = whole(Path(path).name)[0]
            if os.path.isfile(path) and (size := os.path.getsize(path)) > limits.MOST_BYTES:
                session.refuse_file(name, size)
                return None
            try:
                images.append(load_image(path, most))
            except ImageError as error:
                session.refuse("cannot_open", Problem("user", str(error)), name=name)
                return None
            pixels += images[-1].width * images[-1].height
            if pixels > limits.MOST_PIXELS:
                session.refuse("no_room", pixels=pixels, limit=limits.MOST_PIXELS)
                return None
        with self._lock:
            self._drop(keep=session, pixels=pixels - session.pixels)
        return images

    def restart(self, session: Session) -> None:
        """A new conversation about the same pictures."""
        self._leave(session)
        conversation = session.conversation
        session.conversation = Conversation(conversation.images, conversation.paths)
        session.lines, session.maps, session.given_back = [], {}, ""
        session.status = Status("pictures_read" if conversation.images else "empty")

    def _leave(self, session: Session) -> None:
        """End the answer in progress; it is of a conversation that is no longer the session's."""
        job, session.job = session.job, None
        if job is not None:
            self.turns.stop(job)

    # ------------------------------------------------------------------------------------------ questions

    def ask(self, session: Session, question: str, checkpoint: Path, settings: dict[str, Any]) -> Job | None:
        """Queue a question. ``settings`` are those of :meth:`answering.assistant.Assistant.stream`.

        Returns the job to follow. None if the question is refused: it is given back, and the status says why.
        """
        question, replaced = whole(question.strip())
        if not (self._may_ask(session, question, checkpoint) and _in_range(session, settings)):
            session.given_back = question
            return None
        if replaced:
            session.note("replaced_one" if replaced == 1 else "replaced", count=replaced)
        if session.answered_by not in (None, checkpoint):
            session.note("switched", name=name_of(checkpoint))
        session.checkpoint, session.settings = checkpoint, settings
        asked = _Asked(session, question, checkpoint)
        session.status, session.given_back = Status("waiting", {"before": self.turns.count()}), ""
        session.job = job = Job(lambda job: self._answer(job, session, asked))
        try:
            self.turns.join(job)
        except UserError as error:
            self._end(job, session, asked, "", describe_error(error))
            return None
        return job

    def _may_ask(self, session: Session, question: str, checkpoint: Path) -> bool:
        """Whether a question is taken; if not, the status says why."""
        if session.job is not None:
            session.refuse("busy")
        elif not session.conversation.images:
            session.refuse("picture_first")
        elif len(question) > limits.MOST_CHARACTERS:
            session.refuse("too_long", count=len(question), limit=limits.MOST_CHARACTERS)
        elif not self._offers(checkpoint):
            session.refuse("checkpoint_gone")
        else:
            return True
        return False

    def choose(self, session: Session, checkpoint: Path) -> None:
        """Choose the checkpoint of the next question."""
        if not self._offers(checkpoint):
            session.refuse("checkpoint_gone")
            return
        session.checkpoint = checkpoint
        if session.job is None:
            session.status = self.who(session)

    def _offers(self, checkpoint: Path) -> bool:
        return str(checkpoint) in {path for _, path in self.model.choices("en")}

    def stop(self, session: Session) -> None:
        """End the answer in progress; its words so far stay. A question that waits is given back."""
        if session.job is not None:
            self.turns.stop(session.job)

    def _answer(self, job: Job, session: Session, asked: _Asked) -> None:
        said, problem = "", None
        try:
            if not job.stopped:
                assistant = self._loaded(job, session, asked.checkpoint)
                session.status = Status("stage_answer")
                job.changed()
                for piece in assistant.stream(asked.request, job.stopping, **session.settings):
                    said += piece
                    asked.answer.text = asked.conversation.plain(asked.turn, said.strip())[1]
                    job.changed()
        except Exception as error:
            problem = describe_error(error)
        self._end(job, session, asked, said.strip(), problem)

    def _end(self, job: Job, session: Session, asked: _Asked, said: str, problem: Problem | None) -> None:
        """Keep what was said. A question without a word of an answer is withdrawn and given back, unless that is it."""
        kept = bool(said) or not (job.stopped or problem)
        if kept:
            asked.turn.answer = said
            asked.answer.text = asked.conversation.plain(asked.turn)[1]
            session.answered_by = asked.checkpoint
        else:
            asked.withdraw(session)
        if session.job is not job:
            return  # another conversation was begun, which has a status of its own
        session.job, session.given_back = None, "" if kept else asked.question
        if problem is not None:
            session.refuse("cannot_answer", problem)
        elif job.stopped:
            session.status = Status("stopped")
        else:
            session.status = self.who(session) if asked.answer.text.strip() else Status("nothing")

    def _loaded(self, job: Job, session: Session, checkpoint: Path) -> Assistant | BaselineAssistant:
        def say(stage: str) -> None:
            session.status = Status(f"stage_{stage}", {"name": name_of(checkpoint)})
            job.changed()

        return self.model.load(checkpoint, say)

    def who(self, session: Session) -> Status:
        """Which checkpoint answers, and on which device once it is loaded."""
        assistant, name = self.model.assistant, name_of(session.checkpoint)
        if assistant is None or self.model.checkpoint != session.checkpoint:
            return Status("not_loaded", {"name": name})
        values = {"name": name, "device": assistant.device, "baseline": assistant.baseline}
        return Status("baseline_on_device" if assistant.baseline else "on_device", values)

    # ------------------------------------------------------------------------------------------ where it looks

    def look(self, session: Session) -> Job | None:
        """Queue the maps of the shown turn, one for each picture; None if they are there already or not wanted."""
        turn = session.shown_turn()
        if turn is None or turn in session.maps or session.job is not None:
            return None
        conversation, settings = session.conversation, session.settings
        checkpoint = Path(conversation.turns[turn].checkpoint)  # that of the answer

        def work(job: Job) -> None:
            try:
                assistant, request = self._loaded(job, session, checkpoint), conversation.up_to(turn)
                before, session.status = session.status, Status("stage_look")
                job.changed()
                maps = [assistant.where_it_looks(request, picture=i, **settings) for i in range(len(request.images))]
                if conversation is session.conversation:
                    session.maps[turn] = maps
                session.status = before
            except Exception as error:
                session.refuse("cannot_look", describe_error(error))

        job = Job(work)
        try:
            self.turns.join(job)
        except UserError as error:
            session.refuse("cannot_look", describe_error(error))
            return None
        return job


def _in_range(session: Session, settings: dict[str, Any]) -> bool:
    """Whether the numbers are those that the window takes too; if not, the status says which is not."""
    for key, least, most, *_ in SETTINGS:
        if not least <= settings.get(key, least) <= most:
            session.refuse("bad_number", name=session.t(key), value=settings[key], least=least, most=most)
            return False
    return True


class _Asked:
    """A question that was put into a session's conversation, and what is shown of it."""

    def __init__(self, session: Session, question: str, checkpoint: Path) -> None:
        self.question, self.checkpoint, self.conversation = question, checkpoint, session.conversation
        self.request = self.conversation.ask(question)
        self.turn = self.conversation.turns[-1]
        self.turn.checkpoint = str(checkpoint)
        self.answer = Line("answer", "", len(self.conversation.turns) - 1)
        self.lines = [Line("question", question), self.answer]
        session.lines += self.lines
        del session.lines[: -limits.MOST_LINES]

    def withdraw(self, session: Session) -> None:
        self.conversation.turns = [turn for turn in self.conversation.turns if turn is not self.turn]
        session.lines = [line for line in session.lines if not any(line is one for one in self.lines)]
