"""Connectors, which turn a vision tower's features into visual tokens; each is one file here.
May import common and visual.geometry."""

from __future__ import annotations

from model.connectors.base import Connector
from model.connectors.linear import LinearConnector
from model.connectors.mlp import MLPConnector
from model.connectors.pool import PoolConnector
from model.connectors.qformer import QFormerConnector
from model.connectors.resampler import ResamplerConnector
from visual.geometry import PatchGrid

CONNECTORS: dict[str, type[Connector]] = {
    kind.name: kind for kind in (LinearConnector, MLPConnector, PoolConnector, ResamplerConnector, QFormerConnector)
}


def build_connector(
    vision_width: int, language_width: int, *, kind: str = "mlp", grid: PatchGrid | None = None, **options
) -> Connector:
    """A fresh connector from features of ``vision_width`` to embeddings of ``language_width``.

    ``grid`` is that of the features, for kinds that need to know where each feature is. ``options`` are those of its
    kind: ``standardize`` for all of them, and the sizes that ``settings.schema.PROJECTOR_SIZES`` lists.
    """
    connector = CONNECTORS[kind]
    if connector.needs_grid:
        options["grid"] = grid
    return connector(vision_width, language_width, **options)
