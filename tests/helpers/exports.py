"""Exports of tiny checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from answering.assistant import Assistant
from answering.checkpoints import open_config
from answering.exporting.formats import Options
from answering.exporting.run import HeldOut, export, open_source
from tests.helpers.models import build, move_trained, save
from tests.helpers.tiny import enlarge_projector

SEES = 29  # a seed with which the tiny model answers something else to each picture


def trained_checkpoint(config, folder: Path, *, moved: bool = True) -> Path:
    """A checkpoint whose projector, and if ``moved`` whose adapters, are not what they started as."""
    torch.manual_seed(0)
    model = build(config)
    if moved:
        move_trained(model)
    torch.manual_seed(SEES)
    enlarge_projector(model)
    if model.projector.feature_mean is not None:
        width = len(model.projector.feature_mean)
        model.projector.set_statistics(torch.randn(width) * 0.1, torch.rand(width) + 0.5)
    return save(config, model, folder)


def exported(
    checkpoint: Path, output: Path, *, form: str = "hf", dtype: str = "fp32", **options: Any
) -> tuple[Path, Assistant]:
    """The folder of an export, and our own model of the same checkpoint."""
    source = open_source(checkpoint, open_config(checkpoint))
    export(checkpoint, output, Options(form, dtype, **options), source.config, HeldOut())
    return output, source
