"""Which checkpoint to open, and its config: everything about a checkpoint that is known before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from model.manifest import MANIFEST, Damaged, check_files, read_manifest
from model.run_checkpoints import choices_of

if TYPE_CHECKING:
    from settings import Config

CONFIG = "config.yaml"


def open_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a checkpoint or of a run's best undamaged one, with the command line's overrides.

    Of the checkpoint's files only the manifest and the config are checked; loading it checks the others.

    Raises:
        UserError: there is no checkpoint, or an override is wrong.
        Damaged: the manifest or the config is not what was saved.
    """
    from settings import load_config  # pydantic takes 0.15 s, which the window does not need to open

    *others, last = choices_of(path)
    for folder in others:
        try:
            _check_config(folder)
        except Damaged:
            continue
        return load_config(folder / CONFIG, overrides, check_models=False)
    _check_config(last)
    return load_config(last / CONFIG, overrides, check_models=False)


def _check_config(folder: Path) -> None:
    """Raises Damaged if the manifest or the config is not what was saved."""
    files = read_manifest(folder)["files"]
    check_files(folder, {"files": {CONFIG: files.get(CONFIG, "")}})


def checkpoints_under(folder: Path) -> list[Path]:
    """Every complete checkpoint of every run, the newest first."""
    found = [(manifest.stat().st_mtime, manifest.parent) for manifest in folder.glob(f"*/checkpoint-*/{MANIFEST}")]
    return [checkpoint for _, checkpoint in sorted(found, reverse=True)]


def is_demo(checkpoint: Path) -> bool:
    """Whether a checkpoint, or the first of a run's, uses the small backbones that come with this repository."""
    configs = [checkpoint / CONFIG, *sorted(checkpoint.glob(f"checkpoint-*/{CONFIG}"))]
    try:
        text = next(file for file in configs if file.is_file()).read_text(encoding="utf-8")
        return Path(yaml.safe_load(text)["language"]["path"]).parts[-3:-1] == ("demo", "backbones")
    except (StopIteration, OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return False  # loading it will say what is wrong with it


def first_choice(folder: Path) -> Path | None:
    """What to load by default: the newest checkpoint, a demo's only if there is no other."""
    found = checkpoints_under(folder)
    return next((checkpoint for checkpoint in found if not is_demo(checkpoint)), found[0] if found else None)
