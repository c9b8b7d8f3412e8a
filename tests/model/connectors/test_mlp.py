"""The MLP connector: its formula, its start, and what it says about tokens and their positions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model.connectors import CONNECTORS, MLPConnector, build_connector
from visual.geometry import PatchGrid


def test_it_is_two_linear_layers_with_gelu_between():
    connector = build_connector(6, 4, hidden_size=5)
    features = torch.randn(2, 9, 6)
    state = connector.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "0.weight": (5, 6),
        "0.bias": (5,),
        "2.weight": (4, 5),
        "2.bias": (4,),
    }
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.normal_()
        hidden = nn.functional.gelu(features @ state["0.weight"].T + state["0.bias"])
        wanted = hidden @ state["2.weight"].T + state["2.bias"]
        torch.testing.assert_close(connector(features), wanted)


def test_its_hidden_width_is_the_language_models_unless_another_is_given():
    assert build_connector(6, 4).state_dict()["0.weight"].shape == (4, 6)


def test_it_draws_the_random_numbers_that_it_always_drew():
    """Two layers of torch, then both weights from N(0, 0.01): a seed gives the same projector as before."""
    torch.manual_seed(0)
    first, second = nn.Linear(6, 5), nn.Linear(5, 4)
    for layer in (first, second):
        nn.init.normal_(layer.weight, std=0.01)
    following = torch.rand(1)
    torch.manual_seed(0)
    state = build_connector(6, 4, hidden_size=5).state_dict()
    assert torch.equal(state["0.weight"], first.weight) and torch.equal(state["2.weight"], second.weight)
    assert torch.equal(torch.rand(1), following)
    assert not state["0.bias"].any() and not state["2.bias"].any()


@pytest.mark.parametrize(
    ("grid", "tokens"),
    [(PatchGrid(27, 27, 0, 1), 728), (PatchGrid(27, 27), 729), (PatchGrid(24, 24, 1, 1), 576), (PatchGrid(2, 3, 1), 7)],
)
def test_each_feature_becomes_one_token_at_its_own_position(grid, tokens):
    connector = build_connector(6, 4)
    assert connector.num_tokens(grid) == tokens == connector(torch.zeros(1, grid.features, 6)).shape[1]
    assert connector.token_grid(grid) == grid


def test_connectors_are_found_by_the_name_they_say():
    assert CONNECTORS["mlp"] is MLPConnector
    assert all(kind.name == name for name, kind in CONNECTORS.items())


def test_its_dtype_is_that_of_its_parameters():
    assert build_connector(6, 4).dtype == torch.float32
    assert build_connector(6, 4).to(torch.bfloat16).dtype == torch.bfloat16
