"""Image processors of other kinds than SigLIP's and CLIP's, as settings of CLIP's: resize, crop, normalise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.hub import read_config
from common.qwen_vl import is_qwen_vl, visual_sizes
from common.timm_config import is_timm

FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
WARPED = 384  # from this size on, ConvNextImageProcessor stretches a picture to a square


def settings_of_model(folder: str) -> dict[str, Any] | None:
    """Settings from a config.json that holds them: Qwen-VL's and timm's. None for another model.

    Qwen-VL stretches a picture to a square, and CLIP's mean, deviation and bicubic filter, the defaults, are its own.
    """
    if not (Path(folder) / "config.json").is_file():
        return None
    content = read_config(folder, "vision.path")
    if is_qwen_vl(content):
        return stretched(visual_sizes(content)["image_size"])
    if not is_timm(content):
        return None
    given = content["pretrained_cfg"]
    size = (given.get("input_size") or [3, 224, 224])[-1]
    settings: dict[str, Any] = {"resample": FILTERS[given.get("interpolation") or "bicubic"]}
    settings |= {f"image_{name}": given[name] for name in ("mean", "std") if name in given}
    if given.get("crop_mode") == "squash":
        return {**settings, **stretched(size)}
    return {**settings, **cropped(size, given.get("crop_pct") or 0.875)}


def settings_of_convnext(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a ConvNextImageProcessor, which ResNets have."""
    size = settings["size"]
    size = size["shortest_edge"] if isinstance(size, dict) else size
    kept: dict[str, Any] = {
        name: settings[name] for name in ("image_mean", "image_std", "resample") if name in settings
    }
    return {**kept, **(stretched(size) if size >= WARPED else cropped(size, settings.get("crop_pct") or 224 / 256))}


def stretched(size: int) -> dict[str, Any]:
    """A picture becomes a square of ``size`` pixels."""
    return {"size": {"height": size, "width": size}, "do_center_crop": False}


def cropped(size: int, share: float) -> dict[str, Any]:
    """The square of ``size`` pixels in the middle, which is ``share`` of the shorter edge."""
    return {"size": {"shortest_edge": int(size / share)}, "crop_size": {"height": size, "width": size}}
