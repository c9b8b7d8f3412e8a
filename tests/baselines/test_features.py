"""Pictures as patches: computed once, by the tower or by a ResNet."""

from __future__ import annotations

import torch
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from baselines.attention import Attention
from baselines.features import Patches, encode, load_processor, load_tower
from baselines.ibowimg import IBowImg
from dataset.image import load_image

CPU = torch.device("cpu")


def save_resnet(folder):
    torch.manual_seed(5)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=3)
    model = ResNetForImageClassification(config)
    model.save_pretrained(folder)
    return model.eval()


def paths(config) -> list[str]:
    return [str(config.data.image_map.parent / f"{number}.png") for number in range(3)]


def test_patches_from_the_cache_are_those_of_the_picture(colors):
    config = colors()
    patches = Patches(config, Attention, CPU)
    assert patches.fill(paths(config)) == set(paths(config)) and patches.width == 16
    images = [load_image(path, 10_000) for path in paths(config)]
    wanted = encode(load_tower(config, CPU), load_processor(config), images, config)
    assert wanted.shape == (3, 8, 16)  # 3 x 3 patches without the first
    torch.testing.assert_close(patches(paths(config)), wanted, rtol=0, atol=1e-5)
    means = Patches(config, IBowImg, CPU)
    means.fill(paths(config))
    torch.testing.assert_close(means(paths(config)), wanted.mean(1, keepdim=True), rtol=0, atol=1e-5)


def test_a_resnet_gives_its_last_feature_map_in_reading_order(colors, tmp_path):
    save_resnet(tmp_path / "resnet")
    config = colors(f"baselines.resnet={tmp_path / 'resnet'}")
    tower, processor = load_tower(config, CPU), load_processor(config)
    image = load_image(paths(config)[0], 10_000)
    found = encode(tower, processor, [image], config)
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 448, 448)
    reference = ResNetModel.from_pretrained(tmp_path / "resnet").eval()
    wanted = reference(pixels).last_hidden_state  # [1, 12, h, w]
    torch.testing.assert_close(found[0, 5], wanted[0, :, 0, 5])
    assert found.shape == (1, wanted.shape[2] * wanted.shape[3], 12)
    patches = Patches(config, Attention, CPU)
    patches.fill(paths(config)[:1])
    torch.testing.assert_close(patches(paths(config)[:1]), found, rtol=0, atol=1e-5)


def test_a_picture_that_cannot_be_read_is_left_out(colors):
    config = colors()
    (config.data.image_map.parent / "1.png").write_bytes(b"broken")
    patches = Patches(config, Attention, CPU)
    assert patches.fill(paths(config)) == {paths(config)[0], paths(config)[2]}
