"""The same work on many files, in several processes, with a progress bar."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

from tqdm import tqdm

from common.errors import UserError

MOST_PROCESSES = 61  # ProcessPoolExecutor's limit on Windows

Result = TypeVar("Result")


def map_in_processes(
    work: Callable[[str], Result],
    paths: Sequence[str],
    description: str,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> list[Result]:
    """``work(path)`` of every path, in order, on all cores or in ``workers`` processes.

    Raises:
        UserError: a process was killed, most likely for its memory.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or cores, MOST_PROCESSES, max(1, len(paths)))
    size = max(1, min(32, len(paths) // (4 * workers)))
    chunks = [paths[start : start + size] for start in range(0, len(paths), size)]
    results: list[Result] = []
    with (
        ProcessPoolExecutor(workers, initializer=_ignore_interrupt) as pool,
        tqdm(total=len(paths), desc=description, unit="image", disable=not progress) as bar,
    ):
        try:
            for done in pool.map(partial(_map_chunk, work), chunks):
                results += done
                bar.update(len(done))
        except BrokenProcessPool:
            advice = "start again with fewer processes (data.workers=1) or a lower data.max_pixels"
            raise UserError(f"a process that checked images was killed (out of memory?); {advice}") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return results


def _ignore_interrupt() -> None:
    """Ctrl-C reaches every process of the terminal; only the main process answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _map_chunk(work: Callable[[str], Result], paths: Sequence[str]) -> list[Result]:
    return [work(path) for path in paths]
