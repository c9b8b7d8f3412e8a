"""The pool connector: its cells are transformers' own pixel shuffle, and grids that no cell divides are padded."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

from common.errors import UserError
from model.connectors import PoolConnector, build_connector
from visual.geometry import PatchGrid


def pooling(side: int, n: int, width: int = 6, **options) -> PoolConnector:
    connector = build_connector(width, 4, kind="pool", grid=PatchGrid(side, side), pool=n, **options)
    assert isinstance(connector, PoolConnector)
    return connector


@pytest.mark.parametrize(("side", "n"), [(4, 2), (6, 3), (6, 2), (3, 1)])
def test_cells_are_transformers_pixel_shuffle(side, n):
    features = torch.randn(2, side * side, 6)
    shuffled = Idefics3Connector.pixel_shuffle(None, features, n)
    connector = pooling(side, n)
    assert torch.equal(connector.joined(features), shuffled)
    state = connector.state_dict()
    hidden = nn.functional.gelu(shuffled @ state["mlp.0.weight"].T + state["mlp.0.bias"])
    wanted = hidden @ state["mlp.2.weight"].T + state["mlp.2.bias"]
    torch.testing.assert_close(connector(features), wanted)


def test_a_grid_that_cells_do_not_divide_is_padded_below_and_on_the_right():
    features = torch.arange(1.0, 10).reshape(1, 9, 1)  # 1 2 3 / 4 5 6 / 7 8 9
    cells = pooling(3, 2, width=1).joined(features)
    assert cells.tolist() == [[[1, 2, 4, 5], [3, 0, 6, 0], [7, 8, 0, 0], [9, 0, 0, 0]]]


def test_what_is_padded_to_standardised_features_is_their_mean():
    connector = pooling(3, 2, width=1, standardize=True)
    connector.set_statistics(torch.tensor([5.0]), torch.tensor([2.0]))
    seen = []
    connector.mlp.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    connector(torch.arange(1.0, 10).reshape(1, 9, 1))
    assert seen[0][0].tolist() == [[-2, -1.5, -0.5, 0], [-1, 0, 0.5, 0], [1, 1.5, 0, 0], [2, 0, 0, 0]]


@pytest.mark.parametrize(("side", "n", "tokens"), [(27, 3, 81), (27, 2, 196), (24, 2, 144), (16, 4, 16)])
def test_the_number_of_cells_is_that_of_its_tokens(side, n, tokens):
    connector, grid = pooling(side, n), PatchGrid(side, side)
    assert connector.num_tokens(grid) == tokens == connector(torch.zeros(1, side * side, 6)).shape[1]
    cells = connector.token_grid(grid)
    assert cells is not None and (cells.rows * cells.columns, cells.cell) == (tokens, n)


@pytest.mark.parametrize(
    ("grid", "setting"),
    [(PatchGrid(3, 3, 0, 1), "vision.drop_first_token=false"), (PatchGrid(3, 3, 1, 0), "vision.drop_first_token=true")],
)
def test_a_picture_without_its_first_patch_or_with_a_class_token_is_refused(grid, setting):
    with pytest.raises(UserError, match=f"^projector.kind = pool: .*; set {setting}$"):
        build_connector(6, 4, kind="pool", grid=grid)
    build_connector(6, 4, kind="pool", grid=PatchGrid(3, 3, 1, 1))  # CLIP's class token is the one that is dropped


def test_its_hidden_width_and_layers_are_those_of_the_mlp():
    state = pooling(4, 2, hidden_size=5, layers=3).state_dict()
    shapes = [tuple(state[f"mlp.{number}.weight"].shape) for number in (0, 2, 4)]
    assert shapes == [(5, 24), (5, 5), (4, 5)]


def test_gradients_reach_every_parameter():
    connector = pooling(3, 2)
    nn.init.normal_(connector.mlp[2].weight)
    connector(torch.randn(2, 9, 6)).pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in connector.parameters())
