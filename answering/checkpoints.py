"""Which checkpoint to open, and its config: everything about a checkpoint that is known before torch is imported."""

from __future__ import annotations

import json
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from common.errors import UserError
from common.hub import TOWERS, base_option
from dataset.boxes import Crop, crop_of
from model.manifest import MANIFEST, Damaged, check_files, read_manifest
from model.run_checkpoints import choices_of

if TYPE_CHECKING:
    from settings import Config

CONFIG = "config.yaml"
BASES = ("language.path", "vision.path", "model")  # the keys that name a checkpoint's base models
RESULT_START = 1 << 16  # characters of a result before its answers
CHANGEABLE = ("generate.", "data.max_pixels=")  # what the command line may change of a checkpoint's config


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


def max_pixels_of(checkpoint: Path | None, overrides: Sequence[str] = ()) -> int:
    """``data.max_pixels`` of a checkpoint's run; the default where there is no checkpoint, or none that can be read."""
    from settings import Data

    try:
        if checkpoint is not None:
            return open_config(checkpoint, overrides).data.max_pixels
    except UserError:
        pass  # loading it says what is wrong with it
    return Data.model_fields["max_pixels"].default


def crop_in(checkpoint: Path) -> Crop | None:
    """What the tower of a checkpoint, or of a run's best one, is not shown of a picture, without loading it.

    Raises:
        UserError: there is no checkpoint, or its processor cannot be read.
    """
    file = choices_of(checkpoint)[0] / "image_processor" / "preprocessor_config.json"
    try:
        return crop_of(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None


@lru_cache
def crop_if_known(checkpoint: str) -> Crop | None:
    """:func:`crop_in` of a checkpoint that answered ("": unknown); None where its folder is gone."""
    try:
        return crop_in(Path(checkpoint)) if checkpoint else None
    except UserError:
        return None


def _check_config(folder: Path) -> None:
    """Raises Damaged if the manifest or the config is not what was saved, UserError if it is one of two towers."""
    manifest = read_manifest(folder)
    if "two_towers" in manifest:
        raise UserError(
            f"{folder}: two towers, which do not write answers; use python -m retrieval with --model {folder}"
        )
    check_files(folder, {"files": {CONFIG: manifest["files"].get(CONFIG, "")}})


def checkpoints_under(folder: Path) -> list[Path]:
    """Every complete checkpoint of every run that writes answers, the newest first."""
    found = [(manifest.stat().st_mtime, manifest.parent) for manifest in folder.glob(f"*/checkpoint-*/{MANIFEST}")]
    return [checkpoint for _, checkpoint in sorted(found, reverse=True) if not (checkpoint / TOWERS).is_dir()]


class CheckpointFacts(NamedTuple):
    """What a list says about a checkpoint: the names of its base models, the day it was saved, and its score."""

    bases: list[str]
    date: str
    score: float | None  # exact match or accuracy by evaluate.py; None: no result of it is in the current folder


def checkpoint_facts(checkpoint: Path) -> CheckpointFacts:
    """Read from its manifest, which is not checked, and from result*.json in the current folder."""
    file = checkpoint / MANIFEST
    try:
        models = json.loads(file.read_text(encoding="utf-8"))["base_models"].values()
        bases = [Path(model["path"]).name for model in models]
        date = datetime.fromtimestamp(file.stat().st_mtime).strftime("%Y-%m-%d")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return CheckpointFacts([], "", None)  # loading it says what is wrong with it
    return CheckpointFacts(bases, date, _score_of(checkpoint))


def _score_of(checkpoint: Path) -> float | None:
    """The overall score of the last result about a checkpoint. Only the start of a result is read, without answers."""
    for file in sorted(Path().glob("result*.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        with open(file, encoding="utf-8", errors="replace") as stream:
            start = stream.read(RESULT_START)
        about = re.search(r'"checkpoint": "((?:[^"\\]|\\.)*)"', start)
        score = re.search(r'"scores": \{\s*"overall": \{[^{}]*?"score": ([0-9.]+)', start)
        if about and score and Path(json.loads(f'"{about[1]}"')).resolve() == checkpoint.resolve():
            return float(score[1])
    return None


def name_of(checkpoint: Path) -> str:
    """Run and step of a checkpoint; the folder's name if it is not in a run."""
    if checkpoint.name.startswith("checkpoint-"):
        return f"{checkpoint.parent.name} / {checkpoint.name}"
    return checkpoint.name


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


# ---------------------------------------------------------------------------------------------- the command line


def add_checkpoint_arguments(parser: ArgumentParser) -> None:
    """Add the options of every command with ``--checkpoint``: where its base models are, and whether to verify."""
    parser.add_argument("--verify", action="store_true", help="read the base models' files again to check their hashes")
    add_base_arguments(parser)


def add_base_arguments(parser: ArgumentParser) -> None:
    """Add an option for each base model of a checkpoint, which names the folder that it is in now."""
    for key in BASES:
        what = "model that a run began with (model:)" if key == "model" else f"{key.partition('.')[0]} model"
        parser.add_argument(base_option(key), metavar="DIR", help=f"the folder of the {what}, if it has moved")


def base_overrides(args: Namespace) -> list[str]:
    """The options of :func:`add_base_arguments` as overrides KEY=VALUE of a checkpoint's config.

    Raises:
        UserError: there is no model in a folder.
    """
    overrides = []
    for key in BASES:
        option = base_option(key)
        folder = getattr(args, option.removeprefix("--").replace("-", "_"))
        if folder is None:
            continue
        if not os.path.isfile(os.path.join(folder, "config.json")):
            raise UserError(f"{option} = {folder}: no config.json in it; name the folder that holds the model")
        overrides.append(f"{key}={json.dumps(os.path.abspath(folder))}")
    return overrides


def is_override(word: str) -> bool:
    """Whether a word of the command line is KEY=VALUE for a key that may be changed, and not a question."""
    return word.startswith(CHANGEABLE) and "=" in word


def check_overrides(words: Sequence[str]) -> None:
    """Raises UserError for the first word that :func:`is_override` does not take."""
    for word in words:
        if not is_override(word):
            raise UserError(
                f"command line: {word}: only generate.KEY=VALUE and data.max_pixels=N can be changed here, "
                "such as generate.batch_size=32"
            )
