"""Where the file dialogs begin, and the dialogs that Tk draws itself, on a virtual screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.screen import FILE_DIALOG as DIALOG
from tests.helpers.screen import in_file_dialog, loaded
from tests.helpers.tiny import picture

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.file_dialogs import CHINESE, first_folder  # noqa: E402
from window.preferences import Preferences  # noqa: E402


def test_a_dialog_begins_in_the_last_folder_then_in_pictures_as_the_desktop_calls_it(config_home, tmp_path):
    config_home.mkdir()
    assert first_folder("") == first_folder(str(tmp_path / "gone")) == str(Path.home()) == str(config_home)
    (config_home / "Pictures").mkdir()
    assert first_folder("") == str(config_home / "Pictures")
    (config_home / "图片").mkdir()
    (config_home / "user-dirs.dirs").write_text('# comment\nXDG_PICTURES_DIR="$HOME/图片"\n', encoding="utf-8")
    assert first_folder("") == str(config_home / "图片")
    assert first_folder(str(tmp_path)) == str(tmp_path)
    (config_home / "user-dirs.dirs").write_bytes(b'XDG_PICTURES_DIR="\xff"')
    assert first_folder("") == str(config_home / "Pictures")


def test_the_dialog_for_pictures_has_the_windows_language_and_colours(open_window, tmp_path):
    folder = tmp_path / "folder"
    (folder / ".hidden").mkdir(parents=True)
    for name in ("one.png", "TWO.JPG"):
        picture("red").save(folder / name)
    for name in ("clip.mp4", "notes.txt"):
        (folder / name).write_bytes(b"")
    window, person = open_window(preferences=Preferences(language="zh", dark=True, folder=str(folder)))
    loaded(window, person)
    call, found = window.root.tk.call, {}

    def listed() -> list[str]:
        canvas = f"{DIALOG}.icons.cHull.canvas"
        person.wait(0.2)
        items = window.root.tk.splitlist(call(canvas, "find", "all"))
        return [call(canvas, "itemcget", item, "-text") for item in items if call(canvas, "type", item) == "text"]

    def look() -> None:
        found["pictures"] = listed()
        call(f"{DIALOG}.f2.menu.m", "invoke", 1)
        found["videos"] = listed()
        words = ((f"{DIALOG}.f1.lab", "-text"), (f"{DIALOG}.f2.ok", "-text"), (f"{DIALOG}.f2.cancel", "-text"))
        found["words"] = [str(call(*widget[:1], "cget", widget[1])) for widget in words]
        grounds = (f"{DIALOG}.icons.cHull.canvas", f"{DIALOG}.f2.menu.m", f"{DIALOG}.f1.menu.menu")
        found["grounds"] = [str(call(widget, "cget", "-background")) for widget in grounds]

    in_file_dialog(window, person, lambda: person.press("Control_L", "o"), look)
    assert found["pictures"] == ["one.png", "TWO.JPG"] and found["videos"] == ["clip.mp4"]
    colors = window.view.look.colors
    assert found["grounds"] == [colors.surface, colors.ground, colors.ground]
    assert found["words"] == ["文件夹(D)：", "打开(O)", "取消(C)"]
    say = lambda words: str(call("namespace", "eval", "::tk", ("mc", words, "a.png")))  # noqa: E731
    assert [say(words) for words in CHINESE] == [words.replace("%1$s", "a.png") for words in CHINESE.values()]
    window.prefer(language="en", dark=False)
    person.until(lambda: window.root.title() == "Ask a picture")
    in_file_dialog(window, person, window.pictures.choose, look)
    colors = window.view.look.colors
    assert found["grounds"] == [colors.surface, colors.ground, colors.ground]
    assert found["words"] == ["Directory:", "Open", "Cancel"] and [say(words) for words in CHINESE] == [
        words.replace("%1$s", "a.png") for words in CHINESE
    ]
