"""The frozen tower's features on disk, for language models that are so small that the tower is most of a step.

Off by default (``data.feature_cache``). A so400m feature of 729 x 1152 in bf16 is 1.7 MB, ten times its JPEG. With a
language model of a billion parameters, reading it may take longer than computing it. ``python -m
benchmarks.feature_cache`` measures both, and ``train.py`` logs tokens per second.

Layout: ``<folder>/<encoder>/features-<n>.safetensors``. ``encoder`` is a hash of the tower's files, its image processor
and the dtype; the tensors in a shard are named by the hash of their image's file. Changed pictures, weights or settings
have other names, so nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from common.errors import UserError
from common.files import publish_file
from common.hashing import hash_model, sha256
from dataset.image import ImageError, load_image, prepare_image
from visual.load import Tower
from visual.RESNET import ResNetTower

SHARD = 512  # images: 0.9 GB of so400m features


class FeatureCache:
    """Features [N, D] of image files in the tower's dtype, before the first is dropped.

    Args:
        folder: where shards are kept; made if it is missing.
        vision: a frozen tower, [K, 3, H, W] -> [K, N, D].
        path: the tower's folder or hub name, for its hash.
        image_processor: transformers' image processor of this tower.
        max_pixels: a larger image counts as unreadable.

    Raises:
        UserError: the folder cannot be written, or a shard in it is damaged.
    """

    def __init__(
        self, folder: Path, vision: Tower | ResNetTower, path: str, image_processor: Any, max_pixels: int
    ) -> None:
        self.vision, self.image_processor, self.max_pixels = vision, image_processor, max_pixels
        self.dtype = next(vision.parameters()).dtype
        settings = f"{hash_model(path, 'vision.path')} {_shape(vision)} {image_processor.to_json_string()} {self.dtype}"
        self.folder = folder / hashlib.sha256(settings.encode()).hexdigest()[:16]
        self.names: dict[str, str] = {}  # path of an image -> hash of the file
        self.shards: dict[str, Path] = {}  # that hash -> the shard that holds it
        self._open: dict[Path, Any] = {}  # safetensors' open files
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.feature_cache: {folder} cannot be written ({error.strerror})") from None
        for shard in sorted(self.folder.glob("features-*.safetensors")):
            self._index(shard)

    def fill(self, paths: Sequence[str], *, batch_size: int = 16, workers: int = 0, progress: bool = True) -> int:
        """Encode the images that are not in the cache yet, and return their number. Unreadable ones are left out.

        A shard appears when it is complete, so after an interruption the next run continues after the last one.
        """
        with ThreadPoolExecutor() as pool:
            present = [path for path in dict.fromkeys(paths) if Path(path).is_file()]
            self.names.update(zip(present, pool.map(lambda path: sha256(Path(path)), present), strict=True))
        missing = {self.names[path]: path for path in present if self.names[path] not in self.shards}
        images = _Images(list(missing.items()), self.image_processor, self.max_pixels)
        loader = DataLoader(images, batch_size=batch_size, num_workers=workers, collate_fn=_readable)
        features: dict[str, torch.Tensor] = {}
        with tqdm(total=len(missing), desc="encoding images", unit="image", disable=not progress or not missing) as bar:
            for names, pixel_values in loader:
                if names:
                    features |= zip(names, self._encode(pixel_values), strict=True)
                bar.update(batch_size)
                if len(features) >= SHARD:
                    self._write(features)
                    features = {}
        if features:
            self._write(features)
        return len(missing)

    def __call__(self, path: str) -> torch.Tensor:
        """The features [N, D] of an image that :meth:`fill` was given.

        Raises:
            ImageError: the image could not be read then.
        """
        name = self.names.get(path)
        if name not in self.shards:
            raise ImageError("not in the feature cache: it could not be read when that was filled")
        shard = self.shards[name]
        if shard not in self._open:
            self._open[shard] = safe_open(shard, framework="pt")
        return self._open[shard].get_tensor(name)

    def __getstate__(self) -> dict:
        """For the loader's processes, which need no tower and open the shards themselves."""
        return {**self.__dict__, "vision": None, "_open": {}}

    @torch.inference_mode()
    def _encode(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        weights = next(self.vision.parameters())
        return list(self.vision(pixel_values.to(weights.device, weights.dtype)).cpu().clone())

    def _write(self, features: dict[str, torch.Tensor]) -> None:
        number = len(list(self.folder.glob("features-*.safetensors")))
        shard = self.folder / f"features-{number:05d}.safetensors"
        temporary = shard.with_suffix(".tmp")
        try:
            save_file({name: tensor.contiguous() for name, tensor in features.items()}, temporary)
            publish_file(temporary, shard)
        except (OSError, SafetensorError) as error:
            raise UserError(f"data.feature_cache: {shard} cannot be written ({error})") from None
        self._index(shard)

    def _index(self, shard: Path) -> None:
        try:
            with safe_open(shard, framework="pt") as file:
                self.shards.update(dict.fromkeys(file.keys(), shard))
        except (OSError, SafetensorError) as error:
            raise UserError(f"data.feature_cache: {shard} is damaged ({error}); delete it") from None


def _shape(vision: Tower | ResNetTower) -> str:
    """What a tower computes beyond its files: as vision.layer, vision.final_norm and vision.image_size left it."""
    if isinstance(vision, ResNetTower):
        return "last feature map"
    states = f", joined {vision.states}" if vision.states else ""
    norm = "" if isinstance(vision.final_norm, torch.nn.LayerNorm) else ", no norm"
    return f"{vision.config.num_hidden_layers} blocks, {vision.config.image_size} px{states}{norm}"


class _Images(Dataset):
    """(name, pixels [3, H, W], or None if the image is unreadable) of (name, path)."""

    def __init__(self, items: list[tuple[str, str]], image_processor: Any, max_pixels: int) -> None:
        self.items, self.image_processor, self.max_pixels = items, image_processor, max_pixels

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor | None]:
        name, path = self.items[index]
        try:
            return name, prepare_image(load_image(path, self.max_pixels), self.image_processor)
        except ImageError:
            return name, None


def _readable(items: list[tuple[str, torch.Tensor | None]]) -> tuple[list[str], torch.Tensor | None]:
    kept = [(name, pixels) for name, pixels in items if pixels is not None]
    return [name for name, _ in kept], torch.stack([pixels for _, pixels in kept]) if kept else None
