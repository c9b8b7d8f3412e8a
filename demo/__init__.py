"""The demo: drawn pictures with questions, the training of its two tiny backbones, and the last step of `make demo`.
May import every room; no room imports it."""

from pathlib import Path

BACKBONES = Path(__file__).parent / "backbones"
SYSTEM = "You are a helpful assistant."
