"""Compiling layer by layer: the same loss, few graphs, no breaks, nothing compiled again for another shape."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks.common import PRESETS, batch_of, build_ours
from model.compiling import compile_layers

SHAPE = replace(PRESETS["tiny"], layers=4)  # with more layers than graphs
pytestmark = pytest.mark.skipif(not os.environ.get("VLM_SOAK"), reason="make soak: half a minute each")
BATCHES = [(3, 2), (5, 3), (4, 2), (1, 2), (1, 4)]  # questions a tree, trees


def losses_and_gradients(attention: str, checkpointing: bool, compiled: bool) -> list[tuple[float, float]]:
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model = build_ours(SHAPE, torch.float32, torch.device("cpu"), checkpointing=checkpointing)
    model.set_attention(attention)
    if compiled:
        compile_layers(model, backend="aot_eager")
    found = []
    for questions, trees in BATCHES:
        batch = batch_of(SHAPE, questions, trees, torch.Generator().manual_seed(questions))
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        norm = sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None)
        found.append((loss.item(), norm.item()))
    return found


@pytest.mark.parametrize("attention", ["sdpa", "tree_attention"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_give_the_same_and_are_compiled_once_for_all_shapes(attention, checkpointing):
    plain = losses_and_gradients(attention, checkpointing, compiled=False)
    compiled = losses_and_gradients(attention, checkpointing, compiled=True)
    assert compiled == [pytest.approx(pair, rel=1e-5) for pair in plain]
    assert not counters["graph_break"]
    # The tower's layer, a decoder layer and the last one, each with a tree's layout and without.
    assert counters["stats"]["unique_graphs"] <= 6
