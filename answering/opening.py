"""Which kind of checkpoint it is: a language model's (train.py), or a baseline's (python -m baselines.train)."""

from __future__ import annotations

from pathlib import Path

from answering.assistant import Assistant
from answering.baseline import BaselineAssistant
from baselines.checkpoint import is_baseline


def assistant_of(checkpoint: Path) -> type[Assistant] | type[BaselineAssistant]:
    """What loads a checkpoint, or the best one of a run's folder.

    Raises:
        UserError: a run's folder without a complete checkpoint.
    """
    return BaselineAssistant if is_baseline(checkpoint) else Assistant
