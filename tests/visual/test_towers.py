"""DINOv2, ResNet and towers of timm: what they give, without registers, at the size of their own processor."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import BitImageProcessorPil, ConvNextImageProcessorPil, Dinov2Model, ResNetModel

from common.errors import UserError
from dataset.image import load_image_processor, prepare_image
from settings import load_config
from tests.helpers.asking import reference_answers, requests
from tests.helpers.models import build_with_batch, save
from tests.helpers.other_towers import MEAN, STD, save_dino, save_resnet
from visual.geometry import PatchGrid, patch_grid, read_sizes
from visual.load import empty_vision, load_vision

PICTURE = Image.effect_noise((90, 60), 80).convert("RGB")


def grid_of(folder, drop: bool) -> PatchGrid:
    return patch_grid(read_sizes(json.loads((folder / "config.json").read_text("utf-8")), folder), drop)


@torch.no_grad()
def test_dino_gives_its_class_token_and_its_patches_at_the_processors_size(tmp_path):
    folder = save_dino(tmp_path / "dino")
    tower = load_vision(str(folder)).eval()
    processor = load_image_processor(str(folder))
    pixels = prepare_image(PICTURE, processor)[None]
    wanted = BitImageProcessorPil.from_pretrained(folder)(images=PICTURE, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 42, 42) and torch.equal(pixels, wanted)
    assert list(processor.image_mean) == MEAN and list(processor.image_std) == STD
    features = tower(pixels)
    assert torch.equal(features, Dinov2Model.from_pretrained(folder).eval()(pixels).last_hidden_state)
    assert features.shape == (1, 10, 16) and grid_of(folder, drop=False).encoded == 10
    assert patch_grid(tower.config.to_dict(), drop_first_token=True) == PatchGrid(3, 3, class_tokens=1, dropped=1)


@torch.no_grad()
def test_registers_are_known_by_name_and_left_out(tmp_path):
    folder = save_dino(tmp_path / "dino", registers=4)
    tower = load_vision(str(folder)).eval()
    pixels = torch.randn(1, 3, 42, 42)
    states: list[torch.Tensor] = []
    tower.layernorm.register_forward_hook(lambda module, args, output: states.append(output))
    features = tower(pixels)
    assert states[0].shape == (1, 14, 16) and features.shape == (1, 10, 16)
    assert torch.equal(features[:, 0], states[0][:, 0]) and torch.equal(features[:, 1:], states[0][:, 5:])
    assert grid_of(folder, drop=True) == PatchGrid(3, 3, class_tokens=1, dropped=1)


@torch.no_grad()
def test_dino_ends_at_a_layer_and_takes_another_size(tmp_path):
    folder = save_dino(tmp_path / "dino")
    pixels = torch.randn(1, 3, 56, 56)
    reference = Dinov2Model.from_pretrained(folder).eval()(pixels, output_hidden_states=True).hidden_states
    tower = load_vision(str(folder), image_size=56, layer=-2).eval()
    assert torch.equal(tower(pixels), reference[-2]) and len(tower.blocks) == 2
    assert patch_grid(tower.config.to_dict(), True).features == 16
    joined = load_vision(str(folder), image_size=56, layer=[-3, -2]).eval()
    assert torch.equal(joined(pixels), torch.cat([reference[-3], reference[-2]], -1))
    with pytest.raises(UserError, match="vision.layer: layer -4 of an encoder of 3 blocks"):
        load_vision(str(folder), layer=-4)


@torch.no_grad()
def test_a_resnet_gives_the_cells_of_its_last_map(tmp_path):
    folder = save_resnet(tmp_path / "resnet")
    tower = load_vision(str(folder)).eval()
    pixels = prepare_image(PICTURE, load_image_processor(str(folder)))[None]
    wanted = ConvNextImageProcessorPil.from_pretrained(folder)(images=PICTURE, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 96, 96) and torch.equal(pixels, wanted)
    last = ResNetModel.from_pretrained(folder).eval()(pixels).last_hidden_state  # [1, 16, 3, 3]
    assert torch.equal(tower(pixels)[0, 5], last[0, :, 1, 2])
    assert patch_grid(tower.config.to_dict(), drop_first_token=False) == PatchGrid(3, 3) == grid_of(folder, False)
    with pytest.raises(UserError, match="gives its last feature map alone"):
        load_vision(str(folder), layer=-2)
    with pytest.raises(UserError, match="expected a multiple of 32 pixels for a ResNet, not 100"):
        patch_grid({"model_type": "resnet", "image_size": 100}, False)


@pytest.mark.parametrize("kind", ["dino", "resnet"])
def test_a_run_begins_with_it_and_answers(make_config, tmp_path, kind):
    from answering.assistant import Assistant

    folder = save_dino(tmp_path / kind) if kind == "dino" else save_resnet(tmp_path / kind)
    drop = "true" if kind == "dino" else "false"
    options = [f"vision.path={folder}", f"vision.drop_first_token={drop}", "vision.image_context_length=9"]
    config = make_config(*options)
    model, *_, batch = build_with_batch(config)
    model.train()(**batch).loss.backward()
    assert all(p.grad is None for p in model.vision.parameters())
    with torch.device("meta"):
        assert empty_vision(str(folder)).config.image_size == model.vision.config.image_size
    assistant = Assistant.load(save(config, model.eval(), tmp_path / "checkpoint"), "cpu")
    wanted = reference_answers(assistant, requests(), max_new_tokens=4)
    assert assistant.answer(requests(), max_new_tokens=4) == wanted
    with pytest.raises(UserError, match="expected 9, which is what the encoder gives"):
        load_config(tmp_path / "run.yaml", [*options[:2], "vision.image_context_length=8"])


def test_a_resnet_is_trained_by_nobody(make_config, tmp_path):
    folder = save_resnet(tmp_path / "resnet")
    options = [f"vision.path={folder}", "vision.drop_first_token=false", "vision.image_context_length=9"]
    with pytest.raises(UserError, match="vision.train = full: a ResNet or a tower of timm can only be frozen here"):
        build_with_batch(make_config(*options, "vision.train=full"))


# ---------------------------------------------------------------------------------------------- timm


def timm_config(name: str, size: int = 42, **more) -> dict:
    given = {"input_size": [3, size, size], "mean": MEAN, "std": STD, "interpolation": "bicubic", "crop_pct": 0.9}
    return {"architecture": name, "pretrained_cfg": {**given, **more}}


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("eva02_large_patch14_clip_336", PatchGrid(3, 3, 1)),
        ("vit_gigantic_patch14_clip_224", PatchGrid(3, 3, 1)),
        ("vit_so400m_patch14_siglip_384", PatchGrid(3, 3)),
        ("vit_base_patch14_reg4_dinov2", PatchGrid(3, 3, 1)),
    ],
)
def test_a_timm_towers_grid_is_in_its_name(name, grid):
    assert patch_grid(timm_config(name), drop_first_token=False) == grid


def test_another_family_of_timm_is_refused_by_name():
    with pytest.raises(UserError, match="expected a ViT, EVA or ResNet of timm, not swin_tiny"):
        patch_grid(timm_config("swin_tiny_patch4_window7_224"), False)
    assert patch_grid(timm_config("resnet50", 64), False) == PatchGrid(2, 2)


def test_a_timm_towers_pixels_are_those_of_its_pretrained_cfg(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(timm_config("resnet50", 45)), encoding="utf-8")
    processor = load_image_processor(str(tmp_path))
    assert processor.size == {"shortest_edge": 50} and processor.crop_size == {"height": 45, "width": 45}
    assert (list(processor.image_mean), list(processor.image_std), int(processor.resample)) == (MEAN, STD, 3)


@pytest.mark.parametrize(
    ("name", "model_args", "prefix"),
    [
        ("eva02_tiny_patch14_224", {"img_size": 42, "embed_dim": 24, "depth": 2, "num_heads": 2}, 1),
        ("vit_tiny_patch16_224", {"img_size": 48, "embed_dim": 16, "depth": 2, "num_heads": 2}, 1),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 42, "embed_dim": 16, "depth": 2, "num_heads": 2}, 5),
        ("resnet10t", {}, 0),
    ],
)
@torch.no_grad()
def test_a_timm_tower_gives_what_timm_gives_without_registers(tmp_path, name, model_args, prefix):
    timm = pytest.importorskip("timm", reason="timm is optional: pip install timm")
    torch.manual_seed(8)
    size = model_args.get("img_size", 64)
    reference = timm.create_model(name, num_classes=3, **model_args).eval()
    save_file(reference.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    content = {**timm_config(name, size), "model_args": model_args}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    tower, pixels = load_vision(str(tmp_path)).eval(), torch.randn(1, 3, size, size)
    wanted, found = reference.forward_features(pixels), tower(pixels)
    wanted = wanted.flatten(2).transpose(1, 2) if wanted.ndim == 4 else wanted
    classes = min(1, prefix)
    assert torch.equal(found, torch.cat([wanted[:, :classes], wanted[:, prefix:]], 1))
    assert found.shape[1] == patch_grid(tower.config.to_dict(), False).encoded
    with pytest.raises(UserError, match="vision.image_size: 96, but a tower of timm keeps its own size"):
        load_vision(str(tmp_path), image_size=96)
