"""Connectors, which give the language model what a vision tower saw; each is one file here.
May import common, visual.geometry and qwen.tree_attention."""

from __future__ import annotations

from model.connectors.base import Connector
from model.connectors.cross_attention import CrossAttentionConnector
from model.connectors.linear import LinearConnector
from model.connectors.mlp import MLPConnector
from model.connectors.pool import PoolConnector
from model.connectors.qformer import QFormerConnector
from model.connectors.resampler import ResamplerConnector
from visual.geometry import PatchGrid

CONNECTORS: dict[str, type[Connector]] = {
    kind.name: kind
    for kind in (
        LinearConnector,
        MLPConnector,
        PoolConnector,
        ResamplerConnector,
        QFormerConnector,
        CrossAttentionConnector,
    )
}


def build_connector(
    vision_width: int,
    language_width: int,
    *,
    kind: str = "mlp",
    grid: PatchGrid | None = None,
    decoder_layers: int | None = None,
    **options,
) -> Connector:
    """A fresh connector from features of ``vision_width`` to embeddings of ``language_width``.

    ``grid`` is that of the features and ``decoder_layers`` how many the language model has, for kinds that need to
    know. ``options`` are those of its kind: ``standardize`` for all of them, and the sizes that
    ``settings.schema.PROJECTOR_SIZES`` lists.
    """
    connector = CONNECTORS[kind]
    if connector.needs_grid:
        options["grid"] = grid
    if connector.needs_decoder_layers:
        options["decoder_layers"] = decoder_layers
    return connector(vision_width, language_width, **options)
