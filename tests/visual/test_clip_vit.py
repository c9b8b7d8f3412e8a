"""CLIP's vision tower by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import CLIPVisionModel

from tests.helpers.tiny import save_clip
from visual.CLIP_VIT import ClipViT


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """Three layers; 42 px gives a class token and 3 x 3 patches."""
    return save_clip(tmp_path_factory.mktemp("clip"))


@torch.no_grad()
def test_forward_returns_a_tensor_with_the_class_token_first(clip_folder):
    ours, reference = (kind.from_pretrained(clip_folder).eval() for kind in (ClipViT, CLIPVisionModel))
    pixels = torch.randn(2, 3, 42, 42)
    output = ours(pixels)
    assert output.shape == (2, 10, 16)
    assert torch.equal(output, reference(pixels).last_hidden_state)
    assert torch.equal(reference(pixels).pooler_output, reference.post_layernorm(output[:, 0]))


@pytest.mark.parametrize("layer", [-1, -2, -3])
@torch.no_grad()
def test_a_tower_that_ends_earlier_gives_that_hidden_state_without_a_norm(clip_folder, layer):
    ours, reference = (kind.from_pretrained(clip_folder).eval() for kind in (ClipViT, CLIPVisionModel))
    ours.end_at_layer(layer)
    pixels = torch.randn(1, 3, 42, 42)
    assert torch.equal(ours(pixels), reference(pixels, output_hidden_states=True).hidden_states[layer])
    assert len(ours.encoder.layers) == 4 + layer == ours.config.num_hidden_layers
    assert isinstance(ours.post_layernorm, nn.Identity)


def test_a_layer_that_is_not_there_is_an_error(clip_folder):
    tower = ClipViT.from_pretrained(clip_folder)
    for layer in (0, -4):
        with pytest.raises(ValueError, match="of an encoder of 3 blocks; expected -3 to -1"):
            tower.end_at_layer(layer)


def test_pixels_follow_the_towers_dtype(clip_folder):
    model = ClipViT.from_pretrained(clip_folder, dtype=torch.bfloat16).eval()
    assert model(torch.zeros(1, 3, 42, 42)).dtype == torch.bfloat16


def test_a_folder_with_both_towers_loads_without_surplus_or_missing_tensors(tmp_path):
    _, info = ClipViT.from_pretrained(save_clip(tmp_path, two_towers=True), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
