"""``train.start_from``: which checkpoint a new run begins with, and whether it fits the run's config; without torch.

It is not ``--resume``. A resumed run is the same run: its step, optimizer, random states and position in the data are
the checkpoint's. A run that starts from a checkpoint is a new one, with its own data and settings. It takes weights
alone (model/start_weights.py).
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from model.manifest import Damaged, check_files, read_manifest
from model.run_checkpoints import choices_of
from settings import Config, load_config

logger = logging.getLogger(__name__)
PARTS = ("vision", "language")
ADAPTERS = ("lora", "prefix", "adapter")  # kinds of vision.train and language.train that add weights to a base model
BASE_FILE = "base.safetensors"  # of a part whose frozen weights are not the base model's


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run begins with; ``config`` is the checkpoint's own."""

    folder: Path
    config: Config

    def how(self, part: str) -> str:
        """How the checkpoint's run trained ``vision`` or ``language``."""
        return getattr(self.config, part).train

    def merges(self, part: str, now: Config) -> bool:
        """Whether the checkpoint's adapters of a part become part of its weights."""
        return self.how(part) in ADAPTERS and now.train.start_from_adapters == "merge"

    def changes_base(self, part: str, now: Config) -> bool:
        """Whether a part's own weights will not be those of the base model."""
        trained = self.how(part) in ("full", "last_blocks") or self.merges(part, now)
        return trained or (self.folder / part / BASE_FILE).is_file()


def find_start(config: Config) -> Start | None:
    """The undamaged checkpoint that ``train.start_from`` names, if it is set; of a run's folder the best or newest.

    Raises:
        UserError: there is none, or it does not fit the config; names the key.
    """
    path = config.train.start_from
    if path is None:
        return None
    try:
        folder = _undamaged(path)
        base = [f"{key}={json.dumps(value)}" for key, value in _base_paths(config).items()]
        start = Start(folder, load_config(folder / "config.yaml", base, check_models=False))
        _check_fit(start, config)
    except UserError as error:
        raise UserError(f"train.start_from = {path}: {error}") from None
    return start


def _undamaged(path: Path) -> Path:
    *choices, last = choices_of(path)
    for folder in choices:
        try:
            check_files(folder, read_manifest(folder))
            return folder
        except Damaged as error:
            logger.warning("%s is damaged and passed over: %s", folder.name, error)
    check_files(last, read_manifest(last))
    return last


def _base_paths(config: Config) -> dict[str, str]:
    """The base models as they are here; they may have moved since the checkpoint was trained."""
    if config.model is not None:
        return {"model": config.model}
    return {"vision.path": config.vision.path, "language.path": config.language.path}


def _check_fit(start: Start, now: Config) -> None:
    """Raises UserError for keys that contradict the checkpoint."""
    for part in PARTS:
        _check_adapters(start, part, now)
    before = start.config
    if start.changes_base("vision", now):
        for key in ("layer", "final_norm"):
            if (there := getattr(before.vision, key)) != (here := getattr(now.vision, key)):
                raise UserError(f"its tower was trained with vision.{key} = {there}, and here it is {here}")
    if start.changes_base("language", now) and now.language.load_in_4bit:
        raise UserError(
            "it changes the language model's weights, which language.load_in_4bit reads from the base model"
        )


def _check_adapters(start: Start, part: str, now: Config) -> None:
    """Raises UserError if the checkpoint's adapters of a part can neither be trained further nor merged as asked."""
    how, here = start.how(part), getattr(now, part).train
    if (
        start.changes_base(part, now)
        and here == "lora"
        and str(now.lora.init_lora_weights).startswith(("olora", "pissa"))
    ):
        raise UserError(
            f"it changes the weights of the {part} model, and lora.init_lora_weights = {now.lora.init_lora_weights} "
            "computes its start from the base model's; set it to true"
        )
    if start.merges(part, now) and how != "lora":
        raise UserError(f"it has {how} adapters, which no weight can hold; set train.start_from_adapters=continue")
    if how not in ADAPTERS or start.merges(part, now):
        return
    if here != how:
        raise UserError(
            f"it has {how} adapters, and {part}.train = {here} cannot train them further; set {part}.train={how}, or "
            "train.start_from_adapters=merge"
        )
    if how != "lora":
        if (size := start.config.language.adapter_size) != now.language.adapter_size:
            key = "prefix_tokens" if how == "prefix" else "adapter_width"
            raise UserError(f"its {how} has language.{key} = {size}, and here it is {now.language.adapter_size}")
        return
    for name, value in start.config.lora.model_dump().items():
        if name != "lora_dropout" and (new := now.lora.model_dump()[name]) != value:
            raise UserError(
                f"its adapters have lora.{name} = {value}, and here it is {new}; set it as it was, or "
                "train.start_from_adapters=merge"
            )
