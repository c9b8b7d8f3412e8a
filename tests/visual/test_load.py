"""Loading towers: SigLIP and CLIP of every size, at their own resolution and layer or at others."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModel, SiglipVisionModel

from common.errors import UserError
from dataset.image import load_image_processor, prepare_image
from tests.helpers.tiny import save_clip, save_siglip
from visual.geometry import patch_grid
from visual.load import load_vision

CLASSES = {"siglip": SiglipVisionModel, "clip": CLIPVisionModel}


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Folders by kind; "... both" holds the text tower too."""
    base = tmp_path_factory.mktemp("towers")
    return {
        "siglip": save_siglip(base / "siglip"),
        "siglip both": save_siglip(base / "siglip2", two_towers=True),
        "clip": save_clip(base / "clip"),
        "clip both": save_clip(base / "clip2", two_towers=True),
    }


def load(folder, **settings):
    return load_vision(str(folder), **settings).eval()


@pytest.mark.parametrize("name", ["siglip", "siglip both", "clip", "clip both"])
@pytest.mark.parametrize("layer", [-1, -2])
@torch.no_grad()
def test_a_hidden_state_is_transformers_own(towers, name, layer):
    kind = name.split()[0]
    tower = load(towers[name], layer=layer)
    reference = CLASSES[kind].from_pretrained(towers[name]).eval()
    pixels = torch.randn(2, 3, 42, 42)
    wanted = reference(pixels, output_hidden_states=True)
    state = wanted.last_hidden_state if layer == -1 else wanted.hidden_states[layer]
    assert torch.equal(tower(pixels), state)
    # Blocks and weights that nothing reads are gone.
    assert len(tower.encoder.layers) == {"siglip": 2, "clip": 3}[kind] + 1 + layer
    assert not any(key.startswith("head") for key in tower.state_dict())
    assert ("post_layernorm.weight" in tower.state_dict()) == (kind == "siglip" and layer == -1)


@pytest.mark.parametrize(
    ("size", "patch", "tokens"),
    # base, large and so400m as published, 224 to 512 px
    [(224, 16, 196), (256, 16, 256), (384, 16, 576), (512, 16, 1024), (224, 14, 256), (384, 14, 729)],
)
@torch.no_grad()
def test_every_published_size_gives_its_tokens(tmp_path, size, patch, tokens):
    folder = save_siglip(tmp_path / "tower", image_size=size, patch_size=patch)
    tower = load(folder)
    assert tower(torch.zeros(1, 3, size, size)).shape == (1, tokens, 16)
    for content in (json.loads((folder / "config.json").read_text()), tower.config.to_dict()):
        assert patch_grid(content, drop_first_token=False).features == tokens
        assert patch_grid(content, drop_first_token=True).features == tokens - 1


@pytest.mark.parametrize("name", ["siglip", "clip"])
@torch.no_grad()
def test_another_resolution_has_interpolated_positions(towers, name):
    tokens = {"siglip": 24, "clip": 25}[name]  # 5 x 5, and CLIP's CLS, without the first
    tower = load(towers[name], image_size=70)
    pixels = torch.randn(1, 3, 70, 70)
    reference = CLASSES[name].from_pretrained(towers[name]).eval()
    wanted = reference(pixels, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(tower(pixels), wanted, rtol=0, atol=1e-5)
    assert patch_grid(tower.config.to_dict(), drop_first_token=True).features == tokens


def test_clips_processor_crops_the_middle(towers):
    processor = load_image_processor(str(towers["clip"]))
    assert type(processor).__name__ == "CLIPImageProcessorPil"
    wide = Image.new("RGB", (126, 42), "black")
    wide.paste("white", (42, 0, 84, 42))
    pixels = prepare_image(wide, processor)
    assert pixels.shape == (3, 42, 42) and (pixels > 1.5).all()  # white alone, normalised


def test_a_layer_that_is_not_there_is_named(towers):
    with pytest.raises(UserError, match="vision.layer: layer -4 of an encoder of 3 blocks; expected -3 to -1"):
        load(towers["clip"], layer=-4)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("clip", "layers.1.mlp.fc1.bias"), ("siglip both", "layers.1.mlp.fc1.bias"), ("siglip", "head.probe")],
)
def test_a_missing_and_a_surplus_tensor_are_named(towers, tmp_path, name, tensor):
    """Those of the pooling head too, although it is removed: a part of one means an incomplete download."""
    state = load_file(towers[name] / "model.safetensors")
    (tmp_path / "config.json").write_text((towers[name] / "config.json").read_text())
    key = next(key for key in state if key.endswith(tensor) and not key.startswith("text_model"))
    taken = state.pop(key)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"vision.path: .* lacks 1 tensors, .*{tensor} first"):
        load(tmp_path)
    surplus = key.replace(tensor, f"more.{tensor}")
    save_file({**state, key: taken, surplus: taken.clone()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"vision.path: .* has surplus 1 tensors, .*more.{tensor} first"):
        load(tmp_path)


def test_another_kind_of_encoder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2_vision_model", "patch_size": 16}))
    with pytest.raises(UserError, match="SigLIP, SigLIP 2 or CLIP encoder of fixed resolution, not model_type siglip2"):
        load(tmp_path)
