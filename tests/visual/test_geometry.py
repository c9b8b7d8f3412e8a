"""How many features a tower gives for one picture, from its config.json alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common.errors import UserError
from visual.geometry import PatchGrid, patch_grid


@pytest.mark.parametrize(
    ("content", "drop", "count"),
    [
        ({"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}, True, 728),
        ({"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}, False, 729),
        ({"model_type": "siglip", "vision_config": {"image_size": 384, "patch_size": 14}}, True, 728),
        ({"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model"}}, False, 196),
        ({"model_type": "siglip", "image_size": 512, "patch_size": 16}, False, 1024),
        ({"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}, True, 576),
        ({"model_type": "clip", "vision_config": {"image_size": 336, "patch_size": 14}}, False, 577),
        ({"model_type": "clip", "vision_config": {}}, True, 49),
    ],
)
def test_the_token_count_comes_from_image_and_patch_size(content, drop, count):
    assert patch_grid(content, drop).features == count


def test_the_token_count_is_that_of_transformers_own_model():
    from transformers import SiglipConfig, SiglipVisionConfig

    tower = SiglipVisionConfig(image_size=70, patch_size=14)
    assert patch_grid(tower.to_dict(), drop_first_token=False).features == 25
    assert patch_grid(SiglipConfig(vision_config=tower.to_dict()).to_dict(), drop_first_token=True).features == 24
    assert patch_grid(SiglipVisionConfig().to_diff_dict(), drop_first_token=False).features == 196


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"model_type": "siglip2_vision_model", "patch_size": 16}, "not model_type siglip2_vision_model"),
        (
            {"model_type": "blip", "vision_config": {"model_type": "blip_vision_model"}},
            "not model_type blip_vision_model",
        ),
        ({"image_size": "384", "patch_size": 14}, 'not ["384", 14]'),
        ({"image_size": 384, "patch_size": 0}, "not [384, 0]"),
        ({"image_size": 14, "patch_size": 14}, "not 14 px in patches of 14 px"),
        ({"vision_config": None}, "expected a config.json"),
    ],
)
def test_an_encoder_without_a_fixed_number_of_tokens_is_refused(content, problem):
    with pytest.raises(UserError) as caught:
        patch_grid(content, drop_first_token=True)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("content", "drop", "grid", "dropped_patches", "kept_class_tokens"),
    [
        ({"model_type": "siglip", "image_size": 384, "patch_size": 14}, True, PatchGrid(27, 27, 0, 1), 1, 0),
        ({"model_type": "siglip", "image_size": 384, "patch_size": 14}, False, PatchGrid(27, 27), 0, 0),
        ({"model_type": "clip", "image_size": 336, "patch_size": 14}, True, PatchGrid(24, 24, 1, 1), 0, 0),
        ({"model_type": "clip", "image_size": 336, "patch_size": 14}, False, PatchGrid(24, 24, 1, 0), 0, 1),
    ],
)
def test_the_first_feature_is_clips_class_token_and_siglips_first_patch(
    content, drop, grid, dropped_patches, kept_class_tokens
):
    found = patch_grid(content, drop)
    assert found == grid
    assert (found.dropped_patches, found.kept_class_tokens) == (dropped_patches, kept_class_tokens)
    assert found.features == kept_class_tokens + grid.rows * grid.columns - dropped_patches


def test_another_image_size_gives_another_grid():
    assert patch_grid({"image_size": 224, "patch_size": 16}, True, image_size=256) == PatchGrid(16, 16, 0, 1)


def test_it_is_computed_without_torch():
    code = "import sys, visual.geometry; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
