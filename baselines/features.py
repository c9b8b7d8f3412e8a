"""Pictures as patches: by the frozen tower of ``vision.path``, or by a ResNet; computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

from baselines.parts import Baseline
from common.hub import load_strictly, model_folder
from dataset.image import load_image_processor, prepare_image
from model.feature_cache import FeatureCache
from settings import Config
from visual.load import Tower, load_vision
from visual.RESNET import ResNetTower

RESNET_SIZE = 448  # pixels: 14 x 14 patches, as in the paper
# torchvision's, with which the public ResNets were trained.
RESNET_MEAN, RESNET_DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def tower_key(config: Config) -> tuple[str, str]:
    """The config key that names the tower, and the name."""
    if config.baselines.resnet is not None:
        return "baselines.resnet", config.baselines.resnet
    return "vision.path", config.vision.path


def load_tower(config: Config, device: torch.device) -> Tower | ResNetTower:
    """The frozen tower in float32.

    Raises:
        UserError: it is missing, or not what it should be.
    """
    (key, path), vision = tower_key(config), config.vision
    if config.baselines.resnet is not None:
        tower = load_strictly(ResNetTower, model_folder(path, key), torch.float32, key)
    else:
        tower = load_vision(path, image_size=vision.image_size, layer=vision.layer, final_norm=vision.final_norm)
    return tower.to(device).eval().requires_grad_(False)


def load_processor(config: Config) -> Any:
    """The image processor of the tower. Raises UserError if there is none."""
    if config.baselines.resnet is None:
        return load_image_processor(config.vision.path, config.vision.image_size)
    square = {"height": RESNET_SIZE, "width": RESNET_SIZE}
    return SiglipImageProcessorPil(size=square, image_mean=RESNET_MEAN, image_std=RESNET_DEVIATION)


def first_patch(config: Config) -> int:
    """The first patch that is used: ``vision.drop_first_token`` drops CLIP's class token; a ResNet has none."""
    return int(config.vision.drop_first_token and config.baselines.resnet is None)


@torch.inference_mode()
def encode(tower: Tower | ResNetTower, processor: Any, images: Sequence[Image.Image], config: Config) -> torch.Tensor:
    """Pictures as patches [I, N, D] on the tower's device."""
    pixel_values = torch.stack([prepare_image(image, processor) for image in images])
    return tower(pixel_values.to(tower.device))[:, first_patch(config) :]


class Patches:
    """The patches of picture files, as a model wants them: from the cache on disk, or their means from memory."""

    def __init__(self, config: Config, model: type[Baseline], device: torch.device) -> None:
        self.config, self.picture, self.device = config, model.picture, device
        self.width = 1
        self.means: dict[str, torch.Tensor] = {}
        self.cache: FeatureCache | None = None

    def fill(self, paths: Sequence[str]) -> set[str]:
        """Compute what is not on disk yet, and return the paths of the pictures that can be read.

        Raises:
            UserError: the tower cannot be loaded, or the cache cannot be written.
        """
        if self.picture == "none":
            return set(paths)
        data = self.config.data
        folder = data.feature_cache or Path(data.image_map).parent / "features"
        tower, path = load_tower(self.config, self.device), tower_key(self.config)[1]
        self.cache = FeatureCache(folder, tower, path, load_processor(self.config), data.max_pixels)
        self.cache.fill(paths, progress=data.progress)
        readable = {path for path in paths if self.cache.names.get(path) in self.cache.shards}
        if readable:
            self.width = self._read(min(readable)).shape[1]
        if self.picture == "vector":
            self.means = {path: self._read(path).mean(0) for path in sorted(readable)}
        return readable

    def __call__(self, paths: Sequence[str]) -> torch.Tensor:
        """Patches [B, N, D]; their means as [B, 1, D] for a model of vectors; zeros for one without pictures."""
        if self.picture == "none":
            return torch.zeros(len(paths), 1, 1)
        if self.picture == "vector":
            return torch.stack([self.means[path] for path in paths])[:, None]
        return torch.stack([self._read(path) for path in paths])

    def _read(self, path: str) -> torch.Tensor:
        assert self.cache is not None, "fill comes first"
        return self.cache(path)[first_patch(self.config) :].float()
