"""Who may train into a folder, where a run resumes, and what is deleted when."""

from __future__ import annotations

import errno
import os
import sys
import time

import pytest

from common.errors import UserError
from common.files import write_text
from model.manifest import write_manifest
from training.run_folder import Lock, RunFolder

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX processes")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder with two checkpoints and what else a run leaves."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "a.yaml"])
    monkeypatch.setattr(sys, "orig_argv", ["python", *sys.argv])
    folder = tmp_path / "run"
    for step in (2, 4):
        write_text(folder / f"checkpoint-{step}" / "config.yaml", "x")
        write_manifest(folder / f"checkpoint-{step}", {"base_models": {}})
    for name in ("metrics.jsonl", "loss.svg", "notes.txt"):
        write_text(folder / name, "x")
    return folder


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


EVERYTHING = {"checkpoint-2", "checkpoint-4", "metrics.jsonl", "loss.svg", "notes.txt"}


def test_overwriting_deletes_the_run_and_nothing_else_when_it_begins(run):
    folder = RunFolder(run, overwrite=True)
    assert folder.open() is None
    assert names(run) == EVERYTHING | {".lock"}
    folder.begin()
    folder.close()
    assert names(run) == {"notes.txt"}


def test_a_run_that_ends_before_it_begins_deletes_nothing(run):
    folder = RunFolder(run, overwrite=True)
    folder.open()
    folder.close()
    assert names(run) == EVERYTHING


def test_resuming_takes_the_newest_and_deletes_nothing(run):
    folder = RunFolder(run, resume=True)
    assert folder.open() == run / "checkpoint-4"
    folder.begin()
    folder.close()
    assert names(run) == EVERYTHING


def test_a_damaged_newer_checkpoint_is_deleted_when_the_run_begins(run):
    write_text(run / "checkpoint-4" / "config.yaml", "y")
    folder = RunFolder(run, resume=True)
    assert folder.open() == run / "checkpoint-2" and "checkpoint-4" in names(run)
    folder.begin()
    assert names(run) == EVERYTHING - {"checkpoint-4"} | {".lock"}
    folder.close()


def test_when_every_checkpoint_is_damaged_the_line_says_how_to_start_over(run):
    for step in (2, 4):
        write_text(run / f"checkpoint-{step}" / "config.yaml", "y")
    with pytest.raises(UserError, match=r"damaged; start over with: python train.py --config a.yaml --overwrite$"):
        RunFolder(run, resume=True).open()


def test_a_run_is_not_overwritten_unasked_and_both_commands_are_named(run):
    with pytest.raises(UserError) as caught:
        RunFolder(run).open()
    assert str(caught.value) == (
        f"{run} already holds checkpoint-4; to continue it: python train.py --config a.yaml --resume; to start over, "
        "which deletes it: python train.py --config a.yaml --overwrite; or name another run with train.run=NAME"
    )


def test_a_folder_that_stays_empty_is_removed(tmp_path):
    folder = RunFolder(tmp_path / "a" / "run")
    assert folder.open() is None and (tmp_path / "a" / "run" / ".lock").is_file()
    folder.close()
    assert not (tmp_path / "a" / "run").exists()


def test_resuming_where_there_is_nothing_starts_from_the_beginning(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run", resume=True)
    assert folder.open() is None
    folder.close()
    assert "holds no complete checkpoint; starting from the beginning" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- the lock


def in_another_process(action) -> int:
    """The id of a process that has done ``action``, keeps its result, and waits to be killed."""
    ready, started = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            kept = action()
            os.write(started, b"x")
            os.read(os.pipe()[0], 1)
            del kept
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"x"
    return pid


@posix
def test_two_processes_cannot_train_into_one_run_and_a_crash_unlocks_it(run):
    def start() -> RunFolder:
        folder = RunFolder(run, resume=True)
        folder.open()
        return folder

    pid = in_another_process(start)
    try:
        with pytest.raises(UserError, match=rf"another process \(pid {pid} on .*\) trains into this folder"):
            RunFolder(run, resume=True).open()
        assert (run / ".lock").is_file()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    folder = RunFolder(run, resume=True)
    assert folder.open() == run / "checkpoint-4"
    folder.close()
    assert not (run / ".lock").exists()


@posix
def test_a_forked_worker_that_outlives_a_killed_run_does_not_keep_it_locked(tmp_path):
    def start() -> Lock:
        lock = Lock(tmp_path / ".lock")
        lock.take()
        worker = os.fork()
        if not worker:
            time.sleep(60)
            os._exit(0)
        (tmp_path / "worker").write_text(str(worker))
        return lock

    pid = in_another_process(start)
    try:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        lock = Lock(tmp_path / ".lock")
        lock.take()
        lock.release()
    finally:
        os.kill(int((tmp_path / "worker").read_text()), 9)


def test_a_disk_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(file) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("training.run_folder._lock", refuse)
    lock = Lock(tmp_path / ".lock")
    lock.take()
    assert f"pid {os.getpid()} on " in (tmp_path / ".lock").read_text()
    lock.release()
    assert not (tmp_path / ".lock").exists()


def test_only_the_first_process_locks_and_deletes(run, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    folder = RunFolder(run, overwrite=True)
    folder.open()
    folder.begin()
    folder.close()
    assert names(run) == EVERYTHING


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "run").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="checkpoints cannot be written here"):
        RunFolder(tmp_path / "run").open()
