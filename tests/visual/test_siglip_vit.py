"""The vision tower by itself."""

from __future__ import annotations

import torch
from transformers import SiglipVisionModel

from tests.helpers.tiny import save_siglip
from visual.SIGLIP_VIT import SiglipViT


def test_forward_returns_the_last_hidden_state_as_a_tensor(siglip_folder):
    ours = SiglipViT.from_pretrained(siglip_folder).eval()
    reference = SiglipVisionModel.from_pretrained(siglip_folder).eval()
    pixels = torch.randn(2, 3, 42, 42)
    output = ours(pixels)
    assert isinstance(output, torch.Tensor) and output.shape == (2, 9, 16)
    assert torch.equal(output, reference(pixel_values=pixels).last_hidden_state)


def test_real_geometry_gives_729_patches_in_reading_order(tmp_path):
    model = SiglipViT.from_pretrained(save_siglip(tmp_path, image_size=384)).eval()
    pixels = torch.zeros(1, 3, 384, 384)
    assert model(pixels).shape == (1, 729, 16)
    pixels[:, :, 14:28, 28:42] = 1.0  # row 1, column 2 of 27: patch 29
    embedded = model.embeddings(pixels) - model.embeddings(torch.zeros_like(pixels))
    assert embedded.abs().sum(-1)[0].nonzero().flatten().tolist() == [29]


def test_pixels_follow_the_towers_dtype(siglip_folder):
    model = SiglipViT.from_pretrained(siglip_folder, dtype=torch.bfloat16).eval()
    assert model(torch.zeros(1, 3, 42, 42)).dtype == torch.bfloat16


def test_a_folder_with_both_towers_loads_without_surplus_or_missing_tensors(tmp_path):
    folder = save_siglip(tmp_path, two_towers=True)
    _, info = SiglipViT.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
