"""The worker: its events, one job at a time, errors in one line, and what it imports when."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest
import torch

from answering.worker import Worker, describe_error, import_opening
from dataset.prompt import Request, Turn, question_with_images
from tests.helpers.tiny import REPO, never_ends, picture


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


def test_the_worker_loads_reports_its_stages_and_streams_the_answer(checkpoint, assistant):
    worker = Worker()
    loading = events_until(worker, worker.load(checkpoint, "cpu"), ("ready", "problem"))
    assert [kind for kind, _ in loading] == ["stage", "stage", "stage", "ready"]
    assert [value for kind, value in loading if kind == "stage"] == ["libraries", "weights", "device"]
    answering = events_until(worker, worker.ask(about_red()), ("answer", "problem"))
    (wanted,) = assistant.answer([about_red()])
    assert wanted and answering[-1] == ("answer", wanted)
    assert "".join(value for kind, value in answering if kind == "piece").strip() == wanted


def test_a_new_question_ends_the_answer_in_progress_and_no_two_run_at_once(assistant):
    worker = Worker()
    worker.assistant = assistant
    never_ends(assistant)
    first = worker.ask(about_red(), max_new_tokens=3000)
    events_until(worker, first, ("piece",))
    second = worker.ask(about_red("and now?"), max_new_tokens=3)
    order = []
    while not order or order[-1] != (second, "answer"):
        number, kind, value = worker.events.get(timeout=60)
        order.append((number, kind))
        if (number, kind) == (first, "answer"):
            assert len(assistant.tokenizer.encode(value)) < 3000
    assert order.index((first, "answer")) < min(i for i, (number, _) in enumerate(order) if number == second)


def test_stop_ends_an_answer(assistant):
    worker = Worker()
    worker.assistant = assistant
    never_ends(assistant)
    job = worker.ask(about_red(), max_new_tokens=3000)
    events_until(worker, job, ("piece",))
    worker.stop()
    kind, text = events_until(worker, job, ("answer", "problem"))[-1]
    assert kind == "answer" and len(assistant.tokenizer.encode(text)) < 3000


def test_errors_arrive_as_one_line_and_the_worker_continues(checkpoint, tmp_path):
    worker = Worker()
    kind, message = events_until(worker, worker.load(tmp_path / "nothing"), ("ready", "problem"))[-1]
    assert kind == "problem" and "no checkpoint at" in message.text and "\n" not in message.text
    problem = events_until(worker, worker.ask(about_red()), ("answer", "problem"))[-1][1]
    assert problem.text.startswith("no model is loaded")
    assert events_until(worker, worker.load(checkpoint, "cpu"), ("ready", "problem"))[-1][0] == "ready"


def test_a_queued_question_is_not_begun_once_another_came(assistant):
    worker = Worker()
    worker.assistant = assistant
    never_ends(assistant)
    first = worker.ask(about_red(), max_new_tokens=3000)
    events_until(worker, first, ("piece",))
    second, third = worker.ask(about_red("b"), max_new_tokens=3000), worker.ask(about_red("c"), max_new_tokens=3)
    found = []
    while not found or found[-1][:2] != (third, "answer"):
        found.append(worker.events.get(timeout=60))
    assert [(kind, value) for job, kind, value in found if job == second] == [("answer", "")]


def test_closing_the_worker_ends_its_thread_within_the_answer(assistant):
    worker = Worker()
    worker.assistant = assistant
    never_ends(assistant)
    events_until(worker, worker.ask(about_red(), max_new_tokens=3000), ("piece",))
    assert worker.close(timeout=20) and not worker._thread.is_alive()


def test_reading_a_file_does_not_wait_for_the_model():
    worker = Worker()
    gate = threading.Event()
    worker._jobs.put((0, None, lambda job, stop: gate.wait(60), ()))  # the model is busy
    assert events_until(worker, worker.read(lambda: "a picture"), ("read", "problem")) == [("read", "a picture")]
    gate.set()


def test_asking_for_a_file_returns_at_once():
    worker, gate = Worker(), threading.Event()
    job = worker.read(lambda: gate.wait(5))
    assert worker.events.empty()
    gate.set()
    assert events_until(worker, job, ("read", "problem")) == [("read", True)]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_out_of_memory_is_a_problem_of_its_own_kind_that_says_what_to_change(error):
    problem = describe_error(error)
    assert problem.kind == "memory" and "use the CPU" in problem.text


def test_the_answering_room_does_not_import_tk():
    code = "import sys; sys.modules['tkinter'] = None; "
    code += "import answering.conversation, answering.worker, answering.checkpoints"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_the_libraries_are_imported_without_the_garbage_collector(monkeypatch):
    """It stops every thread, the window's too, and torch and transformers make half a million objects."""
    collecting = []

    class Watch:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "answering.opening":
                collecting.append(gc.isenabled())

    monkeypatch.setattr(sys, "meta_path", [Watch, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "answering.opening")
    import_opening()
    assert collecting == [False] and gc.isenabled()
    assert gc.get_freeze_count() > 100_000
    gc.unfreeze()
