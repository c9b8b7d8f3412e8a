"""The linear connector: its formula and its start."""

from __future__ import annotations

import torch

from model.connectors import build_connector
from visual.geometry import PatchGrid


def test_it_is_one_linear_layer_of_standardised_features():
    connector = build_connector(6, 4, kind="linear", standardize=True)
    mean, std = torch.randn(6) * 20, torch.rand(6) + 0.1
    connector.set_statistics(mean, std)
    features = torch.randn(2, 9, 6) * std + mean
    state = connector.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "linear.weight": (4, 6),
        "linear.bias": (4,),
        "feature_mean": (6,),
        "feature_std": (6,),
    }
    wanted = (features - mean) / std @ state["linear.weight"].T + state["linear.bias"]
    torch.testing.assert_close(connector(features), wanted, rtol=1e-5, atol=1e-5)


def test_its_weights_start_as_the_designs():
    torch.manual_seed(0)
    state = build_connector(200, 300, kind="linear").state_dict()
    assert abs(float(state["linear.weight"].std()) - 0.01) < 1e-4 and not state["linear.bias"].any()


def test_each_feature_becomes_one_token():
    connector, grid = build_connector(6, 4, kind="linear"), PatchGrid(3, 3, 0, 1)
    assert connector.num_tokens(grid) == 8 == connector(torch.zeros(1, 8, 6)).shape[1]
    assert connector.token_grid(grid) == grid
