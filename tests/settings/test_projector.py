"""Each kind of projector has its own sizes; what contradicts it is one line. Torch is not needed to count tokens."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

from model.connectors import CONNECTORS, build_connector
from settings import load_config
from settings.schema import PROJECTOR_SIZES, Projector
from tests.helpers.configs import encoder_folder, error_of
from visual.geometry import PatchGrid


def test_every_connector_can_be_named_and_has_the_sizes_that_the_config_knows():
    kinds = get_args(Projector.model_fields["kind"].annotation)
    assert set(kinds) == set(CONNECTORS) == set(PROJECTOR_SIZES)
    for kind, sizes in PROJECTOR_SIZES.items():
        options = inspect.signature(CONNECTORS[kind].__init__).parameters
        assert set(sizes) == set(options) - {
            "self",
            "vision_width",
            "language_width",
            "grid",
            "decoder_layers",
            "standardize",
        }
        assert {name: options[name].default for name in sizes} == sizes


@pytest.mark.parametrize("kind", CONNECTORS)
@pytest.mark.parametrize("grid", [PatchGrid(27, 27), PatchGrid(24, 24, 1, 1), PatchGrid(5, 7)])
def test_the_config_counts_the_tokens_that_the_connector_gives(kind, grid):
    projector = Projector(kind=kind)
    sizes = {**projector.sizes, **({"layers": 1, "hidden_size": 8} if kind == "qformer" else {})}
    connector = build_connector(8, 8, kind=kind, grid=grid, decoder_layers=8, **sizes)
    assert projector.num_tokens(grid) == connector.num_tokens(grid)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["projector.kind=mpl"], 'projector.kind = "mpl": expected one of linear, mlp, '),
        (
            ["projector.kind=linear", "projector.layers=2"],
            "projector.layers = 2: expected null with projector.kind = li",
        ),
        (["projector.pool=2"], "projector.pool = 2: expected null with projector.kind = mlp: it is a size of pool"),
        (["projector.kind=linear", "projector.hidden_size=8"], "projector.hidden_size = 8: expected null with"),
        (
            ["projector.layers=1"],
            "projector.layers = 1: expected 2 or more with projector.kind = mlp; one layer is linear",
        ),
        (
            ["projector.kind=pool", "projector.layers=1", "projector.hidden_size=8"],
            "projector.hidden_size = 8: expected null where projector.layers is 1",
        ),
        (["projector.kind=resampler", "projector.queries=8"], "projector.queries = 8: expected a square number"),
        (
            ["projector.kind=qformer", "projector.hidden_size=100"],
            "projector.hidden_size = 100: expected a multiple of",
        ),
        (["projector.queries=8"], "projector.queries = 8: expected null with projector.kind = mlp: it is a size of re"),
        (
            ["projector.align_steps=5", "train.start_from=checkpoints/other"],
            "projector.align_steps = 5: expected 0 with train.start_from, which brings a trained projector",
        ),
        (
            ["projector.align_steps=5", "projector.kind=cross_attention", "vision.image_context_length=1"],
            "projector.align_steps = 5: expected 0 with projector.kind = cross_attention, whose tokens are not among",
        ),
        (["projector.align_steps=-1"], "projector.align_steps = -1: expected a whole number of steps, 0 or more"),
        (["projector.kind=pool", "projector.pool=0"], "projector.pool = 0: expected a whole number of patches"),
    ],
)
def test_a_contradiction_is_one_line(minimal, overrides, message):
    assert error_of(minimal, *overrides).startswith(f"command line: {message}")


def test_the_number_of_tokens_is_that_of_the_kind(minimal, tmp_path):
    tower = encoder_folder(tmp_path / "tower", model_type="siglip_vision_model", image_size=378, patch_size=14)
    base = [f"vision.path={tower}", "projector.kind=pool"]
    message = error_of(minimal, *base)
    assert "vision.drop_first_token = true: expected false with projector.kind = pool" in message
    base.append("vision.drop_first_token=false")
    message = error_of(minimal, *base)
    assert "vision.image_context_length = 728: expected 81, which is what projector.kind = pool gives" in message
    assert "(378 px, patch 14, vision.drop_first_token false, projector.pool 3)" in message
    message = error_of(minimal, *base, "projector.pool=2")
    assert "expected 196, which is what projector.kind = pool gives" in message
    assert load_config(minimal, [*base, "vision.image_context_length=81"]).projector.sizes["pool"] == 3


def test_the_number_of_queries_is_checked_without_the_tower(minimal):
    message = error_of(minimal, "projector.kind=qformer")
    assert "vision.image_context_length = 728: expected 32, which is what projector.kind = qformer gives" in message
    load_config(minimal, ["projector.kind=qformer", "projector.queries=64", "vision.image_context_length=64"])
