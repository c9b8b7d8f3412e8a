"""Compile a model layer by layer: seconds instead of minutes, and one compilation for all lengths.

All decoder layers share one graph, and so do all layers of the tower, so inductor sees two small graphs instead of one
with 55 layers. What lies between the layers (embeddings, projector, head) is a few percent of a step.
"""

from __future__ import annotations

from torch import nn

from model.adapters import base_of
from model.model import MMultiModal


def compile_layers(model: MMultiModal, **options) -> None:
    """Compile the decoder layers and the tower's layers in place; ``options`` are ``torch.compile``'s.

    Batch size and length are dynamic: a batch of another shape runs without compiling again. Parameter names, and so
    checkpoints, stay the same.
    """
    layers: list[nn.Module] = [*base_of(model.language).model.layers, *base_of(model.vision).blocks]
    for layer in layers:
        layer.compile(dynamic=True, **options)
