"""The checkpoints of a run: their names, which is the newest or the best, and which are deleted; without torch.

A checkpoint is written in a temporary folder and renamed when it is complete and on the disk.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

from common.errors import UserError
from common.files import publish_folder, remove_folder
from model.manifest import MANIFEST, Damaged, check_files, read_manifest, write_manifest

logger = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- writing and deleting


def temp_dir(folder: Path) -> Path:
    """Where a checkpoint is written before it gets its name: an empty folder beside it.

    Raises:
        OSError: also where the run's folder has vanished, for it is a disk that is gone and not to be made anew.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    return aside


def finalize(aside: Path, folder: Path, facts: dict) -> None:
    """Complete a checkpoint written in :func:`temp_dir` and let it appear under its name."""
    write_manifest(aside, facts)
    publish_folder(aside, folder)


def remove_stale(run: Path) -> None:
    """Delete what crashes have left in a run's folder: saves that were cut short, halves of deleted checkpoints."""
    for folder in run.glob(".checkpoint-*"):
        shutil.rmtree(folder, ignore_errors=True)


def prune(run: Path, most: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints above ``most``, never the newest and never the best."""
    folders = checkpoints(run)
    kept = {folders[-1], run / Path(best).name} if best else {folders[-1]}
    surplus = len(folders) - max(most, len(kept)) if most else 0
    for folder in [folder for folder in folders if folder not in kept][: max(0, surplus)]:
        remove_folder(folder)


# ---------------------------------------------------------------------------------------------- finding


def choices_of(path: Path) -> list[Path]:
    """A checkpoint's folder itself, or a run's checkpoints: the best first, then from the newest to the oldest."""
    path = Path(path)
    if (path / MANIFEST).is_file() or not path.is_dir():
        return [path]
    found = checkpoints(path)[::-1]
    if not found:
        raise UserError(f"{path} holds no complete checkpoint; train one with train.py")
    best = path / f"checkpoint-{_best_step(found[0])}"
    return sorted(found, key=lambda folder: folder != best)  # sorting keeps the order of equals


def _best_step(newest: Path) -> int | None:
    try:
        return json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))["best_global_step"]
    except (OSError, ValueError, LookupError, TypeError):
        return None  # a checkpoint made by hand; a damaged one is found when it is loaded


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run that have a manifest, the oldest first."""
    named = [folder for folder in run.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", folder.name)]
    return sorted((folder for folder in named if (folder / MANIFEST).is_file()), key=step_of)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def latest_checkpoint(run: Path) -> Path | None:
    """The checkpoint of a run with the most steps."""
    return next(reversed(checkpoints(run)), None)


def newest_undamaged(run: Path) -> Path | None:
    """The latest checkpoint whose files are all what was saved; a warning about each that is not."""
    for folder in reversed(checkpoints(run)):
        try:
            check_files(folder, read_manifest(folder))
        except Damaged as error:
            logger.warning("%s is damaged and passed over: %s", folder.name, error)
        else:
            return folder
    return None
