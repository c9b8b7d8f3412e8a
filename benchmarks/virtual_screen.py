"""A virtual screen: an Xvfb of its own, for benchmarks, screenshots and the window's tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def virtual_screen(size: str = "1600x1200x24") -> Iterator[str]:
    """Start an Xvfb on a free display, give its name, and stop it at the end of the block.

    Tk keeps its connection to every display that had a window, and ends the process if one closes while it handles
    events: no window may be opened after the block.
    """
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", size, "-dpi", "96", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=(writer,), stderr=subprocess.DEVNULL)
    os.close(writer)
    with os.fdopen(reader) as stream:
        number = stream.readline().strip()
    try:
        yield f":{number}"
    finally:
        server.terminate()
        server.wait(10)
