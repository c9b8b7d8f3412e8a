"""The clipboard: a picture, a file by path or address, or a reason."""

from __future__ import annotations

import sys

import pytest

from common.errors import UserError
from tests.helpers.tiny import picture
from window import clipboard
from window.clipboard import clipboard_picture, files_in, local_path
from window.texts import TEXTS


def test_a_copied_file_is_known_by_its_path_or_its_address(tmp_path):
    file = tmp_path / "a picture.png"
    file.write_bytes(b"")
    assert files_in(f" {file}\n") == files_in(file.as_uri()) == files_in(f"copy\n{file.as_uri()}") == [str(file)]
    assert files_in(f"{file}\n{file.as_uri()}\n") == [str(file)] * 2
    for text in ("", "What color?", str(tmp_path), "x" * 5000, "a\0b", "file://[1", f"{file}\nWhat color?"):
        assert files_in(text) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there a path begins with a drive")
def test_an_address_of_a_file_is_its_path():
    assert local_path("file:///home/a%20b/%E7%BA%A2%2520%23.png") == "/home/a b/红%20#.png"
    assert local_path("file://localhost/a.png") == "/a.png"
    assert local_path("/home/a%20b.png") == "/home/a%20b.png"


def test_the_clipboard_gives_a_picture_a_file_or_a_reason(tmp_path, monkeypatch):
    picture("red").save(tmp_path / "red.png")
    say = lambda key, **values: TEXTS["en"][key].format(**values)  # noqa: E731
    monkeypatch.setattr(clipboard.ImageGrab, "grabclipboard", lambda: picture("blue").convert("RGBA"))
    name, image = clipboard_picture(say, str, 10_000)
    assert (name, image.mode, image.getpixel((0, 0))) == ("clipboard", "RGB", (0, 0, 255))
    monkeypatch.setattr(clipboard.ImageGrab, "grabclipboard", lambda: [str(tmp_path / "red.png")])
    assert clipboard_picture(say, str, 10_000)[0] == str(tmp_path / "red.png")
    monkeypatch.setattr(clipboard.ImageGrab, "grabclipboard", lambda: None)
    with pytest.raises(UserError, match="There is no picture in the clipboard"):
        clipboard_picture(say, str, 10_000)

    def nothing_to_ask():
        raise NotImplementedError("wl-paste or xclip is required")

    monkeypatch.setattr(clipboard.ImageGrab, "grabclipboard", nothing_to_ask)
    with pytest.raises(UserError, match="cannot be pasted here: wl-paste or xclip is required"):
        clipboard_picture(say, str, 10_000)
