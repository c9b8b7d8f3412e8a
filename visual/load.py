"""From a folder or hub name to a vision tower, complete, at the resolution and layer that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from common.errors import UserError
from common.hub import load_strictly, model_folder, read_config, weight_files
from common.llava import add_final_norm, is_llava, llava_config, read_part
from common.qwen_vl import is_qwen_vl
from common.qwen_vl import read_part as read_qwen_vl
from common.timm_config import is_timm
from visual.CLIP_VIT import ClipViT
from visual.DINO_VIT import DinoRegistersViT, DinoViT
from visual.geometry import read_sizes, tower_sizes
from visual.QWEN_VIT import QwenViT, vit_config, vit_state
from visual.RESNET import ResNetTower
from visual.SIGLIP_VIT import SiglipViT, resize_positions
from visual.TIMM import TimmTower, timm_config, timm_state

Tower = SiglipViT | ClipViT | DinoViT | DinoRegistersViT | ResNetTower | TimmTower
TOWERS: dict[
    str, type[Tower]
] = {  # by the config's model_type; a folder may hold both towers, or the vision tower alone
    "siglip": SiglipViT,
    "siglip_vision_model": SiglipViT,
    "clip": ClipViT,
    "clip_vision_model": ClipViT,
    "dinov2": DinoViT,
    "dinov2_with_registers": DinoRegistersViT,
    "resnet": ResNetTower,
}


Layer = int | Sequence[int]


def load_vision(
    path: str,
    dtype: torch.dtype = torch.float32,
    *,
    image_size: int | None = None,
    layer: Layer = -1,
    final_norm: bool = True,
) -> Tower:
    """A tower on the CPU that maps ``pixel_values`` [B, 3, H, W] to features [B, N, D].

    Args:
        path: a folder of a tower, of both towers or of a LLaVA, or a name on the hub.
        image_size: another resolution than its own, in pixels.
        layer: which hidden state it gives, counted as transformers does: -1 is the last. Of a list, the hidden states
            are joined, and D is as many times as wide.
        final_norm: whether SigLIP's last hidden state is the one after the final norm.

    Raises:
        UserError: it is missing, incomplete or of an unknown kind, or has no such layer.
    """
    folder = model_folder(path, "vision.path")
    content = read_tower_config(folder, path)
    cls = tower_class(content, path)
    options: dict[str, Any] = {}
    if is_llava(content):
        config, state = llava_config(folder).vision_config, read_part(folder, "vision")
        if not final_norm or layer != -1:
            add_final_norm(state, config.hidden_size)
        options = {"config": config, "state": state}
    elif is_qwen_vl(content):
        config = vit_config(content, image_size)
        options = {"config": config, "state": vit_state(read_qwen_vl(folder, "vision"), config)}
    elif is_timm(content):
        state = {}
        for file in weight_files(Path(folder)):
            state |= load_file(file)
        tower = fill_timm(TimmTower(timm_config(content)), timm_state(state), path).to(dtype)
        return adapt(tower, image_size, layer, final_norm)
    tower = load_strictly(cls, folder, dtype, "vision.path", **options)
    return adapt(tower, image_size or content.get("image_size"), layer, final_norm)


def fill_timm(tower: TimmTower, state: dict[str, torch.Tensor], path: str) -> TimmTower:
    """A tower of timm with its weights. It is made on the CPU: on the meta device, its rotary tables would be lost.

    Raises:
        UserError: tensors are missing, surplus or of another shape; names ``path``.
    """
    try:
        tower.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"vision.path = {path}: {' '.join(str(error).split())[:300]}") from None
    return tower


def empty_vision(path: str, *, image_size: int | None = None, layer: Layer = -1, final_norm: bool = True) -> Tower:
    """:func:`load_vision` without its weights, from the config.json alone; meant for ``torch.device("meta")``."""
    folder = model_folder(path, "vision.path")
    content = read_tower_config(folder, path)
    cls = tower_class(content, path)
    config: Any
    if is_timm(content):
        config = timm_config(content)
    elif is_qwen_vl(content):
        config = vit_config(content, image_size)
    elif is_llava(content):
        config = llava_config(folder).vision_config
    else:
        config = cls.config_class.from_pretrained(folder)
    return adapt(cls(config), image_size or content.get("image_size"), layer, final_norm)


def read_tower_config(folder: str, path: str) -> dict[str, Any]:
    """The content of a tower's config.json, with the size of its pictures.

    Raises:
        UserError: a file cannot be read; names ``path``.
    """
    try:
        return read_sizes(read_config(folder, "vision.path"), Path(folder))
    except UserError as error:
        raise UserError(f"vision.path = {path}: {error}") from None


def tower_class(content: dict[str, Any], path: str) -> type[Tower]:
    """The class for the content of a config.json.

    Raises:
        UserError: it is of another kind; names ``path``.
    """
    try:
        tower_sizes(content)
    except UserError as error:
        raise UserError(f"vision.path = {path}: {error}") from None
    if is_qwen_vl(content):
        return QwenViT
    if is_timm(content):
        return TimmTower
    tower = content["vision_config"] if is_llava(content) else content
    return TOWERS[tower.get("model_type", "siglip_vision_model")]


def adapt(tower: Tower, image_size: int | None, layer: Layer, final_norm: bool = True) -> Tower:
    """Change a tower to another resolution and layer, in place."""
    if image_size is not None and image_size != tower.config.image_size:
        if isinstance(tower, SiglipViT | ClipViT):
            resize_positions(tower, image_size)
        else:
            tower.resize(image_size)
    try:
        tower.end_at_layer(layer, final_norm)
    except ValueError as error:
        raise UserError(f"vision.layer: {error}") from None
    return tower
