"""Connectors, which turn a vision tower's features into visual tokens; each is one file here.
May import common and visual.geometry."""

from __future__ import annotations

from model.connectors.base import Connector
from model.connectors.mlp import MLPConnector

CONNECTORS: dict[str, type[Connector]] = {MLPConnector.name: MLPConnector}


def build_connector(vision_width: int, language_width: int, *, kind: str = "mlp", **options) -> Connector:
    """A fresh connector from features of ``vision_width`` to embeddings of ``language_width``.

    ``options`` are those of its kind: ``hidden_size`` and ``standardize`` for ``mlp``.
    """
    return CONNECTORS[kind](vision_width, language_width, **options)
