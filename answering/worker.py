"""The thread that loads a model and answers, for an interface that must never wait.

It imports torch and transformers itself, in the thread: the window is open seconds before they are there.
"""

from __future__ import annotations

import gc
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.errors import UserError
from dataset.image import ImageError
from dataset.prompt import Request

if TYPE_CHECKING:
    from answering.assistant import Assistant
    from answering.baseline import BaselineAssistant


@dataclass(frozen=True)
class Problem:
    """What went wrong, in one line for a person. ``kind`` is "memory" if the remedy is to use less of it."""

    kind: Literal["memory", "user", "unexpected"]
    text: str


_Job = tuple[int, threading.Event, Callable[..., None], tuple[Any, ...]]  # number, stop, method, its arguments


class Worker:
    """Loads, asks and looks in one background thread, one job at a time.

    Every method returns at once with the number of a job. What happens is put into ``events``, a queue of
    (job, kind, value), which the interface reads when it has time:

    - ``"stage"``: what is being done: "libraries", "weights", "device", "answer" or "look"
    - ``"ready"``: the assistant, once it is loaded
    - ``"piece"``: a piece of the answer
    - ``"answer"``: the whole answer, complete or stopped
    - ``"looked"``: the :class:`answering.attention_map.AttentionMap` that was asked for
    - ``"read"``: the result of :meth:`read`
    - ``"problem"``: a :class:`Problem`, which ended the job

    The number tells late events of an abandoned job from those of the current one.
    """

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[int, str, Any]] = queue.Queue()
        self.assistant: Assistant | BaselineAssistant | None = None
        self._jobs: queue.Queue[_Job | None] = queue.Queue()  # None: end the thread
        self._stop = threading.Event()
        self._count = 0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def load(
        self, checkpoint: Path, device: str | None = None, verify: bool = False, overrides: Sequence[str] = ()
    ) -> int:
        """Queue the loading of a checkpoint, ending the answer in progress. ``overrides``: KEY=VALUE of its config."""
        return self._put(self._load, checkpoint, device, verify, overrides)

    def ask(self, request: Request, **overrides) -> int:
        """Queue a question, ending the answer in progress."""
        return self._put(self._ask, request, overrides)

    def look(self, request: Request, picture: int = 0, **overrides) -> int:
        """Queue the map of a request's last answer on one of its pictures, ending the answer in progress."""
        return self._put(self._look, request, picture, overrides)

    def read(self, load: Callable[[], Any]) -> int:
        """Call ``load``, which reads a file, in another thread: it needs no model and must not wait for one."""
        self._count += 1
        threading.Thread(target=self._attempt, args=(self._count, self._read, load), daemon=True).start()
        return self._count

    def stop(self) -> None:
        """End the answer in progress within a token."""
        self._stop.set()

    def close(self, timeout: float) -> bool:
        """Stop, end the thread, and return whether it ended within ``timeout`` seconds."""
        self._stop.set()
        self._jobs.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _put(self, work: Callable[..., None], *arguments: Any) -> int:
        self._stop.set()  # ends the answer in progress; every job has its own event
        self._stop = threading.Event()
        self._count += 1
        self._jobs.put((self._count, self._stop, work, arguments))
        return self._count

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, stop, work, arguments = item
            self._attempt(job, work, stop, *arguments)

    def _attempt(self, job: int, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(job, *arguments)
        except Exception as error:  # if the thread died, the window would wait forever
            self.events.put((job, "problem", describe_error(error)))

    def _load(
        self,
        job: int,
        stop: threading.Event,
        checkpoint: Path,
        device: str | None,
        verify: bool,
        overrides: Sequence[str],
    ) -> None:
        def report(stage: str) -> None:
            self.events.put((job, "stage", stage))

        self.assistant = None  # first: there may be no memory for two
        report("libraries")
        self.assistant = import_opening()(checkpoint).load(checkpoint, device, report, verify, overrides)
        self.events.put((job, "ready", self.assistant))

    def _ask(self, job: int, stop: threading.Event, request: Request, overrides: dict) -> None:
        text = ""
        if stop.is_set():  # another job came while this one was queued
            self.events.put((job, "answer", text))
            return
        self.events.put((job, "stage", "answer"))
        for piece in self._loaded().stream(request, stop, **overrides):
            text += piece
            self.events.put((job, "piece", piece))
        self.events.put((job, "answer", text.strip()))

    def _look(self, job: int, stop: threading.Event, request: Request, picture: int, overrides: dict) -> None:
        self.events.put((job, "stage", "look"))
        self.events.put((job, "looked", self._loaded().where_it_looks(request, picture=picture, **overrides)))

    def _read(self, job: int, load: Callable[[], Any]) -> None:
        self.events.put((job, "read", load()))

    def _loaded(self) -> Assistant | BaselineAssistant:
        if self.assistant is None:
            raise UserError("no model is loaded yet; choose a checkpoint")
        return self.assistant


def import_opening() -> Callable[[Path], type[Assistant] | type[BaselineAssistant]]:
    """Import torch and transformers with Python's garbage collector off.

    It would go through their 460,000 objects again and again while every other thread waits: the window froze for up
    to 300 ms, and now for 100 ms.
    """
    first = "answering.opening" not in sys.modules
    if first:
        gc.disable()
    try:
        from answering.opening import assistant_of
        from model.model import quiet_libraries
    finally:
        if first:
            gc.freeze()  # these objects are never freed: later collections skip them
            gc.enable()
    quiet_libraries()
    return assistant_of


def describe_error(error: Exception) -> Problem:
    """One line for a person. torch says "out of memory" for a GPU and "can't allocate memory" for the machine."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text.lower():
        return Problem("memory", "out of memory; use the CPU, ask for shorter answers, or close other programs")
    if isinstance(error, (UserError, ImageError)):
        return Problem("user", text)
    return Problem("unexpected", f"{type(error).__name__}: {text}")
