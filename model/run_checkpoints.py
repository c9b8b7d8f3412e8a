"""The checkpoints of a run: their names, which is the newest or the best, and which are deleted; without torch.

A checkpoint is written in a temporary folder and renamed when it is complete and on the disk.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from common.errors import UserError
from common.files import publish_folder, remove_folder
from model.manifest import MANIFEST, Damaged, check_files, read_manifest, write_manifest

logger = logging.getLogger(__name__)
Loaded = TypeVar("Loaded")  # what is made of a checkpoint's folder


# ---------------------------------------------------------------------------------------------- writing and deleting


def temp_dir(folder: Path) -> Path:
    """An empty folder beside ``folder``, in which a checkpoint is written before it gets that name.

    Raises:
        OSError: also if the run's folder is gone. Its disk may be gone with it, so it is not made again.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    return temporary


def finalize(temporary: Path, folder: Path, facts: dict[str, Any]) -> None:
    """Complete a checkpoint that was written in :func:`temp_dir`, and give it its name."""
    write_manifest(temporary, facts)
    publish_folder(temporary, folder)


def remove_stale(run: Path) -> None:
    """Delete what crashes have left in a run's folder: unfinished saves and half-deleted checkpoints."""
    for folder in run.glob(".checkpoint-*"):
        shutil.rmtree(folder, ignore_errors=True)


def prune(run: Path, most: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints until ``most`` are left (None: keep all), but never the newest and never the best.

    ``best`` is the path of the best one, if one is known.
    """
    folders = checkpoints(run)
    protected = {folders[-1], run / Path(best).name} if best else {folders[-1]}
    surplus = len(folders) - max(most, len(protected)) if most else 0
    for folder in [folder for folder in folders if folder not in protected][: max(0, surplus)]:
        remove_folder(folder)


# ---------------------------------------------------------------------------------------------- finding


def choices_of(path: Path) -> list[Path]:
    """A checkpoint's folder itself, or a run's checkpoints: the best first, then from the newest to the oldest.

    Raises:
        UserError: a run's folder without a complete checkpoint.
    """
    path = Path(path)
    if (path / MANIFEST).is_file() or not path.is_dir():
        return [path]
    found = checkpoints(path)[::-1]
    if not found:
        raise UserError(f"{path} holds no complete checkpoint; train one with train.py")
    best = path / f"checkpoint-{_best_step(found[0])}"
    return sorted(found, key=lambda folder: folder != best)  # sorting keeps the order of equals


def first_undamaged(path: Path, load: Callable[[Path], Loaded]) -> tuple[Path, Loaded]:
    """The first folder of :func:`choices_of` that ``load`` opens, and what it gives; logs a warning about others.

    Raises:
        UserError: none can be opened; the last one's reason.
    """
    *choices, last = choices_of(path)
    for folder in choices:
        try:
            return folder, load(folder)
        except Damaged as error:
            logger.warning("%s is damaged and passed over: %s", folder.name, error)
    return last, load(last)


def _best_step(newest: Path) -> int | None:
    try:
        return json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))["best_global_step"]
    except (OSError, ValueError, LookupError, TypeError):
        return None  # not saved by a run; if it is damaged, loading it will say so


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run that have a manifest, the oldest first."""
    named = [folder for folder in run.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", folder.name)]
    return sorted((folder for folder in named if (folder / MANIFEST).is_file()), key=step_of)


def step_of(folder: Path) -> int:
    """The number in a checkpoint's name: how many optimiser steps were done."""
    return int(folder.name.removeprefix("checkpoint-"))


def latest_checkpoint(run: Path) -> Path | None:
    """The checkpoint of a run with the most steps."""
    return next(reversed(checkpoints(run)), None)


def newest_undamaged(run: Path) -> Path | None:
    """The latest checkpoint whose files are all what was saved; logs a warning about each newer one that is not."""
    for folder in reversed(checkpoints(run)):
        try:
            check_files(folder, read_manifest(folder))
        except Damaged as error:
            logger.warning("%s is damaged and passed over: %s", folder.name, error)
        else:
            return folder
    return None
