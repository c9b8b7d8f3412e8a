"""The window's longest pause: how long an event waits for its loop while a model loads and while it answers.

    python -m benchmarks.window --checkpoint checkpoints/demo

A callback of ``after`` beats every 5 ms. The longest time between two beats is printed for the loading, in which
PyTorch is imported, and for answers of 200 tokens. The window opens on a virtual screen (Xvfb).
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
import tkinter
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from benchmarks.virtual_screen import virtual_screen
from window.controller import Window
from window.preferences import Preferences

BEAT_MS, NEW = 5, 200


class Pulse:
    """Beats in a root's loop."""

    def __init__(self, root: tkinter.Tk) -> None:
        self.root, self.beats = root, [time.perf_counter()]
        self.beat()

    def beat(self) -> None:
        self.beats.append(time.perf_counter())
        self.root.after(BEAT_MS, self.beat)

    def longest(self) -> float:
        """The longest pause in ms since the last call."""
        beats, self.beats = [*self.beats, time.perf_counter()], self.beats[-1:]
        return 1000 * max(later - sooner for sooner, later in zip(beats, beats[1:], strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="checkpoints/demo", type=Path, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="answers (default: 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, virtual_screen() as screen:
        os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_DATA_HOME"] = home
        picture = Path(home) / "picture.png"
        Image.effect_noise((640, 480), 60).save(picture)
        begin = time.perf_counter()
        root = tkinter.Tk(screenName=screen)
        window = Window(root, args.checkpoint, "cpu", str(picture), Preferences(max_new_tokens=NEW))
        root.update()
        print(f"window open after {time.perf_counter() - begin:.2f} s")
        pulse = Pulse(root)
        live(root, lambda: window.models.loading is None and window.pictures.reading is None)
        assistant = window.worker.assistant
        if assistant is None:
            sys.exit(f"error: {window.notes[-1].line}")
        from answering.assistant import Assistant  # not at the top: its import is part of what is timed

        if not isinstance(assistant, Assistant):
            sys.exit("error: a baseline's answer has no tokens to time; name a checkpoint of train.py")
        print(f"model loaded after {time.perf_counter() - begin:.1f} s, longest pause {pulse.longest():.0f} ms")
        assistant.model.language.generation_config.eos_token_id = None  # every answer has the full length
        for _ in range(args.repeats):
            window.new_conversation()
            window.view.question_box.text = "What is in the picture?"
            root.update()
            pulse.longest()
            window.questions.ask()
            live(root, lambda: window.questions.job is None)
            print(f"an answer of {NEW} tokens: longest pause {pulse.longest():.0f} ms")
        print(f"on {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        window.close()
        window.worker.close(10)


def live(root: tkinter.Tk, until: Callable[[], object]) -> None:
    """Run Tk's loop until the condition holds."""

    def check() -> None:
        root.quit() if until() else root.after(20, check)

    root.after(20, check)
    root.mainloop()


if __name__ == "__main__":
    main()
