"""Ctrl-C and SIGTERM: the first one ends the run after the step, with a checkpoint; a second Ctrl-C at once."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType


class StopSignal:
    """``asked`` is true once a signal came.

    A launcher such as torchrun passes on what the terminal has sent already, so a signal within a second of the first
    is the same request. SIGTERM, which clusters repeat, never ends a run at once.
    """

    def __init__(self) -> None:
        self.asked, self.begin = False, 0.0

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            if number == signal.SIGINT and time.monotonic() - self.begin > 1:
                raise KeyboardInterrupt
            return
        self.asked, self.begin = True, time.monotonic()
        # Not print: its buffer may be in use by what the signal interrupted.
        os.write(2, b"\nstopping after this step and saving; press Ctrl-C again to stop at once\n")
