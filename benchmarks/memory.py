"""Peak memory of this process on Linux, above what it had before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path


def resident() -> int:
    """Bytes resident now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def peak_during(work: Callable[[], object]) -> int:
    """The most bytes that ``work`` needed above those at its start, sampled every 2 ms from another thread."""
    before, most, running = resident(), 0, True

    def watch() -> None:
        nonlocal most
        while running:
            most = max(most, resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        running = False
        watcher.join()
    return max(0, most - before)
