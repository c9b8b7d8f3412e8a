"""Images decoded in several processes: progress, Ctrl-C, a killed process, and started afresh."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from dataset.preparing import check
from tests.helpers.tiny import REPO
from tests.helpers.workplace import llava, picture

forks = pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="the changed function is not inherited")


def test_the_progress_bar_can_be_turned_off(workplace, capsys):
    workplace.source("en", "coco", [llava("a.png", "q", "a")])
    picture(workplace.folder / "en" / "a.png")
    assert workplace.run("data.progress=true") == 0
    assert "checking images: 100%" in capsys.readouterr().err
    assert workplace.run() == 0
    assert capsys.readouterr().err == ""


@forks
def test_ctrl_c_ends_in_one_line_and_writes_nothing(workplace, capsys, monkeypatch):
    workplace.source("en", "coco", [llava(f"{i}.png", "q", "a") for i in range(200)])
    for i in range(200):
        picture(workplace.folder / "en" / f"{i}.png")
    parent, log = os.getpid(), workplace.folder / "log"

    def interrupt(path, max_pixels):
        if path.name == "0.png":
            os.kill(parent, signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # the terminal sends it to every process
            time.sleep(0.5)
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{path.name}\n")

    monkeypatch.setattr(check, "why_unusable", interrupt)
    # A shell starts background commands with SIGINT ignored, and Python then leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert workplace.run() == 130
    finally:
        signal.signal(signal.SIGINT, before)
    captured = capsys.readouterr()
    assert captured.err == "interrupted: nothing was written\n" and captured.out == ""
    assert workplace.bytes() == {}
    checked = log.read_text(encoding="utf-8").split()
    assert checked[0] == "0.png" and len(checked) < 200  # what was begun is finished, the rest is not begun


@forks
def test_a_process_that_is_killed_ends_in_one_line(workplace, capsys, monkeypatch):
    workplace.source("en", "coco", [llava("a.png", "q", "a")])
    picture(workplace.folder / "en" / "a.png")
    monkeypatch.setattr(check, "why_unusable", lambda path, limit: os.kill(os.getpid(), 9))
    assert workplace.run() == 2
    message = capsys.readouterr().err
    assert message.startswith("error: a process that checked images was killed") and message.count("\n") == 1
    assert workplace.bytes() == {}


_SPAWNED = """
import multiprocessing, sys
import process_image
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(process_image.main(sys.argv[1:]))
"""


def test_processes_that_are_started_afresh_do_the_same_as_on_windows(workplace):
    workplace.source("en", "coco", [llava("a.png", "q", "a"), llava("b.png", "q", "a")])
    picture(workplace.folder / "en" / "a.png")
    (workplace.folder / "en" / "b.png").write_bytes(b"")
    (workplace.folder / "spawned.py").write_text(_SPAWNED, encoding="utf-8")
    command = [sys.executable, "spawned.py", "--config", str(workplace.config()), "data.max_skipped=1"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=workplace.folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(workplace.read("image_map")) == ["a.png"]
    assert workplace.skipped() == [("b.png", "cannot be decoded: not an image in a known format")]
