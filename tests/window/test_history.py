"""The conversations that are kept by themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from answering.conversation import Conversation
from tests.helpers.tiny import picture
from window.history import History, data_folder, new_name


def talk(path: str, question: str = "What color?", answer: str = "red") -> Conversation:
    conversation = Conversation([picture("red")], [path])
    conversation.ask(question)
    conversation.answer(answer)
    return conversation


def kept(folder: Path, *names: str, most: int = 200, path: str = "clipboard") -> History:
    history = History(folder, most)
    for name in names:
        history.keep(name, talk(path, f"What is {name}?"), picture("red"))
    history.close()
    return history


def test_a_kept_conversation_is_read_again_with_its_pasted_picture(tmp_path):
    history = kept(tmp_path, "a")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a-0.png", "a.jpg", "a.json"]
    found = history.open("a", 10_000)
    assert found.missing == "" and found.picture.tobytes() == picture("red").tobytes()
    assert found.conversation.answered() == [("What is a?", "red")] and found.conversation.turns[0].when


def test_another_pasted_picture_has_another_file(tmp_path):
    """A picture that was taken away again, and one that was pasted after it: at the same position, of the same name."""
    history, first, second = History(tmp_path), picture("red"), picture("blue")
    for images in ([first], [second], [second, first]):
        shown = Conversation(images, ["clipboard"] * len(images))
        shown.ask("What?")
        shown.answer("red")
        history.keep("a", shown, images[0])
        history.close()
        assert [image.tobytes() for image in history.open("a", 10_000).conversation.images] == [
            image.tobytes() for image in images
        ]
    assert sorted(file.name for file in tmp_path.glob("*.png")) == ["a-0.png", "a-1.png"]
    again = history.open("a", 10_000).conversation
    history.keep("a", again, None)  # read again: its pictures have files
    history.close()
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_a_conversation_whose_picture_is_gone_is_read_with_its_small_copy(tmp_path):
    file = tmp_path / "red.png"
    picture("red").save(file)
    history = kept(tmp_path / "kept", "a", path=str(file))
    file.unlink()
    found = history.open("a", 10_000)
    assert "red.png: missing" in found.missing and found.picture.size == picture("red").size
    assert found.conversation.answered() == [("What is a?", "red")] and found.conversation.images == []


def test_only_the_newest_are_kept_with_their_files(tmp_path):
    history = kept(tmp_path, "a", "b", "c", most=2)
    assert [entry.name for entry in history.entries()] == ["c", "b"]
    assert not list(tmp_path.glob("a*"))


def test_search_rename_delete_and_undo(tmp_path):
    history = kept(tmp_path, "cat", "dog")
    assert [entry.name for entry in history.entries("is CAT")] == ["cat"] and len(history.entries("red")) == 2
    history.rename("cat", "My cat")
    assert {entry.title for entry in history.entries()} == {"My cat", "What is dog?"}
    history.delete("cat")
    assert [entry.name for entry in history.entries()] == ["dog"]
    history.empty_bin()  # as another window does when it opens
    assert history.undo_delete() == "cat" and history.undo_delete() is None
    assert len(history.entries()) == 2
    history.delete("dog")
    os.utime(tmp_path / "dog.deleted", (1, 1))
    history.empty_bin()
    assert not list(tmp_path.glob("dog*"))


def test_damaged_files_are_no_entries_and_a_folder_that_cannot_be_written_to_is_no_error(tmp_path):
    for number, content in enumerate(["", "[]", '{"images": [], "about": {}, "turns": [3]}']):
        (tmp_path / f"{number}.json").write_text(content, encoding="utf-8")
    assert History(tmp_path).entries() == []
    (tmp_path / "file").write_text("", encoding="utf-8")
    history = kept(tmp_path / "file", "a")
    assert history.entries() == [] and "file" in history.problem


@pytest.mark.parametrize(("variable", "system"), [("XDG_DATA_HOME", "linux"), ("LOCALAPPDATA", "win32")])
def test_conversations_live_in_the_users_data_folder(monkeypatch, tmp_path, variable, system):
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setenv(variable, str(tmp_path))
    assert data_folder() == tmp_path / "ask-a-picture" and new_name() < new_name()
