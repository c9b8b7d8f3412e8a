"""From a folder or hub name to a vision tower, whole, at the resolution and layer that were asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from common.errors import UserError
from common.hub import load_strictly, model_folder, read_config
from visual.CLIP_VIT import ClipViT
from visual.SIGLIP_VIT import SiglipViT, resize_positions

if TYPE_CHECKING:
    from settings import Vision

TOWERS = {  # by the config's model_type; a folder may hold both towers, or the vision tower alone
    "siglip": SiglipViT,
    "siglip_vision_model": SiglipViT,
    "clip": ClipViT,
    "clip_vision_model": ClipViT,
}


def load_vision(settings: Vision, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The tower of a config's ``vision`` section, which maps ``pixel_values`` [B, 3, H, W] to features [B, N, D].

    Raises:
        UserError: it is missing, incomplete, of an unknown kind, or gives another number of visual tokens.
    """
    folder = model_folder(settings.path, "vision.path")
    content = read_config(folder, "vision.path")
    check_token_count(settings, content)
    tower = load_strictly(tower_class(content), folder, dtype, "vision.path")
    return adapt(tower, settings)


def empty_vision(settings: Vision) -> nn.Module:
    """The same tower made of its config.json alone: on the meta device, if that is set."""
    folder = model_folder(settings.path, "vision.path")
    content = read_config(folder, "vision.path")
    check_token_count(settings, content)
    cls = tower_class(content)
    config = cls.config_class.from_pretrained(folder)
    return adapt(cls(config), settings)


def tower_class(content: dict) -> type[nn.Module]:
    """The class for the content of a config.json that :func:`check_token_count` let pass."""
    return TOWERS[content.get("model_type", "siglip_vision_model")]


def adapt(tower: nn.Module, settings: Vision) -> nn.Module:
    """Change a tower to the resolution and layer of the ``vision`` section."""
    if settings.image_size is not None and settings.image_size != tower.config.image_size:
        resize_positions(tower, settings.image_size)
    try:
        tower.end_at_layer(settings.layer)
    except ValueError as error:
        raise UserError(f"vision.layer: {error}") from None
    return tower


def check_token_count(settings: Vision, content: dict) -> None:
    """``content`` is the tower's config.json.

    Raises:
        UserError: it is of another kind, or gives not ``vision.image_context_length`` tokens; names the right number.
    """
    from settings import visual_token_count  # pydantic, which the benchmarks run without

    try:
        tokens = visual_token_count(content, settings.drop_first_token, settings.image_size)
    except UserError as error:
        raise UserError(f"vision.path = {settings.path}: {error}") from None
    if tokens != settings.image_context_length:
        raise UserError(
            f"vision.image_context_length: {settings.image_context_length}, but {settings.path} gives "
            f"{tokens} visual tokens; set vision.image_context_length={tokens}"
        )
