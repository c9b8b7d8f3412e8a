"""The window's engine without a window, and what happens where no window can be opened."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from conversation import Request, Worker, question_with_images
from dataset.prompt import Turn
from tests.tiny import REPO, picture


def events_until(worker: Worker, job: int, kinds: tuple[str, ...]) -> list[tuple[str, object]]:
    """The events of a job, up to the first of these kinds."""
    found = []
    while not found or found[-1][0] not in kinds:
        number, kind, value = worker.events.get(timeout=60)
        if number == job:
            found.append((kind, value))
    return found


def about_red(text: str = "What color?") -> Request:
    return Request([Turn(question_with_images(text, 1))], [picture("red")])


def test_worker_loads_says_what_it_does_and_streams_the_answer(checkpoint, assistant):
    worker = Worker()
    loading = events_until(worker, worker.load(checkpoint, "cpu"), ("ready", "error"))
    assert [kind for kind, _ in loading] == ["stage", "ready"] and str(checkpoint) in loading[0][1]
    answering = events_until(worker, worker.ask(about_red()), ("answer", "error"))
    (wanted,) = assistant.answer([about_red()])
    assert answering[-1] == ("answer", wanted)
    assert "".join(value for kind, value in answering if kind == "piece").strip() == wanted


def test_a_new_question_ends_the_answer_in_progress_and_no_two_run_at_once(assistant):
    worker = Worker()
    worker.assistant = assistant
    assistant.model.language.generation_config.eos_token_id = None
    first = worker.ask(about_red(), max_new_tokens=200)
    events_until(worker, first, ("piece",))
    second = worker.ask(about_red("and now?"), max_new_tokens=3)
    order = []
    while not order or order[-1] != (second, "answer"):
        number, kind, value = worker.events.get(timeout=60)
        order.append((number, kind))
        if (number, kind) == (first, "answer"):
            assert len(assistant.tokenizer.encode(value)) < 200
    assert order.index((first, "answer")) < min(i for i, (number, _) in enumerate(order) if number == second)


def test_stop_ends_an_answer(assistant):
    worker = Worker()
    worker.assistant = assistant
    assistant.model.language.generation_config.eos_token_id = None
    job = worker.ask(about_red(), max_new_tokens=200)
    events_until(worker, job, ("piece",))
    worker.stop()
    kind, text = events_until(worker, job, ("answer", "error"))[-1]
    assert kind == "answer" and len(assistant.tokenizer.encode(text)) < 200


def test_errors_arrive_as_one_line_and_the_worker_lives_on(checkpoint, tmp_path):
    worker = Worker()
    kind, message = events_until(worker, worker.load(tmp_path / "nothing"), ("ready", "error"))[-1]
    assert kind == "error" and "no checkpoint at" in message and "\n" not in message
    assert events_until(worker, worker.ask(about_red()), ("answer", "error"))[-1][1].startswith("no model is loaded")
    assert events_until(worker, worker.load(checkpoint, "cpu"), ("ready", "error"))[-1][0] == "ready"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there a display is always at hand")
def test_without_a_display_one_line_names_the_terminal_command():
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "test_gui.py", "--checkpoint", "somewhere"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "python ask.py --checkpoint somewhere --image FILE" in done.stderr and "python3-tk" in done.stderr
