"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import json
import os

import pytest

from common.files import (
    publish_file,
    publish_folder,
    remove_folder,
    temp_path,
    write_json,
    write_text,
    write_together,
)


class Crash(BaseException):
    """Ends a process without its error handling, as a power cut does."""


def crash_at(monkeypatch, name: str, call: int = 1) -> None:
    """The ``call``-th call of ``os.<name>`` raises :class:`Crash`."""
    original, calls = getattr(os, name), []

    def crash(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise Crash
        return original(*arguments)

    monkeypatch.setattr(os, name, crash)


def test_text_is_utf8_with_plain_line_ends_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "new" / "folder" / "text"
    write_text(path, "一\nb\n")
    assert path.read_bytes() == "一\nb\n".encode()
    assert [file.name for file in path.parent.iterdir()] == ["text"]


def test_json_is_readable(tmp_path):
    write_json(tmp_path / "a.json", {"一": [1]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "一": [\n    1\n  ]\n}\n'


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "text"
    path.write_text("old")
    crash_at(monkeypatch, step)
    with pytest.raises(Crash):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_a_full_disk_is_an_error_and_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "text"
    path.write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"text": "old"}


def test_pairs_are_written_as_the_object_they_make(tmp_path):
    content = {"a": [1, {"b": "一"}], "c": {}}
    pairs, none = tmp_path / "pairs.json", tmp_path / "none.json"
    write_together({pairs: iter(content.items()), none: iter(())})
    assert pairs.read_text(encoding="utf-8") == json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    assert none.read_text() == "{}\n"


@pytest.mark.parametrize("call", [1, 2, 3])
def test_after_a_crash_between_renames_the_last_file_is_never_beside_another_version(tmp_path, monkeypatch, call):
    """Without the last file the others are not read."""
    first, last = tmp_path / "first.json", tmp_path / "last.json"
    write_together({first: 1, last: 1})
    crash_at(monkeypatch, "replace", call)
    with pytest.raises(Crash):
        write_together({first: 2, last: 2})
    versions = {path.name: json.loads(path.read_text()) for path in (first, last) if path.exists()}
    assert versions["first.json"] == {1: 1, 2: 1, 3: 2}[call]
    assert "last.json" not in versions or versions["last.json"] == versions["first.json"]


def test_a_folder_takes_the_name_of_an_older_one(tmp_path):
    complete, target = tmp_path / ".new", tmp_path / "folder"
    for folder, text in ((complete, "new"), (target, "old")):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "file").write_text(text)
    publish_folder(complete, target)
    assert (target / "inner" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_every_file_of_a_folder_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    complete = tmp_path / ".new"
    (complete / "inner").mkdir(parents=True)
    for name in ("a", "inner/b"):
        (complete / name).write_text(name)
    events: list[object] = []
    flush, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(os.fstat(handle).st_ino) or flush(handle))
    monkeypatch.setattr(os, "replace", lambda *paths: events.append("renamed") or rename(*paths))
    files = {path.stat().st_ino for path in complete.rglob("*") if path.is_file()}
    publish_folder(complete, tmp_path / "folder")
    assert files <= set(events[: events.index("renamed")])


def test_a_file_takes_the_name_of_an_older_one(tmp_path):
    complete, target = tmp_path / ".new", tmp_path / "file"
    complete.write_text("new")
    target.write_text("old")
    publish_file(complete, target)
    assert target.read_text() == "new" and not complete.exists()


def test_a_folder_is_gone_before_its_files_are_deleted(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("text")
    seen = []
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors: seen.append((path.name, folder.exists())))
    remove_folder(folder)
    assert seen[-1] == (".folder.old", False)


def test_two_processes_write_under_different_temporary_names(tmp_path, monkeypatch):
    own = temp_path(tmp_path / "file")
    assert own.parent == tmp_path and own.name.startswith(".file.") and own.name.endswith(".tmp")
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert temp_path(tmp_path / "file") != own
