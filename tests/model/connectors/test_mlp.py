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


def standardised(width: int = 6) -> tuple[MLPConnector, torch.Tensor, torch.Tensor]:
    connector = build_connector(width, 4, hidden_size=5, standardize=True)
    assert isinstance(connector, MLPConnector)
    mean, std = torch.randn(width) * 20, torch.rand(width) * 3 + 0.1
    connector.set_statistics(mean, std)
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.normal_()
    return connector, mean, std


def test_features_are_standardised_before_its_first_layer():
    connector, mean, std = standardised()
    features = torch.randn(2, 9, 6) * std + mean
    plain = build_connector(6, 4, hidden_size=5)
    plain.load_state_dict({name: value for name, value in connector.state_dict().items() if "feature" not in name})
    torch.testing.assert_close(connector(features), plain((features - mean) / std), rtol=1e-5, atol=1e-5)


def test_folded_it_is_a_plain_mlp_with_the_same_tokens():
    connector, mean, std = standardised()
    features = torch.randn(2, 9, 6) * std + mean
    plain = build_connector(6, 4, hidden_size=5)
    plain.load_state_dict(connector.folded())
    torch.testing.assert_close(plain(features), connector(features), rtol=1e-4, atol=1e-3)  # tokens of about 5
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in plain.folded().items())


def test_bf16_features_lose_nothing_to_a_large_common_component():
    """The mean is 40 times as long as the deviation: (x - mean) in bf16 would keep 2 of 8 bits."""
    connector = build_connector(6, 4, standardize=True)
    mean, std = torch.full((6,), 40.3), torch.ones(6)
    connector.set_statistics(mean, std)
    features = (mean + torch.randn(1, 9, 6)).bfloat16()
    seen = []
    connector[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    connector(features)
    torch.testing.assert_close(seen[0], features.float() - mean, rtol=0, atol=1e-5)


def test_statistics_are_saved_and_are_no_parameters():
    connector, mean, std = standardised()
    assert torch.equal(connector.state_dict()["feature_mean"], mean)
    assert torch.equal(connector.state_dict()["feature_std"], std)
    assert len(list(connector.parameters())) == 4 and not mean.requires_grad


def test_more_layers_are_linear_and_gelu_in_turn():
    connector = build_connector(6, 4, hidden_size=5, layers=3)
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.normal_()
    state, hidden = connector.state_dict(), torch.randn(2, 9, 6)
    wanted = hidden
    for number in (0, 2, 4):
        wanted = wanted @ state[f"{number}.weight"].T + state[f"{number}.bias"]
        wanted = nn.functional.gelu(wanted) if number < 4 else wanted
    torch.testing.assert_close(connector(hidden), wanted)
    assert [tuple(state[f"{number}.weight"].shape) for number in (0, 2, 4)] == [(5, 6), (5, 5), (4, 5)]
