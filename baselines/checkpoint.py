"""Checkpoints of the baselines: as strict as those of train.py, and opened by the same commands.

checkpoint-<step>/
    model.safetensors
    baseline.json       which model it is, its words and its answers
    image_processor/
    config.yaml         the whole run
    manifest.json       versions, the tower and its hash, the data's hash, the hash of every file
    optimizer.safetensors, optimizer.json, random.safetensors, random.json, trainer_state.json   to resume training
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from baselines.answers import Answers
from baselines.features import load_tower, tower_key
from baselines.models import MODELS
from baselines.parts import Baseline, Widths
from baselines.words import Words
from common.errors import UserError
from common.files import write_json
from common.hashing import hash_files, hash_model
from dataset.image import load_image_processor
from model.checkpoint import check_bases, read_tensors
from model.manifest import Damaged, check_files, read_manifest
from model.run_checkpoints import choices_of
from settings import Config, load_config, save_config
from visual.load import Tower
from visual.RESNET import ResNetTower

BASELINE = "baseline.json"


class Vocabularies(NamedTuple):
    """What a model reads and says, and its name."""

    name: str  # of baselines.models.MODELS
    words: Words
    answers: Answers
    patch: int  # the width of a patch


class Loaded(NamedTuple):
    model: Baseline
    known: Vocabularies
    tower: Tower | ResNetTower
    image_processor: Any
    config: Config


def is_baseline(path: Path) -> bool:
    """Whether a checkpoint, or the best one of a run's folder, is of a baseline.

    Raises:
        UserError: a run's folder without a complete checkpoint.
    """
    return (choices_of(path)[0] / BASELINE).is_file()


def build(known: Vocabularies, config: Config) -> Baseline:
    """The model with fresh weights."""
    widths = Widths(len(known.words), len(known.answers), known.patch)
    return MODELS[known.name](widths, config.baselines)


def save_weights(model: Baseline, known: Vocabularies, image_processor: Any, config: Config, folder: Path) -> None:
    """Write everything that is needed to answer, besides the tower and the manifest."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    content = {"model": known.name, "patch": known.patch, "words": known.words.words, "answers": known.answers.answers}
    write_json(folder / BASELINE, content)
    image_processor.save_pretrained(folder / "image_processor")
    save_config(config, folder / "config.yaml")


def read_vocabularies(folder: Path) -> Vocabularies:
    """Raises Damaged if the file is not what :func:`save_weights` writes."""
    try:
        content = json.loads((folder / BASELINE).read_text(encoding="utf-8"))
        name, patch = str(content["model"]), int(content["patch"])
        known = Vocabularies(name, Words(content["words"]), Answers(content["answers"]), patch)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Damaged(f"{folder / BASELINE} cannot be read ({error}); use an earlier checkpoint") from error
    if name not in MODELS:
        raise Damaged(f"{folder / BASELINE}: no baseline is called {name!r}, only {', '.join(MODELS)}")
    return known


def fill(model: Baseline, file: Path) -> None:
    """Read the weights of a model.

    Raises:
        Damaged: the file is missing or unreadable.
        UserError: its tensors are not those of the model.
    """
    try:
        model.load_state_dict(read_tensors(file))
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200]
        raise UserError(f"{file} does not fit the sizes in config.yaml ({problem})") from None


def load(folder: Path, device: torch.device, *, verify: bool = True, overrides: Sequence[str] = ()) -> Loaded:
    """A baseline's checkpoint on the device, in eval mode, with its tower.

    Raises:
        Damaged: a file is missing, or is not what was saved.
        UserError: the tower is missing, or is another one.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest, verify=verify)
    config = load_config(folder / "config.yaml", overrides, check_models=False)
    key, path = tower_key(config)
    check_bases(folder, manifest, {key: (path, hash_model(path, key, folder, verify=verify))})
    known = read_vocabularies(folder)
    model = build(known, config)
    fill(model, folder / "model.safetensors")
    processor = load_image_processor(str(folder / "image_processor"))
    return Loaded(model.to(device).eval(), known, load_tower(config, device), processor, config)


def describe_run(config: Config, known: Vocabularies) -> dict[str, Any]:
    """What the manifest records of the run."""
    packages = ("torch", "transformers", "safetensors", "pillow")
    key, path = tower_key(config)
    return {
        "baseline": known.name,
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
        "base_models": {key: {"path": path, "sha256": hash_model(path, key)}},
        "data": {"sha256": hash_files([config.data.image_map, config.data.annotations])},
        "seed": config.train.seed,
    }
