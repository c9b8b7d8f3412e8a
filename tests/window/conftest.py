"""A virtual screen, and the window on it; tests are skipped with the reason where one of the two cannot be had."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import pytest

from benchmarks.virtual_screen import virtual_screen
from tests.helpers.screen import Person
from tests.helpers.tiny import picture


@pytest.fixture(scope="session")
def screen():
    pytest.importorskip("Xlib", reason="python-xlib, which presses the keys, is not installed")
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb, the virtual screen, is not installed")
    with virtual_screen() as name:
        yield name


@pytest.fixture
def config_home(tmp_path, monkeypatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "APPDATA", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    return tmp_path / "home"


@pytest.fixture
def open_window(screen, checkpoint, config_home, tmp_path, monkeypatch):
    """A function that opens the window where ``checkpoints/`` holds one tiny checkpoint: (window, person)."""
    import tkinter

    from window.controller import Window

    monkeypatch.chdir(tmp_path)
    opened = []

    def start(picture_file: Path | None = None, **options) -> tuple:
        root = tkinter.Tk(screenName=screen)
        window = Window(root, picture=picture_file and str(picture_file), **options)
        person = Person(root, screen)
        opened.append((window, person))
        root.update()
        root.focus_force()  # there is no window manager to do it
        window.view.question_box.entry.focus_set()
        return window, person

    yield start
    for window, person in opened:
        if window.worker is not None and not getattr(window, "closed", False):
            window.close()
        assert window.worker.close(60)
        person.display.close()
    opened.clear()
    gc.collect()  # Tk's objects are collected here, not in the next test's worker, which must not call Tk


@pytest.fixture
def red(tmp_path) -> Path:
    picture("red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


@pytest.fixture
def blue(tmp_path) -> Path:
    picture("blue").save(tmp_path / "blue.png")
    return tmp_path / "blue.png"


@pytest.fixture
def tested(checkpoint, tmp_path) -> list[str]:
    """Makes two pictures of the checkpoint's run its test split, and gives their paths."""
    file = tmp_path / "annotations.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for key, group in content.items():
        group[0]["split"] = "test" if key in "13" else "train"
        group[0]["turns"][0]["q"] = f"<|extra_0|>\nIs it {key}?"
    file.write_text(json.dumps(content), encoding="utf-8")
    return [str(tmp_path / f"{number}.png") for number in (1, 3)]
