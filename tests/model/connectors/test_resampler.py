"""The resampler against the outputs of the original Qwen-VL code, and against its formula."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from common.errors import UserError
from model.connectors import ResamplerConnector, build_connector
from model.connectors.resampler import positions_on, sine_positions
from visual.geometry import PatchGrid


def resampler(vision: int = 6, language: int = 8, grid=PatchGrid(3, 3), **options) -> ResamplerConnector:  # noqa: B008
    connector = build_connector(vision, language, kind="resampler", grid=grid, **{"queries": 4, **options})
    assert isinstance(connector, ResamplerConnector)
    return connector


@pytest.fixture
def qwenvl(shared_data) -> tuple[dict, dict]:
    """The weights of a tiny Qwen-VL, and outputs of the original implementation."""
    folder = shared_data / "qwenvl" / "tiny_reference"
    if not folder.is_dir():
        pytest.skip(f"no reference outputs in {folder}")
    prefix = "transformer.visual."
    state = load_file(folder / "model.safetensors")
    visual = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return visual, load_file(folder / "reference.safetensors")


def test_its_tokens_are_those_of_the_original_implementation(qwenvl):
    visual, reference = qwenvl
    connector = resampler(32, 256, PatchGrid(6, 6), queries=9)
    own = {name.removeprefix("attn_pool."): value for name, value in visual.items() if name != "attn_pool.pos_embed"}
    connector.load_state_dict({name: own[name] for name in connector.state_dict()})
    assert connector.attn.num_heads == 2
    with torch.no_grad():
        torch.testing.assert_close(connector(reference["tower_output"]), reference["image_features"], rtol=0, atol=1e-4)


def test_its_positions_are_those_of_the_original_implementation(qwenvl):
    visual, reference = qwenvl
    positions = sine_positions(3, 256)
    torch.testing.assert_close(positions, visual["attn_pool.pos_embed"], rtol=0, atol=1e-6)
    interpolated = reference["interp.resampler_pos_embed_to_own_grid"]
    torch.testing.assert_close(positions_on(PatchGrid(6, 6), positions), interpolated, rtol=0, atol=1e-5)


def test_it_is_its_formula():
    connector = resampler()
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.normal_()
    features, p = torch.randn(2, 9, 6), dict(connector.named_parameters())
    norm = lambda x, name: nn.functional.layer_norm(x, (8,), p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)  # noqa: E731
    x = norm(features @ p["kv_proj.weight"].T, "ln_kv")
    wq, wk, wv = p["attn.in_proj_weight"].chunk(3)
    bq, bk, bv = p["attn.in_proj_bias"].chunk(3)
    q = (norm(p["query"], "ln_q") + connector.positions) @ wq.T + bq  # [4, 8], one head
    k, v = (x + connector.key_positions) @ wk.T + bk, x @ wv.T + bv
    weights = (q @ k.transpose(1, 2) / math.sqrt(8)).softmax(-1)
    out = weights @ v @ p["attn.out_proj.weight"].T + p["attn.out_proj.bias"]
    torch.testing.assert_close(connector(features), norm(out, "ln_post") @ p["proj"], rtol=1e-4, atol=1e-4)


def test_positions_say_the_column_in_their_first_half_and_the_row_in_their_second():
    positions = sine_positions(3, 8).unflatten(0, (3, 3))
    assert torch.equal(positions[0, :, :4], positions[2, :, :4]) and torch.equal(
        positions[:, 0, 4:], positions[:, 2, 4:]
    )
    wanted = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    assert positions[0, 2, :4].tolist() == pytest.approx(wanted, abs=1e-6)
    assert positions[2, 0, 4:].tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_dropped_patch_has_no_position_and_a_class_token_has_zeros():
    positions = sine_positions(3, 8)
    assert torch.equal(positions_on(PatchGrid(3, 3), positions), positions)
    assert torch.equal(positions_on(PatchGrid(3, 3, 0, 1), positions), positions[1:])
    with_class = positions_on(PatchGrid(3, 3, 1, 0), positions)
    assert torch.equal(with_class[1:], positions) and not with_class[0].any()
    assert positions_on(PatchGrid(5, 7), positions).shape == (35, 8)


def test_it_gives_as_many_tokens_as_queries_which_have_no_part_of_the_picture():
    connector, grid = resampler(grid=PatchGrid(3, 3, 0, 1)), PatchGrid(3, 3, 0, 1)
    assert connector.num_tokens(grid) == 4 == connector(torch.zeros(1, 8, 6)).shape[1]
    assert connector.token_grid(grid) is None


def test_what_its_queries_looked_at_is_what_they_read():
    connector, features = resampler(), torch.randn(1, 9, 6)
    assert connector.attn.num_heads == 1
    looks = connector.looks(features)[0]  # [M, N]
    width = connector.query.shape[1]
    weight, bias = connector.attn.in_proj_weight[2 * width :], connector.attn.in_proj_bias[2 * width :]
    values = connector.ln_kv(connector.kv_proj(features))[0] @ weight.T + bias  # [N, Dl]
    read = connector.attn.out_proj(looks @ values)
    torch.testing.assert_close(connector(features)[0], connector.ln_post(read) @ connector.proj, atol=1e-5, rtol=0)


def test_it_starts_as_qwen_vl_does():
    torch.manual_seed(0)
    state = resampler(256, 512, queries=256).state_dict()
    for name in ("query", "kv_proj.weight", "attn.out_proj.weight"):
        assert float(state[name].std()) == pytest.approx(0.02, rel=0.02), name
    assert float(state["proj"].std()) == pytest.approx(512**-0.5, rel=0.02)
    assert not state["attn.in_proj_bias"].any() and not state["attn.out_proj.bias"].any()
    assert (state["ln_q.weight"] == 1).all() and not state["ln_q.bias"].any()


def test_gradients_reach_every_parameter():
    connector = resampler()
    connector(torch.randn(2, 9, 6)).pow(3).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in connector.parameters())


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match="^projector.kind = resampler: the language model's width 388 is not 3 heads"):
        resampler(6, 388)
