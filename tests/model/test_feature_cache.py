"""The tower's features on disk: equal to what it gives, made once, and never stale."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from common.errors import UserError
from dataset.collate import collate, model_inputs, samples_of_batch
from dataset.image import ImageError, load_image, load_image_processor, prepare_image
from dataset.image_caption_dataset import ImageCaptionDataset
from model import feature_cache
from model.feature_cache import FeatureCache
from model.model import build_model
from qwen.tokenizer import load_tokenizer
from tests.helpers.tiny import enlarge_projector
from training.setup import build_loop


@pytest.fixture
def config(make_config):
    return make_config("lora.lora_dropout=0.0")


@pytest.fixture
def open_cache(config, tmp_path):
    """A function that opens the cache as another run would: (cache, paths of pictures, sizes of encoded batches)."""
    model = build_model(config, load_tokenizer(config.language.path))
    seen: list[int] = []
    model.vision.register_forward_hook(lambda module, args, output: seen.append(len(output)))

    def open_it(processor=None) -> tuple[FeatureCache, list[str], list[int]]:
        processor = processor or load_image_processor(config.vision.path)
        cache = FeatureCache(tmp_path / "features", model.vision, config.vision.path, processor, 10**6)
        seen.clear()
        return cache, [str(path) for path in sorted(tmp_path.glob("?.png"))], seen

    open_it.model = model
    return open_it


def test_features_are_the_towers_and_are_made_once(open_cache, config, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD", 4)
    cache, paths, seen = open_cache()
    assert cache.fill([*paths, *paths], batch_size=2, progress=False) == 6 and sum(seen) == 6
    assert sorted(file.name for file in cache.folder.iterdir()) == [f"features-0000{n}.safetensors" for n in (0, 1)]
    processor = load_image_processor(config.vision.path)
    again, paths, seen = open_cache()
    assert again.fill(paths, progress=False) == 0 and seen == []
    for path in paths:
        pixels = prepare_image(load_image(path, 50_000_000), processor)[None]
        assert again(path).shape == (9, 16)
        assert torch.allclose(again(path), open_cache.model.vision(pixels)[0], atol=1e-6)


def test_a_changed_picture_processor_or_dtype_is_encoded_again(open_cache, config):
    cache, paths, _ = open_cache()
    cache.fill(paths, progress=False)
    before = cache(paths[0])
    Image.new("RGB", (50, 40), "orange").save(paths[0])
    cache, paths, seen = open_cache()
    assert cache.fill(paths, progress=False) == 1 and sum(seen) == 1
    assert (cache(paths[0]) - before).abs().max() > 1e-3
    processor = load_image_processor(config.vision.path)
    processor.image_mean = [0.1, 0.1, 0.1]
    cache, paths, _ = open_cache(processor)
    assert cache.fill(paths, progress=False) == 6
    open_cache.model.vision.to(torch.bfloat16)
    cache, paths, _ = open_cache()
    assert cache.fill(paths, progress=False) == 6 and cache(paths[0]).dtype == torch.bfloat16


def test_a_picture_that_cannot_be_read_is_named_when_its_turn_comes(open_cache):
    cache, paths, _ = open_cache()
    Path(paths[1]).write_bytes(b"not a picture")
    assert cache.fill(paths, batch_size=2, progress=False) == 6
    with pytest.raises(ImageError, match="not in the feature cache"):
        cache(paths[1])
    assert cache(paths[2]).shape == (9, 16)


def test_a_damaged_shard_is_named(open_cache):
    cache, paths, _ = open_cache()
    cache.fill(paths, progress=False)
    (shard,) = cache.folder.iterdir()
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(UserError, match=f"{shard.name} is damaged .* delete it"):
        open_cache()


def test_the_loss_is_that_of_the_pixels(open_cache, config):
    model = open_cache.model
    enlarge_projector(model)
    processor = load_image_processor(config.vision.path)
    dataset = ImageCaptionDataset(config, load_tokenizer(config.language.path), processor)
    by_pixels = model(**samples_of_batch(dataset, [0, 1, 2])).loss
    cache, paths, seen = open_cache()
    cache.fill(paths, progress=False)
    dataset.features = cache
    seen.clear()
    batch = samples_of_batch(dataset, [0, 1, 2])
    assert "pixel_values" not in batch and batch["image_features"].shape == (3, 9, 16)
    by_features = model(**batch).loss
    assert by_features.item() == pytest.approx(by_pixels.item(), rel=1e-6) and seen == []
    by_features.backward()
    assert next(model.projector.parameters()).grad.abs().max() > 0


def test_an_image_that_comes_twice_is_encoded_once(open_cache, config):
    model, processor = open_cache.model, load_image_processor(config.vision.path)
    dataset = ImageCaptionDataset(config, load_tokenizer(config.language.path), processor)
    samples = [dataset[0], dataset[1], dataset[0]]
    _, _, seen = open_cache()
    batch = model_inputs(collate(samples, 0))
    together = model(**batch).loss
    assert seen == [2] and batch["image_index"].tolist() == [0, 1, 0]
    alone = [model(**samples_of_batch(dataset, [i])).loss for i in (0, 1, 0)]
    labels = [sum(label != -100 for label in sample["labels"]) for sample in samples]
    mean = sum(loss * count for loss, count in zip(alone, labels, strict=True)) / sum(labels)
    assert together.item() == pytest.approx(mean.item(), rel=1e-5)


def test_a_run_with_the_cache_learns_as_one_without(make_config, tmp_path, capsys):
    losses = []
    for more in ([], [f"data.feature_cache={tmp_path / 'kept'}"]):
        loop = build_loop(make_config("lora.lora_dropout=0.0", "data.progress=false", *more), tmp_path / "run")
        loop.train()
        losses.append([entry["loss"] for entry in loop.progress.log_history if "loss" in entry])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and len(losses[0]) == 4
    assert "of 5 images" in capsys.readouterr().out


def test_only_a_frozen_tower_can_be_kept(make_config, tmp_path):
    with pytest.raises(UserError, match="data.feature_cache: vision.train is full"):
        build_loop(make_config("vision.train=full", f"data.feature_cache={tmp_path / 'kept'}"), tmp_path / "run")
