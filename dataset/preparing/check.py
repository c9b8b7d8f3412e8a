"""Every image decoded once, in several processes, so that a damaged file is found before training."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError
from dataset.image import ImageError, load_image

MOST_PROCESSES = 61  # ProcessPoolExecutor's limit on Windows


def check_images(
    paths: Sequence[str], *, max_pixels: int, workers: int | None = None, progress: bool = True
) -> dict[str, str]:
    """Decode every file once, on all cores or in ``workers`` processes.

    Returns:
        path -> reason of each file that cannot be used.

    Raises:
        UserError: a process was killed, most likely for its memory.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or cores, MOST_PROCESSES, max(1, len(paths)))
    size = max(1, min(32, len(paths) // (4 * workers)))
    chunks = [paths[start : start + size] for start in range(0, len(paths), size)]
    unusable: dict[str, str] = {}
    with (
        ProcessPoolExecutor(workers, initializer=_ignore_interrupt) as pool,
        tqdm(total=len(paths), desc="checking images", unit="image", disable=not progress) as bar,
    ):
        try:
            for chunk, reasons in zip(chunks, pool.map(partial(_check_chunk, max_pixels), chunks), strict=True):
                unusable |= {path: reason for path, reason in zip(chunk, reasons, strict=True) if reason}
                bar.update(len(chunk))
        except BrokenProcessPool:
            advice = "start again with fewer processes (data.workers=1) or a lower data.max_pixels"
            raise UserError(f"a process that checked images was killed (out of memory?); {advice}") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return unusable


def _ignore_interrupt() -> None:
    """Ctrl-C reaches every process of the terminal; only the main process answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check_chunk(max_pixels: int, paths: Sequence[str]) -> list[str | None]:
    return [why_unusable(Path(path), max_pixels) for path in paths]


def why_unusable(path: Path, max_pixels: int) -> str | None:
    """The reason why an image cannot be used, or None."""
    try:
        load_image(path, max_pixels)
    except ImageError as error:
        return str(error)
    return None
