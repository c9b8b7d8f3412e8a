"""Every image decoded once, in several processes, so that a damaged file is found before training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dataset.image import ImageError, load_image
from dataset.preparing.processes import map_in_processes


def check_images(
    paths: Sequence[str], *, max_pixels: int, workers: int | None = None, progress: bool = True
) -> dict[str, str]:
    """Decode every file once, on all cores or in ``workers`` processes.

    Returns:
        path -> reason of each file that cannot be used.

    Raises:
        UserError: a process was killed, most likely for its memory.
    """
    check = partial(_check_image, max_pixels)
    reasons = map_in_processes(check, paths, "checking images", workers=workers, progress=progress)
    return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}


def _check_image(max_pixels: int, path: str) -> str | None:
    return why_unusable(Path(path), max_pixels)


def why_unusable(path: Path, max_pixels: int) -> str | None:
    """The reason why an image cannot be used, or None."""
    try:
        load_image(path, max_pixels)
    except ImageError as error:
        return str(error)
    return None
