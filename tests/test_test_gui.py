"""test_gui.py: its arguments reach the window, and without Tk or a display one line says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.start import HEAVY, start
from test_gui import takes_files
from tests.helpers.tiny import REPO


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there is always a display")
def test_without_a_display_one_line_names_the_terminal_command():
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "test_gui.py", "--checkpoint", "somewhere"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "python ask.py --checkpoint somewhere --image FILE" in done.stderr and "python3-tk" in done.stderr


def test_the_command_line_reaches_the_window(monkeypatch):
    tk = pytest.importorskip("tkinter", reason="this Python has no Tk")
    import test_gui
    import window.controller

    made, root = [], SimpleNamespace(mainloop=lambda: made.append("mainloop"))
    worker = SimpleNamespace(close=lambda timeout: True)
    monkeypatch.setattr(tk, "Tk", lambda className: root)
    keep = lambda *arguments, **options: made.append((arguments, options)) or SimpleNamespace(worker=worker)  # noqa: E731
    monkeypatch.setattr(window.controller, "Window", keep)
    monkeypatch.setitem(sys.modules, "tkinterdnd2", None)
    monkeypatch.setattr(sys, "argv", "test_gui.py --checkpoint a/run --device cuda:1 b.png generate.top_k=5".split())
    assert test_gui.main() == 0
    options = {"can_drop": False, "verify": False, "overrides": ["generate.top_k=5"]}
    assert made == [((root, Path("a/run"), "cuda:1", "b.png"), options), "mainloop"]


def test_without_tk_one_line_says_how_to_get_it():
    code = "import sys, runpy; sys.modules['tkinter'] = None; sys.argv = ['test_gui.py', 'a.png']; "
    code += "runpy.run_path('test_gui.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "this Python has no Tk" in done.stderr and "dnf install python3-tkinter" in done.stderr
    assert "python ask.py --checkpoint DIR --image a.png" in done.stderr


def test_files_can_be_dropped_where_tkinterdnd2_is_installed_for_this_tcl(monkeypatch):
    monkeypatch.setitem(sys.modules, "tkinterdnd2", None)
    assert not takes_files("root")
    asked = []
    module = SimpleNamespace(TkinterDnD=SimpleNamespace(require=asked.append))
    monkeypatch.setitem(sys.modules, "tkinterdnd2", module)
    assert takes_files("root") and asked == ["root"]

    def made_for_another_tcl(root):
        raise RuntimeError("Unable to load tkdnd library.")

    module.TkinterDnD.require = made_for_another_tcl
    assert not takes_files("root")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--help"], ""),
        (["--device", "moon"], "error: device 'moon'"),
        (["--no"], "usage:"),
        (["a.png", "b.png"], "usage:"),
        (["--base-language", "nowhere"], "error: --base-language = nowhere: no config.json"),
    ],
)
def test_a_mistake_is_found_before_torch_and_tk_are_imported(arguments, message):
    done = start("test_gui.py", arguments, (*HEAVY, "tkinter"))
    assert done.stderr.startswith(message) and done.status == (2 if message else 0)
    assert done.imported == []
