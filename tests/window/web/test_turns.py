"""Turns at the model: in order, one at a time, and a job that nobody follows holds nobody up."""

from __future__ import annotations

import threading

import pytest

from common.errors import UserError
from window.web.turns import Job, Turns


class Gate:
    """Jobs that write their name when they begin, and last until they are let through or stopped."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.begun: dict[str, threading.Event] = {}

    def job(self, name: str) -> Job:
        self.gates[name], self.begun[name] = threading.Event(), threading.Event()

        def work(job: Job) -> None:
            self.begun[name].set()
            while not (job.stopped or self.gates[name].wait(0.01)):
                pass
            self.done.append(f"{name} stopped" if job.stopped else name)

        return Job(work)


@pytest.fixture
def turns():
    found = Turns(most=3)
    yield found
    assert found.close(timeout=60)


@pytest.fixture
def gate(turns):
    return Gate()


def test_jobs_are_done_one_at_a_time_in_the_order_in_which_they_came(turns, gate):
    jobs = {name: gate.job(name) for name in "abc"}
    for job in jobs.values():
        turns.join(job)
    assert gate.begun["a"].wait(60) and [turns.before(jobs[name]) for name in "abc"] == [0, 1, 2]
    assert not gate.begun["b"].is_set() and turns.count() == 3
    for name in "cba":
        gate.gates[name].set()
    for job in jobs.values():
        list(job.changes())
    assert gate.done == ["a", "b", "c"] and turns.count() == 0


def test_a_stop_ends_only_that_job_and_one_that_waits_ends_at_once(turns, gate):
    jobs = {name: gate.job(name) for name in "abc"}
    for job in jobs.values():
        turns.join(job)
    assert gate.begun["a"].wait(60)
    turns.stop(jobs["b"])
    assert gate.done == ["b stopped"] and len(list(jobs["b"].changes())) == 1
    assert turns.before(jobs["c"]) == 1 and not jobs["a"].stopped and not jobs["c"].stopped
    turns.stop(jobs["a"])
    list(jobs["a"].changes())
    gate.gates["c"].set()
    list(jobs["c"].changes())
    assert gate.done == ["b stopped", "a stopped", "c"]


def test_whoever_waits_is_told_when_they_move_up(turns, gate):
    first, second, third = (gate.job(name) for name in "abc")
    for job in (first, second, third):
        turns.join(job)
    assert gate.begun["a"].wait(60)
    changes = third.changes()
    gate.gates["a"].set()
    next(changes)
    assert turns.before(third) == 1
    gate.gates["b"].set()
    gate.gates["c"].set()
    list(changes)


def test_too_many_are_refused(turns, gate):
    for name in "abc":
        turns.join(gate.job(name))
    with pytest.raises(UserError, match="too many questions are waiting"):
        turns.join(gate.job("d"))
    for name in "abc":
        gate.gates[name].set()


def test_a_job_that_fails_or_that_nobody_follows_does_not_hold_the_next_up(turns, gate, capsys):
    def fail(job: Job) -> None:
        raise ZeroDivisionError

    last = gate.job("last")
    gate.gates["last"].set()
    for job in (Job(fail), Job(lambda job: [job.changed() for _ in range(1000)]), last):
        turns.join(job)
    list(last.changes())
    assert gate.done == ["last"] and "ZeroDivisionError" in capsys.readouterr().err


def test_changes_that_came_while_one_was_shown_are_one():
    job = Job(lambda job: None)
    for _ in range(50):
        job.changed()
    job.end()
    assert len(list(job.changes())) == 1
