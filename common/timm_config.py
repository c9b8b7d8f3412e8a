"""The config.json of a model of timm, as it is on the hub."""

from __future__ import annotations

from typing import Any


def is_timm(content: dict[str, Any]) -> bool:
    """Whether ``content`` is the config.json of a model of timm."""
    return isinstance(content.get("architecture"), str) and isinstance(content.get("pretrained_cfg"), dict)
