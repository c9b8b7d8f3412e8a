"""How a vision tower cuts a picture into patches, from the content of its config.json; without torch.

For one picture a tower gives a row of features: first its class token, where it has one (CLIP), then one feature for
each patch in reading order. ``drop_first_token`` leaves out the first of them: CLIP's class token, SigLIP's patch 0.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.qwen_vl import is_qwen_vl, visual_sizes
from common.timm_config import is_timm

# Kinds whose config.json lacks the size of pictures or has another: it is that of their image processor.
SIZE_OF_PROCESSOR = ("dinov2", "dinov2_with_registers", "resnet")
# By model_type: the patch size that transformers leaves out of a config.json, and the class tokens before the patches.
_KINDS = {"siglip": (16, 0), "clip": (32, 1), "qwen_vl": (14, 0), "dinov2": (14, 1)}
_KINDS |= {"dinov2_with_registers": (14, 1), "resnet": (32, 0), "timm": (16, 0)}  # registers are no features


@dataclass(frozen=True)
class PatchGrid:
    """Features of one picture: ``class_tokens``, then ``rows`` x ``columns`` patches, without the first ``dropped``.

    After pooling, each of the ``rows`` x ``columns`` is a cell of ``cell`` x ``cell`` patches. The last row and column
    of cells may reach over the edge of the picture.
    """

    rows: int
    columns: int
    class_tokens: int = 0
    dropped: int = 0
    cell: int = 1

    @property
    def encoded(self) -> int:
        """How many features the tower gives."""
        return self.class_tokens + self.rows * self.columns

    @property
    def features(self) -> int:
        """How many of them the connector is given."""
        return self.encoded - self.dropped

    @property
    def dropped_patches(self) -> int:
        """How many patches, from the top left, are not among the features."""
        return max(0, self.dropped - self.class_tokens)

    @property
    def kept_class_tokens(self) -> int:
        """How many features come before the first patch and have no position in the picture."""
        return max(0, self.class_tokens - self.dropped)

    @property
    def drop_first_for_patches(self) -> str | None:
        """``true`` or ``false``, which ``drop_first_token`` must be for all patches and nothing else; None if it is."""
        if self.dropped_patches == self.kept_class_tokens == 0:
            return None
        return "false" if self.dropped_patches else "true"

    def pooled(self, cell: int) -> PatchGrid:
        """The cells of ``cell`` x ``cell`` patches, for a grid that is nothing but patches."""
        return PatchGrid(-(-self.rows // cell), -(-self.columns // cell), cell=cell)


def patch_grid(vision_config: dict[str, Any], drop_first_token: bool, image_size: int | None = None) -> PatchGrid:
    """The features of one picture.

    ``vision_config`` is the content of a config.json (or ``config.to_dict()``), of the vision tower or of both towers;
    ``image_size`` is another resolution than its own, in pixels.

    Raises:
        UserError: not a tower of fixed resolution that is known here, or sizes that leave no feature.
    """
    size, patch, class_tokens = tower_sizes(vision_config)
    size = image_size or size
    side = size // patch
    grid = PatchGrid(side, side, class_tokens, int(drop_first_token))
    if grid.features < 1:
        raise UserError(f"expected an encoder that gives visual tokens, not {size} px in patches of {patch} px")
    return grid


def tower_sizes(vision_config: dict[str, Any]) -> tuple[int, int, int]:
    """Image size and patch size in pixels, and the number of class tokens.

    transformers leaves values out of a config.json that equal its defaults.

    Raises:
        UserError: not a tower of fixed resolution that is known here, or the sizes are not whole numbers above 0.
    """
    if isinstance(vision_config, dict) and is_qwen_vl(vision_config):
        vision_config = {**visual_sizes(vision_config), "model_type": "qwen_vl_vision_model"}
    elif isinstance(vision_config, dict) and is_timm(vision_config):
        vision_config = timm_sizes(vision_config)
    tower = vision_config.get("vision_config", vision_config) if isinstance(vision_config, dict) else None
    if not isinstance(tower, dict):
        raise UserError("expected a config.json with the sizes of an encoder")
    kind = tower.get("model_type", vision_config.get("model_type", "siglip_vision_model"))
    family = str(kind).removesuffix("_vision_model")
    if family not in _KINDS:
        raise UserError(
            "expected DINOv2, ResNet, a model of timm, or a SigLIP, SigLIP 2 or CLIP encoder of fixed resolution, "
            f"not model_type {kind}"
        )
    default_patch, class_tokens = _KINDS[family]
    class_tokens = tower.get("class_tokens", class_tokens) if family == "timm" else class_tokens
    size, patch = tower.get("image_size", 224), tower.get("patch_size", default_patch)
    if not all(type(number) is int and number > 0 for number in (size, patch)):
        shown = json.dumps([size, patch], default=str)[:100]
        raise UserError(f"expected whole numbers of pixels for image_size and patch_size, not {shown}")
    if patch == 32 and family in ("resnet", "timm") and size % patch:
        raise UserError(f"expected a multiple of 32 pixels for a ResNet, not {size}")
    return size, patch, class_tokens


def read_sizes(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """``content``, a folder's config.json, with the size of pictures from its preprocessor_config.json where it counts.

    Raises:
        UserError: that file cannot be read.
    """
    if not isinstance(content, dict) or content.get("model_type") not in SIZE_OF_PROCESSOR:
        return content
    file = folder / "preprocessor_config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        size = settings["crop_size" if settings.get("do_center_crop") else "size"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{file} has no size of pictures that can be read ({error})") from None
    return {**content, "image_size": min(size.values()) if isinstance(size, dict) else size}


def timm_sizes(content: dict[str, Any]) -> dict[str, Any]:
    """Sizes of a model of timm, by its name: patch14 is the patch; a ViT or EVA has a class token, SigLIP's has none.

    Raises:
        UserError: it is of another family.
    """
    name, settings = content["architecture"], content["pretrained_cfg"]
    found = re.match(r"(?:vit|eva|eva02)_.*patch(\d+)", name)
    if found:
        patch, class_tokens = int(found[1]), int("siglip" not in name and "_gap" not in name)
    elif name.startswith("resnet"):
        patch, class_tokens = 32, 0
    else:
        raise UserError(f"expected a ViT, EVA or ResNet of timm, not {name}")
    size = (settings.get("input_size") or [3, 224, 224])[-1]
    sizes = {"image_size": size, "patch_size": patch, "class_tokens": class_tokens}
    return {"model_type": "timm_vision_model", **sizes}
