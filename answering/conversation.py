"""A conversation about a picture, and the thread that answers in it: everything about the window that is not Tk.

``ask.py`` and the window share it. It imports no torch of its own, which takes seconds: the window is open long before
the worker has it.
"""

from __future__ import annotations

import gc
import json
import queue
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from PIL import Image

from common.errors import UserError
from common.files import write_text
from dataset.image import ImageError, load_image
from dataset.prompt import IMAGE_TOKEN, Request, Turn, question_with_images

if TYPE_CHECKING:
    from answering.assistant import Assistant


# ---------------------------------------------------------------------------------------------- a conversation


@dataclass
class Conversation:
    """Questions and answers about ``images``, which stand before the first question.

    ``paths`` say where the images came from (a name such as "clipboard" where from no file); ``about`` is what else is
    saved with the conversation: the checkpoint and the settings of the answers.
    """

    images: list[Image.Image] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    about: dict = field(default_factory=dict)

    def ask(self, question: str) -> Request:
        """Add a question, in the place of one that was never answered, and give the request for its answer."""
        self.turns = [turn for turn in self.turns if turn.answer is not None]
        self.turns.append(Turn(question_with_images(question, 0 if self.turns else len(self.images))))
        return self.up_to(len(self.turns) - 1)

    def answer(self, text: str) -> None:
        """The answer to the last question."""
        self.turns[-1].answer = text

    def up_to(self, index: int) -> Request:
        """The request whose last turn is turn ``index``; a copy, safe from what is asked later."""
        return Request([Turn(turn.question, turn.answer) for turn in self.turns[: index + 1]], list(self.images))

    def answered(self) -> list[tuple[str, str]]:
        """Questions, as they were typed but for defused control tokens, and answers."""
        return [(typed(turn.question), turn.answer) for turn in self.turns if turn.answer is not None]

    def save(self, file: Path) -> None:
        """Write it as JSON, which :meth:`open` reads, or as Markdown where the name ends in .md.

        Raises:
            UserError: the file cannot be written.
        """
        text = self._markdown() if file.suffix.lower() == ".md" else self._json()
        try:
            write_text(file, text)
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({error.strerror or error})") from error

    @classmethod
    def open(cls, file: Path) -> Conversation:
        """Read what :meth:`save` wrote as JSON. The pictures are read again from their paths.

        Raises:
            UserError: the file or a picture of it cannot be read.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            paths, about = [str(path) for path in content["images"]], dict(content["about"])
            pairs = [(str(turn["question"]), str(turn["answer"])) for turn in content["turns"]]
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: not a conversation that was saved here as JSON") from error
        images = []
        for path in paths:
            try:
                images.append(load_image(path))
            except ImageError as error:
                raise UserError(f"{path}: {error}; the conversation is about this picture") from error
        conversation = cls(images, paths, about=about)
        for question, answer in pairs:
            conversation.ask(question)
            conversation.answer(answer)
        return conversation

    def _json(self) -> str:
        turns = [{"question": question, "answer": answer} for question, answer in self.answered()]
        return json.dumps({"images": self.paths, "about": self.about, "turns": turns}, ensure_ascii=False, indent=2)

    def _markdown(self) -> str:
        pictures = [
            f"![picture](<{_address(path)}>)" if Path(path).is_file() else _as_typed(path) for path in self.paths
        ]
        about = [f"- {key}: " + _as_typed(str(value)).replace("\n", "\n  ") for key, value in self.about.items()]
        blocks = ["\n".join(pictures), "\n".join(about)]
        for question, answer in self.answered():
            blocks += ["> " + _as_typed(question).replace("\n", "\n> "), _as_markdown(answer)]
        return "\n\n".join(block for block in blocks if block) + "\n"


def typed(question: str) -> str:
    """A question without its pictures."""
    return question.replace(IMAGE_TOKEN, "").lstrip("\n")


def _address(path: str) -> str:
    """A file's path for Markdown's ``<...>``, where spaces and brackets may stand but no markup, entity or fragment."""
    return re.sub(r"[%<>#?&\\\x00-\x1f]", lambda found: f"%{ord(found[0]):02X}", Path(path).as_posix())


def _as_typed(text: str) -> str:
    """Markdown that shows plain text to the letter, line by line."""
    lines = []
    for line in text.splitlines():
        line = re.sub(r"[\\`*\[\]<~|$]|&(?=[#\w]+;)|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line.strip())
        lines.append(re.sub(r"^(\d*)([#>+=.)-])", r"\1\\\2", line))  # headings, quotes, lists, underlines
    return _keep_breaks("\n".join(lines))


def _as_markdown(answer: str) -> str:
    """An answer, which may be Markdown of the model's own and stays so: but for its line breaks, which are kept, for
    tags, which a page would swallow, and for code that never ends, which would take in what follows."""
    pieces = re.split(r"(```.*?(?:```|\Z)|`[^`\n]+`)", answer, flags=re.DOTALL)  # prose, code, prose, ...
    pieces[::2] = [_keep_breaks(re.sub(r"<(?=[a-zA-Z/!?])|^>", r"\\\g<0>", piece, flags=re.M)) for piece in pieces[::2]]
    return "".join(pieces) + ("\n```" if answer.count("```") % 2 else "")


def _keep_breaks(text: str) -> str:
    """Two spaces at the end of a line keep it apart from the next."""
    return re.sub(r"(?<=\S)\n(?=\S)", "  \n", text)


# ---------------------------------------------------------------------------------------------- checkpoints


def checkpoints_under(folder: Path) -> list[Path]:
    """Every complete checkpoint of every run, the newest first."""
    found = [(manifest.stat().st_mtime, manifest.parent) for manifest in folder.glob("*/checkpoint-*/manifest.json")]
    return [checkpoint for _, checkpoint in sorted(found, reverse=True)]


def is_demo(checkpoint: Path) -> bool:
    """Whether a checkpoint, or the first of a run's, stands on the small backbones that come with this repository."""
    configs = [checkpoint / "config.yaml", *sorted(checkpoint.glob("checkpoint-*/config.yaml"))]
    try:
        text = next(file for file in configs if file.is_file()).read_text(encoding="utf-8")
        return Path(yaml.safe_load(text)["language"]["path"]).parts[-3:-1] == ("demo", "backbones")
    except (StopIteration, OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return False  # loading it will say what is wrong with it


def first_choice(folder: Path) -> Path | None:
    """What to load when nothing was chosen: the newest checkpoint, a demo's only where there is nothing else."""
    found = checkpoints_under(folder)
    return next((checkpoint for checkpoint in found if not is_demo(checkpoint)), found[0] if found else None)


# ---------------------------------------------------------------------------------------------- the worker


@dataclass(frozen=True)
class Problem:
    """What went wrong, in one line for a person; ``kind`` is "memory" where the answer is to use less of it."""

    kind: str
    text: str


class Worker:
    """Loads, asks and looks in one background thread, one job at a time, for an interface that must never wait.

    Everything that happens arrives in ``events``, a queue of (job, kind, value); the interface reads it when it likes:

    - ``"stage"``: what is being done: "libraries", "weights", "device", "answer" or "look"
    - ``"ready"``: the assistant, once loaded
    - ``"piece"``: a bit of the answer
    - ``"answer"``: the whole answer, stopped or complete
    - ``"looked"``: the :class:`model.attention_map.AttentionMap` that was asked for
    - ``"read"``: what :meth:`read` was to read
    - ``"problem"``: a :class:`Problem`, which ended the job

    ``job`` is the number that the call returned, so that what is late from an abandoned job can be told apart.
    """

    def __init__(self) -> None:
        self.events: queue.Queue = queue.Queue()
        self.assistant: Assistant | None = None
        self._jobs: queue.Queue = queue.Queue()
        self._stop = threading.Event()
        self._count = 0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def load(self, checkpoint: Path, device: str | None = None) -> int:
        """Queue the loading of a checkpoint, ending the answer in progress."""
        return self._put(self._load, checkpoint, device)

    def ask(self, request: Request, **overrides) -> int:
        """Queue a question, ending the answer in progress. Returns the job's number."""
        return self._put(self._ask, request, overrides)

    def look(self, request: Request, **overrides) -> int:
        """Queue the question where the model looked for a request's last answer."""
        return self._put(self._look, request, overrides)

    def read(self, load: Callable) -> int:
        """Call ``load``, which reads a file, beside the other jobs: it needs no model, and must not wait for one."""
        self._count += 1
        threading.Thread(target=self._attempt, args=(self._count, self._read, load), daemon=True).start()
        return self._count

    def stop(self) -> None:
        """End the answer in progress within a token."""
        self._stop.set()

    def close(self, timeout: float) -> bool:
        """Stop, let the thread end, and say whether it did within ``timeout`` seconds."""
        self._stop.set()
        self._jobs.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _put(self, work, *arguments) -> int:
        self._stop.set()  # the answer in progress; every job brings an event of its own
        self._stop = threading.Event()
        self._count += 1
        self._jobs.put((self._count, self._stop, work, arguments))
        return self._count

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, stop, work, arguments = item
            self._attempt(job, work, stop, *arguments)

    def _attempt(self, job: int, work, *arguments) -> None:
        try:
            work(job, *arguments)
        except Exception as error:  # a thread that dies would leave the window waiting for ever
            self.events.put((job, "problem", describe_error(error)))

    def _load(self, job: int, stop: threading.Event, checkpoint: Path, device: str | None) -> None:
        self.assistant = None  # first: there may be no room for two
        self.events.put((job, "stage", "libraries"))
        Assistant = import_assistant()
        self.assistant = Assistant.load(checkpoint, device, lambda stage: self.events.put((job, "stage", stage)))
        self.events.put((job, "ready", self.assistant))

    def _ask(self, job: int, stop: threading.Event, request: Request, overrides: dict) -> None:
        text = ""
        if stop.is_set():  # before its turn came
            self.events.put((job, "answer", text))
            return
        self.events.put((job, "stage", "answer"))
        for piece in self._loaded().stream(request, stop, **overrides):
            text += piece
            self.events.put((job, "piece", piece))
        self.events.put((job, "answer", text.strip()))

    def _look(self, job: int, stop: threading.Event, request: Request, overrides: dict) -> None:
        self.events.put((job, "stage", "look"))
        self.events.put((job, "looked", self._loaded().where_it_looks(request, **overrides)))

    def _read(self, job: int, load: Callable) -> None:
        self.events.put((job, "read", load()))

    def _loaded(self) -> Assistant:
        if self.assistant is None:
            raise UserError("no model is loaded yet; choose a checkpoint")
        return self.assistant


def import_assistant() -> type[Assistant]:
    """Import torch and transformers without Python's garbage collector. It would go through their 460,000 objects again
    and again while every other thread waits: the window stood still for 300 ms at a time, and now for 100 at most."""
    first = "answering.assistant" not in sys.modules
    if first:
        gc.disable()
    try:
        from answering.assistant import Assistant
        from model.model import quiet_libraries
    finally:
        if first:
            gc.freeze()  # they stay as long as the process; later collections pass over them
            gc.enable()
    quiet_libraries()
    return Assistant


def describe_error(error: Exception) -> Problem:
    """One line for a person. torch says "out of memory" of a GPU and "can't allocate memory" of the machine."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text.lower():
        return Problem("memory", "out of memory; use the CPU, ask for shorter answers, or close other programs")
    if isinstance(error, (UserError, ImageError)):
        return Problem("user", text)
    return Problem("unexpected", f"{type(error).__name__}: {text}")
